"""What answers calls of one RPC."""

from tfsrv._call cimport Call


cdef enum Started:          # what a handler says when it was given a call
    STARTED_DONE = 0        # status and response are set
    STARTED_RUNNING = 1     # a worker has it and will call call_complete
    STARTED_PARKED = 2      # to be started again when the serving map changes
    STARTED_RARE = 3        # not for native code: rewrite it in Python, then start it again
    STARTED_PYTHON = 4      # a coroutine answers it, or has, and calls call_finish

ctypedef int (*start_fn)(void* context, Call* call) noexcept nogil


cdef class Method:
    cdef start_fn start
    cdef void* context      # the subclass says whose it is
    cdef void* counters     # Counters of calls of which no more is known; live for ever
    cdef readonly str name
