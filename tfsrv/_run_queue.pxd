"""Queues whose items are run one by one, and what their runs teach."""

from libc.stdint cimport int64_t

from tfsrv._queue cimport Queue
from tfsrv._workers cimport Pool, WorkQueue

ctypedef void (*run_fn)(void* item) noexcept nogil
ctypedef bint (*keep_fn)(void* item) noexcept nogil


cdef enum:
    IN_PLACE_NS = 200000    # shorter runs, 200 µs, may run in the loop's thread

# The waiting requests of one signature. Owned by who made it, freed by run_queue_free.
cdef struct RunQueue:
    WorkQueue work          # first: a WorkQueue's address is its RunQueue's
    Queue waiting
    run_fn run
    int64_t swept_ns        # when run_queue_sweep last went through it; the pusher's


# What the runs of one signature took. Zeroed memory is one without runs. Written by whoever ran, read by
# the loop, all relaxed atomics.
cdef struct RunRecord:
    int64_t average_ns      # moving average of the last runs
    int fast_streak         # runs in a row under IN_PLACE_NS
    int streak_needed       # until they may run in place (again); 0 stands for FIRST_STREAK
    int in_place            # 1: they may

cdef RunQueue* run_queue_new(Pool* pool, run_fn run) noexcept nogil
cdef void run_queue_free(void* queue) noexcept nogil
cdef bint run_queue_push(RunQueue* queue, void* item) noexcept nogil
cdef void run_queue_sweep(RunQueue* queue, keep_fn keep) noexcept nogil

cdef void run_record_note(RunRecord* record, int64_t run_ns, bint in_place) noexcept nogil
cdef bint run_record_is_fast(RunRecord* record) noexcept nogil
