"""A bounded lock-free queue of pointers."""

from libc.stdint cimport uint64_t


cdef struct Slot:
    uint64_t sequence       # atomic; whose turn it is, see _queue.pyx
    void* item              # belongs to whoever's turn it is


cdef struct Queue:
    # Many producers, many consumers; capacity is a power of two. Zeroed memory is a closed queue.
    Slot* slots             # owned; NULL until queue_open
    uint64_t mask
    char pad0[48]
    uint64_t head           # next to pop; on its own cache line
    char pad1[56]
    uint64_t tail           # next to push; on its own cache line
    char pad2[56]

cdef int queue_open(Queue* queue, size_t capacity) noexcept nogil
cdef void queue_close(Queue* queue) noexcept nogil
cdef bint queue_push(Queue* queue, void* item) noexcept nogil
cdef void* queue_pop(Queue* queue) noexcept nogil
cdef size_t queue_size(const Queue* queue) noexcept nogil


cdef class PointerQueue:
    cdef Queue queue        # owned; opened by __cinit__
