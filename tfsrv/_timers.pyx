"""A heap of timers that are part of what they wake: no memory is taken for any of them.

The owner looks at `heap[0]`, the timer that is due first, and takes out what is due. A timer
knows its place in the heap, so that it can be moved and removed without a search.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc


cdef void put_at(Timers* timers, size_t index, Timer* timer) noexcept nogil:
    timers.heap[index] = timer
    timer.slot = index + 1


cdef void sift_up(Timers* timers, size_t index, Timer* timer) noexcept nogil:
    cdef size_t parent
    while index > 0:
        parent = (index - 1) // 2
        if timers.heap[parent].wake_ns <= timer.wake_ns:
            break
        put_at(timers, index, timers.heap[parent])
        index = parent
    put_at(timers, index, timer)


cdef void sift_down(Timers* timers, size_t index, Timer* timer) noexcept nogil:
    cdef size_t child
    while True:
        child = 2 * index + 1
        if child >= timers.size:
            break
        if child + 1 < timers.size and timers.heap[child + 1].wake_ns < timers.heap[child].wake_ns:
            child += 1
        if timers.heap[child].wake_ns >= timer.wake_ns:
            break
        put_at(timers, index, timers.heap[child])
        index = child
    put_at(timers, index, timer)


cdef bint timers_put(Timers* timers, Timer* timer, int64_t wake_ns) noexcept nogil:
    """Have the timer due at `wake_ns`, wherever it was; True when it is the first one due now.

    Without memory it is in the heap no more. O(log n).
    """
    cdef size_t capacity
    cdef Timer** grown
    timers_remove(timers, timer)
    if timers.size == timers.capacity:
        capacity = timers.capacity * 2 if timers.capacity else 256
        grown = <Timer**>realloc(timers.heap, capacity * sizeof(Timer*))
        if grown == NULL:
            return False
        timers.heap = grown
        timers.capacity = capacity
    timer.wake_ns = wake_ns
    timers.size += 1
    sift_up(timers, timers.size - 1, timer)
    return timer.slot == 1


cdef void timers_remove(Timers* timers, Timer* timer) noexcept nogil:
    """Out of the heap, if it is in it; O(log n)."""
    cdef size_t index = timer.slot
    cdef Timer* last
    if index == 0:
        return
    index -= 1
    timer.slot = 0
    timers.size -= 1
    last = timers.heap[timers.size]
    if last == timer:
        return
    if index > 0 and timers.heap[(index - 1) // 2].wake_ns > last.wake_ns:
        sift_up(timers, index, last)
    else:
        sift_down(timers, index, last)


cdef void timers_free(Timers* timers) noexcept nogil:
    """Give the heap's memory back; what was in it is forgotten."""
    free(timers.heap)
    timers.heap = NULL
    timers.size = 0
    timers.capacity = 0
