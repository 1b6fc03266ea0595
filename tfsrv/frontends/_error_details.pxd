"""What programs are told of an error, beside its code and its message."""

from tfsrv._buffer cimport Buffer
from tfsrv._call cimport Call

cdef bint write_details(const Call* call, Buffer* into) noexcept
