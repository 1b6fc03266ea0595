"""Growable byte buffers for code that runs without the GIL."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, strlen

from tfsrv._memory cimport (
    LARGEST_KEPT,
    SMALLEST_KEPT,
    memory_give_large,
    memory_take_large,
)

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
    if is_block(capacity) or is_block(buffer.capacity):
        return move(buffer, capacity)
    data = <char*>realloc(buffer.data, capacity)
    if data == NULL:
        return -1
    buffer.data = data
    buffer.capacity = capacity
    return 0


cdef inline bint is_block(size_t capacity) noexcept nogil:
    """Whether memory of that size is a block of _memory's, where it is reused.

    Fresh pages for a large body, and giving them back, cost more than filling them, and giving them
    back is what the loop's thread does.
    """
    return SMALLEST_KEPT <= capacity <= LARGEST_KEPT


cdef int move(Buffer* buffer, size_t capacity) noexcept nogil:
    """Move to memory of that many bytes, or more. 0, or -1 when there is none."""
    cdef void* data
    if is_block(capacity):
        data = memory_take_large(capacity, &capacity)
    else:
        data = malloc(capacity)
    if data == NULL:
        return -1
    if buffer.size:
        memcpy(data, buffer.data, buffer.size)
    give_back(buffer)
    buffer.data = <char*>data
    buffer.capacity = capacity
    return 0


cdef inline void give_back(Buffer* buffer) noexcept nogil:
    if is_block(buffer.capacity):
        memory_give_large(buffer.data, buffer.capacity)
    else:
        free(buffer.data)


cdef void* block_reserve(void** block, size_t* size, size_t needed) noexcept nogil:
    """`needed` bytes of a malloc'd block that its owner frees, 16-byte aligned; NULL without memory.

    A larger block takes the place of one that is too small, and what was in that is gone.
    """
    cdef void* grown
    if needed > size[0]:
        grown = malloc(needed)
        if grown == NULL:
            return NULL
        free(block[0])
        block[0] = grown
        size[0] = needed
    return block[0]


cdef void buffer_free(Buffer* buffer) noexcept nogil:
    """Give the memory back; the buffer is empty and usable afterwards."""
    give_back(buffer)
    buffer_init(buffer)


cdef int buffer_append_int(Buffer* buffer, int64_t value) noexcept nogil:
    """Append `value` in decimal."""
    cdef char digits[24]
    cdef int size = snprintf(digits, sizeof(digits), "%lld", <long long>value)
    return buffer_append(buffer, digits, <size_t>size)


cdef int buffer_append_text(Buffer* buffer, const char* text) noexcept nogil:
    """Append a C string without its terminating zero."""
    return buffer_append(buffer, text, strlen(text))


cdef class ByteBuffer:
    """A Buffer, for Python: for tests and tools. The memory is owned by the object."""
    cdef Buffer buffer

    def __cinit__(self):
        buffer_init(&self.buffer)

    def __dealloc__(self):
        buffer_free(&self.buffer)

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        if buffer_append(&self.buffer, PyBytes_AS_STRING(data), len(data)) != 0:
            raise MemoryError

    def append_int(self, value: int) -> None:
        """Add a number in decimal."""
        if buffer_append_int(&self.buffer, value) != 0:
            raise MemoryError

    def append_text(self, text: bytes) -> None:
        """Add bytes up to the first zero among them."""
        if buffer_append_text(&self.buffer, text) != 0:
            raise MemoryError

    def reserve(self, extra: int) -> None:
        """Make room for `extra` bytes more."""
        if buffer_reserve(&self.buffer, extra) != 0:
            raise MemoryError

    def free(self) -> None:
        """Give the memory back; the buffer is empty and usable afterwards."""
        buffer_free(&self.buffer)

    @property
    def capacity(self) -> int:
        """Bytes that it can hold without taking memory."""
        return self.buffer.capacity

    def __len__(self) -> int:
        return <Py_ssize_t>self.buffer.size

    def __bytes__(self) -> bytes:
        return self.buffer.data[:self.buffer.size] if self.buffer.size else b""


def compare_bytes(a: bytes, b: bytes) -> int:
    """Less than, equal to or greater than zero, as the native modules order names."""
    cdef Bytes first
    cdef Bytes second
    first.data = PyBytes_AS_STRING(a)
    first.size = len(a)
    second.data = PyBytes_AS_STRING(b)
    second.size = len(b)
    return 0 if bytes_equal(first, second) else bytes_compare(first, second)
