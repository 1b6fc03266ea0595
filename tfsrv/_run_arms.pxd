"""Where runs are faster: in the caller's thread, on TensorFlow's pool, or in one thread alone."""

from libc.stdint cimport int32_t, int64_t

cdef enum:
    ARM_CALLER = 0              # in the thread that calls the session
    ARM_POOL = 1                # on TensorFlow's pool of threads
    ARM_SINGLE = 2              # in the thread that calls, and no op shares its work with others
    ARMS = 3
    ARM_EITHER = -1             # the first two, to be found out; as a setting only
    ARM_ANY = -2                # all three, likewise


cdef struct ArmRuns:
    # Runs in one way.
    double ratio                # their mean time over the curve's, outliers cut
    double deviation            # their mean distance from it
    int32_t count               # -1: the next one warms up and tells nothing


cdef struct RunArms:
    # Plain memory without owner; see arms_init.
    ArmRuns arms[ARMS]
    int32_t size                # of them are to be had
    int32_t fixed               # ARM_EITHER, ARM_ANY, or the only one allowed
    int32_t current             # where runs go while nothing is tried
    bint exploring              # runs go to all in turn
    bint explored               # once at least
    bint probe_due              # the next run goes to another arm …
    int32_t probe_arm           # … the one after this
    int32_t run                 # chosen for so far; wraps
    int32_t since_probe         # runs
    int64_t probed_ns           # when
    double recent_ns            # mean time of recent runs, outliers cut

cdef void arms_init(RunArms* arms, int fixed) noexcept nogil
cdef int arms_choose(RunArms* arms) noexcept nogil
cdef double arms_learn(RunArms* arms, int64_t now, int arm, double ratio, int64_t run_ns) noexcept nogil
cdef void arms_explore(RunArms* arms) noexcept nogil
