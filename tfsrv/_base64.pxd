"""Base64 in, as lenient as absl::Base64Unescape."""

from tfsrv._buffer cimport Bytes


cdef inline size_t base64_room(Bytes text) noexcept nogil:
    """The most bytes that `text` can stand for."""
    return text.size // 4 * 3 + 3

cdef bint base64_decode(Bytes text, char* out, size_t* size) noexcept nogil
