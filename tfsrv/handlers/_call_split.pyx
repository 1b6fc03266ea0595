"""A call whose rows are in several batches (enable_large_batch_splitting).

The batches may run at the same time. Whoever brings the last rows joins all outputs and writes the
response; of several errors the first is told. If an output turns out not to be one of rows, the whole
call runs by itself instead.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from tfsrv._batch_tensors cimport ROWS_MADE, ROWS_MISMATCH, rows_join
from tfsrv._budget cimport budget_give, budget_take
from tfsrv._call cimport Call
from tfsrv._clock cimport now_ns
from tfsrv._status cimport (
    FAILED_PRECONDITION,
    OK,
    RESOURCE_EXHAUSTED,
    status_copy,
    status_free,
    status_init,
    status_set,
)
from tfsrv._tensor cimport tensor_release
from tfsrv._tf cimport api
from tfsrv._thread cimport (
    pthread_mutex_destroy,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)
from tfsrv.handlers._call_plan cimport Plan
from tfsrv.handlers._call_run cimport (
    run_call,
    run_drop_feeds,
    run_is_wanted,
    run_make_feeds,
    run_write,
)


cdef bint split_begin(Call* call) noexcept nogil:
    """Rows of the call are about to go into different batches. False without memory."""
    cdef Split* split
    if call.split != NULL:
        return True
    split = <Split*>calloc(1, sizeof(Split))
    if split == NULL:
        return False
    pthread_mutex_init(&split.mutex, NULL)
    status_init(&split.status)
    split.rows_left = call.task_rows.rows
    call.split = split
    return True


cdef int split_make_feeds(Call* call) noexcept nogil:
    """Make the whole inputs, the first time. The status' code; `plan.feeds` live until the end."""
    cdef Split* split = <Split*>call.split
    cdef int code
    pthread_mutex_lock(&split.mutex)
    if not split.has_feeds and split.status.code == OK:
        split.has_feeds = True
        if run_make_feeds(call, <Plan*>call.scratch) != OK:
            status_copy(&split.status, &call.status)
    code = split.status.code
    pthread_mutex_unlock(&split.mutex)
    return code


cdef SplitPart* split_part_new(Call* call, int64_t first_row, int64_t rows) noexcept nogil:
    """Room for the outputs of some rows; NULL without memory."""
    cdef SplitPart* part = <SplitPart*>calloc(
        1, sizeof(SplitPart) + <size_t>call.wanted_size * sizeof(TF_Tensor*))
    if part != NULL:
        part.first_row = first_row
        part.rows = rows
        part.outputs = <TF_Tensor**>(part + 1)
    return part


cdef void split_part_free(Call* call, SplitPart* part) noexcept nogil:
    cdef int i
    for i in range(call.wanted_size):
        if part.outputs[i] != NULL:
            tensor_release(part.outputs[i])
    budget_give(part.charged_bytes)
    free(part)


cdef bint split_part_charge(Call* call, SplitPart* part) noexcept nogil:
    """Charge the outputs, which are all there, to the in-flight budget; False: it has no room."""
    cdef int64_t bytes = 0
    cdef int i
    for i in range(call.wanted_size):
        bytes += <int64_t>api.TensorByteSize(part.outputs[i])
    if not budget_take(bytes):
        return False
    part.charged_bytes = bytes
    return True


cdef bint split_take(Call* call, SplitPart* part, int64_t begun_ns) noexcept nogil:
    """Some rows are through, whose run began then. True: they were the last, and the call is through."""
    cdef Split* split = <Split*>call.split
    cdef SplitPart** link
    cdef bint last
    pthread_mutex_lock(&split.mutex)
    link = &split.parts
    while link[0] != NULL and link[0].first_row > part.first_row:
        link = &link[0].next
    part.next = link[0]
    link[0] = part
    if call.run_start_ns == 0 or begun_ns < call.run_start_ns:
        call.run_start_ns = begun_ns
    split.parts_size += 1
    split.rows_left -= part.rows
    last = split.rows_left == 0
    pthread_mutex_unlock(&split.mutex)
    if last:
        finish(call, split)
    return last


cdef bint split_leave(Call* call, int64_t rows) noexcept nogil:
    """Some rows gave an output that is not one of rows: the call is to run as a whole, in the end.

    True: they were the last, and the call has its status and response.
    """
    cdef Split* split = <Split*>call.split
    cdef bint last
    pthread_mutex_lock(&split.mutex)
    split.runs_whole = True
    split.rows_left -= rows
    last = split.rows_left == 0
    pthread_mutex_unlock(&split.mutex)
    if last:
        finish(call, split)
    return last


cdef bint split_fail(Call* call, int64_t rows, const Status* status) noexcept nogil:
    """Some rows will not come. True: they were the last, and the call has its status."""
    cdef Split* split = <Split*>call.split
    cdef bint last
    pthread_mutex_lock(&split.mutex)
    if split.status.code == OK:
        status_copy(&split.status, status)
    split.rows_left -= rows
    last = split.rows_left == 0
    pthread_mutex_unlock(&split.mutex)
    if last:
        finish(call, split)
    return last


cdef void finish(Call* call, Split* split) noexcept nogil:
    """Nobody else has the split any more."""
    cdef SplitPart* part
    if split.status.code != OK:
        status_copy(&call.status, &split.status)
    elif not split.runs_whole:
        write_joined(call, split)
    elif run_is_wanted(call):
        run_drop_feeds(call, <Plan*>call.scratch)
        run_call(call, False, False)
    while split.parts != NULL:
        part = split.parts
        split.parts = part.next
        split_part_free(call, part)
    run_drop_feeds(call, <Plan*>call.scratch)
    status_free(&split.status)
    pthread_mutex_destroy(&split.mutex)
    free(split)
    call.split = NULL
    call.run_ns = now_ns() - call.run_start_ns if call.run_start_ns else 0


cdef void write_joined(Call* call, Split* split) noexcept nogil:
    cdef Plan* plan = <Plan*>call.scratch
    cdef int size = split.parts_size
    cdef TF_Tensor** parts = <TF_Tensor**>calloc(<size_t>size, sizeof(TF_Tensor*) + 2 * sizeof(int64_t))
    cdef int64_t* firsts = <int64_t*>(parts + size)
    cdef int64_t* rows = firsts + size
    cdef SplitPart* part
    cdef int i, at, result
    if parts == NULL:
        status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
        return
    for i in range(call.wanted_size):
        at = size
        part = split.parts
        while part != NULL:  # they are by descending first_row
            at -= 1
            parts[at] = part.outputs[i]
            firsts[at] = 0
            rows[at] = part.rows
            part = part.next
        result = rows_join(parts, firsts, rows, size, &plan.fetched[i])
        if result == ROWS_MISMATCH:
            status_set(
                &call.status, FAILED_PRECONDITION,
                "The batches that the request was split over gave outputs of different shapes.")
        elif result != ROWS_MADE:
            status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
        if result != ROWS_MADE:
            drop_fetched(plan, i)
            break
    free(parts)
    if call.status.code == OK:
        run_write(call, plan)


cdef void drop_fetched(Plan* plan, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        tensor_release(plan.fetched[i])
        plan.fetched[i] = NULL
    plan.fetched[size] = NULL
