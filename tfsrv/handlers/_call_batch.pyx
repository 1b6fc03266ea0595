"""Calls in batches: on the batch scheduler in, through one run of the session, out.

Rows are copied once, from the requests' bytes into the batch's tensors, and once more from the
batch's outputs into the responses. Calls that are alike share batches: the same outputs, the same dtypes
and shapes but for the number of rows. Where rows mean nothing, a call runs alone: a scalar input, unequal
numbers of rows, no rows, a default value, a rank or dtype that is not the signature's, an input or output
whose first dimension is fixed. That an output has no rows may also show when it was run; then it is known
from then on: of the signature or, if the output had rows for other calls, of those of this kind.

If a batch fails, its halves run again, and theirs, so that only calls that fail by themselves get the
error. Codes and texts are TensorFlow Serving's (batching/batching_session.cc) and those of TensorFlow's
SharedBatchScheduler.

Requests that arrive together are pushed one by one and looked at together: in the loop's thread if
the batch is expected to be quick, else by one worker. A single one, after some single ones before it, does
not wait for company and takes the way that it takes without batching.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from tfsrv._atomic cimport (
    add_relaxed_i64,
    add_relaxed_int,
    load_relaxed_i64,
    load_relaxed_int,
    load_relaxed_u64,
    store_relaxed_int,
    store_relaxed_u64,
)
from tfsrv._batch_refusals cimport tell_refused
from tfsrv._batch_tensors cimport (
    ROWS_EMPTY_AMONG_OTHERS,
    ROWS_INVALID,
    ROWS_MADE,
    RowSource,
    rows_kind_hash,
    rows_look,
    rows_merge,
    rows_of_tensor,
    rows_of_wire,
    rows_of_view,
    rows_padding_bytes,
    rows_same_kind,
    rows_slice,
)
from tfsrv._batching cimport (
    KIND_ALONE,
    PUSHED,
    PUSHED_TOO_LARGE,
    REFUSED_LATE,
    Batch,
    BatchHandler,
    BatchPart,
    BatchQueue,
    BatchSettings,
    BatchTask,
    batch_allowed_rows,
    batch_note_alone,
    batch_queue_free,
    batch_queue_hurry,
    batch_queue_kick,
    batch_queue_new,
    batch_queue_push,
    batch_queue_serve,
    batch_scratch,
)
from tfsrv._budget cimport budget_give, budget_take
from tfsrv._call cimport (
    Call,
    Deferred,
    LoopState,
    call_is_abandoned,
    call_release_servable,
)
from tfsrv._call_loop cimport call_complete, call_complete_all, loop_defer
from tfsrv._clock cimport now_ns
from tfsrv._inner_padding cimport MOST_PADDED_RANK
from tfsrv._method cimport STARTED_DONE, STARTED_RUNNING
from tfsrv._predict_request cimport PredictView, TensorView, predict_view_drop_joined
from tfsrv._predict_response cimport TensorData, wire_splices
from tfsrv._run_arms cimport ARM_POOL, ARM_SINGLE
from tfsrv._run_queue cimport IN_PLACE_NS, run_record_is_fast, run_record_note
from tfsrv._servable cimport Servable, servable_hold, servable_release
from tfsrv._run_counts cimport batch_input_add, batch_part_add, batch_run_add
from tfsrv._session cimport Session, session_plan, session_run
from tfsrv._signature cimport HAS_NO_ROWS, HAS_ROWS, MAY_HAVE_ROWS, Signature
from tfsrv._status cimport (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    Status,
    status_clear,
    status_copy,
    status_free,
    status_init,
    status_set,
)
from tfsrv._tensor cimport MAX_RANK, tensor_data, tensor_release, tensor_view_parses
from tfsrv._tf cimport TF_Tensor, limit_threads
from tfsrv._workers cimport work_queue_is_idle
from tfsrv.handlers._call_plan cimport SPLICE_FROM, Plan, plan_check_tensors
from tfsrv.handlers._call_run cimport (
    IN_PLACE_SLICE_NS,
    run_call,
    run_has_time,
    run_is_small,
    run_is_wanted,
    run_place,
    run_timeout_ms,
    run_write_outputs,
)
from tfsrv.handlers._call_split cimport (
    Split,
    SplitPart,
    split_begin,
    split_fail,
    split_leave,
    split_make_feeds,
    split_part_charge,
    split_part_free,
    split_part_new,
    split_take,
)
from tfsrv.handlers._predict_errors cimport tell_bad_tensor

cdef int64_t IN_PLACE_BATCH_BYTES = 1 << 20      # of all that came together
cdef int64_t MOST_PADDING_BYTES = <int64_t>1 << 61   # two of rows_padding_bytes can be added
cdef int64_t MIXED_ROW_BYTES = 65536             # longer rows are padded to twice their length at most
cdef int MOST_SKIPS = 64                         # calls that do not look for company after one found none

cdef extern from *:
    int count_leading_zeros "__builtin_clzll"(unsigned long long value) nogil

cdef uint64_t MIX = 0x9E3779B97F4A7C15           # 2**64 divided by the golden ratio


cdef enum:
    ODD_KINDS = 16              # of one signature that are remembered

# What a signature's queue is for; its context.
cdef struct Served:
    Deferred deferred           # first: a Deferred's address is its Served's
    BatchQueue* queue
    Session* session            # borrowed, outlives the queue
    Signature* signature        # the twin that stands for all
    # the loop's
    Servable* held              # while deferred: one reference
    int64_t gathered            # calls that came since
    int64_t gathered_bytes
    bint must_not_run_here      # one of them is no work for the loop
    int skips                   # calls that need not look for company, still
    int next_skips
    # atomic: kinds that gave outputs of other rows, of the same model that has given rows for others
    uint64_t odd_kinds[16]      # ODD_KINDS; 0: none
    int odd_kinds_size          # that there were, the oldest of them forgotten


cdef BatchHandler handler
handler.shares = shares
handler.is_wanted = is_wanted
handler.begin_split = begin_split
handler.refuse = refuse
handler.run = run
handler.free_context = free


# ---- the loop's thread ---------------------------------------------------------------------------

cdef int batch_call(Pool* pool, Call* call) noexcept nogil:
    """Have a call with a plan run with others, on a session that batches. A Started."""
    cdef Session* session = <Session*>call.servable.impl
    cdef Signature* signature = <Signature*>call.signature
    cdef BatchTask* task = &call.task_rows
    cdef Served* served = served_by(pool, session, signature.twin)
    cdef bint first_time = False
    cdef bint here
    if served == NULL:
        status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
        return give_up(call)
    if signature.inputs_size == 0:
        status_set(&call.status, INVALID_ARGUMENT, "Batching Run() must have at least one input tensor")
        return give_up(call)
    describe(served, call, task)
    session_plan(session, signature.twin, call.wanted, call.wanted_size, &first_time)
    here = (
        signature.may_run_in_place
        and not first_time  # TensorFlow builds an executor first, which takes milliseconds
        and not task.low
        and run_record_is_fast(&signature.twin.record)
        and run_is_small(call, max(call.body.size, <size_t>task.bytes))
    )
    if served.deferred.loop == NULL:
        if served.skips == 0:
            return gather_first(served, call, here)
        served.skips -= 1
        if here and may_run_at_once(served, call):
            run_here(served, call)
            return STARTED_DONE
    elif served.deferred.loop == call.loop:
        return gather_more(served, call, here)
    if not push(served, call):
        return give_up(call)
    batch_queue_kick(served.queue, now_ns())
    return STARTED_RUNNING


cdef bint may_run_at_once(Served* served, const Call* call) noexcept nogil:
    """Whether a quick call may do without the queue: nobody is in it, and it would wait for nobody."""
    cdef const BatchTask* task = &call.task_rows
    cdef const BatchSettings* settings = &served.queue.settings
    return (
        work_queue_is_idle(&served.queue.work)
        and load_relaxed_i64(&served.queue.waiting_rows) == 0
        and load_relaxed_i64(&served.queue.wait_ns) == 0
        and task.rows <= settings.max_rows
        and run_has_time(call)
        and (task.alone or batch_allowed_rows(settings, task.rows) == task.rows)
    )


cdef int gather_first(Served* served, Call* call, bint here) noexcept nogil:
    """Push a call, and look at the queue when all that came with it has been read."""
    cdef Servable* servable = call.servable
    servable_hold(servable)  # before the push: a worker may be through with the call, and let it go
    if not push(served, call):
        servable_release(servable)
        return give_up(call)
    served.held = servable
    served.gathered = 0
    served.gathered_bytes = 0
    served.must_not_run_here = False
    loop_defer(call.loop, &served.deferred)
    count_gathered(served, call, here)
    return STARTED_RUNNING


cdef int gather_more(Served* served, Call* call, bint here) noexcept nogil:
    """Push one more call before that look."""
    if not push(served, call):
        return give_up(call)
    count_gathered(served, call, here)
    return STARTED_RUNNING


cdef inline void count_gathered(Served* served, const Call* call, bint here) noexcept nogil:
    served.gathered += 1
    served.gathered_bytes += call.task_rows.bytes
    if not here:
        served.must_not_run_here = True


cdef int give_up(Call* call) noexcept nogil:
    call_release_servable(call)
    return STARTED_DONE


cdef Served* served_by(Pool* pool, Session* session, Signature* twin) noexcept nogil:
    """The queue of a signature's twin, made for the first call. NULL without memory."""
    cdef Served* served
    if twin.queue != NULL:
        return <Served*>(<BatchQueue*>twin.queue).context
    served = <Served*>calloc(1, sizeof(Served))
    if served == NULL:
        return NULL
    served.session = session
    served.signature = twin
    served.deferred.run = look
    served.queue = batch_queue_new(pool, &session.share, &handler, &session.batching, served)
    if served.queue == NULL:
        free(served)
        return NULL
    if session.hurries:
        batch_queue_hurry(served.queue)
    twin.queue = served.queue
    twin.queue_free = batch_queue_free
    return served


cdef void describe(Served* served, Call* call, BatchTask* task) noexcept nogil:
    """Fill in the call's task: how many rows it has, and what it is like."""
    cdef Plan* plan = <Plan*>call.scratch
    cdef Signature* signature = <Signature*>call.signature
    cdef RowSource source
    cdef bint pads = pads_inner(call)
    cdef uint64_t kind = 0
    cdef int64_t rows = 0
    cdef int64_t size
    cdef int i
    memset(task, 0, sizeof(BatchTask))
    for i in range(signature.inputs_size):
        if plan.views[i] == NULL:
            task.alone = True
            continue
        size = rows_of_view(&call.view, plan.views[i])
        source = rows_of_wire(&call.view, plan.views[i], size)
        if i == 0:
            rows = size
        elif size != rows:
            rows = -1
        if (
            size < 1 or rows < 1 or not signature.inputs[i].has_rows
            or source.wire.dtype != signature.inputs[i].dtype
            # Of another rank than the signature says: what the model makes of it may mix rows.
            or signature.inputs[i].rank not in (-1, source.wire.rank)
            or (pads and not may_be_padded(source.view, source.wire))
        ):
            task.alone = True
        kind = (kind ^ rows_kind_hash(&source, pads)) * MIX
    for i in range(call.wanted_size):
        # A sum: the order of outputs does not matter.
        kind += <uint64_t>(call.wanted[i] + 1) * MIX
        if load_relaxed_int(&signature.twin.outputs[call.wanted[i]].has_rows) == HAS_NO_ROWS:
            task.alone = True
    task.owner = call
    task.rows = max(1, rows)
    task.bytes = plan.input_bytes
    if pads and task.bytes // task.rows > MIXED_ROW_BYTES:
        # One long row among many short ones would make all of them as long.
        kind += MIX * <uint64_t>(63 - count_leading_zeros(<uint64_t>(task.bytes // task.rows)))
    if is_odd(served, kind):  # as remember_odd() had it, so the last question
        task.alone = True
    task.kind = KIND_ALONE if task.alone else kind
    task.arrived_ns = now_ns()
    task.deadline_ns = call.deadline_ns
    task.low = call.low_priority


cdef bint is_odd(Served* served, uint64_t kind) noexcept nogil:
    """Whether calls of this kind were found to give outputs of other rows."""
    cdef int i
    for i in range(min(ODD_KINDS, load_relaxed_int(&served.odd_kinds_size))):
        if load_relaxed_u64(&served.odd_kinds[i]) == kind:
            return True
    return False


cdef bint may_be_padded(const PredictView* view, const TensorView* tensor) noexcept nogil:
    """No more dims than can be padded, none of them 0 (batching_util.cc: MaybePadDimensions)."""
    cdef int i
    for i in range(tensor.rank):
        if view.dims[tensor.dims_start + i] == 0:
            return False
    return tensor.rank <= MOST_PADDED_RANK


cdef inline bint pads_inner(Call* call) noexcept nogil:
    return (<Session*>call.servable.impl).batching.pads_inner


cdef bint push(Served* served, Call* call) noexcept nogil:
    """False when the queue does not take the call: its status is set."""
    cdef int pushed = batch_queue_push(served.queue, &call.task_rows)
    if pushed == PUSHED:
        return True
    # A tensor that does not parse is told first, as TensorFlow Serving does.
    if pushed != PUSHED_TOO_LARGE or plan_check_tensors(call) == OK:
        tell_refused(served.queue, &call.task_rows, pushed, &call.status)
    return False


cdef void look(Deferred* deferred, int64_t since_ns) noexcept:
    """All requests that are here have been read: run those that were gathered, or wake a worker."""
    cdef Served* served = <Served*>deferred
    cdef Servable* held = served.held
    served.held = NULL
    if served.gathered == 1:
        served.next_skips = min(MOST_SKIPS, max(1, served.next_skips * 2))
        served.skips = served.next_skips
    else:
        served.next_skips = 0
    if served.must_not_run_here or served.gathered_bytes > IN_PLACE_BATCH_BYTES:
        batch_queue_kick(served.queue, now_ns())
    else:
        batch_queue_serve(served.queue, since_ns + IN_PLACE_SLICE_NS, IN_PLACE_NS)
    # The queue may be freed from here on, though not before this thread gives the GIL away.
    servable_release(held)


cdef void run_here(Served* served, Call* call) noexcept nogil:
    """Run a call in the loop's thread, without the queue."""
    cdef int64_t begun_ns = now_ns()
    cdef int64_t rows = call.task_rows.rows
    cdef int64_t arrived_ns = call.task_rows.arrived_ns
    batch_run_add(rows, 0)
    batch_part_add(begun_ns - arrived_ns)
    count_inputs(call, rows)
    run_call(call, True, False)
    if call.status.code == OK:  # a run that failed tells nothing of others
        batch_note_alone(served.queue, rows, arrived_ns, begun_ns, now_ns())


# ---- what the scheduler asks ----------------------------------------------------------------------

cdef bint shares(const BatchTask* task, const BatchTask* other) noexcept nogil:
    cdef Call* call = <Call*>task.owner
    cdef Call* others = <Call*>other.owner
    cdef Signature* signature = <Signature*>call.signature
    cdef RowSource one
    cdef RowSource two
    cdef int i
    if task.alone or other.alone:
        return task.alone and other.alone  # they wait together, and that is all
    if not same_outputs(call, others):
        return False
    for i in range(signature.inputs_size):
        one = rows_of_wire(&call.view, (<Plan*>call.scratch).views[i], task.rows)
        two = rows_of_wire(&others.view, (<Plan*>others.scratch).views[i], other.rows)
        if not rows_same_kind(&one, &two, pads_inner(call)):
            return False
    return True


cdef bint same_outputs(const Call* call, const Call* other) noexcept nogil:
    cdef int i
    if call.wanted_size != other.wanted_size:
        return False
    for i in range(call.wanted_size):
        if position_of(call.wanted[i], i, other.wanted, other.wanted_size) < 0:
            return False
    return True


cdef inline int position_of(int output, int likely, const int* wanted, int size) noexcept nogil:
    """Where an output is in a list, its likely place looked at first; -1: it is not there."""
    cdef int i
    if wanted[likely] == output:
        return likely
    for i in range(size):
        if wanted[i] == output:
            return i
    return -1


cdef bint is_wanted(const BatchTask* task) noexcept nogil:
    return not call_is_abandoned(<Call*>task.owner)


cdef bint begin_split(BatchTask* task) noexcept nogil:
    return split_begin(<Call*>task.owner)


cdef void refuse(BatchTask* task, int reason) noexcept nogil:
    cdef Call* call = <Call*>task.owner
    cdef Status status
    status_init(&status)
    if reason == REFUSED_LATE:
        status_set(&status, DEADLINE_EXCEEDED, "Deadline Exceeded")
    else:
        status_set(&status, CANCELLED, "CANCELLED")
    if call.split == NULL:
        status_copy(&call.status, &status)
        call_complete(call)
    elif split_fail(call, task.rows - task.rows_begun, &status):
        call_complete(call)
    status_free(&status)


# ---- running ----------------------------------------------------------------------------------------

# A batch that is being run; on the stack of who runs it.
cdef struct Running:
    Batch* batch
    Served* served
    Call* newest            # calls that are through, of one loop: a list on `next`
    Call* oldest
    # arrays in the batch's scratch memory
    BatchPart** live        # parts that take part in the present run
    RowSource* sources      # for each of them
    TF_Tensor** feeds
    TF_Tensor** fetched
    TensorData* whole       # for each output
    int64_t* dims           # MAX_RANK for each
    int* wanted             # outputs that are fetched, as the first of the live calls wants them
    int wanted_size
    int live_size
    int64_t rows
    int64_t padding_rows
    int64_t padding_bytes   # of the in-flight budget, while there are feeds
    bint has_other_rows     # the present run gave an output that cannot be divided among its calls
    int64_t begun_ns        # of the present run; 0: it has not begun
    int64_t run_ns
    Status status           # of the present run


cdef void run(Batch* batch) noexcept nogil:
    """A worker's or the loop's turn with a batch: all of its calls are through afterwards."""
    cdef Running running
    cdef Served* served = <Served*>batch.queue.context
    cdef int i
    memset(&running, 0, sizeof(running))
    running.batch = batch
    running.served = served
    status_init(&running.status)
    batch_run_add(batch.rows, batch.padding_rows)
    for i in range(batch.size):
        batch_part_add(batch.begun_ns - batch.parts[i].arrived_ns)
        if batch.parts[i].first_row == 0:
            count_inputs(call_of(&batch.parts[i]), batch.parts[i].task.rows)
    if batch.arm == ARM_SINGLE:
        limit_threads(True)
    if batch.size == 1 and is_whole(&batch.parts[0]) and batch.padding_rows == 0:
        run_single(&running, &batch.parts[0])
    elif lay_out(&running):
        if not try_range(&running, 0, batch.size):
            add_relaxed_i64(&batch.queue.counts.run_apart, 1)
            run_apart(&running, 0, batch.size)
        run_record_note(&served.signature.record, now_ns() - batch.begun_ns, batch.in_place)
    else:
        status_set(&running.status, RESOURCE_EXHAUSTED, "out of memory")
        for i in range(batch.size):
            fail(&running, &batch.parts[i])
    if batch.arm == ARM_SINGLE:
        limit_threads(False)
    flush(&running)
    status_free(&running.status)


cdef void count_inputs(const Call* call, int64_t rows) noexcept nogil:
    """Count the rows of a call's inputs, without those that have their default."""
    cdef const Plan* plan = <const Plan*>call.scratch
    cdef int64_t inputs = 0
    cdef int i
    for i in range((<const Signature*>call.signature).inputs_size):
        inputs += plan.views[i] != NULL
    batch_input_add(rows, inputs)


cdef bint lay_out(Running* running) noexcept nogil:
    cdef size_t parts = <size_t>running.batch.size
    cdef size_t inputs = <size_t>running.served.signature.inputs_size
    cdef size_t outputs = <size_t>running.served.signature.outputs_size
    cdef char* at = <char*>batch_scratch(
        running.batch,
        parts * (sizeof(BatchPart*) + sizeof(RowSource)) + (inputs + outputs) * sizeof(TF_Tensor*)
        + outputs * (sizeof(TensorData) + MAX_RANK * sizeof(int64_t) + sizeof(int)))
    if at == NULL:
        return False
    running.dims = <int64_t*>at
    at += outputs * MAX_RANK * sizeof(int64_t)
    running.whole = <TensorData*>at
    at += outputs * sizeof(TensorData)
    running.sources = <RowSource*>at
    at += parts * sizeof(RowSource)
    running.live = <BatchPart**>at
    at += parts * sizeof(BatchPart*)
    running.feeds = <TF_Tensor**>at
    at += inputs * sizeof(TF_Tensor*)
    running.fetched = <TF_Tensor**>at
    at += outputs * sizeof(TF_Tensor*)
    running.wanted = <int*>at
    memset(<void*>running.fetched, 0, outputs * sizeof(TF_Tensor*))
    return True


cdef inline bint is_whole(const BatchPart* part) noexcept nogil:
    return part.rows == part.task.rows


cdef inline Call* call_of(const BatchPart* part) noexcept nogil:
    return <Call*>part.task.owner


cdef bint try_range(Running* running, int first, int size) noexcept nogil:
    """Run some parts of the batch as one. False: it failed, and may work with fewer of them.

    All of them are through if it is True.
    """
    cdef BatchPart* parts = running.batch.parts + first
    cdef int i
    if run_together(running, parts, size):
        return True
    running.batch.strange = True
    if running.live_size == 1 and running.has_other_rows:
        run_as_it_is(running, running.live[0])
        return True
    if running.live_size > 1 and (running.has_other_rows or may_be_ones_fault(running.status.code)):
        return False
    for i in range(size):
        if parts[i].task != NULL:
            fail(running, &parts[i])
    return True


cdef void run_apart(Running* running, int first, int size) noexcept nogil:
    """Run parts that failed as one: in halves, so that one bad call among n costs 2 log n runs.

    Where both halves fail there are many bad ones, or it is the model: then one by one. Who is through
    is told before the next run.
    """
    cdef int half = size // 2
    cdef bint left = False
    cdef bint right = False
    cdef int i
    if size > 2 and not running.has_other_rows:
        left = try_range(running, first, half)
        flush(running)
        right = try_range(running, first + half, size - half)
        flush(running)
    if left or right:
        if not left:
            run_apart(running, first, half)
        if not right:
            run_apart(running, first + half, size - half)
        return
    for i in range(first, first + size):
        if running.batch.parts[i].task != NULL:
            try_range(running, i, 1)
            flush(running)


cdef inline bint may_be_ones_fault(int code) noexcept nogil:
    """Whether a run that failed so may work without some of its calls."""
    return code not in (CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE)


cdef bint run_together(Running* running, BatchPart* parts, int size) noexcept nogil:
    """One run of those parts that are not through; they are, if it is True."""
    cdef bint good
    running.has_other_rows = False
    running.begun_ns = 0
    while True:
        gather(running, parts, size)
        if running.live_size == 0:
            return True
        if not charge_padding(running):
            return False
        if merge(running):
            break
        if running.status.code != OK:
            return False
    running.begun_ns = now_ns()
    run_session(running)
    running.run_ns = now_ns() - running.begun_ns
    drop_feeds(running)
    good = running.status.code == OK and look_at_outputs(running)
    if good:
        write_all(running)
    drop_fetched(running)
    return good


cdef void gather(Running* running, BatchPart* parts, int size) noexcept nogil:
    """Set `live`; calls that nobody waits for any more are through."""
    cdef bint alone = False
    cdef int i
    cdef Call* call
    running.live_size = 0
    running.wanted_size = 0
    running.rows = 0
    for i in range(size):
        if parts[i].task == NULL:
            continue
        call = call_of(&parts[i])
        if call.split == NULL and not run_is_wanted(call):
            done(running, call)
            parts[i].task = NULL
            continue
        if call.split != NULL and split_make_feeds(call) != OK:
            running.status.code = (<Split*>call.split).status.code
            fail(running, &parts[i])
            continue
        running.live[running.live_size] = &parts[i]
        if running.live_size == 0:
            running.wanted_size = call.wanted_size
            memcpy(running.wanted, call.wanted, <size_t>call.wanted_size * sizeof(int))
        running.live_size += 1
        running.rows += parts[i].rows
        alone = parts[i].task.alone
    running.padding_rows = 0
    if not alone:
        running.padding_rows = batch_allowed_rows(
            &running.batch.queue.settings, running.rows) - running.rows


cdef bint merge(Running* running) noexcept nogil:
    """Make `feeds` of the live parts.

    False: a part was bad, which is through now; the others are to be merged again. Or the status says
    what is wrong with all of them.
    """
    cdef Signature* signature = running.served.signature
    cdef int i, bad, result
    memset(<void*>running.feeds, 0, <size_t>signature.inputs_size * sizeof(TF_Tensor*))
    status_clear(&running.status)
    for i in range(signature.inputs_size):
        find_sources(running, i)
        bad = -1
        result = rows_merge(
            running.sources, running.live_size, running.padding_rows,
            running.batch.queue.settings.pads_inner, &running.feeds[i], &bad)
        if result == ROWS_MADE:
            continue
        drop_feeds(running)
        if result == ROWS_INVALID:
            # Of the call's own signature: a twin may call it otherwise.
            tell_bad_tensor(
                &running.status, (<Signature*>call_of(running.live[max(bad, 0)]).signature).inputs[i].alias)
        elif result == ROWS_EMPTY_AMONG_OTHERS:
            status_set(
                &running.status, INVALID_ARGUMENT, "Got empty tensor in batch of non-empty tensors.")
        else:
            status_set(&running.status, RESOURCE_EXHAUSTED, "out of memory")
        if bad >= 0 and running.live_size > 1:
            fail(running, running.live[bad])
            fail_unreadable(running)
            status_clear(&running.status)
        return False
    return True


cdef void fail_unreadable(Running* running) noexcept nogil:
    """All live parts with a tensor that does not parse, or the next ones cost all copying again, one by one."""
    cdef Signature* signature
    cdef const TensorView* view
    cdef Call* call
    cdef int i, j
    for i in range(running.live_size):
        if running.live[i].task == NULL:
            continue
        call = call_of(running.live[i])
        signature = <Signature*>call.signature
        for j in range(signature.inputs_size if call.split == NULL else 0):
            view = (<Plan*>call.scratch).views[j]
            if not tensor_view_parses(&call.view, view):
                tell_bad_tensor(&running.status, signature.inputs[j].alias)
                fail(running, running.live[i])
                break


cdef void find_sources(Running* running, int input) noexcept nogil:
    """Set `sources`: an input's rows in each of the live parts."""
    cdef int i
    cdef Call* call
    for i in range(running.live_size):
        call = call_of(running.live[i])
        if call.split != NULL:
            running.sources[i] = rows_of_tensor(
                (<Plan*>call.scratch).feeds[input], running.live[i].first_row, running.live[i].rows)
        else:
            running.sources[i] = rows_of_wire(
                &call.view, (<Plan*>call.scratch).views[input], running.live[i].rows)


cdef bint charge_padding(Running* running) noexcept nogil:
    """Charge what padding takes: the calls were charged for their own rows. False: there is no room.

    A few long rows among many short ones, or one row where a thousand are allowed, take a thousand times
    what was received. drop_feeds gives it back.
    """
    cdef int64_t needed = 0
    cdef int i
    if running.padding_rows == 0 and not running.batch.queue.settings.pads_inner:
        return True
    for i in range(running.served.signature.inputs_size):
        find_sources(running, i)
        needed = min(
            MOST_PADDING_BYTES,
            needed + rows_padding_bytes(running.sources, running.live_size, running.padding_rows))
    if not budget_take(needed):
        status_set(
            &running.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
        return False
    running.padding_bytes = needed
    return True


cdef void drop_feeds(Running* running) noexcept nogil:
    """And give back what was charged for padding."""
    cdef int i
    if running.padding_bytes:
        budget_give(running.padding_bytes)
        running.padding_bytes = 0
    for i in range(running.served.signature.inputs_size):
        if running.feeds[i] != NULL:
            tensor_release(running.feeds[i])
            running.feeds[i] = NULL


cdef void drop_fetched(Running* running) noexcept nogil:
    cdef int i
    for i in range(running.wanted_size):
        if running.fetched[i] != NULL:
            tensor_release(running.fetched[i])
            running.fetched[i] = NULL


cdef void run_session(Running* running) noexcept nogil:
    cdef Session* session = running.served.session
    cdef int64_t timeout_ms = 0
    if not running.batch.in_place:
        timeout_ms = run_timeout_ms(session, running.served.signature, running.batch.deadline_ns, running.begun_ns)
    session_run(
        session, running.served.signature, running.feeds, running.wanted, running.wanted_size, running.fetched,
        run_place(session, running.batch.arm == ARM_POOL, timeout_ms), timeout_ms, &running.status)


cdef bint look_at_outputs(Running* running) noexcept nogil:
    """Fill in `whole`. False: some output has other rows than the inputs; its calls will run by themselves."""
    cdef Signature* signature = running.served.signature
    cdef int64_t rows = running.rows + running.padding_rows
    cdef TensorData* whole
    cdef bint known
    cdef int* has_rows
    cdef int i
    for i in range(running.wanted_size):
        whole = &running.whole[i]
        known = tensor_data(running.fetched[i], running.dims + i * MAX_RANK, whole) == 0
        has_rows = &signature.outputs[running.wanted[i]].has_rows
        if known and whole.rank > 0 and whole.dims[0] == rows:
            if rows > 1 and load_relaxed_int(has_rows) == MAY_HAVE_ROWS:
                store_relaxed_int(has_rows, HAS_ROWS)
            continue
        if load_relaxed_int(has_rows) == HAS_ROWS:
            remember_odd(running.served, running.live[0].task.kind)  # no request ends batching for all others
        else:
            store_relaxed_int(has_rows, HAS_NO_ROWS)
        running.has_other_rows = True
    return not running.has_other_rows


cdef void remember_odd(Served* served, uint64_t kind) noexcept nogil:
    """Calls of this kind run alone from now on."""
    if not is_odd(served, kind):
        store_relaxed_u64(&served.odd_kinds[add_relaxed_int(&served.odd_kinds_size, 1) & (ODD_KINDS - 1)], kind)


cdef void write_all(Running* running) noexcept nogil:
    cdef int64_t row = 0
    cdef int i
    cdef BatchPart* part
    cdef Call* call
    cdef int64_t rows
    for i in range(running.live_size):
        part = running.live[i]
        call = call_of(part)
        rows = part.rows
        if call.split != NULL:
            keep_part(running, part, row)
        else:
            note_run(running, call)
            write(running, call, row, rows)
            done(running, call)
        part.task = NULL
        row += rows


cdef inline void note_run(const Running* running, Call* call) noexcept nogil:
    """For the counters: when the call's run began and what it took, if it came to that."""
    call.run_start_ns = running.begun_ns
    call.run_ns = running.run_ns


cdef void write(Running* running, Call* call, int64_t row, int64_t rows) noexcept nogil:
    """The call's response, from its rows of the batch's outputs."""
    cdef Plan* plan = <Plan*>call.scratch
    cdef int64_t* dims
    cdef int i, at
    for i in range(call.wanted_size):
        at = position_in(running, call, i)
        dims = plan.dims + i * MAX_RANK
        plan.fetched[i] = NULL
        rows_look(&running.whole[at], row, rows, dims, &plan.outputs[i])
        if plan.splices and plan.outputs[i].size >= SPLICE_FROM and (
            wire_splices(plan.outputs[i].dtype, plan.as_content)
        ):
            # Into memory that is used again and again, where the frames are filled from.
            plan.fetched[i] = rows_slice(running.fetched[at], row, rows)
            if plan.fetched[i] == NULL:
                status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
            else:
                tensor_data(plan.fetched[i], dims, &plan.outputs[i])
    run_write_outputs(call, plan)


cdef inline int position_in(const Running* running, const Call* call, int i) noexcept nogil:
    """Where the call's `i`-th output is among those that were fetched: calls of a batch want the same."""
    return position_of(call.wanted[i], i, running.wanted, running.wanted_size)


cdef void keep_part(Running* running, BatchPart* part, int64_t row) noexcept nogil:
    """Keep the rows of a call whose other rows are in other batches."""
    cdef Call* call = call_of(part)
    cdef SplitPart* kept = split_part_new(call, part.first_row, part.rows)
    cdef bint good = kept != NULL
    cdef int i
    if good:
        for i in range(call.wanted_size):
            kept.outputs[i] = rows_slice(
                running.fetched[position_in(running, call, i)], row, part.rows)
            good = good and kept.outputs[i] != NULL
    if good and split_part_charge(call, kept):
        if split_take(call, kept, running.begun_ns):
            done(running, call)
        return
    status_set(
        &running.status, RESOURCE_EXHAUSTED,
        "Too many bytes are in flight (--max_in_flight_bytes)." if good else "out of memory")
    if kept != NULL:
        split_part_free(call, kept)
    if split_fail(call, part.rows, &running.status):
        done(running, call)
    status_clear(&running.status)


cdef void run_as_it_is(Running* running, BatchPart* part) noexcept nogil:
    """Some output cannot be divided: have the call run by itself, now or when all its parts are back."""
    cdef Call* call = call_of(part)
    if call.split == NULL:
        run_single(running, part)
        return
    part.task = NULL
    if split_leave(call, part.rows):
        done(running, call)


cdef void run_single(Running* running, BatchPart* part) noexcept nogil:
    """A call by itself, without padding, just as without batching."""
    cdef Call* call = call_of(part)
    if run_is_wanted(call):
        run_call(call, running.batch.in_place, running.batch.arm == ARM_POOL)
        if call.status.code != OK:
            running.batch.strange = True
    part.task = NULL
    done(running, call)


cdef void fail(Running* running, BatchPart* part) noexcept nogil:
    """The part gets the present status."""
    cdef Call* call = call_of(part)
    cdef int64_t rows = part.rows
    part.task = NULL
    if call.split != NULL:
        if split_fail(call, rows, &running.status):
            done(running, call)
        return
    note_run(running, call)
    status_copy(&call.status, &running.status)
    done(running, call)


cdef void done(Running* running, Call* call) noexcept nogil:
    """The call is through. It is told to its loop with the others of the batch."""
    if not running.batch.in_place:
        predict_view_drop_joined(&call.view)  # here, for it takes long if it is long
    if running.newest != NULL and running.newest.loop != call.loop:
        flush(running)
    call.next = running.newest
    running.newest = call
    if running.oldest == NULL:
        running.oldest = call


cdef void flush(Running* running) noexcept nogil:
    cdef Call* call = running.newest
    cdef LoopState* loop
    if call == NULL:
        return
    loop = call.loop
    while call != NULL:
        call_release_servable(call)
        call = call.next
    if running.batch.in_place:
        running.oldest.next = loop.finished
        loop.finished = running.newest
    else:
        call_complete_all(running.newest, running.oldest)
    running.newest = NULL
    running.oldest = NULL
