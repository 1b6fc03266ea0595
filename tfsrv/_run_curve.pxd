"""How long a run takes, as a function of its rows."""

from libc.stdint cimport int32_t, int64_t

cdef enum:
    CURVE_SIZES = 44            # classes of sizes: 1, 2, 3, 4, then four to the octave up to 4096 rows


cdef struct SizeRuns:
    # Runs of one class of sizes.
    float rows                  # their mean size
    float ns                    # their mean time, outliers cut
    float deviation_ns          # their mean distance from it
    float weight                # how many runs it stands for; 0: none yet


cdef struct RunCurve:
    # Plain memory without owner. All zero is a curve that knows nothing.
    SizeRuns sizes[CURVE_SIZES]
    float knots[CURVE_SIZES]    # ns at the largest size of each class; never falls
    double slope_ns             # per row, beyond the last knot
    float slow_ratio            # 19 runs of 20 take less than this times their expected time
    float streak_ratio          # of the runs of the streak, the one nearest to 1
    int32_t streak              # runs in a row that were far slower (> 0) or faster (< 0)
    int32_t unfitted            # runs since the knots were made
    int64_t samples             # runs learned from
    int64_t largest_rows        # of a run

cdef void curve_reset(RunCurve* curve) noexcept nogil
cdef bint curve_learn(RunCurve* curve, int64_t rows, int64_t run_ns) noexcept nogil
cdef void curve_scale(RunCurve* curve, double factor) noexcept nogil
cdef double curve_ns(const RunCurve* curve, int64_t rows) noexcept nogil
cdef int64_t curve_rows_within(const RunCurve* curve, double ns, int64_t most) noexcept nogil
cdef int64_t curve_rows_needed(const RunCurve* curve, double row_ns, int64_t most) noexcept nogil
cdef int64_t curve_rows_efficient(const RunCurve* curve, double slack, int64_t most) noexcept nogil
cdef bint curve_is_known(const RunCurve* curve, int64_t rows) noexcept nogil
cdef int64_t curve_rows_trusted(const RunCurve* curve) noexcept nogil
