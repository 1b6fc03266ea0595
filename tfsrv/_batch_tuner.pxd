"""How large batches are, how long they wait, how many run at once, and where: one queue's choices."""

from libc.stdint cimport int32_t, int64_t

from tfsrv._latency_window cimport latency_add
from tfsrv._load_search cimport LoadSearch
from tfsrv._run_arms cimport ARM_CALLER, ARM_EITHER, ARM_POOL, ARM_SINGLE, RunArms
from tfsrv._run_curve cimport RunCurve
from tfsrv._target_rows cimport TargetRows


cdef struct TunerSettings:
    int64_t max_rows            # of a run
    int64_t max_wait_ns         # the user's; with a target an upper limit (0: none), else the wait itself
    int64_t target_ns           # for the 99th percentile of latency; 0: none
    int32_t max_concurrency     # runs of this queue at once
    int32_t arm                 # ARM_EITHER, ARM_ANY, or the only one that is allowed
    bint may_gather             # with neither target nor wait: short waits are tried under saturation


cdef struct Tuner:
    # Plain memory without owner, about 3 KiB; see tuner_init. The choices, to be read at any time
    # under the queue's lock:
    int64_t rows_limit          # the most rows of a run; at least 1
    int64_t rows_enough         # an open batch of so many waits no longer; 1 to rows_limit
    int64_t wait_ns             # that an open batch waits for more rows once a worker is free
    int32_t concurrency         # runs at once, 1 to max_concurrency
    int32_t changes             # choices that have changed materially so far
    # Of this file alone from here on:
    TunerSettings settings
    int64_t arrived             # rows since the last review
    int64_t in_flight           # rows in runs
    double arrival_rate         # rows per ns
    double mean_rows            # of recent batches
    double gathered_rows        # of a batch, and those that waited at its end; recent mean
    int64_t reviewed_ns         # when
    int32_t doubts              # reviews in a row that would have another limit
    # The drain: how fast rows leave while others wait.
    int64_t drain_ns
    int64_t drain_rows
    int32_t drain_batches
    bint was_waiting            # rows waited when the last batch ended
    int64_t ended_ns            # when that was
    # What was last counted as a change.
    int64_t told_rows
    int64_t told_wait_ns
    int32_t told_concurrency
    int32_t told_arm
    RunCurve curve
    RunArms arms
    LoadSearch search
    TargetRows target           # its window of latency fills without a target, too

cdef void tuner_init(Tuner* tuner, const TunerSettings* settings) noexcept nogil
cdef void tuner_began(Tuner* tuner, int64_t now, int64_t rows, int running) noexcept nogil
cdef void tuner_ended(Tuner* tuner, int64_t now, int64_t rows, int64_t run_ns, int arm, int running,
                      int64_t rows_waiting) noexcept nogil
cdef int tuner_choose_arm(Tuner* tuner) noexcept nogil
cdef int64_t tuner_rows_now(const Tuner* tuner, int64_t rows_waiting) noexcept nogil
cdef int64_t tuner_run_ns(const Tuner* tuner, int64_t rows) noexcept nogil
cdef int64_t tuner_run_slow_ns(const Tuner* tuner, int64_t rows) noexcept nogil
cdef int64_t tuner_row_ns(const Tuner* tuner) noexcept nogil
cdef int64_t tuner_p99_ns(const Tuner* tuner) noexcept nogil
cdef dict tuner_describe(const Tuner* tuner)


cdef inline void tuner_arrived(Tuner* tuner, int64_t rows) noexcept nogil:
    """A request of so many rows was queued."""
    tuner.arrived += rows


cdef inline void tuner_latency(Tuner* tuner, int64_t ns) noexcept nogil:
    """A request was answered `ns` after it arrived."""
    latency_add(&tuner.target.latencies, ns)


cdef class BatchTuner:
    cdef Tuner tuner
