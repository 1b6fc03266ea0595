"""What a request is told that a batch queue does not take.

Codes and texts are those of TensorFlow's SharedBatchScheduler
(tensorflow/core/kernels/batching_util/shared_batch_scheduler.h).
"""

from libc.stdint cimport int64_t

from tfsrv._atomic cimport load_relaxed_i64
from tfsrv._batching cimport PUSHED_FULL, PUSHED_LATE, PUSHED_TOO_LARGE
from tfsrv._status cimport (
    DEADLINE_EXCEEDED,
    INVALID_ARGUMENT,
    INVALID_INPUT,
    QUEUE_FULL,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    status_add,
    status_add_int,
    status_set,
)


cdef void tell_refused(
    const BatchQueue* queue, const BatchTask* task, int pushed, Status* status
) noexcept nogil:
    """Set the status of a task for which batch_queue_push said `pushed`, which is not PUSHED."""
    if pushed == PUSHED_TOO_LARGE:
        status_set(status, INVALID_ARGUMENT, "Task size ")
        status_add_int(status, task.rows)
        status_add(status, " is larger than maximum input batch size ")
        status_add_int(status, queue.settings.max_request_rows)
        status.reason = INVALID_INPUT
    elif pushed == PUSHED_FULL:
        tell_full(queue, task, status)
        status.reason = QUEUE_FULL
    elif pushed == PUSHED_LATE:
        status_set(status, DEADLINE_EXCEEDED, "Deadline Exceeded")
    else:
        status_set(status, RESOURCE_EXHAUSTED, "out of memory")


cdef void tell_full(const BatchQueue* queue, const BatchTask* task, Status* status) noexcept nogil:
    cdef int64_t rows = load_relaxed_i64(&queue.waiting_rows)
    cdef int64_t batches = (rows + queue.settings.max_rows - 1) // queue.settings.max_rows
    status_set(
        status, UNAVAILABLE, "The batch scheduling queue to which this task was submitted is full; ")
    if not queue.settings.splits:
        status_add(status, "currently ")
        status_add_int(status, batches)
        status_add(status, " batches enqueued and max_enqueued_batches is ")
        status_add_int(status, queue.settings.max_batches)
        return
    status_add(status, "task size is ")
    status_add_int(status, task.rows)
    status_add(status, " but scheduling capacity is only ")
    status_add_int(status, max(0, queue.settings.max_waiting_rows - rows))
    status_add(status, " (num_enqueued_batches=")
    status_add_int(status, batches)
    status_add(status, ", max_enqueued_batches=")
    status_add_int(status, queue.settings.max_batches)
    status_add(status, ", open_batch_size=")
    status_add_int(status, rows - max(0, batches - 1) * queue.settings.max_rows)
    status_add(status, ", max_execution_batch_size=")
    status_add_int(status, queue.settings.max_rows)
    status_add(status, ")")
