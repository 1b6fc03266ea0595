"""Where runs are faster: in the caller's thread, on TensorFlow's pool, or in one thread alone.

A graph of one long chain runs faster in the caller's thread (no hand-over), one with parallel
branches on the pool. In both an op splits its work over the threads that TensorFlow has for the
inside of ops, which pays while cores are idle; while other runs have them it costs wake-ups and
waits, and a run is better off in one thread alone. Runs of different sizes are compared by their
ratio to the curve, which learns from the current arm alone.

    short runs (< WORTH_NS)     always the caller's thread: the hand-over itself is 20 µs
    exploring                   all in turn, until the difference is more than chance
    settled                     the fastest; now and then a single run probes another
    the model changes           explored again

Not thread-safe: the caller holds the queue's lock.
"""

from libc.math cimport sqrt

cdef double WORTH_NS = 100_000          # below, the hand-over to the pool eats what it could gain
cdef double NOT_WORTH_NS = 80_000       # hysteresis to the above
cdef double WARM = 4.0                  # times shorter than the mean: what was before only warmed up
cdef double CLIP = 2.0                  # times the mean; a run farther off counts as one there
cdef int FIRST_RUNS = 4                 # before anything is tried: the first ones compile, load, touch memory
cdef int TURN = 4                       # runs of an arm in a row while all are tried, see arms_choose
cdef int LEAST = 8                      # runs in each arm before they are compared
cdef int MOST = 48                      # runs in each arm; then it is as good as equal
cdef double SURE = 3.0                  # standard errors of the difference are no chance, though looked at often
cdef double MATTERS = 0.05              # a smaller difference leaves things as they are
cdef int PROBE_RUNS = 64                # runs from one probe to the next, at least: below 2 % of them
cdef int64_t PROBE_NS = 1_000_000_000   # … and time; ten probes tell enough after some ten seconds
cdef int PROBES = 4                     # before they are believed
cdef double PROBE_GAIN = 0.25           # how fast the mean of probes moves
cdef double PROMISING = 0.92            # times the current arm's ratio: worth exploring anew
cdef double RECENT_GAIN = 1 / 16.0      # of one run, in means over recent runs


cdef void arms_init(RunArms* arms, int fixed) noexcept nogil:
    """`fixed` is ARM_EITHER, ARM_ANY, or the one that is allowed."""
    arms.size = ARMS if fixed == ARM_ANY else ARM_POOL + 1
    arms.fixed = fixed
    arms.current = fixed if fixed >= 0 else ARM_CALLER
    arms.exploring = False
    arms.explored = False
    arms.probe_due = False
    arms.probe_arm = arms.current
    arms.run = 0
    arms.since_probe = 0
    arms.probed_ns = 0
    arms.recent_ns = 0
    forget(arms)


cdef void forget(RunArms* arms) noexcept nogil:
    cdef int arm
    for arm in range(ARMS):
        arms.arms[arm].ratio = 1
        arms.arms[arm].deviation = 0
        arms.arms[arm].count = -1


cdef int arms_choose(RunArms* arms) noexcept nogil:
    """Where the next run goes. A few nanoseconds."""
    if arms.fixed >= 0:
        return arms.fixed
    arms.run += 1
    arms.since_probe += 1
    if arms.exploring:
        # Several in a row, so that runs at the same time are mostly of one arm: a run that takes
        # the cores of its neighbour is fast at the neighbour's cost.
        return turn_of(<unsigned int>arms.run // <unsigned int>TURN, arms.size)
    if arms.probe_due:
        arms.probe_due = False
        arms.since_probe = 0
        arms.probe_arm = (arms.probe_arm + 1) % arms.size
        if arms.probe_arm == arms.current:
            arms.probe_arm = (arms.probe_arm + 1) % arms.size
        return arms.probe_arm
    return arms.current


cdef int turn_of(unsigned int run, int size) noexcept nogil:
    """The Thue-Morse order, 0110 1001 … for two and 012 120 201 … for three.

    It is fair to all under a trend, and no other period of the load (two workers in turn, big and
    small batches) falls in with it.
    """
    cdef unsigned int digits = 0
    while run:
        digits += run % <unsigned int>size
        run //= <unsigned int>size
    return digits % <unsigned int>size


cdef double arms_learn(RunArms* arms, int64_t now, int arm, double ratio, int64_t run_ns) noexcept nogil:
    """Learn from one run, `ratio` times as long as the curve says (0: it does not know).

    Returns what the curve has to be scaled by: not 1 when the current arm has changed.
    """
    cdef int before = arms.current
    if arms.fixed >= 0:
        return 1
    learn_recent(arms, run_ns)
    if arms.recent_ns < (NOT_WORTH_NS if arms.exploring or arms.current != ARM_CALLER else WORTH_NS):
        arms.exploring = False
        arms.probe_due = False
        arms.current = ARM_CALLER
    elif arms.exploring:
        learn_arm(&arms.arms[arm], ratio, 0)
        decide(arms, now)
    elif not arms.explored:
        if arms.run > FIRST_RUNS:
            arms_explore(arms)
    elif arm != arms.current:
        learn_arm(&arms.arms[arm], ratio, PROBE_GAIN)
        if arms.arms[arm].count >= PROBES and arms.arms[arm].ratio < PROMISING * arms.arms[arms.current].ratio:
            arms_explore(arms)
    else:
        learn_arm(&arms.arms[arm], ratio, RECENT_GAIN)
        if arms.since_probe >= PROBE_RUNS and now - arms.probed_ns >= PROBE_NS:
            arms.probe_due = True
            arms.probed_ns = now
    if arms.current == before:
        return 1
    return rebase(arms, before)


cdef void arms_explore(RunArms* arms) noexcept nogil:
    """Begin to try all in turn, as when the model's behaviour has changed."""
    if arms.fixed >= 0 or arms.exploring or arms.recent_ns < WORTH_NS:
        return
    forget(arms)
    arms.exploring = True
    arms.probe_due = False


cdef void learn_recent(RunArms* arms, int64_t run_ns) noexcept nogil:
    if arms.recent_ns == 0 or run_ns * WARM < arms.recent_ns:
        arms.recent_ns = run_ns     # what was before were runs that warmed up
    else:
        arms.recent_ns += RECENT_GAIN * (min(run_ns, CLIP * arms.recent_ns) - arms.recent_ns)


cdef void learn_arm(ArmRuns* runs, double ratio, double least_gain) noexcept nogil:
    """Move the mean: of all runs, or with `least_gain` of about 1 / least_gain recent ones."""
    cdef double gain
    if ratio <= 0:
        return
    runs.count = min(runs.count + 1, 1000)      # far above MOST; never overflows
    if runs.count <= 0:
        return
    if runs.count == 1 or ratio * WARM < runs.ratio:
        runs.ratio = ratio
        runs.deviation = 0
        return
    gain = max(1.0 / runs.count, least_gain)
    ratio = min(ratio, CLIP * runs.ratio)
    runs.deviation += gain * (abs(ratio - runs.ratio) - runs.deviation)
    runs.ratio += gain * (ratio - runs.ratio)


cdef void decide(RunArms* arms, int64_t now) noexcept nogil:
    """Settle for the fastest arm, once it is known."""
    cdef ArmRuns* here = &arms.arms[arms.current]
    cdef ArmRuns* there
    cdef int other = best_other(arms)
    cdef int fewest = here.count
    cdef double error
    cdef double gain
    cdef int arm
    for arm in range(arms.size):
        fewest = min(fewest, arms.arms[arm].count)
    if fewest < LEAST:
        return
    there = &arms.arms[other]
    gain = here.ratio - there.ratio
    # Of a normal distribution the standard deviation is 1.25 times the mean one.
    error = 1.25 * sqrt(here.deviation * here.deviation / here.count
                        + there.deviation * there.deviation / there.count)
    if fewest < MOST and abs(gain) < max(SURE * error, MATTERS * here.ratio):
        return
    if gain > max(SURE * error, MATTERS * here.ratio):
        arms.current = other
    arms.exploring = False
    arms.explored = True
    arms.since_probe = 0
    arms.probed_ns = now


cdef int best_other(const RunArms* arms) noexcept nogil:
    """The fastest arm but for the current one."""
    cdef int best = -1
    cdef int arm
    for arm in range(arms.size):
        if arm != arms.current and (best < 0 or arms.arms[arm].ratio < arms.arms[best].ratio):
            best = arm
    return best


cdef double rebase(RunArms* arms, int before) noexcept nogil:
    """Make ratios relative to the curve of the current arm. The curve's factor."""
    cdef double factor = arms.arms[arms.current].ratio / arms.arms[before].ratio
    cdef int arm
    if arms.arms[before].count < 1 or arms.arms[arms.current].count < 1:
        return 1
    for arm in range(arms.size):
        arms.arms[arm].ratio /= factor
        arms.arms[arm].deviation /= factor
    return factor
