"""A heap of timers that are part of what they wake."""

from libc.stdint cimport int64_t


# Part of its holder, which keeps it alive as long as it is in a heap. Zeros: in none.
cdef struct Timer:
    int64_t wake_ns         # when it is due
    size_t slot             # index in the heap + 1; 0: not in it
    void* holder            # what to look at then


# Belongs to one thread. Zeros: empty; timers_free gives it back.
cdef struct Timers:
    Timer** heap            # owned; by wake_ns, the first due first
    size_t size
    size_t capacity


cdef bint timers_put(Timers* timers, Timer* timer, int64_t wake_ns) noexcept nogil
cdef void timers_remove(Timers* timers, Timer* timer) noexcept nogil
cdef void timers_free(Timers* timers) noexcept nogil
