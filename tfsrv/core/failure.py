"""What a failure means: as a ServingError, and whether trying again can help."""

from __future__ import annotations

import errno

from tfsrv.errors import Code, ServingError

PERMANENT_CODES = frozenset(
    {
        Code.INVALID_ARGUMENT,  # a broken graph, a bad option
        Code.NOT_FOUND,  # a missing file, op or tag
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,  # a graph newer than the library
        Code.DATA_LOSS,  # a file cut short
        Code.UNAUTHENTICATED,
    }
)

_CODE_OF_ERRNO = {
    errno.ENOENT: Code.NOT_FOUND,
    errno.ENOTDIR: Code.FAILED_PRECONDITION,
    errno.ELOOP: Code.FAILED_PRECONDITION,
    errno.EACCES: Code.PERMISSION_DENIED,
    errno.EPERM: Code.PERMISSION_DENIED,
    errno.ENOMEM: Code.RESOURCE_EXHAUSTED,
    errno.ENOSPC: Code.RESOURCE_EXHAUSTED,
    errno.EMFILE: Code.RESOURCE_EXHAUSTED,
    errno.ENFILE: Code.RESOURCE_EXHAUSTED,
    errno.EIO: Code.UNAVAILABLE,
    errno.ESTALE: Code.UNAVAILABLE,
    errno.ETIMEDOUT: Code.UNAVAILABLE,
}


def is_permanent(error: ServingError) -> bool:
    """Whether doing the same with the same files would fail in the same way."""
    return error.code in PERMANENT_CODES


def to_be_kept(error: BaseException) -> ServingError:
    """The same for an error that is told for a long time: without what it has met on its way.

    The frames of a traceback keep all their variables alive, and so the model and its requests.
    """
    kept = as_serving_error(error)
    kept.__context__ = kept.__cause__ = None
    return kept.with_traceback(None)


def as_serving_error(error: BaseException) -> ServingError:
    """The ServingError that says what `error` says."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, MemoryError):
        return ServingError(Code.RESOURCE_EXHAUSTED, "out of memory")
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {os_path}" if (os_path := error.filename) else ""
        code = _CODE_OF_ERRNO.get(error.errno, Code.UNKNOWN)
        return ServingError(code, f"{error.strerror}{where}")
    return ServingError(Code.UNKNOWN, f"{type(error).__name__}: {error}")
