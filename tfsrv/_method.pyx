"""What answers calls of one RPC."""

from tfsrv._status cimport INTERNAL

from tfsrv.errors import ServingError


cdef class Method:
    """One RPC. Its requests are handled without Python, unless that is what `start` does.

    A subclass sets `start` and `context`. Method tables keep it alive as long as the loop.
    """

    def rewrite(self, request: bytes) -> bytes:
        """Bring a request that native code does not read into a form that it does.

        Called when `start` answered STARTED_RARE. Raises ServingError if it is not valid.
        """
        raise ServingError(INTERNAL, "The request cannot be read.")
