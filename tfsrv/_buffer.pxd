"""Bytes: views that own nothing, and buffers that own and grow. No GIL anywhere."""

from libc.stdint cimport int64_t
from libc.string cimport memcmp, memcpy


cdef struct Bytes:
    const char* data        # not owned; may be NULL when size is 0
    size_t size


cdef struct Buffer:
    char* data              # owned, as `capacity` tells (see _buffer); NULL while that is 0
    size_t size             # bytes in use
    size_t capacity


cdef inline void buffer_init(Buffer* buffer) noexcept nogil:
    buffer.data = NULL
    buffer.size = 0
    buffer.capacity = 0

cdef int buffer_reserve(Buffer* buffer, size_t extra) noexcept nogil
cdef void* block_reserve(void** block, size_t* size, size_t needed) noexcept nogil
cdef void buffer_free(Buffer* buffer) noexcept nogil
cdef int buffer_append_int(Buffer* buffer, int64_t value) noexcept nogil
cdef int buffer_append_text(Buffer* buffer, const char* text) noexcept nogil

cdef inline int buffer_append(Buffer* buffer, const void* data, size_t size) noexcept nogil:
    """Append `size` bytes. 0, or -1 when there is no memory (nothing is changed then)."""
    if buffer.capacity - buffer.size < size and buffer_reserve(buffer, size) != 0:
        return -1
    if size:
        memcpy(buffer.data + buffer.size, data, size)
        buffer.size += size
    return 0

cdef inline int buffer_append_bytes(Buffer* buffer, Bytes view) noexcept nogil:
    return buffer_append(buffer, view.data, view.size)

cdef inline bint bytes_equal(Bytes a, Bytes b) noexcept nogil:
    return a.size == b.size and (a.size == 0 or memcmp(a.data, b.data, a.size) == 0)

cdef inline int bytes_compare(Bytes a, Bytes b) noexcept nogil:
    """Less than, equal to or greater than zero, in the order of unsigned bytes."""
    cdef size_t shorter = a.size if a.size < b.size else b.size
    cdef int order = memcmp(a.data, b.data, shorter) if shorter else 0
    if order != 0:
        return order
    return (a.size > b.size) - (a.size < b.size)
