"""Worker threads over one queue per signature.

Rules, so that no servable waits for another one:

- There is one thread more than cores, and a signature runs on at most as many threads as there
  are cores: it never holds the last worker.
- A run that has lasted DOUBLE_NS is likely to go on, so a spare thread stands in for its worker,
  until MAX_SPARES of them stand in. After STUCK_NS a run is taken to wait and not to compute, and
  its own signature may use one thread more as well.
- Queues with something to run stand in a ready list and are served in turn, one item each.

Pushing takes a lock-free queue, and the pool's mutex only when the queue was not scheduled yet.
Idle workers sleep on a condition; the watcher that looks for long runs sleeps too once nothing
has run for a second.
"""

import os

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tfsrv._atomic cimport (
    exchange_int,
    fence,
    load_relaxed_i64,
    load_relaxed_int,
    store_relaxed_i64,
    store_relaxed_int,
    store_seq_cst_int,
)
from tfsrv._clock cimport CLOCK_MONOTONIC, NS_PER_MS, NS_PER_S, NS_PER_US, now_ns, timespec
from tfsrv._queue cimport queue_close, queue_open, queue_pop, queue_push, queue_size
from tfsrv._thread cimport (
    PTHREAD_CREATE_DETACHED,
    SIG_SETMASK,
    pthread_attr_destroy,
    pthread_attr_init,
    pthread_attr_setdetachstate,
    pthread_attr_t,
    pthread_cond_broadcast,
    pthread_cond_destroy,
    pthread_cond_init,
    pthread_cond_signal,
    pthread_cond_timedwait,
    pthread_cond_wait,
    pthread_condattr_destroy,
    pthread_condattr_init,
    pthread_condattr_setclock,
    pthread_condattr_t,
    pthread_create,
    pthread_mutex_destroy,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    pthread_sigmask,
    pthread_t,
    sigfillset,
    sigset_t,
)

cdef int MAX_SPARES = 64
cdef size_t QUEUE_CAPACITY = 4096            # requests of one signature; 64 KiB, taken at the first push
cdef int64_t DOUBLE_NS = 50 * NS_PER_MS      # a run this long gets a spare to stand in
cdef int64_t STUCK_NS = NS_PER_S             # a run this long is taken to wait, not to compute
cdef int64_t WATCH_NS = 10 * NS_PER_MS       # how often the watcher looks
cdef int64_t WATCH_IDLE_NS = NS_PER_S        # nothing ran for so long: the watcher sleeps for good
cdef int64_t SWEEP_NS = NS_PER_MS
cdef double SPARE_IDLE_SECONDS = 5.0         # a spare with nothing to do ends after this
cdef int64_t IN_PLACE_NS = 200 * NS_PER_US   # faster runs may run in place
cdef int64_t BACK_NS = NS_PER_MS             # one slower run in place ends that
cdef int FIRST_STREAK = 4                    # fast runs before a new signature runs in place
cdef int AGAIN_STREAK = 16                   # … before one that was sent back does, doubling
cdef int LONGEST_STREAK = 1024


# ---- queues -------------------------------------------------------------------------------

cdef RunQueue* run_queue_new(Pool* pool, run_fn run) noexcept nogil:
    """A queue whose items `run` gets, one at a time a worker. NULL without memory."""
    cdef RunQueue* queue = <RunQueue*>calloc(1, sizeof(RunQueue))
    if queue == NULL:
        return NULL
    queue.pool = pool
    queue.run = run
    queue.streak_needed = FIRST_STREAK
    pthread_mutex_lock(&pool.mutex)
    pool.queues += 1
    pthread_mutex_unlock(&pool.mutex)
    return queue


cdef void run_queue_free(void* queue_pointer) noexcept nogil:
    """Free a queue that nobody pushes to any more and whose items have all been popped.

    Waits for workers that are on their way out of its last run.
    """
    cdef RunQueue* queue = <RunQueue*>queue_pointer
    cdef Pool* pool = queue.pool
    pthread_mutex_lock(&pool.mutex)
    while queue.running > 0:
        pthread_cond_wait(&pool.ended, &pool.mutex)
    unlink_queue(pool, queue)
    pool.queues -= 1
    pthread_mutex_unlock(&pool.mutex)
    queue_close(&queue.waiting)
    free(queue)


cdef bint run_queue_push(RunQueue* queue, void* item) noexcept nogil:
    """Hand `item` to a worker. False when the queue is full or there is no memory for it.

    The queue is looked at once more when a worker may be through with the item already, so who
    frees queues must not do it meanwhile. The loop holds the GIL here, and unloading needs it.
    """
    if queue.waiting.slots == NULL and queue_open(&queue.waiting, queue.pool.queue_capacity) != 0:
        return False  # only the loop pushes, so opening needs no lock
    if not queue_push(&queue.waiting, item):
        return False
    fence()  # pairs with the fence in forget_schedule(): the item is seen there, or `scheduled` is 0 here
    if exchange_int(&queue.scheduled, 1) == 0:
        pthread_mutex_lock(&queue.pool.mutex)
        append_queue(queue.pool, queue)
        wake_one(queue.pool)
        pthread_mutex_unlock(&queue.pool.mutex)
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


cdef void run_queue_note(RunQueue* queue, int64_t run_ns, bint in_place) noexcept nogil:
    """Learn from one run. Races between two runs lose one of them, which does no harm."""
    cdef int64_t average = load_relaxed_i64(&queue.average_ns)
    cdef int streak
    store_relaxed_i64(&queue.average_ns, run_ns if average == 0 else average + (run_ns - average) // 8)
    if run_ns < IN_PLACE_NS:
        if in_place:
            return
        streak = load_relaxed_int(&queue.fast_streak) + 1
        store_relaxed_int(&queue.fast_streak, streak)
        if streak >= load_relaxed_int(&queue.streak_needed):
            store_relaxed_int(&queue.in_place, 1)
    elif not in_place:
        store_relaxed_int(&queue.fast_streak, 0)
    elif run_ns > BACK_NS or load_relaxed_i64(&queue.average_ns) > IN_PLACE_NS:
        # Sent back; each time it has to prove itself longer.
        streak = load_relaxed_int(&queue.streak_needed) * 2
        store_relaxed_int(&queue.streak_needed, max(AGAIN_STREAK, min(streak, LONGEST_STREAK)))
        store_relaxed_int(&queue.fast_streak, 0)
        store_relaxed_int(&queue.in_place, 0)


cdef bint run_queue_may_run_in_place(RunQueue* queue) noexcept nogil:
    """Recent runs were short, and nothing waits that would be overtaken."""
    return (
        load_relaxed_int(&queue.in_place) != 0
        and load_relaxed_int(&queue.scheduled) == 0
        and load_relaxed_int(&queue.running) == 0
    )


# ---- the ready list; all under the mutex -------------------------------------------------

cdef void append_queue(Pool* pool, RunQueue* queue) noexcept nogil:
    if queue.in_list:
        return
    queue.next = NULL
    queue.in_list = True
    if pool.ready_last == NULL:
        pool.ready_first = queue
    else:
        pool.ready_last.next = queue
    pool.ready_last = queue


cdef void unlink_queue(Pool* pool, RunQueue* queue) noexcept nogil:
    cdef RunQueue* before = NULL
    cdef RunQueue* at = pool.ready_first
    if not queue.in_list:
        return
    while at != queue:
        before = at
        at = at.next
    if before == NULL:
        pool.ready_first = queue.next
    else:
        before.next = queue.next
    if pool.ready_last == queue:
        pool.ready_last = before
    queue.in_list = False
    queue.next = NULL


cdef RunQueue* take_queue(Pool* pool) noexcept nogil:
    """The first ready queue that may use one more worker, taken out of the list; or NULL."""
    cdef RunQueue* queue = pool.ready_first
    cdef int workers = pool.base + pool.doubled
    cdef int limit
    if pool.running >= workers:
        return NULL
    while queue != NULL:
        limit = min(pool.base - 1 + queue.stuck, workers - 1)
        if queue.running < max(limit, 1):
            unlink_queue(pool, queue)
            return queue
        queue = queue.next
    return NULL


cdef void wake_one(Pool* pool) noexcept nogil:
    if pool.idle > 0:
        pthread_cond_signal(&pool.work)


cdef void* take_item(Pool* pool, RunQueue* queue) noexcept nogil:
    """The next item of a queue that take_queue gave, and care for the rest. Without the mutex."""
    cdef void* item = queue_pop(&queue.waiting)
    if queue_size(&queue.waiting) == 0:
        store_seq_cst_int(&queue.scheduled, 0)
        fence()  # pairs with the fence in run_queue_push()
        if queue_size(&queue.waiting) == 0 or exchange_int(&queue.scheduled, 1) != 0:
            return item
    pthread_mutex_lock(&pool.mutex)
    append_queue(pool, queue)
    wake_one(pool)
    pthread_mutex_unlock(&pool.mutex)
    return item


# ---- threads ---------------------------------------------------------------------------------

cdef void* work(void* argument) noexcept nogil:
    """A worker's life. Holds the mutex except while it runs something."""
    cdef Worker* self = <Worker*>argument
    cdef Pool* pool = self.pool
    cdef RunQueue* queue
    cdef void* item
    cdef int waited
    pthread_mutex_lock(&pool.mutex)
    while not pool.stop:
        queue = take_queue(pool)
        if queue == NULL:
            pool.idle += 1
            waited = wait_for_work(pool)
            pool.idle -= 1
            if waited == 0 or pool.stop or pool.threads <= pool.base + pool.doubled:
                continue
            queue = take_queue(pool)  # a signal and the end of the wait may have met
            if queue == NULL:
                break  # a spare that nobody needs any more
        begin_run(pool, self, queue)
        pthread_mutex_unlock(&pool.mutex)
        item = take_item(pool, queue)
        if item != NULL:
            queue.run(item)
        pthread_mutex_lock(&pool.mutex)
        end_run(pool, self, queue)
    self.used = False
    pool.threads -= 1
    pthread_cond_broadcast(&pool.ended)
    pthread_mutex_unlock(&pool.mutex)
    return NULL


cdef int wait_for_work(Pool* pool) noexcept nogil:
    """Sleep until there may be work; not 0 when a spare has slept for `spare_idle_ns`."""
    if pool.threads <= pool.base + pool.doubled:
        pthread_cond_wait(&pool.work, &pool.mutex)
        return 0
    return wait_for(&pool.work, pool, pool.spare_idle_ns)


cdef int wait_for(pthread_cond_t* condition, Pool* pool, int64_t nanoseconds) noexcept nogil:
    cdef int64_t at = now_ns() + nanoseconds
    cdef timespec until
    until.tv_sec = <long>(at // NS_PER_S)
    until.tv_nsec = <long>(at % NS_PER_S)
    return pthread_cond_timedwait(condition, &pool.mutex, &until)


cdef void begin_run(Pool* pool, Worker* worker, RunQueue* queue) noexcept nogil:
    worker.queue = queue
    worker.since_ns = now_ns()
    store_relaxed_int(&queue.running, queue.running + 1)  # the loop reads it without the mutex
    pool.running += 1
    if load_relaxed_int(&pool.watching) == 0:
        store_relaxed_int(&pool.watching, 1)
        pthread_cond_signal(&pool.watch)


cdef void end_run(Pool* pool, Worker* worker, RunQueue* queue) noexcept nogil:
    worker.queue = NULL
    store_relaxed_int(&queue.running, queue.running - 1)
    pool.running -= 1
    if worker.doubled:
        worker.doubled = False
        pool.doubled -= 1
    if worker.counted_stuck:
        worker.counted_stuck = False
        queue.stuck -= 1
    if queue.running == 0:
        pthread_cond_broadcast(&pool.ended)


cdef void* watch(void* argument) noexcept nogil:
    """Looks for long runs; asleep while nothing runs."""
    cdef Pool* pool = <Pool*>argument
    cdef int64_t last_run_ns = 0
    pthread_mutex_lock(&pool.mutex)
    while not pool.stop:
        if pool.running > 0:
            last_run_ns = now_ns()
            look_for_long_runs(pool, last_run_ns)
        elif now_ns() - last_run_ns > WATCH_IDLE_NS:
            store_relaxed_int(&pool.watching, 0)
            pthread_cond_wait(&pool.watch, &pool.mutex)
            last_run_ns = now_ns()
            continue
        wait_for(&pool.watch, pool, WATCH_NS)
    pool.watcher_alive = False
    pthread_cond_broadcast(&pool.ended)
    pthread_mutex_unlock(&pool.mutex)
    return NULL


cdef void look_for_long_runs(Pool* pool, int64_t now) noexcept nogil:
    cdef Worker* worker
    cdef int i
    for i in range(MAX_THREADS):
        worker = &pool.workers[i]
        if not worker.used or worker.queue == NULL:
            continue
        if not worker.doubled and now - worker.since_ns > DOUBLE_NS and pool.doubled < MAX_SPARES:
            # Without a thread there is no stand-in: try again at the next look.
            if pool.threads > pool.base + pool.doubled or start_worker(pool) == 0:
                worker.doubled = True
                pool.doubled += 1
                wake_one(pool)
        if not worker.counted_stuck and now - worker.since_ns > STUCK_NS:
            worker.counted_stuck = True
            worker.queue.stuck += 1
            wake_one(pool)


cdef int start_thread(void* (*body)(void*) noexcept nogil, void* argument) noexcept nogil:
    """A detached thread that takes no signals: those belong to Python's main thread."""
    cdef pthread_t thread
    cdef pthread_attr_t attributes
    cdef sigset_t everything
    cdef sigset_t before
    cdef int error
    sigfillset(&everything)
    pthread_attr_init(&attributes)
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED)
    pthread_sigmask(SIG_SETMASK, &everything, &before)
    error = pthread_create(&thread, &attributes, body, argument)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attributes)
    return error


cdef int start_worker(Pool* pool) noexcept nogil:
    """One thread more; under the mutex. Not 0 when the system has none to give."""
    cdef int i, error
    for i in range(MAX_THREADS):
        if not pool.workers[i].used:
            memset(&pool.workers[i], 0, sizeof(Worker))
            pool.workers[i].used = True
            pool.workers[i].pool = pool
            error = start_thread(work, &pool.workers[i])
            if error != 0:
                pool.workers[i].used = False
            else:
                pool.threads += 1
            return error
    return -1


cdef class WorkerPool:
    """The process's worker threads.

    Ownership: queues belong to who made them and must be freed before the pool is. An item is
    the queue's from push until run() gets it, exactly once.
    Thread-safety: one thread pushes to a given queue; everything else may run anywhere.
    """

    def __cinit__(
        self, cores: int | None = None, queue_capacity: int = QUEUE_CAPACITY,
        spare_idle_seconds: float = SPARE_IDLE_SECONDS,
    ) -> None:
        cdef pthread_condattr_t monotonic
        self.pool = <Pool*>calloc(1, sizeof(Pool))
        if self.pool == NULL:
            raise MemoryError
        self.pool.base = max(2, min((cores or len(os.sched_getaffinity(0))) + 1, MAX_THREADS - MAX_SPARES))
        self.pool.queue_capacity = queue_capacity
        self.pool.spare_idle_ns = <int64_t>(spare_idle_seconds * NS_PER_S)
        pthread_mutex_init(&self.pool.mutex, NULL)
        pthread_condattr_init(&monotonic)
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC)
        pthread_cond_init(&self.pool.work, &monotonic)
        pthread_cond_init(&self.pool.ended, &monotonic)
        pthread_cond_init(&self.pool.watch, &monotonic)
        pthread_condattr_destroy(&monotonic)

    def start(self) -> None:
        """Start the threads. OSError if the system gives none."""
        cdef int error = 0
        if self.started:
            return
        self.started = True
        with nogil:
            pthread_mutex_lock(&self.pool.mutex)
            self.pool.stop = False
            while self.pool.threads < self.pool.base and error == 0:
                error = start_worker(self.pool)
            if error == 0:
                self.pool.watcher_alive = True
                error = start_thread(watch, self.pool)
                if error != 0:
                    self.pool.watcher_alive = False
            pthread_mutex_unlock(&self.pool.mutex)
        if error != 0:
            self.stop()
            raise OSError(error, "cannot start worker threads")

    def stop(self, timeout_seconds: float = 10.0) -> bool:
        """End the threads once their present runs are over; False if some still run then."""
        cdef int64_t until = now_ns() + <int64_t>(timeout_seconds * NS_PER_S)
        cdef bint alive
        with nogil:
            pthread_mutex_lock(&self.pool.mutex)
            self.pool.stop = True
            pthread_cond_broadcast(&self.pool.work)
            pthread_cond_broadcast(&self.pool.watch)
            while (self.pool.threads > 0 or self.pool.watcher_alive) and now_ns() < until:
                wait_for(&self.pool.ended, self.pool, 50 * NS_PER_MS)
            alive = self.pool.threads > 0 or self.pool.watcher_alive
            pthread_mutex_unlock(&self.pool.mutex)
        self.started = alive
        return not alive

    @property
    def threads(self) -> int:
        """Worker threads that exist now."""
        cdef int threads
        pthread_mutex_lock(&self.pool.mutex)
        threads = self.pool.threads
        pthread_mutex_unlock(&self.pool.mutex)
        return threads

    @property
    def running(self) -> int:
        """Workers in a run now."""
        cdef int running
        pthread_mutex_lock(&self.pool.mutex)
        running = self.pool.running
        pthread_mutex_unlock(&self.pool.mutex)
        return running

    def __dealloc__(self):
        if self.pool == NULL or self.started or self.pool.queues > 0:
            return  # threads or queues still use the pool: leak it rather than free it under them
        pthread_cond_destroy(&self.pool.work)
        pthread_cond_destroy(&self.pool.ended)
        pthread_cond_destroy(&self.pool.watch)
        pthread_mutex_destroy(&self.pool.mutex)
        free(self.pool)
