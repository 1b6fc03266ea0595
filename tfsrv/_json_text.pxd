"""Strings of JSON texts: quoted and escaped, in base64, and the body of an error. No GIL anywhere."""

from tfsrv._buffer cimport Buffer, Bytes


cdef int json_put_string(Buffer* buffer, Bytes text) noexcept nogil
cdef int json_put_base64(Buffer* buffer, Bytes data) noexcept nogil
cdef int json_put_error(Buffer* buffer, Bytes message, bint pretty) noexcept nogil
cdef Py_ssize_t json_get_base64(Bytes text, char* into) noexcept nogil


cdef inline size_t base64_room(size_t size) noexcept nogil:
    """Bytes that json_get_base64 may write for a text of so many."""
    return size // 4 * 3 + 3
