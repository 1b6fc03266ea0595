"""Worker threads, and the queues that they take turns at.

Rules, so that no servable waits for another one:

- There is one thread more than cores, and a queue has at most as many threads as there are cores:
  it never holds the last worker.
- A run that has lasted DOUBLE_NS is likely to go on, so a spare thread stands in for its worker,
  until MAX_SPARES of them stand in. After STUCK_NS a run is taken to wait and not to compute, and
  its own queue may use one thread more as well, unless its share is strict.
- Queues with something to run stand in a ready list. The one whose model has had the least of the
  workers' time comes next; a model that was idle has no claim to the time that it did not use.
- A queue may ask to be served not before a certain time, or only when a worker stays free for others.

Idle workers sleep on a condition, one of them until the first queue in the list is due; the watcher
that looks for long runs sleeps too once nothing has run for a second.

A kind of queue (_run_queue, _batching) has a WorkQueue as its first member and keeps its items
itself. It calls work_queue_schedule after `scheduled` went from 0 to 1, and does so again in a
worker's turn as long as it has more.
"""

import os

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from tfsrv._atomic cimport (
    load_relaxed_int,
    store_relaxed_i64,
    store_relaxed_int,
)
from tfsrv._clock cimport CLOCK_MONOTONIC, NS_PER_MS, NS_PER_S, now_ns, timespec
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
    pthread_self,
    pthread_setname_np,
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
cdef double SPARE_IDLE_SECONDS = 5.0         # a spare with nothing to do ends after this


# ---- queues -------------------------------------------------------------------------------

cdef void work_queue_begin(WorkQueue* queue, Pool* pool, turn_fn turn) noexcept nogil:
    """Make zeroed memory a queue of the pool. Its share may be set before it is first scheduled."""
    queue.turn = turn
    queue.pool = pool
    queue.share = &queue.own
    pthread_mutex_lock(&pool.mutex)
    pool.queues += 1
    pthread_mutex_unlock(&pool.mutex)


cdef void work_queue_wait(WorkQueue* queue) noexcept nogil:
    """Wait for workers that are on their way out of the last run; nobody schedules it any more."""
    cdef Pool* pool = queue.pool
    pthread_mutex_lock(&pool.mutex)
    while queue.running > 0:
        pthread_cond_wait(&pool.ended, &pool.mutex)
    pthread_mutex_unlock(&pool.mutex)


cdef void work_queue_end(WorkQueue* queue) noexcept nogil:
    """Take a queue away from the pool; nobody schedules it any more, and what waits in it is lost.

    Waits for workers that are on their way out of its last run.
    """
    cdef Pool* pool = queue.pool
    pthread_mutex_lock(&pool.mutex)
    queue.ended = True  # its workers put it into the list no more, or it would run all that waits
    unlink_queue(pool, queue)
    while queue.running > 0:
        pthread_cond_wait(&pool.ended, &pool.mutex)
    pool.queues -= 1
    pthread_mutex_unlock(&pool.mutex)


cdef void work_queue_schedule(WorkQueue* queue, int64_t due_ns, bint low) noexcept nogil:
    """Put the queue into the ready list; a worker's turn follows, not before `due_ns` (0: at once).

    `low` says that it may take a worker only if one stays free. `scheduled` is 1, and the caller is
    who made it so, or in a turn of the queue; of a queue that is in the list already, the earlier
    time and the higher priority count.

    The queue is looked at once more when a worker may be through with its items already, so who
    frees queues must not do it meanwhile. The loop holds the GIL here, and unloading needs it.
    """
    cdef Pool* pool = queue.pool
    pthread_mutex_lock(&pool.mutex)
    if queue.ended:
        pthread_mutex_unlock(&pool.mutex)
        return
    if not queue.in_list:
        store_relaxed_i64(&queue.due_ns, due_ns)
        store_relaxed_int(&queue.low, low)
        append_queue(pool, queue)
    else:
        if due_ns < queue.due_ns:
            store_relaxed_i64(&queue.due_ns, due_ns)
        if not low:
            store_relaxed_int(&queue.low, 0)
    wake_one(pool)
    pthread_mutex_unlock(&pool.mutex)


cdef void work_queue_set_limit(WorkQueue* queue, int limit) noexcept nogil:
    """How many workers it may have at a time; 0: as many as the pool allows."""
    cdef int before = load_relaxed_int(&queue.limit)
    if before == limit:
        return
    store_relaxed_int(&queue.limit, limit)
    if limit == 0 or limit > before:
        pthread_mutex_lock(&queue.pool.mutex)
        wake_one(queue.pool)
        pthread_mutex_unlock(&queue.pool.mutex)


cdef bint work_queue_is_idle(WorkQueue* queue) noexcept nogil:
    """Nothing of it waits or runs on workers; true for long only where nobody else pushes."""
    return load_relaxed_int(&queue.scheduled) == 0 and load_relaxed_int(&queue.running) == 0


# ---- the ready list; all under the mutex -------------------------------------------------

cdef void append_queue(Pool* pool, WorkQueue* queue) noexcept nogil:
    if queue.share.running == 0 and queue.share.taken_ns < pool.floor_ns:
        queue.share.taken_ns = pool.floor_ns  # it was idle: it is served soon, but not for ever
    queue.next = NULL
    queue.in_list = True
    if pool.ready_last == NULL:
        pool.ready_first = queue
    else:
        pool.ready_last.next = queue
    pool.ready_last = queue


cdef void unlink_queue(Pool* pool, WorkQueue* queue) noexcept nogil:
    cdef WorkQueue* before = NULL
    cdef WorkQueue* at = pool.ready_first
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


cdef bint may_have_worker(Pool* pool, WorkQueue* queue) noexcept nogil:
    """Whether the queue may use one more worker; one is there."""
    cdef int workers = pool.base + pool.doubled
    cdef int limit = min(pool.base - 1 + queue.stuck, workers - 1)
    cdef int own = load_relaxed_int(&queue.limit)
    cdef Share* share = queue.share
    if own:
        own += 0 if share.strict else queue.stuck
        # Runs of what is low must not take the place of others, where a queue has few by choice.
        own += 0 if queue.low else queue.low_running
        limit = min(limit, own)
    if queue.low and pool.running >= workers - 1:
        return False
    if share.limit and share.running >= share.limit + (0 if share.strict else share.stuck):
        return False
    return queue.running < max(limit, 1)


cdef WorkQueue* take_queue(Pool* pool, int64_t* due_ns) noexcept nogil:
    """The queue to be served next, taken out of the list; or NULL.

    `due_ns` becomes the time when the first of those that are not due yet is; 0: there is none.
    """
    cdef WorkQueue* queue = pool.ready_first
    cdef WorkQueue* best = NULL
    cdef int64_t now = 0
    due_ns[0] = 0
    if pool.running >= pool.base + pool.doubled:
        return NULL
    while queue != NULL:
        if queue.due_ns != 0:
            if now == 0:
                now = now_ns()
            if queue.due_ns > now:
                if due_ns[0] == 0 or queue.due_ns < due_ns[0]:
                    due_ns[0] = queue.due_ns
                queue = queue.next
                continue
        if may_have_worker(pool, queue) and (best == NULL or comes_before(queue, best)):
            best = queue
        queue = queue.next
    if best != NULL:
        unlink_queue(pool, best)
    return best


cdef inline bint comes_before(const WorkQueue* queue, const WorkQueue* other) noexcept nogil:
    """Of two queues that may have a worker; `other` has been in the list for longer."""
    if queue.low != other.low:
        return other.low
    return queue.share.taken_ns < other.share.taken_ns


cdef void wake_one(Pool* pool) noexcept nogil:
    if pool.idle > 0:
        pthread_cond_signal(&pool.work)


# ---- threads ---------------------------------------------------------------------------------

cdef void* work(void* argument) noexcept nogil:
    """A worker's life. Holds the mutex except while it runs something."""
    cdef Worker* self = <Worker*>argument
    cdef Pool* pool = self.pool
    cdef WorkQueue* queue
    cdef int64_t due_ns
    cdef int waited
    if pool.name[0]:
        pthread_setname_np(pthread_self(), pool.name)
    pthread_mutex_lock(&pool.mutex)
    while not pool.stop:
        queue = take_queue(pool, &due_ns)
        if queue == NULL:
            pool.idle += 1
            waited = wait_for_work(pool, due_ns)
            pool.idle -= 1
            if waited == 0 or pool.stop or pool.threads <= pool.base + pool.doubled:
                continue
            queue = take_queue(pool, &due_ns)  # a signal and the end of the wait may have met
            if queue == NULL:
                break  # a spare that nobody needs any more
        if keeps_time(pool, due_ns):
            wake_one(pool)  # this one kept the time; another has to
        begin_run(pool, self, queue)
        pthread_mutex_unlock(&pool.mutex)
        queue.turn(queue)
        pthread_mutex_lock(&pool.mutex)
        end_run(pool, self, queue)
    self.used = False
    pool.threads -= 1
    pthread_cond_broadcast(&pool.ended)
    pthread_mutex_unlock(&pool.mutex)
    return NULL


cdef int wait_for_work(Pool* pool, int64_t due_ns) noexcept nogil:
    """Sleep until there may be work; not 0 when a spare has slept for `spare_idle_ns`.

    One worker keeps the time: it sleeps no longer than until `due_ns`, if that is not 0. A worker that
    finds an earlier time, for a queue that came later, keeps that one as well.
    """
    if keeps_time(pool, due_ns):
        pool.kept_ns = due_ns
        wait_until(&pool.work, pool, due_ns)
        if pool.kept_ns == due_ns:
            pool.kept_ns = 0
        return 0
    if pool.threads <= pool.base + pool.doubled:
        pthread_cond_wait(&pool.work, &pool.mutex)
        return 0
    return wait_for(&pool.work, pool, pool.spare_idle_ns)


cdef inline bint keeps_time(const Pool* pool, int64_t due_ns) noexcept nogil:
    """Whether somebody has to watch for `due_ns` that nobody watches for yet; 0: there is nothing due."""
    return due_ns != 0 and (pool.kept_ns == 0 or due_ns < pool.kept_ns)


cdef int wait_for(pthread_cond_t* condition, Pool* pool, int64_t nanoseconds) noexcept nogil:
    return wait_until(condition, pool, now_ns() + nanoseconds)


cdef int wait_until(pthread_cond_t* condition, Pool* pool, int64_t at) noexcept nogil:
    cdef timespec until
    until.tv_sec = <long>(at // NS_PER_S)
    until.tv_nsec = <long>(at % NS_PER_S)
    return pthread_cond_timedwait(condition, &pool.mutex, &until)


cdef void begin_run(Pool* pool, Worker* worker, WorkQueue* queue) noexcept nogil:
    cdef Share* share = queue.share
    worker.queue = queue
    worker.low = queue.low != 0
    queue.low_running += worker.low
    worker.since_ns = now_ns()
    # Charged now, or one queue would have all workers before the end of its first run.
    worker.charged_ns = share.last_ns
    pool.floor_ns = max(pool.floor_ns, share.taken_ns)
    share.taken_ns += worker.charged_ns
    share.running += 1
    store_relaxed_int(&queue.running, queue.running + 1)  # the loop reads it without the mutex
    pool.running += 1
    if load_relaxed_int(&pool.watching) == 0:
        store_relaxed_int(&pool.watching, 1)
        pthread_cond_signal(&pool.watch)


cdef void end_run(Pool* pool, Worker* worker, WorkQueue* queue) noexcept nogil:
    cdef Share* share = queue.share
    share.last_ns = now_ns() - worker.since_ns
    share.taken_ns += share.last_ns - worker.charged_ns
    share.running -= 1
    queue.low_running -= worker.low
    worker.queue = NULL
    store_relaxed_int(&queue.running, queue.running - 1)
    pool.running -= 1
    if worker.doubled:
        worker.doubled = False
        pool.doubled -= 1
    if worker.counted_stuck:
        worker.counted_stuck = False
        queue.stuck -= 1
        share.stuck -= 1
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
            worker.queue.share.stuck += 1
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
    """The process's worker threads: one more than `cores`, and spares.

    `name` is what tools show of the threads, 15 bytes of it.

    Ownership: queues belong to who made them and must be ended before the pool is freed.
    """

    def __cinit__(
        self, cores: int | None = None, queue_capacity: int = QUEUE_CAPACITY,
        spare_idle_seconds: float = SPARE_IDLE_SECONDS, name: str = "",
    ) -> None:
        cdef pthread_condattr_t monotonic
        self.pool = <Pool*>calloc(1, sizeof(Pool))
        if self.pool == NULL:
            raise MemoryError
        encoded = name.encode()[: sizeof(self.pool.name) - 1]
        memcpy(self.pool.name, <const char*>encoded, len(encoded))
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
