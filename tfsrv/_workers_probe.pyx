"""A pool's queue with items that sleep and are counted, and a pool under load.

For tests: nothing that serves uses it. What the workers do is seen by what the items tell: how
often and when each ran, and how many at a time.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from tfsrv._atomic cimport (
    add_relaxed_i64,
    add_relaxed_int,
    cas_weak_i64,
    load_relaxed_i64,
    load_relaxed_int,
    store_relaxed_int,
)
from tfsrv._clock cimport NS_PER_S, NS_PER_US, now_ns
from tfsrv._stress cimport gate_wait, run_together
from tfsrv._run_queue cimport (
    RunQueue,
    RunRecord,
    run_queue_free,
    run_queue_new,
    run_queue_push,
    run_record_is_fast,
    run_record_note,
)
from tfsrv._workers cimport WorkerPool, work_queue_is_idle

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int microseconds)


cdef struct Job:
    Probe* probe
    int64_t pushed_ns
    int64_t run_ns          # how long it runs; negative: until it is let go
    int times               # atomic: how often it ran


# What jobs and the object that pushes them share; outlives both.
cdef struct Probe:
    Job* jobs               # owned, `size` of them; an element is the queue's from its push on
    int64_t size
    int64_t pushed
    int64_t done            # atomic
    int64_t running         # atomic
    int64_t most_running    # atomic
    int64_t longest_wait_ns     # atomic; from push to run
    int let_go              # atomic


cdef void run_job(void* item) noexcept nogil:
    """Sleep as the job says, and count."""
    cdef Job* job = <Job*>item
    cdef Probe* probe = job.probe
    cdef int64_t begun_ns = now_ns()
    cdef int64_t running = add_relaxed_i64(&probe.running, 1) + 1
    cdef int64_t most = load_relaxed_i64(&probe.most_running)
    cdef int64_t longest = load_relaxed_i64(&probe.longest_wait_ns)
    while running > most and not cas_weak_i64(&probe.most_running, &most, running):
        pass
    while begun_ns - job.pushed_ns > longest and not cas_weak_i64(
        &probe.longest_wait_ns, &longest, begun_ns - job.pushed_ns
    ):
        pass
    if job.run_ns < 0:
        while load_relaxed_int(&probe.let_go) == 0:
            usleep(5000)
    elif job.run_ns > 0:
        usleep(<unsigned int>(job.run_ns // NS_PER_US))
    add_relaxed_int(&job.times, 1)
    add_relaxed_i64(&probe.running, -1)
    add_relaxed_i64(&probe.done, 1)


cdef bint push_job(RunQueue* queue, Probe* probe, int64_t run_ns) noexcept nogil:
    cdef Job* job = &probe.jobs[probe.pushed]
    job.probe = probe
    job.run_ns = run_ns
    job.pushed_ns = now_ns()
    if not run_queue_push(queue, job):
        return False
    probe.pushed += 1
    return True


cdef class ProbeQueue:
    """A queue of a pool whose items sleep and are counted.

    Takes `size` items in all. close() it before the pool goes.
    """

    cdef WorkerPool workers
    cdef RunQueue* queue    # owned
    cdef RunRecord record
    cdef Probe* probe       # owned

    def __cinit__(self, workers: WorkerPool, size: int = 1024) -> None:
        self.workers = workers
        self.probe = <Probe*>calloc(1, sizeof(Probe))
        if self.probe == NULL:
            raise MemoryError
        self.probe.size = size
        self.probe.jobs = <Job*>calloc(<size_t>self.probe.size + 1, sizeof(Job))
        self.queue = run_queue_new(workers.pool, run_job)
        if self.probe.jobs == NULL or self.queue == NULL:
            raise MemoryError

    def push(self, run_seconds: float | None = 0.0) -> bool:
        """An item that runs so long, or with None until let_go(). False when the queue is full."""
        if self.queue == NULL or self.probe.pushed == self.probe.size:
            raise ValueError("closed, or more items than it was made for")
        return push_job(self.queue, self.probe, -1 if run_seconds is None else <int64_t>(run_seconds * NS_PER_S))

    def let_go(self) -> None:
        """End the runs of items that were pushed with None, now and later."""
        store_relaxed_int(&self.probe.let_go, 1)

    def note(self, run_seconds: float, in_place: bool) -> None:
        """Let the queue learn from a run that took so long."""
        run_record_note(&self.record, <int64_t>(run_seconds * NS_PER_S), in_place)

    @property
    def may_run_in_place(self) -> bool:
        """Whether the loop may run the next item itself."""
        return run_record_is_fast(&self.record) and work_queue_is_idle(&self.queue.work)

    @property
    def done(self) -> int:
        """Items that were run."""
        return load_relaxed_i64(&self.probe.done)

    @property
    def running(self) -> int:
        """Items that are running."""
        return load_relaxed_i64(&self.probe.running)

    @property
    def most_running(self) -> int:
        """The most items that ever ran at the same time."""
        return load_relaxed_i64(&self.probe.most_running)

    @property
    def longest_wait_seconds(self) -> float:
        """The longest time that an item waited between its push and its run."""
        return load_relaxed_i64(&self.probe.longest_wait_ns) / 1e9

    @property
    def times(self) -> list[int]:
        """How often each item that was pushed was run."""
        cdef int64_t i
        times = []
        for i in range(self.probe.pushed):
            times.append(load_relaxed_int(&self.probe.jobs[i].times))
        return times

    def close(self) -> None:
        """Let everything go, wait for what runs, and free the queue; what waits is lost."""
        cdef RunQueue* queue = self.queue
        if queue == NULL:
            return
        self.let_go()
        self.queue = NULL
        with nogil:
            run_queue_free(queue)

    def __dealloc__(self):
        self.close()
        if self.probe != NULL:
            free(self.probe.jobs)
            free(self.probe)


cdef struct StressRun:
    int gate
    int64_t deadline_ns


cdef struct StressThread:
    StressRun* run
    RunQueue* queue
    Probe* probe
    int64_t refused         # pushes into a full queue


cdef void* push_all(void* argument) noexcept nogil:
    cdef StressThread* self = <StressThread*>argument
    if not gate_wait(&self.run.gate):
        return NULL
    while self.probe.pushed < self.probe.size and now_ns() < self.run.deadline_ns:
        if not push_job(self.queue, self.probe, 0):
            self.refused += 1
            usleep(50)
    return NULL


def stress(workers: WorkerPool, queues: int, items: int, timeout_seconds: float = 20.0) -> dict[str, int]:
    """Let one native thread a queue push `items` each, and account for their runs.

    `lost` items never ran, `repeated` ones ran more than once; `refused` counts pushes into a full
    queue, which were tried again; `nanoseconds` is how long it all took.
    """
    cdef unsigned int count = queues
    cdef unsigned int i
    cdef int rc
    cdef StressRun run
    cdef StressThread* threads = <StressThread*>calloc(<size_t>count + 1, sizeof(StressThread))
    cdef ProbeQueue probe
    if threads == NULL:
        raise MemoryError
    try:
        probes = [ProbeQueue(workers, items) for _ in range(count)]
        for i, probe in enumerate(probes):
            threads[i].run = &run
            threads[i].queue = probe.queue
            threads[i].probe = probe.probe
        begun_ns = now_ns()
        run.gate = 0
        run.deadline_ns = now_ns() + <int64_t>(timeout_seconds * NS_PER_S)
        with nogil:
            rc = run_together(push_all, threads, sizeof(StressThread), count, &run.gate)
        if rc != 0:
            raise RuntimeError("the threads could not be started")
        for probe in probes:
            while probe.done < items and now_ns() < run.deadline_ns:
                with nogil:
                    usleep(200)
        nanoseconds = now_ns() - begun_ns
        times = []
        refused = 0
        for i, probe in enumerate(probes):
            times += probe.times
            refused += threads[i].refused
            probe.close()
        return {
            "lost": queues * items - len(times) + times.count(0),
            "repeated": len(times) - times.count(0) - times.count(1),
            "refused": refused,
            "nanoseconds": nanoseconds,
        }
    finally:
        free(threads)
