"""Tasks of a batch queue that are numbered and counted. For tests."""

from libc.stdint cimport int64_t

from tfsrv._batching cimport BatchHandler, BatchTask


cdef struct ProbeTask:
    BatchTask task          # first: a BatchTask's address is its ProbeTask's
    Probe* probe
    int64_t shape           # tasks of one `kind` share batches if it is the same
    int wanted              # atomic
    int splits              # atomic
    int refusals            # atomic
    int64_t rows_run        # atomic
    int64_t rows_refused    # atomic


# A part of a batch that ran.
cdef struct ProbePart:
    int64_t batch           # the number of the batch
    int64_t task
    int64_t first_row
    int64_t rows


# What tasks and the object that pushes them share; outlives the queue, whose context it is.
cdef struct Probe:
    ProbeTask* tasks        # owned, `size` of them; an element is the queue's from its push on
    int64_t size
    int64_t pushed
    ProbePart* log          # owned, `log_size` of them; NULL: nothing is noted
    int64_t log_size
    int64_t logged          # atomic
    int64_t run_ns          # how long a batch sleeps
    int held                # atomic: batches do not end before it is 0
    int64_t begun           # atomic: batches
    int64_t running         # atomic
    int64_t most_running    # atomic
    int64_t in_place        # atomic: batches that the caller of serve ran
    int64_t busy_ns         # atomic: in batches, all workers together
    int64_t rows_done       # atomic: run or refused
    int64_t rows_late       # atomic
    int64_t rows_unwanted   # atomic
    int freed               # atomic: queues of this context

cdef const BatchHandler* probe_handler() noexcept nogil
cdef void probe_refuse(BatchTask* task, int reason) noexcept nogil
