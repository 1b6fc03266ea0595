"""What has happened at a batch queue, and what it has learned: for logs, metrics and tests."""

from libc.stdint cimport int64_t

from tfsrv._atomic cimport load_relaxed_i64
from tfsrv._batch_tuner cimport Tuner, tuner_describe
from tfsrv._batching cimport BatchCounts
from tfsrv._thread cimport pthread_mutex_lock, pthread_mutex_unlock


cdef dict batch_counts(BatchQueue* queue):
    """Since the queue was made, but for what waits and runs now. And what tuner_describe tells.

    `sizes` has the batches by their rows, padding not counted: {1: a, 2: b, 4: c} says that `a` had
    one row, `b` two or three, and `c` four to seven.
    """
    cdef BatchCounts counts
    cdef Tuner tuner
    cdef int64_t waiting_rows
    cdef int running
    cdef int i
    pthread_mutex_lock(&queue.lock)
    counts = queue.counts
    tuner = queue.tuner
    # Atomic, as the counts of what was refused; copied here, since making objects may run anything.
    counts.run_apart = load_relaxed_i64(&queue.counts.run_apart)
    counts.refused_full = load_relaxed_i64(&queue.counts.refused_full)
    counts.refused_late = load_relaxed_i64(&queue.counts.refused_late)
    counts.refused_unwanted = load_relaxed_i64(&queue.counts.refused_unwanted)
    waiting_rows = load_relaxed_i64(&queue.waiting_rows)
    running = queue.runs
    pthread_mutex_unlock(&queue.lock)
    return {
        "batches": counts.batches,
        "requests": counts.tasks,
        "rows": counts.rows,
        "padding_rows": counts.padding_rows,
        "sizes": {<int64_t>1 << i: counts.sizes[i] for i in range(32) if counts.sizes[i]},
        "run_apart": counts.run_apart,
        "refused_full": counts.refused_full,
        "refused_late": counts.refused_late,
        "refused_unwanted": counts.refused_unwanted,
        "running": running,
        "waiting_rows": waiting_rows,
        **tuner_describe(&tuner),
    }


cdef tuple batch_numbers(BatchQueue* queue):
    """The numbers of BatchNumbers, in its order; cheap enough for thousands of queues."""
    cdef BatchCounts counts
    cdef int running
    pthread_mutex_lock(&queue.lock)
    counts = queue.counts
    running = queue.runs
    pthread_mutex_unlock(&queue.lock)
    return (
        counts.batches, counts.tasks, counts.rows, counts.padding_rows,
        load_relaxed_i64(&queue.counts.run_apart), load_relaxed_i64(&queue.counts.refused_full),
        load_relaxed_i64(&queue.counts.refused_late), load_relaxed_i64(&queue.counts.refused_unwanted),
        running,
    )
