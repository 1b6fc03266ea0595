"""A batch queue with tasks that are numbered and counted, stepped by hand or served by a pool.

For tests: nothing that serves uses it. Which rows ran together, which were refused and why is seen
here; the time is whatever the test says.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tfsrv._atomic cimport (
    add_acq_rel_i64,
    add_relaxed_i64,
    add_relaxed_int,
    cas_weak_i64,
    load_acquire_i64,
    load_relaxed_i64,
    load_relaxed_int,
    store_relaxed_i64,
    store_relaxed_int,
)
from tfsrv._batching cimport (
    MAX_ALLOWED_SIZES,
    REFUSED_LATE,
    REFUSED_UNWANTED,
    Batch,
    BatchHandler,
    BatchPart,
    BatchQueue,
    BatchSettings,
    BatchTask,
    batch_allowed_rows,
    batch_ended,
    batch_form,
    batch_note_alone,
    batch_queue_free,
    batch_queue_kick,
    batch_queue_new,
    batch_queue_push,
    batch_queue_serve,
    batch_scratch,
)
from tfsrv._clock cimport NS_PER_S, NS_PER_US, now_ns
from tfsrv._thread cimport pthread_mutex_lock, pthread_mutex_unlock
from tfsrv._run_arms cimport ARM_EITHER
from tfsrv._workers cimport Share, WorkerPool, WorkQueue

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int microseconds)

cdef enum:
    MOST_OPEN = 64          # batches that were formed by hand and not ended
    HOLD_US = 500           # between two looks whether a held batch may end

PUSHED = ("pushed", "full", "too large", "late", "no memory")   # by the numbers of Pushed


# ---- the handler -----------------------------------------------------------------------------

cdef bint shares(const BatchTask* task, const BatchTask* other) noexcept nogil:
    return (<const ProbeTask*>task).shape == (<const ProbeTask*>other).shape


cdef bint is_wanted(const BatchTask* task) noexcept nogil:
    return load_relaxed_int(&(<const ProbeTask*>task).wanted) != 0


cdef bint begin_split(BatchTask* task) noexcept nogil:
    return load_relaxed_int(&(<ProbeTask*>task).splits) != 0


cdef void probe_refuse(BatchTask* task, int reason) noexcept nogil:
    """Count the rows that are left of the task."""
    cdef ProbeTask* probe_task = <ProbeTask*>task
    cdef Probe* probe = probe_task.probe
    cdef int64_t left = task.rows - task.rows_begun
    add_relaxed_int(&probe_task.refusals, 1)
    add_relaxed_i64(&probe_task.rows_refused, left)
    if reason == REFUSED_LATE:
        add_relaxed_i64(&probe.rows_late, left)
    else:
        add_relaxed_i64(&probe.rows_unwanted, left)
    add_acq_rel_i64(&probe.rows_done, left)


cdef void run(Batch* batch) noexcept nogil:
    """Sleep as the probe says, and count."""
    cdef Probe* probe = <Probe*>batch.queue.context
    cdef int64_t begun_ns = now_ns()
    cdef int64_t running = add_relaxed_i64(&probe.running, 1) + 1
    cdef int64_t most = load_relaxed_i64(&probe.most_running)
    while running > most and not cas_weak_i64(&probe.most_running, &most, running):
        pass
    if batch.in_place:
        add_relaxed_i64(&probe.in_place, 1)
    note_parts(probe, batch, add_relaxed_i64(&probe.begun, 1))
    while load_relaxed_int(&probe.held) != 0:
        usleep(HOLD_US)
    if probe.run_ns > 0:
        usleep(<unsigned int>(probe.run_ns // NS_PER_US))
    add_relaxed_i64(&probe.busy_ns, now_ns() - begun_ns)
    add_relaxed_i64(&probe.running, -1)
    complete(probe, batch)


cdef void note_parts(Probe* probe, const Batch* batch, int64_t number) noexcept nogil:
    cdef int64_t at
    cdef int i
    if probe.log == NULL:
        return
    at = add_relaxed_i64(&probe.logged, batch.size)
    for i in range(batch.size):
        if at + i < probe.log_size:
            probe.log[at + i].batch = number
            probe.log[at + i].task = <ProbeTask*>batch.parts[i].task - probe.tasks
            probe.log[at + i].first_row = batch.parts[i].first_row
            probe.log[at + i].rows = batch.parts[i].rows


cdef void complete(Probe* probe, const Batch* batch) noexcept nogil:
    """Its tasks are the pusher's again, and may be gone once their rows are counted."""
    cdef int64_t rows = batch.rows
    cdef int i
    for i in range(batch.size):
        add_relaxed_i64(&(<ProbeTask*>batch.parts[i].task).rows_run, batch.parts[i].rows)
    # Who reads this with load_acquire sees the log and the tasks' counts.
    add_acq_rel_i64(&probe.rows_done, rows)


cdef void free_context(void* context) noexcept nogil:
    add_relaxed_int(&(<Probe*>context).freed, 1)


cdef BatchHandler HANDLER
HANDLER.shares = shares
HANDLER.is_wanted = is_wanted
HANDLER.begin_split = begin_split
HANDLER.refuse = probe_refuse
HANDLER.run = run
HANDLER.free_context = free_context


cdef const BatchHandler* probe_handler() noexcept nogil:
    """What does these things with tasks that are ProbeTasks, of queues whose context is a Probe."""
    return &HANDLER


# ---- what Python sees ----------------------------------------------------------------------------

cdef class ProbeShare:
    """What queues of one model have of the workers; `limit`: how many at a time, 0: any."""

    cdef Share share

    def __cinit__(self, limit: int = 0) -> None:
        self.share.limit = limit


cdef class BatchProbe:
    """A batch queue whose tasks are counted: numbers from 0, in the order of pushes that were taken.

    Stepped: push with `at_ns`, form and end with the times that the test says, and pick what the tuner
    would choose with choose(); the pool need not be started, and nothing may be kicked.
    Served: push without `at_ns`, then kick or serve; the pool's workers run the batches.

    Takes `size` tasks in all. close() it before the pool and the share go.
    """

    cdef WorkerPool workers
    cdef ProbeShare share
    cdef BatchQueue* queue      # owned
    cdef Probe* probe           # owned
    cdef Batch* open[64]        # formed by hand, in order
    cdef int open_size
    cdef int64_t rows_limit     # what the tuner chooses, as far as the test is concerned; 0: its own
    cdef int64_t wait_ns

    def __cinit__(
        self, workers: WorkerPool, size: int = 1024, *, max_rows: int = 8,
        max_request_rows: int | None = None, max_waiting_rows: int = 1 << 40,
        max_bytes: int = 1 << 40, wait_ns: int = 0, allowed: Sequence[int] = (),
        splits: bool = False, max_runs: int = 0, run_seconds: float = 0.0,
        share: ProbeShare | None = None,
    ) -> None:
        cdef BatchSettings settings
        cdef Share* model = NULL
        cdef int i
        if len(allowed) > MAX_ALLOWED_SIZES:
            raise ValueError("too many allowed sizes")
        memset(&settings, 0, sizeof(settings))
        settings.max_rows = max_rows
        settings.max_request_rows = max_rows if max_request_rows is None else max_request_rows
        settings.max_waiting_rows = max_waiting_rows
        settings.max_bytes = max_bytes
        settings.wait_ns = wait_ns
        settings.splits = splits
        settings.max_runs = max_runs
        settings.arm = ARM_EITHER
        settings.allowed_size = len(allowed)
        for i in range(settings.allowed_size):
            settings.allowed[i] = allowed[i]
        self.workers = workers
        self.share = share
        if share is not None:
            model = &share.share
        self.probe = <Probe*>calloc(1, sizeof(Probe))
        if self.probe == NULL:
            raise MemoryError
        self.probe.size = size
        self.probe.log_size = 4 * size
        self.probe.run_ns = <int64_t>(run_seconds * NS_PER_S)
        self.probe.tasks = <ProbeTask*>calloc(<size_t>self.probe.size + 1, sizeof(ProbeTask))
        self.probe.log = <ProbePart*>calloc(<size_t>self.probe.log_size + 1, sizeof(ProbePart))
        if self.probe.tasks == NULL or self.probe.log == NULL:
            raise MemoryError
        self.queue = batch_queue_new(workers.pool, model, probe_handler(), &settings, self.probe)
        if self.queue == NULL:
            raise MemoryError

    def push(
        self, rows: int = 1, at_ns: int | None = None, *, kind: int = 1, shape: int = 0,
        deadline_ns: int = 0, nbytes: int = 0, alone: bool = False, low: bool = False,
        splits: bool = True,
    ) -> str:
        """Push a task; one of PUSHED. Without `at_ns` it arrives now. `splits`: it may be divided."""
        cdef ProbeTask* task
        cdef int pushed
        if self.queue == NULL or self.probe.pushed == self.probe.size:
            raise ValueError("closed, or more tasks than it was made for")
        task = &self.probe.tasks[self.probe.pushed]
        memset(task, 0, sizeof(ProbeTask))
        task.probe = self.probe
        task.shape = shape
        task.wanted = 1
        task.splits = splits
        task.task.owner = task
        task.task.rows = rows
        task.task.bytes = nbytes
        task.task.deadline_ns = deadline_ns
        task.task.arrived_ns = now_ns() if at_ns is None else at_ns
        task.task.kind = <uint64_t>kind
        task.task.alone = alone
        task.task.low = low
        with nogil:
            pushed = batch_queue_push(self.queue, &task.task)
        if pushed == 0:
            self.probe.pushed += 1
        return PUSHED[pushed]

    def abandon(self, task: int) -> None:
        """Nobody waits for the task any more."""
        if not 0 <= task < self.probe.pushed:
            raise IndexError(task)
        store_relaxed_int(&self.probe.tasks[<int64_t>task].wanted, 0)

    def allow_split(self, task: int, allowed: bool) -> None:
        """Whether the task may be divided from now on."""
        if not 0 <= task < self.probe.pushed:
            raise IndexError(task)
        store_relaxed_int(&self.probe.tasks[<int64_t>task].splits, allowed)

    # ---- stepped

    def choose(self, rows_limit: int = 0, wait_ns: int = 0) -> None:
        """What the tuner chooses from now on, for form()."""
        self.rows_limit = rows_limit
        self.wait_ns = wait_ns

    def expect(self, run_ns: int, row_ns: int) -> None:
        """What a run is taken to take, and by how much each row before it delays a task, for push().

        Until the next end().
        """
        store_relaxed_i64(&self.queue.run_ns, run_ns)
        store_relaxed_i64(&self.queue.row_ns, row_ns)

    def form(
        self, at_ns: int
    ) -> tuple[list[tuple[int, int, int]] | None, int, list[tuple[int, str]], int]:
        """Form a batch as a worker would at that time, and leave it open.

        Its parts as (task, first row, rows), or None if there is no batch; its padding rows; the tasks
        that were refused, with the reason, "late" or "unwanted"; and when to look again, as batch_form
        says it.
        """
        cdef BatchTask* refused = NULL
        cdef BatchTask* task
        cdef int64_t due_ns = 0
        cdef Batch* batch
        if self.open_size == MOST_OPEN:
            raise ValueError("too many open batches")
        if self.rows_limit:
            self.queue.tuner.rows_limit = self.rows_limit
            self.queue.tuner.wait_ns = self.wait_ns
        pthread_mutex_lock(&self.queue.lock)
        batch = batch_form(self.queue, at_ns, &refused, &due_ns)
        pthread_mutex_unlock(&self.queue.lock)
        gone = []
        while refused != NULL:
            task = refused
            refused = task.next
            reason = REFUSED_LATE if is_wanted(task) else REFUSED_UNWANTED
            gone.append((number_of(self.probe, task), "late" if reason == REFUSED_LATE else "unwanted"))
            probe_refuse(task, reason)
        if batch == NULL:
            return None, 0, gone, due_ns
        self.open[self.open_size] = batch
        self.open_size += 1
        return parts_of(self.probe, batch), batch.padding_rows, gone, due_ns

    def end(self, at_ns: int, which: int = 0, *, teaches: bool = True) -> None:
        """End an open batch, the oldest by default; `teaches`: the queue learns from its time."""
        cdef int index = which
        cdef Batch* batch
        if not 0 <= index < self.open_size:
            raise IndexError(which)
        batch = self.open[index]
        self.open_size -= 1
        for index in range(index, self.open_size):
            self.open[index] = self.open[index + 1]
        complete(self.probe, batch)
        batch.strange = not teaches
        batch_ended(batch, at_ns)

    def deadline_of(self, which: int = 0) -> int:
        """The deadline of an open batch, the oldest by default; 0: none."""
        if not 0 <= which < self.open_size:
            raise IndexError(which)
        return self.open[<int>which].deadline_ns

    def scratch(self, size: int, which: int = 0) -> int:
        """The address of an open batch's scratch memory; it is written to."""
        cdef void* memory
        if not 0 <= which < self.open_size:
            raise IndexError(which)
        memory = batch_scratch(self.open[<int>which], size)
        if memory == NULL:
            raise MemoryError
        memset(memory, 1, size)
        return <size_t>memory

    def note_alone(self, rows: int, arrived_ns: int, begun_ns: int, at_ns: int) -> None:
        """A task ran without having been pushed."""
        batch_note_alone(self.queue, rows, arrived_ns, begun_ns, at_ns)

    def allowed_rows(self, rows: int) -> int:
        """The size of a batch with so many rows, padding included."""
        return batch_allowed_rows(&self.queue.settings, rows)

    # ---- served

    def kick(self) -> None:
        """Have a worker look at the queue."""
        with nogil:
            batch_queue_kick(self.queue, now_ns())

    def serve(self, seconds: float = 10.0, longest_seconds: float = 10.0) -> None:
        """Run what waits in this thread."""
        cdef int64_t until_ns = now_ns() + <int64_t>(seconds * NS_PER_S)
        cdef int64_t longest_ns = <int64_t>(longest_seconds * NS_PER_S)
        with nogil:
            batch_queue_serve(self.queue, until_ns, longest_ns)

    def hold(self) -> None:
        """Let no batch end before let_go()."""
        store_relaxed_int(&self.probe.held, 1)

    def let_go(self) -> None:
        """Let batches end, now and later."""
        store_relaxed_int(&self.probe.held, 0)

    # ---- what happened

    @property
    def batches(self) -> list[list[tuple[int, int, int]]]:
        """The batches that workers began, as form() has them; whole once nothing runs any more."""
        cdef int64_t i
        begun: dict[int, list[tuple[int, int, int]]] = {}
        load_acquire_i64(&self.probe.rows_done)
        for i in range(min(load_relaxed_i64(&self.probe.logged), self.probe.log_size)):
            part = &self.probe.log[i]
            begun.setdefault(part.batch, []).append((part.task, part.first_row, part.rows))
        return [begun[number] for number in sorted(begun)]

    @property
    def begun(self) -> int:
        """Batches that workers began."""
        return load_relaxed_i64(&self.probe.begun)

    @property
    def running(self) -> int:
        """Batches that workers run."""
        return load_relaxed_i64(&self.probe.running)

    @property
    def most_running(self) -> int:
        """The most batches that ever ran at the same time."""
        return load_relaxed_i64(&self.probe.most_running)

    @property
    def in_place(self) -> int:
        """Batches that serve() ran."""
        return load_relaxed_i64(&self.probe.in_place)

    @property
    def busy_seconds(self) -> float:
        """How long batches ran, all workers together."""
        return load_relaxed_i64(&self.probe.busy_ns) / 1e9

    @property
    def rows_done(self) -> int:
        """Rows that ran or were refused."""
        return load_acquire_i64(&self.probe.rows_done)

    @property
    def accounts(self) -> list[tuple[int, int, int]]:
        """Of each task its rows, those that ran, and those that were refused."""
        cdef int64_t i
        accounts = []
        for i in range(self.probe.pushed):
            task = &self.probe.tasks[i]
            accounts.append((
                task.task.rows, load_relaxed_i64(&task.rows_run), load_relaxed_i64(&task.rows_refused)))
        return accounts

    @property
    def waiting_rows(self) -> int:
        """Rows that wait."""
        return load_relaxed_i64(&self.queue.waiting_rows)

    @property
    def waiting_normal(self) -> int:
        """What waits and is not low."""
        return load_relaxed_i64(&self.queue.waiting_normal)

    @property
    def running_rows(self) -> int:
        """Rows in batches that run."""
        return load_relaxed_i64(&self.queue.running_rows)

    @property
    def listed(self) -> tuple[int, bool] | None:
        """When workers are to look at the queue, and whether as a low one; None: they are not."""
        cdef WorkQueue* work = &self.queue.work
        pthread_mutex_lock(&work.pool.mutex)
        listed, due_ns, low = work.in_list, work.due_ns, work.low
        pthread_mutex_unlock(&work.pool.mutex)
        return (due_ns, bool(low)) if listed else None

    @property
    def counts(self) -> dict[str, int]:
        """The queue's own counts."""
        pthread_mutex_lock(&self.queue.lock)
        counts = self.queue.counts
        pthread_mutex_unlock(&self.queue.lock)
        return {
            "batches": counts.batches, "tasks": counts.tasks, "rows": counts.rows,
            "padding_rows": counts.padding_rows, "refused_full": counts.refused_full,
            "refused_late": counts.refused_late, "refused_unwanted": counts.refused_unwanted,
        }

    @property
    def sizes(self) -> dict[int, int]:
        """How many batches had 2**key rows or more, and less than twice that."""
        cdef int i
        return {i: self.queue.counts.sizes[i] for i in range(32) if self.queue.counts.sizes[i]}

    @property
    def freed(self) -> int:
        """How often the queue's context was freed."""
        return load_relaxed_int(&self.probe.freed)

    def close(self) -> None:
        """Let everything go, wait for what runs, and free the queue; what waits is lost."""
        cdef BatchQueue* queue = self.queue
        if queue == NULL:
            return
        self.let_go()
        while self.open_size:
            self.end(0)
        self.queue = NULL
        with nogil:
            batch_queue_free(queue)

    def __dealloc__(self):
        self.close()
        if self.probe != NULL:
            free(self.probe.tasks)
            free(self.probe.log)
            free(self.probe)


cdef int64_t number_of(const Probe* probe, const BatchTask* task) noexcept nogil:
    return <const ProbeTask*>task - probe.tasks


cdef list parts_of(const Probe* probe, const Batch* batch):
    cdef const BatchPart* part
    cdef int i
    parts = []
    for i in range(batch.size):
        part = &batch.parts[i]
        parts.append((number_of(probe, part.task), part.first_row, part.rows))
    return parts
