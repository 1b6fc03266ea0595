"""A bounded lock-free queue of pointers: many producers, many consumers.

A ring of slots, each with a sequence number that says whose turn it is, after Dmitry Vyukov
(https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue):

    sequence == position                the producer of that position may fill the slot
    sequence == position + 1            its consumer may empty it
    sequence == position + capacity     the producer of the next round may fill it

Items are not NULL and belong to the queue from push to pop. A push costs one compare-and-swap
and shares no cache line with a pop, but for the slot. Nobody ever waits: a thread that stops
between taking a position and filling the slot makes the queue look empty to consumers (or full
to producers, if it was a consumer) until it goes on, so whoever sleeps on an empty queue has to
be woken after a push, not before it.
"""

from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from posix.stdlib cimport posix_memalign

from tfsrv._atomic cimport cas_weak_u64, load_acquire_u64, load_relaxed_u64, store_release_u64

cdef enum:
    CACHE_LINE = 64         # bytes

cdef size_t LARGEST = <size_t>1 << 32   # items; far beyond any use, far below any overflow


cdef int queue_open(Queue* queue, size_t capacity) noexcept nogil:
    """Make room for `capacity` items, rounded up to a power of two, at least 2.

    0, or -1 when there is no memory (the queue stays closed then). Not thread-safe: whoever
    opens a queue late lets other threads know it only afterwards.
    """
    cdef size_t size = 2    # with 1, "to be emptied" and "to be filled next round" are the same
    cdef size_t i
    cdef void* memory = NULL
    if capacity > LARGEST:
        return -1
    while size < capacity:
        size *= 2
    if posix_memalign(&memory, CACHE_LINE, size * sizeof(Slot)) != 0:
        return -1
    queue.slots = <Slot*>memory
    for i in range(size):
        queue.slots[i].sequence = i
        queue.slots[i].item = NULL
    queue.mask = size - 1
    queue.head = 0
    queue.tail = 0
    return 0


cdef void queue_close(Queue* queue) noexcept nogil:
    """Free the slots. Not thread-safe; items that are left have to be popped before."""
    free(queue.slots)
    queue.slots = NULL
    queue.mask = 0
    queue.head = 0
    queue.tail = 0


cdef bint queue_push(Queue* queue, void* item) noexcept nogil:
    """Append `item`, not NULL. False when the queue is full or closed."""
    cdef uint64_t position
    cdef uint64_t sequence
    cdef Slot* slot
    if queue.slots == NULL:
        return False
    # Relaxed: a guess; the compare-and-swap below finds out.
    position = load_relaxed_u64(&queue.tail)
    while True:
        slot = &queue.slots[position & queue.mask]
        # Pairs with store_release in queue_pop: the consumer of the last round has read the
        # item before it is overwritten here.
        sequence = load_acquire_u64(&slot.sequence)
        if sequence == position:
            # Only atomicity is needed, which gives each position to one producer; what others
            # may see is ordered by the slot's sequence.
            if cas_weak_u64(&queue.tail, &position, position + 1):
                break
            # It failed, and `position` is the tail now.
        elif <int64_t>(sequence - position) < 0:
            return False    # still holds the item of the last round
        else:
            position = load_relaxed_u64(&queue.tail)    # another producer was faster
    slot.item = item
    # Pairs with load_acquire in queue_pop: who sees this sequence sees the item, and all that
    # its producer wrote before.
    store_release_u64(&slot.sequence, position + 1)
    return True


cdef void* queue_pop(Queue* queue) noexcept nogil:
    """Take the oldest item out. NULL when the queue is empty or closed."""
    cdef uint64_t position
    cdef uint64_t sequence
    cdef Slot* slot
    cdef void* item
    if queue.slots == NULL:
        return NULL
    position = load_relaxed_u64(&queue.head)    # a guess, as in queue_push
    while True:
        slot = &queue.slots[position & queue.mask]
        # Pairs with store_release in queue_push: the item is there.
        sequence = load_acquire_u64(&slot.sequence)
        if sequence == position + 1:
            if cas_weak_u64(&queue.head, &position, position + 1):  # as in queue_push
                break
        elif <int64_t>(sequence - (position + 1)) < 0:
            return NULL     # not filled in this round yet
        else:
            position = load_relaxed_u64(&queue.head)    # another consumer was faster
    item = slot.item
    # Pairs with load_acquire in queue_push: the item was read, the slot may be filled again.
    store_release_u64(&slot.sequence, position + queue.mask + 1)
    return item


cdef size_t queue_size(const Queue* queue) noexcept nogil:
    """How many items there are, or were a moment ago while others push and pop."""
    # Head first: it never passes the tail, so the difference is not negative. Acquire keeps
    # the second load behind the first.
    cdef uint64_t head = load_acquire_u64(&queue.head)
    cdef uint64_t size = load_relaxed_u64(&queue.tail) - head
    if size > queue.mask + 1:   # others went on between the two loads
        size = queue.mask + 1
    return size


# ---------------------------------------------------------------------------- what Python sees

cdef class PointerQueue:
    """The queue, for numbers from 1 to 2**64 - 1.

        queue = PointerQueue(4)
        queue.push(7)           # True
        queue.pop()             # 7
        queue.pop()             # None
    """

    def __cinit__(self, capacity: int) -> None:
        if queue_open(&self.queue, capacity) != 0:
            raise MemoryError

    def __dealloc__(self):
        queue_close(&self.queue)

    @property
    def capacity(self) -> int:
        """What was asked for, rounded up to a power of two; 0 once closed."""
        return self.queue.mask + 1 if self.queue.slots != NULL else 0

    def push(self, item: int) -> bool:
        """Append `item`; False when there is no room."""
        cdef uintptr_t number = item
        if number == 0:
            raise ValueError("0 cannot be told from an empty queue")
        return queue_push(&self.queue, <void*>number)

    def pop(self) -> int | None:
        """The oldest item, or None."""
        cdef void* item = queue_pop(&self.queue)
        return <uintptr_t>item if item != NULL else None

    def close(self) -> None:
        """Give the memory back. What is left is lost; nothing can be pushed any more."""
        queue_close(&self.queue)

    def __len__(self) -> int:
        return <Py_ssize_t>queue_size(&self.queue)
