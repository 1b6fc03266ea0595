"""The batch scheduler: requests of one kind wait together and run together.

A queue serves one signature and set of outputs of one version of a model. Who pushes puts a task
into its inbox, a lock-free ring; the worker that comes next drains the ring into ordered lists, one
for each kind of task that can share a batch, forms a batch and runs it. While it runs the next
worker forms the next batch.

- By default nothing waits for a timer: an idle worker takes what is there, and tasks gather only
  while all workers that the queue may have are busy. With a wait (batch_timeout_micros), a batch that
  is not full is not begun before its first task has waited so long.
- The task with the earliest deadline comes first; one without a deadline counts as one that has
  PATIENCE_NS after the wait, so that it is not passed over for ever. A task that does not fit closes
  the batch.
- What would not be through by its deadline is refused: as it comes, if the rows before it take too
  long, and as it is taken. What runs is in time, so that overload costs only what is refused.
- Low tasks run when a worker stays free for others, and where a batch of their kind is padded anyway.
  They take no room from others: those are counted without them, and they with all.

The rules of sizes, waits and limits are TensorFlow's (SharedBatchScheduler and BasicBatchScheduler in
tensorflow/core/kernels/batching_util), but for max_enqueued_batches: what waits is counted in rows, of
which there may be so many times max_batch_size.

Thread-safety: any number of threads push; workers, and the loop's thread with batch_queue_serve, run.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

from tfsrv._atomic cimport (
    add_relaxed_i64,
    cas_weak_i64,
    exchange_int,
    fence,
    load_acquire_int,
    load_relaxed_i64,
    load_relaxed_int,
    store_relaxed_i64,
    store_release_int,
    store_seq_cst_i64,
    store_seq_cst_int,
)
from tfsrv._batch_tuner cimport (
    TunerSettings,
    tuner_arrived,
    tuner_began,
    tuner_choose_arm,
    tuner_ended,
    tuner_init,
    tuner_latency,
    tuner_row_ns,
    tuner_rows_now,
    tuner_run_ns,
    tuner_run_slow_ns,
)
from tfsrv._buffer cimport block_reserve
from tfsrv._clock cimport NS_PER_MS, NS_PER_S, NS_PER_US, now_ns
from tfsrv._queue cimport queue_close, queue_open, queue_pop, queue_push, queue_size
from tfsrv._run_arms cimport ARM_CALLER
from tfsrv._thread cimport (
    pthread_mutex_destroy,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from tfsrv._workers cimport (
    work_queue_begin,
    work_queue_end,
    work_queue_schedule,
    work_queue_set_limit,
)

cdef extern from *:
    int count_leading_zeros "__builtin_clzll"(unsigned long long value) nogil

cdef enum:
    INBOX = 256             # tasks; 4 KiB, taken at the first push. Who finds it full drains it
    MOST_KINDS = 512        # that wait beside each other; whoever comes with a new one then runs alone
    KEPT_KINDS = 4          # empty ones that a queue keeps for reuse
    KEPT_BATCHES = 4
    FIRST_PARTS = 16        # of a batch; doubling
    KEPT_SCRATCH = 65536    # bytes of a batch that is kept

cdef int64_t PATIENCE_NS = NS_PER_S          # after the wait: the deadline that a task without one is served by
cdef int64_t TRUST_NS = NS_PER_S             # estimates older than this refuse nothing …
cdef int64_t TRUST_RUNS = 8                  # … nor after so many runs could have ended since: these cost 1/9
cdef int64_t SWEEP_NS = NS_PER_MS            # a full queue is searched for abandoned tasks as often …
cdef int64_t SWEEP_TASK_NS = 2 * NS_PER_US   # … or once in so much for each task: a few % of a thread
cdef int64_t NO_MEMORY_NS = NS_PER_MS        # without memory for a batch, try again after this


# ---- making and freeing --------------------------------------------------------------------------

cdef BatchQueue* batch_queue_new(
    Pool* pool, Share* share, const BatchHandler* handler, const BatchSettings* settings, void* context
) noexcept nogil:
    """A queue that workers of the pool serve. NULL without memory; `context` stays the caller's then.

    `share` counts the workers' time of its model; NULL: the queue has one of its own.
    """
    cdef BatchQueue* queue = <BatchQueue*>calloc(1, sizeof(BatchQueue))
    cdef TunerSettings tuning
    cdef int most = pool.base - 1
    if queue == NULL:
        return NULL
    if settings.max_runs > 0:
        most = min(most, settings.max_runs)
    queue.handler = handler
    queue.context = context
    queue.settings = settings[0]
    memset(&tuning, 0, sizeof(tuning))
    tuning.target_ns = settings.target_ns
    tuning.max_rows = settings.max_rows
    tuning.max_wait_ns = settings.wait_ns
    tuning.max_concurrency = most
    tuning.arm = settings.arm
    tuner_init(&queue.tuner, &tuning)
    pthread_mutex_init(&queue.lock, NULL)
    work_queue_begin(&queue.work, pool, take_turn)
    if share != NULL:
        queue.work.share = share
    queue.last_call_ns = INT64_MAX
    work_queue_set_limit(&queue.work, queue.tuner.concurrency)
    publish(queue)
    return queue


cdef void batch_queue_free(void* queue_pointer) noexcept nogil:
    """Free a queue that nobody pushes to any more and that has no task, or whose tasks are lost.

    Waits for workers that are on their way out of its last run.
    """
    cdef BatchQueue* queue = <BatchQueue*>queue_pointer
    cdef Batch* batch
    work_queue_end(&queue.work)
    free_kinds(queue.kinds)
    free_kinds(queue.free_kinds)
    while queue.free_batches != NULL:
        batch = queue.free_batches
        queue.free_batches = batch.next
        free_batch(batch)
    if queue.handler.free_context != NULL:
        queue.handler.free_context(queue.context)
    queue_close(&queue.inbox)
    pthread_mutex_destroy(&queue.lock)
    free(queue)


cdef void free_kinds(BatchKind* kind) noexcept nogil:
    cdef BatchKind* following
    while kind != NULL:
        following = kind.next
        free(kind)
        kind = following


cdef void free_batch(Batch* batch) noexcept nogil:
    free(batch.parts)
    free(batch.scratch)
    free(batch)


# ---- who pushes ----------------------------------------------------------------------------------

cdef int batch_queue_push(BatchQueue* queue, BatchTask* task) noexcept nogil:
    """Hand a task over. A Pushed; unless it is PUSHED the task stays the caller's.

    Nobody need run it before batch_queue_kick or batch_queue_serve, which may follow many pushes. Threads
    that push at the same moment may pass the limit by one task each.
    """
    cdef int64_t waiting = rows_before(queue, task)
    cdef bint alone = task.alone    # it may be gone once it is pushed
    cdef int64_t last_call_ns = INT64_MAX
    cdef int pushed = PUSHED
    if task.rows > queue.settings.max_request_rows:
        return PUSHED_TOO_LARGE
    if waiting + task.rows > queue.settings.max_waiting_rows:
        sweep(queue, task.arrived_ns)
        waiting = rows_before(queue, task)
        if waiting + task.rows > queue.settings.max_waiting_rows:
            add_relaxed_i64(&queue.counts.refused_full, 1)
            return PUSHED_FULL
    task.due_ns = task.arrived_ns + PATIENCE_NS + load_relaxed_i64(&queue.wait_ns)
    if task.deadline_ns != 0:
        task.due_ns = task.deadline_ns
        if comes_too_late(queue, task, waiting):
            add_relaxed_i64(&queue.counts.refused_late, 1)
            return PUSHED_LATE
    task.next = NULL
    task.child = NULL
    task.rows_begun = 0
    learn_time_left(queue, min(task.due_ns - task.arrived_ns, PATIENCE_NS))
    if task.deadline_ns != 0 and load_relaxed_i64(&queue.wait_ns) != 0:
        last_call_ns = last_call(queue, task)
    # Counted first: a worker that takes the task at once takes it off again.
    add_relaxed_i64(&queue.waiting_rows, task.rows)
    if not task.low:
        add_relaxed_i64(&queue.waiting_normal, task.rows)
    if load_acquire_int(&queue.inbox_is_open) == 0 or not queue_push(&queue.inbox, task):
        pushed = push_slowly(queue, task)
    if pushed == PUSHED:
        # After the push: the look that clears these finds the task.
        if alone:
            store_release_int(&queue.has_alone, 1)
        hear_last_call(queue, last_call_ns)
    return pushed


cdef void hear_last_call(BatchQueue* queue, int64_t when) noexcept nogil:
    cdef int64_t before = load_relaxed_i64(&queue.last_call_ns)
    while when < before and not cas_weak_i64(&queue.last_call_ns, &before, when):
        pass


cdef inline int64_t rows_before(const BatchQueue* queue, const BatchTask* task) noexcept nogil:
    """Rows that wait and count against the task: low ones only against each other."""
    return load_relaxed_i64(&queue.waiting_rows if task.low else &queue.waiting_normal)


cdef int push_slowly(BatchQueue* queue, BatchTask* task) noexcept nogil:
    """There is no inbox yet, or it is full."""
    cdef int pushed = PUSHED
    pthread_mutex_lock(&queue.lock)
    if load_relaxed_int(&queue.inbox_is_open) == 0 and queue_open(&queue.inbox, INBOX) == 0:
        store_release_int(&queue.inbox_is_open, 1)  # pairs with load_acquire: the ring is whole
    drain(queue)
    if has_spare_kind(queue):
        tuner_arrived(&queue.tuner, task.rows)
        put_into_kind(queue, task)
    else:
        take_off(queue, task)
        pushed = PUSHED_NO_MEMORY
    pthread_mutex_unlock(&queue.lock)
    return pushed


cdef inline void learn_time_left(BatchQueue* queue, int64_t left_ns) noexcept nogil:
    """A moving mean. Of two that come at once one may be forgotten, which does no harm."""
    cdef int64_t mean_ns = load_relaxed_i64(&queue.mean_left_ns)
    store_relaxed_i64(&queue.mean_left_ns, mean_ns + (left_ns - mean_ns) // 16 if mean_ns else left_ns)


cdef bint comes_too_late(BatchQueue* queue, const BatchTask* task, int64_t waiting) noexcept nogil:
    """Whether what is before the task, and its own run, take longer than it has."""
    cdef int64_t running = load_relaxed_i64(&queue.running_rows)
    cdef int64_t mean_left = load_relaxed_i64(&queue.mean_left_ns)
    cdef int64_t left = task.deadline_ns - task.arrived_ns
    cdef double ahead = <double>waiting
    if left <= 0:
        return True
    if waiting + running == 0:
        return False  # an idle queue takes everything: so it learns when runs get faster again
    if left < mean_left:
        # It passes those that have more time. Say that what waits is due evenly, until that mean.
        ahead *= <double>left / <double>mean_left
    # Of what runs, half is done.
    ahead += 0.5 * <double>running
    return (
        ahead * <double>load_relaxed_i64(&queue.row_ns) + <double>load_relaxed_i64(&queue.run_ns)
        > <double>left
    )


cdef void take_off(BatchQueue* queue, const BatchTask* task) noexcept nogil:
    """A task, or what is left of one that was begun, does not wait any more."""
    take_off_rows(queue, task, task.rows - task.rows_begun)


cdef inline void take_off_rows(BatchQueue* queue, const BatchTask* task, int64_t rows) noexcept nogil:
    add_relaxed_i64(&queue.waiting_rows, -rows)
    if not task.low:
        add_relaxed_i64(&queue.waiting_normal, -rows)


cdef void batch_queue_kick(BatchQueue* queue, int64_t now) noexcept nogil:
    """Have a worker look at the queue, if none is about to. Any thread, after a push."""
    cdef int64_t due_ns = 0
    cdef bint low = load_relaxed_i64(&queue.waiting_normal) <= 0
    if load_relaxed_i64(&queue.wait_ns) != 0 and not need_not_wait(queue):
        due_ns = min(now + load_relaxed_i64(&queue.wait_ns), load_relaxed_i64(&queue.last_call_ns))
    fence()  # pairs with the fence in release(): the task is seen there, or `scheduled` is 0 here
    if exchange_int(&queue.work.scheduled, 1) == 0:
        work_queue_schedule(&queue.work, due_ns, low)
    elif due_ns < load_relaxed_i64(&queue.work.due_ns) or (
        not low and load_relaxed_int(&queue.work.low) != 0
    ):
        # In the list for later, or as low: bring it forward. A worker that puts it there just now
        # looks at the same numbers after that, see schedule_again().
        work_queue_schedule(&queue.work, due_ns, low)


cdef inline bint need_not_wait(const BatchQueue* queue) noexcept nogil:
    """Whether a look at the queue before its time is worth it."""
    return (
        load_relaxed_i64(&queue.waiting_rows) >= load_relaxed_i64(&queue.full_rows)
        or load_relaxed_int(&queue.has_alone) != 0
    )


cdef void batch_queue_hurry(BatchQueue* queue) noexcept nogil:
    """Hardly anybody will push any more: what is there, and comes still, runs as soon as workers are free."""
    pthread_mutex_lock(&queue.lock)
    queue.hurries = True
    publish(queue)  # for the last ones who push: they would have it looked at after the wait
    pthread_mutex_unlock(&queue.lock)
    exchange_int(&queue.work.scheduled, 1)
    work_queue_schedule(&queue.work, 0, False)  # as at the end of schedule_again()


# ---- order -------------------------------------------------------------------------------------------
# All of this under the lock.

cdef BatchTask* heap_meld(BatchTask* one, BatchTask* other) noexcept nogil:
    """Of two pairing heaps (Fredman, Sedgewick, Sleator, Tarjan 1986) one. Siblings hang on `next`."""
    cdef BatchTask* swapped
    if one == NULL:
        return other
    if other == NULL:
        return one
    if other.due_ns < one.due_ns or (other.due_ns == one.due_ns and other.arrived_ns < one.arrived_ns):
        swapped = one
        one = other
        other = swapped
    other.next = one.child
    one.child = other
    return one


cdef BatchTask* heap_pop(BatchTask* root) noexcept nogil:
    """The heap without its root, which is the caller's."""
    cdef BatchTask* pairs = NULL
    cdef BatchTask* at = root.child
    cdef BatchTask* one
    cdef BatchTask* other
    cdef BatchTask* melded = NULL
    while at != NULL:  # meld in pairs; the list of pairs grows from its end
        one = at
        other = at.next
        at = other.next if other != NULL else NULL
        one.next = NULL
        if other != NULL:
            other.next = NULL
        one = heap_meld(one, other)
        one.next = pairs
        pairs = one
    while pairs != NULL:
        one = pairs
        pairs = one.next
        one.next = NULL
        melded = heap_meld(melded, one)
    root.child = NULL
    return melded


cdef inline BatchTask* kind_first(const BatchKind* kind) noexcept nogil:
    """The task that is served next; NULL: the kind is empty."""
    if kind.first == NULL or (kind.heap != NULL and kind.heap.due_ns < kind.first.due_ns):
        return kind.heap
    return kind.first


cdef void kind_pop(BatchKind* kind, BatchTask* task) noexcept nogil:
    """Take out what kind_first gave."""
    if task == kind.first:
        kind.first = task.next
        if kind.first == NULL:
            kind.last = NULL
    else:
        kind.heap = heap_pop(task)
    task.next = NULL
    kind.rows -= task.rows - task.rows_begun


cdef void kind_put(BatchKind* kind, BatchTask* task) noexcept nogil:
    task.next = NULL
    if kind.rows == 0:
        kind.since_ns = task.arrived_ns
    kind.rows += task.rows
    if kind.last == NULL or kind.last.due_ns <= task.due_ns:  # nearly always
        if kind.last == NULL:
            kind.first = task
        else:
            kind.last.next = task
        kind.last = task
    else:
        kind.heap = heap_meld(kind.heap, task)


cdef void begin_wait(BatchKind* kind, int64_t now) noexcept nogil:
    """A batch went: the next one waits from its own first task on."""
    cdef const BatchTask* first = kind_first(kind)
    kind.since_ns = now if first == NULL else first.arrived_ns


cdef bint has_spare_kind(BatchQueue* queue) noexcept nogil:
    """See to it that put_into_kind has one for a task unlike all others; False without memory."""
    cdef BatchKind* kind
    if queue.free_kinds != NULL:
        return True
    kind = <BatchKind*>malloc(sizeof(BatchKind))
    if kind == NULL:
        return False
    kind.next = NULL
    queue.free_kinds = kind
    queue.free_kinds_size = 1
    return True


cdef void put_into_kind(BatchQueue* queue, BatchTask* task) noexcept nogil:
    """Needs a spare kind."""
    cdef BatchKind** link = find_kind(queue, task)
    if link[0] == NULL and queue.kinds_size >= MOST_KINDS:
        # Looking through ever more of them, for each task and each batch, costs more than sharing saves.
        task.alone = True
        task.kind = KIND_ALONE
        link = find_kind(queue, task)
    if link[0] == NULL:
        link[0] = take_spare_kind(queue, task)
    kind_put(link[0], task)


cdef BatchKind** find_kind(BatchQueue* queue, const BatchTask* task) noexcept nogil:
    """Where the task's kind is linked in, or would be: NULL stands there then."""
    cdef BatchKind** link = &queue.kinds
    while link[0] != NULL:
        # Tasks that run alone need not be alike.
        if (
            link[0].hash == task.kind and link[0].low == task.low
            and queue.handler.shares(task, kind_first(link[0]))
        ):
            break
        link = &link[0].next
    return link


cdef BatchKind* take_spare_kind(BatchQueue* queue, const BatchTask* task) noexcept nogil:
    cdef BatchKind* kind = queue.free_kinds
    queue.free_kinds = kind.next
    queue.free_kinds_size -= 1
    queue.kinds_size += 1
    memset(kind, 0, sizeof(BatchKind))
    kind.hash = task.kind
    kind.low = task.low
    return kind


cdef void drop_empty_kinds(BatchQueue* queue) noexcept nogil:
    cdef BatchKind** link = &queue.kinds
    cdef BatchKind* kind
    while link[0] != NULL:
        kind = link[0]
        if kind_first(kind) != NULL:
            link = &kind.next
            continue
        link[0] = kind.next
        queue.kinds_size -= 1
        if queue.free_kinds_size >= KEPT_KINDS:
            free(kind)
        else:
            kind.next = queue.free_kinds
            queue.free_kinds = kind
            queue.free_kinds_size += 1


cdef void drain(BatchQueue* queue) noexcept nogil:
    """Bring what is in the inbox into order; without memory it stays there."""
    cdef BatchTask* task
    cdef size_t left
    if load_relaxed_int(&queue.inbox_is_open) == 0:
        return
    left = queue_size(&queue.inbox)  # and no more: others may go on pushing
    while left > 0 and has_spare_kind(queue):
        task = <BatchTask*>queue_pop(&queue.inbox)
        if task == NULL:
            return
        tuner_arrived(&queue.tuner, task.rows)
        put_into_kind(queue, task)
        left -= 1


cdef void sweep(BatchQueue* queue, int64_t now) noexcept nogil:
    """The queue is full: look whether tasks in it may go."""
    cdef int64_t tasks
    if now >= load_relaxed_i64(&queue.next_sweep_ns):
        store_relaxed_i64(&queue.next_sweep_ns, now + SWEEP_NS)  # nobody else begins one
        tasks = batch_queue_sweep(queue)
        store_relaxed_i64(&queue.next_sweep_ns, now + max(SWEEP_NS, tasks * SWEEP_TASK_NS))


cdef int64_t batch_queue_sweep(BatchQueue* queue) noexcept nogil:
    """Let go of tasks that nobody waits for any more, in the caller's thread. How many there were to look at."""
    cdef BatchKind* kind
    cdef BatchTask* task
    cdef BatchTask* kept
    cdef BatchTask* unwanted = NULL
    cdef int64_t tasks = 0
    pthread_mutex_lock(&queue.lock)
    drain(queue)
    kind = queue.kinds
    while kind != NULL:
        kept = NULL  # newest first
        while True:
            task = kind_first(kind)
            if task == NULL:
                break
            tasks += 1
            if queue.handler.is_wanted(task):
                kind_pop(kind, task)
                task.next = kept
                kept = task
            else:
                take_out(queue, kind, task, &unwanted)
        put_back(kind, kept)
        kind = kind.next
    drop_empty_kinds(queue)
    store_relaxed_i64(&queue.full_rows, rows_to_look_at(queue))
    pthread_mutex_unlock(&queue.lock)
    refuse_taken(queue, unwanted)
    return tasks


cdef void put_back(BatchKind* kind, BatchTask* newest) noexcept nogil:
    """Refill an emptied kind from a list whose first task is the last to be served."""
    cdef int64_t since_ns = kind.since_ns
    cdef BatchTask* task
    while newest != NULL:
        task = newest
        newest = task.next
        task.next = kind.first
        kind.first = task
        if kind.last == NULL:
            kind.last = task
        kind.rows += task.rows - task.rows_begun
    kind.since_ns = since_ns


# ---- forming -------------------------------------------------------------------------------------------

cdef int64_t batch_allowed_rows(const BatchSettings* settings, int64_t rows) noexcept nogil:
    """The least allowed size that holds so many rows; `rows` itself if there is none."""
    cdef int i
    for i in range(settings.allowed_size):
        if settings.allowed[i] >= rows:
            return settings.allowed[i]
    return rows


cdef int64_t rows_limit(const BatchQueue* queue) noexcept nogil:
    """Rows that a batch takes at most now: what was chosen, rounded down to an allowed size."""
    cdef int64_t limit = min(
        tuner_rows_now(&queue.tuner, load_relaxed_i64(&queue.waiting_rows)), queue.settings.max_rows)
    cdef int64_t allowed = 0
    cdef int i
    for i in range(queue.settings.allowed_size):
        if queue.settings.allowed[i] <= limit:
            allowed = queue.settings.allowed[i]
    return allowed if allowed else limit


cdef inline bint is_ripe(const BatchQueue* queue, const BatchKind* kind, int64_t limit, int64_t now) noexcept nogil:
    return (
        queue.tuner.wait_ns == 0
        or queue.hurries
        or kind.rows >= min(limit, queue.tuner.rows_enough)
        or ripe_at(queue, kind) <= now
        or kind_first(kind).alone
    )


cdef inline int64_t ripe_at(const BatchQueue* queue, const BatchKind* kind) noexcept nogil:
    """When a batch has waited long enough.

    A wait that was set counts from the batch's first task on; one that was learned from when there was
    a worker as well, since it is for those whom the last batch has just answered. No wait is longer
    than deadlines allow.
    """
    cdef const BatchTask* first = kind_first(kind)
    cdef int64_t since_ns = kind.since_ns
    if queue.settings.target_ns > 0:
        since_ns = max(since_ns, queue.last_end_ns)
    if first.deadline_ns != 0:  # the earliest one
        return min(since_ns + queue.tuner.wait_ns, last_call(queue, first))
    return since_ns + queue.tuner.wait_ns


cdef inline int64_t last_call(const BatchQueue* queue, const BatchTask* task) noexcept nogil:
    """When a task with a deadline has to begin at the latest, if runs take as long as they did."""
    cdef int64_t run_ns = load_relaxed_i64(&queue.run_ns)
    return task.deadline_ns - run_ns - run_ns // 8


cdef BatchKind* choose_kind(
    const BatchQueue* queue, int64_t limit, int64_t now, int64_t* due_ns, bint* only_low
) noexcept nogil:
    """The kind to be served now; NULL: none is. `due_ns`: when the first one will be; 0: there is none.

    `only_low`: there are only low tasks.
    """
    cdef BatchKind* kind = queue.kinds
    cdef BatchKind* best = NULL
    cdef int64_t ripe_ns
    due_ns[0] = 0
    only_low[0] = True
    while kind != NULL:
        if only_low[0] and not kind.low:
            only_low[0] = False
            best = NULL
            due_ns[0] = 0
        if kind.low == only_low[0]:
            if not is_ripe(queue, kind, limit, now):
                ripe_ns = ripe_at(queue, kind)
                if due_ns[0] == 0 or ripe_ns < due_ns[0]:
                    due_ns[0] = ripe_ns
            elif best == NULL or kind_first(kind).due_ns < kind_first(best).due_ns:
                best = kind
        kind = kind.next
    return best


cdef int64_t rows_to_look_at(const BatchQueue* queue) noexcept nogil:
    """With so many rows waiting one of the kinds may be full; with fewer none is, whoever comes."""
    cdef const BatchKind* kind = queue.kinds
    cdef int64_t waiting = 0
    cdef int64_t enough, missing
    if queue.tuner.wait_ns == 0:
        return INT64_MAX  # nothing waits, so nobody asks
    enough = min(rows_limit(queue), queue.tuner.rows_enough)
    missing = enough
    while kind != NULL:
        waiting += kind.rows
        missing = min(missing, max(0, enough - kind.rows))
        kind = kind.next
    return waiting + missing


cdef Batch* new_batch(BatchQueue* queue) noexcept nogil:
    cdef Batch* batch = queue.free_batches
    if batch != NULL:
        queue.free_batches = batch.next
        queue.free_batches_size -= 1
    else:
        batch = <Batch*>calloc(1, sizeof(Batch))
        if batch == NULL:
            return NULL
        batch.queue = queue
    batch.next = NULL
    batch.size = 0
    batch.rows = 0
    batch.bytes = 0
    batch.padding_rows = 0
    batch.deadline_ns = 0
    batch.in_place = False
    batch.strange = False
    return batch


cdef void keep_batch(BatchQueue* queue, Batch* batch) noexcept nogil:
    if queue.free_batches_size >= KEPT_BATCHES:
        free_batch(batch)
        return
    if batch.scratch_size > KEPT_SCRATCH:
        free(batch.scratch)
        batch.scratch = NULL
        batch.scratch_size = 0
    batch.next = queue.free_batches
    queue.free_batches = batch
    queue.free_batches_size += 1


cdef bint has_room(Batch* batch) noexcept nogil:
    """Room for one part more; False without memory."""
    cdef int capacity
    cdef BatchPart* grown
    if batch.size < batch.capacity:
        return True
    capacity = max(FIRST_PARTS, batch.capacity * 2)
    grown = <BatchPart*>realloc(batch.parts, <size_t>capacity * sizeof(BatchPart))
    if grown == NULL:
        return False
    batch.parts = grown
    batch.capacity = capacity
    return True


cdef void add_part(Batch* batch, BatchTask* task, int64_t rows) noexcept nogil:
    cdef BatchPart* part = &batch.parts[batch.size]
    part.task = task
    part.first_row = task.rows_begun
    part.rows = rows
    part.arrived_ns = task.arrived_ns
    if batch.size == 0:
        batch.deadline_ns = task.deadline_ns
    elif task.deadline_ns == 0 or batch.deadline_ns == 0:
        batch.deadline_ns = 0
    else:
        batch.deadline_ns = max(batch.deadline_ns, task.deadline_ns)
    batch.size += 1
    batch.rows += rows
    batch.bytes += task.bytes


cdef bint is_late(const BatchQueue* queue, const BatchTask* task, int64_t expected_ns, int64_t now) noexcept nogil:
    if task.deadline_ns == 0:
        return False
    if task.deadline_ns <= now:
        return True
    # What is begun is worth ending; and who was not proved wrong for long may be wrong by now.
    return (
        task.rows_begun == 0
        and now - queue.last_end_ns < min(TRUST_NS, TRUST_RUNS * expected_ns)
        and now + expected_ns > task.deadline_ns
    )


cdef int64_t expected_run_ns(
    const BatchQueue* queue, const BatchKind* kind, int64_t limit, int64_t now
) noexcept nogil:
    """What the run of what waits in the kind takes, for is_late().

    Who competes for a place has to be through in most cases; who is alone, only to have a chance. And
    if the queue has been idle for as long as a run, then who is alone runs in any case: so it shows when
    runs got shorter, and at worst half of a worker's time is lost.
    More rows than ever ran are no reason to refuse anybody: they would never be tried.
    """
    cdef int64_t mean_ns
    cdef int64_t rows = min(min(limit, kind.rows), max(queue.tuner.curve.largest_rows, 1))
    if queue.runs == 0 and kind_first(kind) != NULL and kind_first(kind).rows == kind.rows:
        mean_ns = tuner_run_ns(&queue.tuner, rows)
        return mean_ns if now - queue.last_end_ns < mean_ns else 0
    return tuner_run_slow_ns(&queue.tuner, rows)


cdef void take_out(BatchQueue* queue, BatchKind* kind, BatchTask* task, BatchTask** refused) noexcept nogil:
    """Move what kind_first gave to a list of those that will not run."""
    kind_pop(kind, task)
    take_off(queue, task)
    task.next = refused[0]
    refused[0] = task


cdef void take_in(BatchQueue* queue, BatchKind* kind, BatchTask* task, Batch* batch) noexcept nogil:
    """Move what kind_first gave, or what is left of it, into the batch."""
    kind_pop(kind, task)
    take_off(queue, task)
    add_part(batch, task, task.rows - task.rows_begun)
    task.rows_begun = task.rows


cdef void fill(
    BatchQueue* queue, BatchKind* kind, Batch* batch, int64_t limit, int64_t expected_ns, int64_t now,
    BatchTask** refused
) noexcept nogil:
    """Move tasks from the kind into the batch, until it has `limit` rows or the next does not fit."""
    cdef int64_t left
    cdef BatchTask* task
    while has_room(batch):
        task = kind_first(kind)
        if task == NULL:
            break
        left = task.rows - task.rows_begun
        if not queue.handler.is_wanted(task) or is_late(queue, task, expected_ns, now):
            take_out(queue, kind, task, &refused[0])
            continue
        if batch.size and (task.alone or batch.bytes + task.bytes > queue.settings.max_bytes):
            break
        if left > limit - batch.rows and not task.alone:
            if queue.settings.splits and limit > batch.rows and queue.handler.begin_split(task):
                left = limit - batch.rows
                add_part(batch, task, left)
                task.rows_begun += left
                kind.rows -= left
                take_off_rows(queue, task, left)
                break
            if batch.size:
                break
            # More rows than are chosen now, but no more than are allowed: by itself.
        take_in(queue, kind, task, batch)
        if task.alone:
            break


cdef void fill_gaps(
    BatchQueue* queue, const BatchKind* kind, Batch* batch, int64_t now, BatchTask** refused
) noexcept nogil:
    """Low tasks of the same kind in place of padding."""
    cdef BatchKind* low = queue.kinds
    cdef int64_t allowed = batch_allowed_rows(&queue.settings, batch.rows)
    cdef int64_t deadline_ns = batch.deadline_ns
    cdef BatchTask* task
    if kind.low or allowed == batch.rows or batch.parts[0].task.alone:
        return
    while low != NULL and not (
        low.low and low.hash == kind.hash and kind_first(low) != NULL
        and queue.handler.shares(batch.parts[0].task, kind_first(low))
    ):
        low = low.next
    if low == NULL:
        return
    while has_room(batch):
        task = kind_first(low)
        if task == NULL or task.alone:
            break
        if not queue.handler.is_wanted(task) or is_late(queue, task, 0, now):
            take_out(queue, low, task, &refused[0])
            continue
        if (
            task.rows - task.rows_begun > allowed - batch.rows
            or batch.bytes + task.bytes > queue.settings.max_bytes
        ):
            break
        take_in(queue, low, task, batch)
    batch.deadline_ns = deadline_ns  # theirs change nothing
    begin_wait(low, now)


cdef Batch* batch_form(
    BatchQueue* queue, int64_t now, BatchTask** refused, int64_t* due_ns
) noexcept nogil:
    """The next batch, taken from what waits; NULL: there is none now. Under the lock.

    `due_ns` becomes when to look again, or a Look. `refused`, NULL before, becomes a list of tasks that
    will not run; the caller gives them to `refuse`.
    """
    cdef Batch* batch
    cdef BatchKind* kind
    cdef int64_t limit = rows_limit(queue)
    cdef int64_t ripe_ns
    cdef bint only_low
    if load_relaxed_int(&queue.has_alone) != 0:
        exchange_int(&queue.has_alone, 0)  # pairs with store_release in batch_queue_push()
    # Before the inbox is emptied: what is pushed later is heard of later.
    store_seq_cst_i64(&queue.last_call_ns, INT64_MAX)
    drain(queue)
    batch = new_batch(queue)
    if batch == NULL:
        look_later(queue, now, due_ns)
        return NULL
    while True:
        kind = choose_kind(queue, limit, now, &ripe_ns, &only_low)
        if kind == NULL:
            break
        fill(queue, kind, batch, limit, expected_run_ns(queue, kind, limit, now), now, refused)
        begin_wait(kind, now)
        if batch.size:
            fill_gaps(queue, kind, batch, now, refused)
            break
        if kind_first(kind) != NULL:
            look_later(queue, now, due_ns)
            keep_batch(queue, batch)
            return NULL
        drop_empty_kinds(queue)
    drop_empty_kinds(queue)
    if batch.size == 0:
        keep_batch(queue, batch)
        batch = NULL
    else:
        begin(queue, batch, now)
    if choose_kind(queue, limit, now, &ripe_ns, &only_low) != NULL:
        due_ns[0] = LOOK_AS_LOW if only_low else LOOK_AT_ONCE
    elif ripe_ns != 0:
        due_ns[0] = ripe_ns
    else:
        due_ns[0] = LOOK_AFTER_PUSH
    store_relaxed_i64(&queue.full_rows, rows_to_look_at(queue))
    return batch


cdef void look_later(BatchQueue* queue, int64_t now, int64_t* due_ns) noexcept nogil:
    """There is no memory for a batch."""
    due_ns[0] = now + NO_MEMORY_NS
    store_relaxed_i64(&queue.full_rows, load_relaxed_i64(&queue.waiting_rows) + 1)


cdef void begin(BatchQueue* queue, Batch* batch, int64_t now) noexcept nogil:
    if not batch.parts[0].task.alone:
        batch.padding_rows = batch_allowed_rows(&queue.settings, batch.rows) - batch.rows
    batch.begun_ns = now
    batch.arm = tuner_choose_arm(&queue.tuner)
    queue.runs += 1
    add_relaxed_i64(&queue.running_rows, batch.rows)
    tuner_began(&queue.tuner, now, batch.rows, queue.runs)


# ---- running -------------------------------------------------------------------------------------------

cdef void take_turn(WorkQueue* work) noexcept nogil:
    """A worker's turn: one batch."""
    cdef BatchQueue* queue = <BatchQueue*>work
    cdef Batch* batch
    cdef BatchTask* refused = NULL
    cdef int64_t due_ns = 0
    pthread_mutex_lock(&queue.lock)
    batch = batch_form(queue, now_ns(), &refused, &due_ns)
    pthread_mutex_unlock(&queue.lock)
    schedule_again(queue, due_ns)
    refuse_taken(queue, refused)
    if batch != NULL:
        run_batch(queue, batch)


cdef void schedule_again(BatchQueue* queue, int64_t due_ns) noexcept nogil:
    """After a look at the queue, by whoever made `scheduled` 1: care for what is left."""
    cdef bint low = due_ns == LOOK_AS_LOW or (due_ns > 0 and load_relaxed_i64(&queue.waiting_normal) <= 0)
    if due_ns == LOOK_AFTER_PUSH:
        release(queue)
        return
    work_queue_schedule(&queue.work, max(due_ns, 0), low)
    fence()  # pairs with the fence in batch_queue_kick()
    if (low and load_relaxed_i64(&queue.waiting_normal) > 0) or (due_ns > 0 and need_not_wait(queue)):
        # Somebody may have taken it out of the list by now; it is looked at once more then.
        work_queue_schedule(&queue.work, 0, False)
    elif due_ns > load_relaxed_i64(&queue.last_call_ns):
        work_queue_schedule(&queue.work, load_relaxed_i64(&queue.last_call_ns), low)


cdef void release(BatchQueue* queue) noexcept nogil:
    """Nothing waits: the next who pushes schedules the queue."""
    store_seq_cst_int(&queue.work.scheduled, 0)
    fence()  # pairs with the fence in batch_queue_kick()
    # Not the inbox: who found it or the queue full may have brought its tasks into order meanwhile.
    if load_relaxed_i64(&queue.waiting_rows) > 0 and exchange_int(&queue.work.scheduled, 1) == 0:
        work_queue_schedule(&queue.work, 0, False)


cdef void refuse_taken(BatchQueue* queue, BatchTask* task) noexcept nogil:
    """Refuse a list of tasks that were taken out, each for its reason."""
    cdef BatchTask* following
    while task != NULL:
        following = task.next
        task.next = NULL
        if queue.handler.is_wanted(task):
            add_relaxed_i64(&queue.counts.refused_late, 1)
            queue.handler.refuse(task, REFUSED_LATE)
        else:
            add_relaxed_i64(&queue.counts.refused_unwanted, 1)
            queue.handler.refuse(task, REFUSED_UNWANTED)
        task = following


cdef void run_batch(BatchQueue* queue, Batch* batch) noexcept nogil:
    queue.handler.run(batch)
    batch_ended(batch, now_ns())


cdef void batch_ended(Batch* batch, int64_t now) noexcept nogil:
    """The batch has run, and its tasks are gone: learn from it, and keep its memory."""
    cdef BatchQueue* queue = batch.queue
    cdef int limit
    cdef int i
    add_relaxed_i64(&queue.running_rows, -batch.rows)
    pthread_mutex_lock(&queue.lock)
    queue.runs -= 1
    learn(queue, now, batch.rows, 0 if batch.strange else now - batch.begun_ns, batch.arm)
    for i in range(batch.size):
        tuner_latency(&queue.tuner, now - batch.parts[i].arrived_ns)
    queue.counts.tasks += batch.size
    queue.counts.padding_rows += batch.padding_rows
    limit = queue.tuner.concurrency
    keep_batch(queue, batch)
    pthread_mutex_unlock(&queue.lock)
    work_queue_set_limit(&queue.work, limit)


cdef void learn(BatchQueue* queue, int64_t now, int64_t rows, int64_t run_ns, int arm) noexcept nogil:
    """One run has ended; `run_ns` is 0 if what it took teaches nothing. Under the lock."""
    tuner_ended(
        &queue.tuner, now, rows, run_ns, arm, queue.runs, load_relaxed_i64(&queue.waiting_rows))
    queue.last_end_ns = now
    queue.counts.batches += 1
    queue.counts.rows += rows
    queue.counts.sizes[min(31, 63 - count_leading_zeros(<uint64_t>max(1, rows)))] += 1
    store_relaxed_i64(&queue.run_ns, tuner_run_slow_ns(&queue.tuner, rows))
    publish(queue)


cdef void publish(BatchQueue* queue) noexcept nogil:
    """What the tuner chose, for those who push."""
    store_relaxed_i64(&queue.full_rows, rows_to_look_at(queue))
    store_relaxed_i64(&queue.wait_ns, 0 if queue.hurries else queue.tuner.wait_ns)
    store_relaxed_i64(&queue.row_ns, tuner_row_ns(&queue.tuner))


cdef void batch_queue_serve(BatchQueue* queue, int64_t until_ns, int64_t longest_ns) noexcept nogil:
    """Run what waits in the caller's thread, as long as runs are expected to take `longest_ns` at most.

    What is left after `until_ns`, or takes longer, or is low, goes to the workers; so does everything
    while they have the queue. For the loop's thread, which keeps the queue from being freed.
    """
    cdef Batch* batch
    cdef BatchTask* refused
    cdef int64_t now = now_ns()
    cdef int64_t due_ns = LOOK_AT_ONCE
    cdef int64_t rows
    if load_relaxed_int(&queue.work.running) != 0 or exchange_int(&queue.work.scheduled, 1) != 0:
        batch_queue_kick(queue, now)
        return
    while due_ns == LOOK_AT_ONCE:
        refused = NULL
        pthread_mutex_lock(&queue.lock)
        rows = min(load_relaxed_i64(&queue.waiting_rows), rows_limit(queue))
        if load_relaxed_i64(&queue.waiting_normal) <= 0:
            due_ns = LOOK_AS_LOW
        if due_ns != LOOK_AT_ONCE or now >= until_ns or tuner_run_ns(&queue.tuner, rows) > longest_ns:
            pthread_mutex_unlock(&queue.lock)
            break
        batch = batch_form(queue, now, &refused, &due_ns)
        pthread_mutex_unlock(&queue.lock)
        refuse_taken(queue, refused)
        if batch != NULL:
            batch.in_place = True
            run_batch(queue, batch)
        now = now_ns()
    schedule_again(queue, due_ns)


cdef void batch_note_alone(
    BatchQueue* queue, int64_t rows, int64_t arrived_ns, int64_t begun_ns, int64_t now
) noexcept nogil:
    """A task ran without having been pushed: learn from it as from a batch of its own."""
    pthread_mutex_lock(&queue.lock)
    tuner_arrived(&queue.tuner, rows)
    tuner_began(&queue.tuner, begun_ns, rows, queue.runs + 1)
    learn(queue, now, rows, now - begun_ns, ARM_CALLER)
    tuner_latency(&queue.tuner, now - arrived_ns)
    queue.counts.tasks += 1
    pthread_mutex_unlock(&queue.lock)


cdef void* batch_scratch(Batch* batch, size_t size) noexcept nogil:
    """`size` bytes for whoever runs the batch, until it has run; NULL without memory.

    There is one such block a batch: asking again may move it.
    """
    return block_reserve(&batch.scratch, &batch.scratch_size, size)
