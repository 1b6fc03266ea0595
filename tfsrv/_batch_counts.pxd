"""What has happened at a batch queue, for people."""

from tfsrv._batching cimport BatchQueue

cdef dict batch_counts(BatchQueue* queue)
cdef tuple batch_numbers(BatchQueue* queue)
