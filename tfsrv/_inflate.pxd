"""DEFLATE (RFC 1951) without a wrapper around it, as members of a zip are packed."""

from libc.stddef cimport size_t

from tfsrv._buffer cimport Bytes


cdef enum InflateResult:
    INFLATE_OK = 0
    INFLATE_BAD = 1         # damaged, cut off, with bytes behind its end, or of another size
    INFLATE_NO_MEMORY = 2

cdef int inflate_raw(Bytes packed, char* into, size_t size) noexcept nogil
