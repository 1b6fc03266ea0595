"""What a request is told that a batch queue does not take."""

from tfsrv._batching cimport BatchQueue, BatchTask
from tfsrv._status cimport Status

cdef void tell_refused(
    const BatchQueue* queue, const BatchTask* task, int pushed, Status* status) noexcept nogil
