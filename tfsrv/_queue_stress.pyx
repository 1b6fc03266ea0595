"""The queue under load from native threads. For tests: nothing that serves uses it.

Python's threads are too slow to meet in the middle of a push or a pop; these do, and each item
is accounted for.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tfsrv._atomic cimport add_relaxed_i64, load_relaxed_i64, pause
from tfsrv._clock cimport NS_PER_S, now_ns
from tfsrv._queue cimport Queue, queue_close, queue_open, queue_pop, queue_push
from tfsrv._stress cimport gate_wait, run_together

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    STRESS_SECONDS = 20     # far more than a run takes
    SPINS = 64              # before a refused thread lets others run


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


# ---- figures ---------------------------------------------------------------------------------

cdef void* flow_thread(void* arg) noexcept nogil:
    """Push or pop `number` items and count nothing."""
    cdef StressThread* self = <StressThread*>arg
    cdef int64_t left = self.number
    cdef int refused = 0
    if not gate_wait(&self.run.gate):
        return NULL
    while left > 0:
        if queue_push(&self.run.queue, self) if self.produces else queue_pop(&self.run.queue) != NULL:
            left -= 1
            refused = 0
            continue
        refused += 1
        if refused % SPINS != 0:
            pause()
        elif stress_stuck(self):
            break
    self.seen_size = self.number - left
    return NULL


def flow(producers: int, consumers: int, items: int, capacity: int) -> dict[str, int]:
    """Let native threads push `items` each through one queue, as fast as they can.

    `popped` is how many came, of which each consumer takes an equal share; `nanoseconds` how long it
    took.
    """
    cdef unsigned int producer_count = producers
    cdef unsigned int count = producer_count + <unsigned int>consumers
    cdef StressRun run
    cdef StressThread* threads = NULL
    cdef unsigned int i
    cdef int rc
    if consumers < 1 or items * producers % consumers:
        raise ValueError("consumers need equal shares")
    memset(&run, 0, sizeof(run))
    try:
        threads = <StressThread*>calloc(<size_t>count + 1, sizeof(StressThread))
        if threads == NULL or queue_open(&run.queue, capacity) != 0:
            raise MemoryError
        for i in range(count):
            threads[i].run = &run
            threads[i].produces = i < producer_count
            threads[i].number = items if i < producer_count else items * producers // consumers
        start = now_ns()
        run.deadline_ns = start + STRESS_SECONDS * NS_PER_S
        with nogil:
            rc = run_together(flow_thread, threads, sizeof(StressThread), count, &run.gate)
        if rc != 0:
            raise RuntimeError("the threads could not be started")
        nanoseconds = now_ns() - start
        popped = 0
        for i in range(producer_count, count):
            popped += threads[i].seen_size
        return {"popped": popped, "nanoseconds": nanoseconds}
    finally:
        free(threads)
        queue_close(&run.queue)
