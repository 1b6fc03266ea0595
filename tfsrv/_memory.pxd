"""Memory for tensors and large buffers: 64-byte aligned blocks, the larger ones reused."""

from libc.stdint cimport int64_t


cdef struct Block:
    void* data              # aligned
    void* key               # what memory_give wants back

cdef enum:
    SMALLEST_KEPT = 1 << 16     # bytes; of the sizes in between blocks are kept
    LARGEST_KEPT = 1 << 26

cdef Block memory_take(size_t size) noexcept nogil
cdef void memory_give(void* data, void* key) noexcept nogil
# The same for large buffers, which need no key: `capacity` tells of which class a block is.
cdef void* memory_take_large(size_t size, size_t* capacity) noexcept nogil
cdef void memory_give_large(void* data, size_t capacity) noexcept nogil
cdef int64_t memory_trim() noexcept nogil
cdef int64_t memory_live() noexcept nogil
