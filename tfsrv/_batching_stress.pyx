"""The batch scheduler under load from native threads. For tests and figures: nothing that serves uses it.

Each task is accounted for: its rows run or are refused, all of them, once.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tfsrv._atomic cimport (
    add_relaxed_i64,
    load_acquire_i64,
    load_relaxed_i64,
    load_relaxed_int,
    store_relaxed_int,
)
from tfsrv._batching cimport (
    PUSHED,
    PUSHED_FULL,
    PUSHED_LATE,
    BatchQueue,
    BatchSettings,
    batch_queue_free,
    batch_queue_kick,
    batch_queue_new,
    batch_queue_push,
    batch_queue_serve,
)
from tfsrv._batching_probe cimport Probe, ProbeTask, probe_handler
from tfsrv._clock cimport NS_PER_MS, NS_PER_S, clock_gettime, clockid_t, now_ns, timespec
from tfsrv._run_arms cimport ARM_EITHER
from tfsrv._stress cimport gate_wait, run_together
from tfsrv._thread cimport pthread_mutex_lock, pthread_mutex_unlock
from tfsrv._workers cimport WorkerPool

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int microseconds)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<time.h>" nogil:
    clockid_t CLOCK_PROCESS_CPUTIME_ID

cdef enum:
    LARGEST_BURST = 16      # pushes before a kick
    MOST_ROWS = 6           # of a task; the limits of a request allow it
    SHAPES = 2              # of each kind


# How the load is; see stress().
cdef struct Mix:
    int kinds
    int low_percent
    int alone_percent
    int deadline_percent
    int abandoned_percent
    int splits_percent
    bint closed             # each burst is waited for before the next
    int serving             # producers that serve instead of kicking


cdef struct StressRun:
    int gate
    Mix mix
    BatchQueue* queue
    Probe* probe
    int64_t each            # tasks of a producer
    int64_t taken_rows      # atomic: of tasks that were taken
    int64_t give_up_ns


cdef struct Producer:
    StressRun* run
    int64_t number
    uint64_t random         # a state of xorshift
    bint untold             # something was pushed and no worker told
    int64_t full
    int64_t late
    int64_t other           # answers to a push that there is no reason for
    int64_t stuck           # bursts that were not through in time


cdef uint64_t draw(Producer* self, uint64_t below) noexcept nogil:
    """A number from 0 to `below` - 1 (Marsaglia's xorshift)."""
    self.random ^= self.random << 13
    self.random ^= self.random >> 7
    self.random ^= self.random << 17
    return self.random % below


cdef bint chance(Producer* self, int percent) noexcept nogil:
    return draw(self, 100) < <uint64_t>percent


cdef void* produce(void* argument) noexcept nogil:
    cdef Producer* self = <Producer*>argument
    cdef StressRun* run = self.run
    cdef int64_t first = self.number * run.each
    cdef int64_t at = first
    cdef int64_t burst_end, begun
    if not gate_wait(&run.gate):
        return NULL
    while at < first + run.each and now_ns() < run.give_up_ns:
        begun = at
        burst_end = min(at + 1 + <int64_t>draw(self, LARGEST_BURST), first + run.each)
        while at < burst_end:
            push_one(self, &run.probe.tasks[at])
            at += 1
        # Who serves counts as the loop's thread, of which there is one.
        if self.number < run.mix.serving:
            batch_queue_serve(run.queue, now_ns() + NS_PER_MS, NS_PER_S)
        else:
            batch_queue_kick(run.queue, now_ns())
        self.untold = False
        if chance(self, run.mix.abandoned_percent):
            store_relaxed_int(&run.probe.tasks[first + <int64_t>draw(self, <uint64_t>(at - first))].wanted, 0)
        if run.mix.closed and not burst_is_done(self, begun, at):
            self.stuck += 1
            return NULL
    return NULL


cdef void push_one(Producer* self, ProbeTask* task) noexcept nogil:
    """Push a task, again as long as the queue is full; one that is refused for good has no rows."""
    cdef StressRun* run = self.run
    cdef int pushed
    task.probe = run.probe
    task.wanted = 1
    task.splits = chance(self, run.mix.splits_percent)
    task.shape = <int64_t>draw(self, SHAPES)
    task.task.owner = task
    task.task.rows = 1 + <int64_t>draw(self, MOST_ROWS)
    task.task.bytes = <int64_t>draw(self, 100)
    task.task.kind = draw(self, <uint64_t>run.mix.kinds)
    task.task.alone = chance(self, run.mix.alone_percent)
    task.task.low = chance(self, run.mix.low_percent)
    while True:
        task.task.arrived_ns = now_ns()
        task.task.deadline_ns = 0
        if chance(self, run.mix.deadline_percent):
            task.task.deadline_ns = task.task.arrived_ns + <int64_t>draw(self, <uint64_t>(2 * NS_PER_MS))
        # Counted before: its rows may be done at once.
        add_relaxed_i64(&run.taken_rows, task.task.rows)
        pushed = batch_queue_push(run.queue, &task.task)
        if pushed == PUSHED:
            self.untold = True
            return
        add_relaxed_i64(&run.taken_rows, -task.task.rows)
        if pushed != PUSHED_FULL or now_ns() > run.give_up_ns:
            break
        self.full += 1
        if self.untold:     # only then: the scheduler is to see by itself to what others pushed
            batch_queue_kick(run.queue, now_ns())
            self.untold = False
        sched_yield()
    task.task.rows = 0
    if pushed == PUSHED_LATE:
        self.late += 1
    else:
        self.other += 1


cdef bint burst_is_done(Producer* self, int64_t begin, int64_t end) noexcept nogil:
    """Wait until the tasks have run or were refused; False when they are not in a long time."""
    cdef ProbeTask* task
    cdef int64_t at
    for at in range(begin, end):
        task = &self.run.probe.tasks[at]
        while rows_of(task) < task.task.rows:
            if now_ns() > self.run.give_up_ns:
                return False
            sched_yield()
    return True


cdef inline int64_t rows_of(const ProbeTask* task) noexcept nogil:
    return load_relaxed_i64(&task.rows_run) + load_relaxed_i64(&task.rows_refused)


cdef dict account(StressRun* run, int64_t size):
    """Of all tasks: rows that never ran nor were refused, that did so twice, and tasks refused twice."""
    cdef ProbeTask* task
    cdef int64_t lost = 0, repeated = 0, refused_twice = 0
    cdef int64_t i
    for i in range(size):
        task = &run.probe.tasks[i]
        lost += max(0, task.task.rows - rows_of(task))
        repeated += max(0, rows_of(task) - task.task.rows)
        refused_twice += load_relaxed_int(&task.refusals) > 1
    pthread_mutex_lock(&run.queue.lock)
    counts = run.queue.counts
    pthread_mutex_unlock(&run.queue.lock)
    return {
        "lost": lost, "repeated": repeated, "refused_twice": refused_twice,
        "ran": counts.rows, "late": load_relaxed_i64(&run.probe.rows_late),
        "unwanted": load_relaxed_i64(&run.probe.rows_unwanted), "batches": counts.batches,
        "waiting_rows": load_relaxed_i64(&run.queue.waiting_rows),
        "waiting_normal": load_relaxed_i64(&run.queue.waiting_normal),
        "running_rows": load_relaxed_i64(&run.queue.running_rows),
    }


def stress(
    workers: WorkerPool, *, producers: int = 3, tasks: int = 5000, kinds: int = 3,
    low_percent: int = 10, alone_percent: int = 5, deadline_percent: int = 20,
    abandoned_percent: int = 20, splits_percent: int = 80, max_rows: int = 8,
    max_waiting_rows: int = 1000, wait_ns: int = 0, allowed: Sequence[int] = (), splits: bool = True,
    closed: bool = False, serving: int = 0, max_runs: int = 0, seed: int = 1,
    timeout_seconds: float = 30.0,
) -> dict[str, int]:
    """Let native threads push `tasks` each, random ones, and account for every row.

    `closed`: each producer waits for what it pushed before it goes on, so that nothing but the
    scheduler itself sees to it that a task is run. `serving` producers, at most one, run batches
    themselves.

    `lost` rows were taken and neither run nor refused, `repeated` ones were more than once;
    `stuck` counts bursts that were never through; `other` pushes that were refused for no reason.
    """
    cdef unsigned int count = producers
    cdef unsigned int i
    cdef int rc
    cdef int64_t size
    cdef StressRun run
    cdef BatchSettings settings
    cdef Producer* threads = NULL
    cdef Probe probe
    memset(&run, 0, sizeof(run))
    memset(&probe, 0, sizeof(probe))
    memset(&settings, 0, sizeof(settings))
    settings.max_rows = max_rows
    settings.max_request_rows = MOST_ROWS
    settings.max_waiting_rows = max_waiting_rows
    settings.max_bytes = 400
    settings.wait_ns = wait_ns
    settings.splits = splits
    settings.max_runs = max_runs
    settings.arm = ARM_EITHER
    settings.allowed_size = len(allowed)
    for i, rows in enumerate(allowed):
        settings.allowed[i] = rows
    run.mix = Mix(
        kinds, low_percent, alone_percent, deadline_percent, abandoned_percent, splits_percent,
        closed, serving)
    run.each = tasks
    size = run.each * count
    run.probe = &probe
    probe.size = size
    try:
        threads = <Producer*>calloc(<size_t>count + 1, sizeof(Producer))
        probe.tasks = <ProbeTask*>calloc(<size_t>size + 1, sizeof(ProbeTask))
        run.queue = batch_queue_new(workers.pool, NULL, probe_handler(), &settings, &probe)
        if threads == NULL or probe.tasks == NULL or run.queue == NULL:
            raise MemoryError
        for i in range(count):
            threads[i].run = &run
            threads[i].number = i
            threads[i].random = <uint64_t>seed * 7919 + i + 1
        run.give_up_ns = now_ns() + <int64_t>(timeout_seconds * NS_PER_S)
        with nogil:
            rc = run_together(produce, threads, sizeof(Producer), count, &run.gate)
            while rc == 0 and load_acquire_i64(&probe.rows_done) < load_relaxed_i64(&run.taken_rows) and (
                now_ns() < run.give_up_ns
            ):
                usleep(200)
            if rc == 0:
                wait_until_nothing_runs(&run)
        if rc != 0:
            raise RuntimeError("the threads could not be started")
        found = account(&run, size)
        for name in ("full", "pushed_late", "other", "stuck"):
            found[name] = 0
        for i in range(count):
            found["full"] += threads[i].full
            found["pushed_late"] += threads[i].late
            found["other"] += threads[i].other
            found["stuck"] += threads[i].stuck
        return found
    finally:
        if run.queue != NULL:
            with nogil:
                batch_queue_free(run.queue)
        free(threads)
        free(probe.tasks)


cdef void wait_until_nothing_runs(StressRun* run) noexcept nogil:
    """The last batch's tasks are done before the queue has counted it."""
    while load_relaxed_int(&run.queue.work.running) != 0 and now_ns() < run.give_up_ns:
        usleep(200)


# ---- figures ---------------------------------------------------------------------------------

cdef struct Load:
    BatchQueue* queue
    Probe* probe
    int64_t burst
    int64_t window          # tasks that are pushed and not done, at most
    int64_t give_up_ns


cdef void push_load(Load* load) noexcept nogil:
    """Push all tasks in bursts, a kick after each, and wait until they are done."""
    cdef ProbeTask* task
    cdef int64_t at = 0
    cdef int64_t end
    cdef int64_t arrived_ns
    while at < load.probe.size and now_ns() < load.give_up_ns:
        while at - load_acquire_i64(&load.probe.rows_done) > load.window - load.burst:
            usleep(20)
            if now_ns() > load.give_up_ns:
                return
        end = min(at + load.burst, load.probe.size)
        arrived_ns = now_ns()   # as the loop does: once for all that it has read
        while at < end:
            task = &load.probe.tasks[at]
            task.task.arrived_ns = arrived_ns
            if batch_queue_push(load.queue, &task.task) != PUSHED:
                break
            at += 1
        batch_queue_kick(load.queue, arrived_ns)
    while load_acquire_i64(&load.probe.rows_done) < load.probe.size and now_ns() < load.give_up_ns:
        usleep(20)


cdef int64_t cpu_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now)
    return <int64_t>now.tv_sec * NS_PER_S + now.tv_nsec


def load(
    workers: WorkerPool, tasks: int, *, burst: int = 16, window: int = 256, max_rows: int = 64,
    timeout_seconds: float = 60.0,
) -> dict[str, int]:
    """The scheduler's own cost: one thread pushes tasks of a row in bursts, and batches do nothing.

    `cpu_ns` is the processor time of all threads from the first push until the last task is done, `ns`
    how long that took; `done` tasks of them, in `batches`.
    """
    cdef BatchSettings settings
    cdef Probe probe
    cdef Load run = Load(NULL, NULL, 0, 0, 0)
    cdef int64_t i
    memset(&probe, 0, sizeof(probe))
    memset(&settings, 0, sizeof(settings))
    settings.max_rows = settings.max_request_rows = max_rows
    settings.max_waiting_rows = max(window, 10 * max_rows)
    settings.max_bytes = 1 << 40
    settings.arm = ARM_EITHER
    probe.size = tasks
    run.probe = &probe
    run.burst = burst
    run.window = window
    try:
        probe.tasks = <ProbeTask*>calloc(<size_t>probe.size + 1, sizeof(ProbeTask))
        run.queue = batch_queue_new(workers.pool, NULL, probe_handler(), &settings, &probe)
        if probe.tasks == NULL or run.queue == NULL:
            raise MemoryError
        for i in range(probe.size):
            probe.tasks[i].probe = &probe
            probe.tasks[i].wanted = 1
            probe.tasks[i].task.owner = &probe.tasks[i]
            probe.tasks[i].task.rows = 1
        begun_cpu_ns = cpu_ns()
        begun_ns = now_ns()
        run.give_up_ns = begun_ns + <int64_t>(timeout_seconds * NS_PER_S)
        with nogil:
            push_load(&run)
        used_ns, taken_ns = cpu_ns() - begun_cpu_ns, now_ns() - begun_ns
        return {
            "cpu_ns": used_ns, "ns": taken_ns, "done": load_acquire_i64(&probe.rows_done),
            "batches": load_relaxed_i64(&probe.begun),
        }
    finally:
        if run.queue != NULL:
            with nogil:
                batch_queue_free(run.queue)
        free(probe.tasks)
