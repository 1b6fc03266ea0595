"""gzip (RFC 1952) for code that runs without the GIL."""

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._call cimport Call
from tfsrv._message cimport Message


cdef enum GzipResult:
    GZIP_OK = 0
    GZIP_TOO_BIG = 1        # it holds more than what was allowed
    GZIP_BAD = 2            # no gzip, cut off, damaged, or with bytes behind its end
    GZIP_NO_MEMORY = 3      # none of the machine's, or of the in-flight budget

cdef int gzip_inflate(Bytes source, Buffer* into, size_t most_bytes) noexcept nogil
cdef int gzip_inflate_charged(Bytes source, Buffer* into, size_t most_bytes, Call* call) noexcept nogil
cdef int gzip_deflate(Bytes source, Buffer* into) noexcept nogil
cdef int gzip_deflate_message(Message* message) noexcept nogil
