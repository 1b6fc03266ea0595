"""Growable byte buffers for code that runs without the GIL."""

from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc
from libc.string cimport strlen

cdef size_t SMALLEST = 256  # bytes; most messages of ours fit, so most buffers are allocated once


cdef int buffer_reserve(Buffer* buffer, size_t extra) noexcept nogil:
    """Make room for `extra` bytes more. 0, or -1 when there is no memory; what is in it stays."""
    cdef size_t needed = buffer.size + extra
    cdef size_t capacity = buffer.capacity
    cdef char* data
    if needed < extra:
        return -1
    if needed <= capacity:
        return 0
    capacity += capacity >> 1  # by half: amortised constant, and at most half of it idle
    if capacity < needed:
        capacity = needed
    if capacity < SMALLEST:
        capacity = SMALLEST
    data = <char*>realloc(buffer.data, capacity)
    if data == NULL:
        return -1
    buffer.data = data
    buffer.capacity = capacity
    return 0


cdef void buffer_free(Buffer* buffer) noexcept nogil:
    """Give the memory back; the buffer is empty and usable afterwards."""
    free(buffer.data)
    buffer_init(buffer)


cdef int buffer_append_int(Buffer* buffer, int64_t value) noexcept nogil:
    """Append `value` in decimal."""
    cdef char digits[24]
    cdef int size = snprintf(digits, sizeof(digits), "%lld", <long long>value)
    return buffer_append(buffer, digits, <size_t>size)


cdef int buffer_append_text(Buffer* buffer, const char* text) noexcept nogil:
    """Append a C string without its terminating zero."""
    return buffer_append(buffer, text, strlen(text))
