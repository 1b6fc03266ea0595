"""Queues whose items are run one by one, on workers.

Pushing takes a lock-free queue, and the pool's mutex only when the queue was not scheduled yet.
Ownership: an item is the queue's from push until run() gets it, exactly once.
Thread-safety: one thread pushes to a given queue; everything else may run anywhere.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from tfsrv._atomic cimport (
    exchange_int,
    fence,
    load_relaxed_i64,
    load_relaxed_int,
    store_relaxed_i64,
    store_relaxed_int,
    store_seq_cst_int,
)
from tfsrv._clock cimport NS_PER_MS, now_ns
from tfsrv._queue cimport queue_close, queue_open, queue_pop, queue_push, queue_size
from tfsrv._workers cimport work_queue_begin, work_queue_end, work_queue_schedule

cdef int64_t SWEEP_NS = NS_PER_MS
cdef int64_t BACK_NS = NS_PER_MS             # one slower run in place ends that
cdef int FIRST_STREAK = 4                    # fast runs before a new signature runs in place
cdef int AGAIN_STREAK = 16                   # … before one that was sent back does, doubling
cdef int LONGEST_STREAK = 1024


cdef RunQueue* run_queue_new(Pool* pool, run_fn run) noexcept nogil:
    """A queue whose items `run` gets, one at a time a worker. NULL without memory."""
    cdef RunQueue* queue = <RunQueue*>calloc(1, sizeof(RunQueue))
    if queue == NULL:
        return NULL
    queue.run = run
    work_queue_begin(&queue.work, pool, take_turn)
    return queue


cdef void run_queue_free(void* queue_pointer) noexcept nogil:
    """Free a queue that nobody pushes to any more and whose items have all been popped."""
    cdef RunQueue* queue = <RunQueue*>queue_pointer
    work_queue_end(&queue.work)
    queue_close(&queue.waiting)
    free(queue)


cdef bint run_queue_push(RunQueue* queue, void* item) noexcept nogil:
    """Hand `item` to a worker. False when the queue is full or there is no memory for it."""
    if queue.waiting.slots == NULL and queue_open(&queue.waiting, queue.work.pool.queue_capacity) != 0:
        return False  # only the loop pushes, so opening needs no lock
    if not queue_push(&queue.waiting, item):
        return False
    fence()  # pairs with the fence in take_item(): the item is seen there, or `scheduled` is 0 here
    if exchange_int(&queue.work.scheduled, 1) == 0:
        work_queue_schedule(&queue.work, 0, False)
    return True


cdef void run_queue_sweep(RunQueue* queue, keep_fn keep) noexcept nogil:
    """Take out every waiting item that `keep` answers False for; it owns those from then on.

    The others keep their order. Called by the thread that pushes, and at most once in SWEEP_NS:
    going through a full queue takes some 100 µs.
    """
    cdef size_t left = queue_size(&queue.waiting) if queue.waiting.slots != NULL else 0
    cdef int64_t now = now_ns()
    cdef void* item
    if now - queue.swept_ns < SWEEP_NS:
        return
    queue.swept_ns = now
    while left > 0:
        item = queue_pop(&queue.waiting)
        if item == NULL:
            return
        if keep(item):
            run_queue_push(queue, item)  # has room: one was taken out, and nobody else pushes
        left -= 1


cdef void take_turn(WorkQueue* work) noexcept nogil:
    cdef RunQueue* queue = <RunQueue*>work
    cdef void* item = take_item(queue)
    if item != NULL:
        queue.run(item)


cdef void* take_item(RunQueue* queue) noexcept nogil:
    """The next item, and care for the rest."""
    cdef void* item = queue_pop(&queue.waiting)
    if queue_size(&queue.waiting) == 0:
        store_seq_cst_int(&queue.work.scheduled, 0)
        fence()  # pairs with the fence in run_queue_push()
        if queue_size(&queue.waiting) == 0 or exchange_int(&queue.work.scheduled, 1) != 0:
            return item
    work_queue_schedule(&queue.work, 0, False)
    return item


# ---- what the runs teach -----------------------------------------------------------------------

cdef void run_record_note(RunRecord* record, int64_t run_ns, bint in_place) noexcept nogil:
    """Learn from one run. Races between two runs lose one of them, which does no harm."""
    cdef int64_t average = load_relaxed_i64(&record.average_ns)
    cdef int streak
    store_relaxed_i64(&record.average_ns, run_ns if average == 0 else average + (run_ns - average) // 8)
    if run_ns < IN_PLACE_NS:
        if in_place:
            return
        streak = load_relaxed_int(&record.fast_streak) + 1
        store_relaxed_int(&record.fast_streak, streak)
        if streak >= streak_needed(record):
            store_relaxed_int(&record.in_place, 1)
    elif not in_place:
        store_relaxed_int(&record.fast_streak, 0)
    elif run_ns > BACK_NS or load_relaxed_i64(&record.average_ns) > IN_PLACE_NS:
        # Sent back; each time it has to prove itself longer.
        streak = streak_needed(record) * 2
        store_relaxed_int(&record.streak_needed, max(AGAIN_STREAK, min(streak, LONGEST_STREAK)))
        store_relaxed_int(&record.fast_streak, 0)
        store_relaxed_int(&record.in_place, 0)


cdef inline int streak_needed(const RunRecord* record) noexcept nogil:
    cdef int needed = load_relaxed_int(&record.streak_needed)
    return needed if needed else FIRST_STREAK


cdef bint run_record_is_fast(RunRecord* record) noexcept nogil:
    """Recent runs were short enough for the loop to run the next one itself."""
    return load_relaxed_int(&record.in_place) != 0
