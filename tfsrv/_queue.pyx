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
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from tfsrv._atomic cimport (
    add_relaxed_i64,
    cas_weak_u64,
    load_acquire_u64,
    load_relaxed_i64,
    load_relaxed_u64,
    store_release_u64,
)
from tfsrv._clock cimport NS_PER_S, now_ns
from tfsrv._stress cimport gate_wait, run_together


cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    CACHE_LINE = 64         # bytes
    STRESS_SECONDS = 20     # far more than a run takes

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


# --------------------------------------------------------------------------------- under stress

cdef struct StressRun:
    int gate
    Queue queue
    int64_t items           # of each producer
    int64_t expected        # of all producers together
    int64_t popped          # atomic: by all consumers together
    int64_t deadline_ns     # on the monotonic clock


cdef struct StressThread:
    StressRun* run
    bint produces
    int64_t number          # of this producer
    int64_t refused         # pushes into a full queue, or pops from an empty one
    uint64_t* seen          # owned, consumers only: what came, in the order it came
    int64_t seen_size


cdef void* stress_thread(void* arg) noexcept nogil:
    cdef StressThread* self = <StressThread*>arg
    if gate_wait(&self.run.gate):
        if self.produces:
            stress_produce(self)
        else:
            stress_consume(self)
    return NULL


cdef void stress_produce(StressThread* self) noexcept nogil:
    cdef int64_t i
    for i in range(self.run.items):
        # One number for each item of each producer, from 1.
        while not queue_push(&self.run.queue, <void*>(self.number * self.run.items + i + 1)):
            if stress_stuck(self):
                return


cdef void stress_consume(StressThread* self) noexcept nogil:
    cdef void* item
    while load_relaxed_i64(&self.run.popped) < self.run.expected:
        item = queue_pop(&self.run.queue)
        if item == NULL:
            if stress_stuck(self):
                return
            continue
        if self.seen_size == self.run.expected:
            break           # more than was ever pushed
        self.seen[self.seen_size] = <uint64_t>item
        self.seen_size += 1
        add_relaxed_i64(&self.run.popped, 1)


cdef bint stress_stuck(StressThread* self) noexcept nogil:
    """Count a refusal. True when it is time to give up: an item was lost, or a slot."""
    self.refused += 1
    sched_yield()   # with more threads than processors, whoever can help has to run
    return now_ns() > self.run.deadline_ns


cdef dict stress_account(StressThread* threads, unsigned int count, int64_t items, char* seen):
    """Each item once, and for each consumer the items of one producer in their order?"""
    cdef StressThread* thread
    cdef int64_t duplicates = 0, misordered = 0, strangers = 0, popped = 0
    cdef int64_t full = 0, empty = 0
    cdef int64_t k, number, producer
    cdef unsigned int i
    for i in range(count):
        thread = &threads[i]
        if thread.produces:
            full += thread.refused
            continue
        empty += thread.refused
        popped += thread.seen_size
        last = {}
        for k in range(thread.seen_size):
            number = <int64_t>thread.seen[k] - 1
            if not 0 <= number < thread.run.expected:
                strangers += 1
                continue
            duplicates += seen[number]
            seen[number] = 1
            producer = number // items
            misordered += number <= last.get(producer, -1)
            last[producer] = number
    return {
        "popped": popped, "duplicates": duplicates, "strangers": strangers,
        "misordered": misordered, "full": full, "empty": empty,
    }


def stress(producers: int, consumers: int, items: int, capacity: int) -> dict[str, int]:
    """Let native threads push `items` each through one queue, and account for what came out.

    `popped` is how many came; `duplicates`, `strangers` (never pushed) and `misordered` (before
    an earlier one of its producer) are mistakes; `full` and `empty` say how often a thread was
    refused, `nanoseconds` how long it took.
    """
    cdef unsigned int producer_count = producers
    cdef unsigned int count = producer_count + <unsigned int>consumers
    cdef StressRun run
    cdef StressThread* threads = NULL
    cdef char* seen = NULL
    cdef unsigned int i
    cdef int rc
    memset(&run, 0, sizeof(run))
    run.items = items
    run.expected = run.items * producer_count
    try:
        threads = <StressThread*>calloc(<size_t>count + 1, sizeof(StressThread))
        seen = <char*>calloc(<size_t>run.expected + 1, 1)
        if threads == NULL or seen == NULL or queue_open(&run.queue, capacity) != 0:
            raise MemoryError
        for i in range(count):
            threads[i].run = &run
            threads[i].produces = i < producer_count
            threads[i].number = i
            if not threads[i].produces:
                threads[i].seen = <uint64_t*>calloc(
                    <size_t>run.expected + 1, sizeof(uint64_t))
                if threads[i].seen == NULL:
                    raise MemoryError
        start = now_ns()
        run.deadline_ns = start + STRESS_SECONDS * NS_PER_S
        with nogil:
            rc = run_together(stress_thread, threads, sizeof(StressThread), count, &run.gate)
        if rc != 0:
            raise RuntimeError("the threads could not be started")
        nanoseconds = now_ns() - start
        account = stress_account(threads, count, run.items, seen)
        return {**account, "nanoseconds": nanoseconds}
    finally:
        if threads != NULL:
            for i in range(count):
                free(threads[i].seen)
        free(threads)
        free(seen)
        queue_close(&run.queue)
