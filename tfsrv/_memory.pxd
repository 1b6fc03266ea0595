"""Memory for tensors: 64-byte aligned blocks, the larger ones reused."""

from libc.stdint cimport int64_t


cdef struct Block:
    void* data              # aligned
    void* key               # what memory_give wants back

cdef Block memory_take(size_t size) noexcept nogil
cdef void memory_give(void* data, void* key) noexcept nogil
cdef int64_t memory_trim() noexcept nogil
cdef int64_t memory_live() noexcept nogil
