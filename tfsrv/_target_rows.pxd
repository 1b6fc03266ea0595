"""The largest run, and the longest wait, with which latency stays below its target."""

from libc.stdint cimport int32_t, int64_t

from tfsrv._latency_window cimport LatencyWindow
from tfsrv._run_curve cimport RunCurve


cdef struct TargetLoad:
    # What else there is to know of a queue.
    double arrival_rate         # rows per ns
    double mean_rows            # of recent batches
    int64_t wait_ns             # in force
    int64_t base_wait_ns        # the best so far
    int32_t concurrency


cdef struct TargetRows:
    # Plain memory without owner; see target_init.
    int64_t rows_limit          # the choice
    int64_t most_wait_ns        # a wait may be tried up to this
    int64_t target_ns           # for the 99th percentile of latency
    int64_t max_rows
    int64_t max_wait_ns         # the user's limit; 0: none
    bint steered                # latency has moved the limit away from the model's choice
    int32_t batches             # since the window of latency was cleared
    int32_t full_batches        # of them, at the limit
    int32_t backlogged          # of them, with more rows waiting at the end than the next one takes
    int64_t cleared_ns          # when
    int64_t rows_before         # the last step; 0: it has proved good
    int64_t p99_before
    bint was_over               # latency was over the target then
    double began_rate           # of arrival, when the model was last followed from the start
    int32_t follows             # of the model since then
    int32_t steps               # since then
    int64_t follow_again_ns     # not before
    int64_t step_again_ns       # not before
    LatencyWindow latencies

cdef void target_init(TargetRows* choice, int64_t target_ns, int64_t max_rows, int64_t max_wait_ns) noexcept nogil
cdef void target_clear(TargetRows* choice, int64_t now) noexcept nogil
cdef void target_ended(TargetRows* choice, int64_t rows, int64_t rows_waiting) noexcept nogil
cdef void target_restart(TargetRows* choice) noexcept nogil
cdef bint target_review(TargetRows* choice, int64_t now, const RunCurve* curve, const TargetLoad* load) noexcept nogil
