"""How long a run takes, as a function of its rows: learned from runs.

Sizes fall into classes, which keep a robust mean each. From these and from a straight line
through them come the *knots*, the expected time at the upper end of each class, and between
knots time is linear. A look-up costs a few nanoseconds; the knots are made anew every few runs.

    one run cut short or preempted      its distance from the mean counts only in part
    a first run that compiles           gives way to the second one
    a class seen rarely or long ago     leans on the straight line
    all runs three times slower         the whole curve is stretched after STREAK runs

Not thread-safe: the caller holds the queue's lock.
"""

from libc.string cimport memset

cdef extern from *:
    int clz64 "__builtin_clzll"(unsigned long long) noexcept nogil

cdef int64_t FIRST_ROWS = 32        # a run larger than all seen that the curve is asked about, at least
cdef int64_t FURTHER = 4            # times the largest run seen: as far as the curve is trusted
cdef double MEMORY = 16.0           # runs; a class follows a drift within about as many
cdef double FEW = 2.0               # runs of a class that weigh as much as the straight line does
cdef double CLIP = 3.0              # deviations; a run farther away counts as one at that distance
cdef double FIRST_DEVIATION = 0.25  # of the first time in a class: nothing better is known
cdef double LEAST_DEVIATION = 0.02  # of the mean: machines are no steadier, and the mean has to move
cdef double FADE = 0.97             # of the weights at each fit: what was seen lately counts more
cdef double LEAST_WEIGHT = 0.25     # runs; a class once seen is never forgotten altogether
cdef int FIT_EVERY = 16             # runs; a fit costs about 300 ns
cdef double FAR = 1.25              # times (or one part in) the expected time begins a streak
cdef int STREAK = 8                 # runs; by chance one in 100,000 at a probability of 1/4 each
cdef double KNOWN = 3.0             # runs; with fewer a class is no measure for others
cdef double SCALED = 4.0            # runs that a class stands for at most after a change
cdef double PRIOR_WEIGHT = 0.5      # runs; gives way as soon as two sizes have been seen
cdef double PRIOR_FIXED = 0.5       # share of a run's time that does not grow with rows, unless seen
cdef double SLOW_STEP = 0.02        # of the ratio; 95th percentile: up by 19 parts, down by one
cdef double MOST_SLOW = 10.0        # times; a ratio beyond it tells of outliers only


# ---------------------------------------------------------------------------- classes of sizes

cdef int class_of(int64_t rows) noexcept nogil:
    """0, 1, 2, 3 for that many rows and one; then 5, 6, 7, 8, 9-10, 11-12, 13-14, 15-16, 17-20 …

    The upper ends are included, as sizes that padding goes up to are mostly such.
    """
    cdef unsigned long long last
    cdef int octave
    if rows <= 4:
        return <int>rows - 1 if rows > 1 else 0
    last = <unsigned long long>(rows - 1)
    octave = 63 - clz64(last)
    if octave > 1 + (CURVE_SIZES - 4) // 4:
        return CURVE_SIZES - 1
    return 4 + (octave - 2) * 4 + <int>((last >> (octave - 2)) & 3)


cdef int64_t upper_end(int index) noexcept nogil:
    """The most rows in a class."""
    if index < 4:
        return index + 1
    return <int64_t>(5 + (index & 3)) << ((index - 4) >> 2)


# ---------------------------------------------------------------------------- asking

cdef double curve_ns(const RunCurve* curve, int64_t rows) noexcept nogil:
    """The expected time of a run; 0 while nothing is known. Grows with `rows`, or stays."""
    cdef int index
    cdef double lower
    cdef int64_t end
    if curve.samples == 0:
        return 0
    if rows <= 1:
        return curve.knots[0]
    index = class_of(rows)
    end = upper_end(index)
    if rows > end:      # beyond all classes
        return curve.knots[index] + curve.slope_ns * (rows - end)
    lower = curve.knots[index - 1]
    return curve.knots[index] - (curve.knots[index] - lower) * (end - rows) / (end - upper_end(index - 1))


cdef int64_t curve_rows_within(const RunCurve* curve, double ns, int64_t most) noexcept nogil:
    """The most rows, up to `most`, that run within `ns`; 0 when even one takes longer."""
    cdef int64_t fits = 0
    cdef int64_t too_many = most + 1
    cdef int64_t middle
    while too_many - fits > 1:
        middle = fits + (too_many - fits) // 2
        if curve_ns(curve, middle) <= ns:
            fits = middle
        else:
            too_many = middle
    return fits


cdef int64_t curve_rows_needed(const RunCurve* curve, double row_ns, int64_t most) noexcept nogil:
    """The fewest rows a run at which one costs at most `row_ns`; `most` if it always costs more.

    To the precision of a class of sizes.
    """
    cdef int index
    cdef int64_t rows
    for index in range(CURVE_SIZES):
        rows = min(upper_end(index), most)
        if curve.knots[index] <= row_ns * rows:
            return rows
        if rows == most:
            break
    return most


cdef int64_t curve_rows_efficient(const RunCurve* curve, double slack, int64_t most) noexcept nogil:
    """The fewest rows at which one costs at most `slack` times what it costs at the best size."""
    cdef double best = curve_ns(curve, most) / most
    cdef int index
    for index in range(CURVE_SIZES):
        if upper_end(index) >= most:
            break
        best = min(best, curve.knots[index] / upper_end(index))
    return curve_rows_needed(curve, best * slack, most)


cdef bint curve_is_known(const RunCurve* curve, int64_t rows) noexcept nogil:
    """Runs of this size were seen, and not only once or twice or long ago."""
    return curve.sizes[class_of(rows)].weight >= KNOWN


cdef int64_t curve_rows_trusted(const RunCurve* curve) noexcept nogil:
    """The largest run that the curve should be asked about: beyond it, it is a guess."""
    return max(FIRST_ROWS, FURTHER * curve.largest_rows)


# ---------------------------------------------------------------------------- learning

cdef void curve_reset(RunCurve* curve) noexcept nogil:
    memset(curve, 0, sizeof(RunCurve))
    curve.slow_ratio = 1.25     # until runs tell


cdef bint curve_learn(RunCurve* curve, int64_t rows, int64_t run_ns) noexcept nogil:
    """Learn from one run. True if the model's behaviour has changed: all sizes were rescaled."""
    cdef SizeRuns* runs
    cdef double ratio
    cdef bint is_new
    rows = max(rows, 1)
    run_ns = max(run_ns, 1)
    runs = &curve.sizes[class_of(rows)]
    if runs.weight >= KNOWN:
        ratio = run_ns / curve_ns(curve, rows)
        learn_slowness(curve, ratio)
        if learn_streak(curve, ratio, run_ns / <double>runs.ns):
            return True
    is_new = runs.weight == 0 or (runs.weight <= 1 and run_ns * 2 < runs.ns)
    learn_mean(runs, rows, run_ns)
    curve.samples += 1
    curve.largest_rows = max(curve.largest_rows, rows)
    curve.unfitted += 1
    # A streak is measured against one and the same curve. Early on, each run tells much.
    if is_new or (curve.streak == 0 and (curve.unfitted >= FIT_EVERY or curve.samples <= FIT_EVERY)):
        fit(curve)
    return False


cdef void learn_mean(SizeRuns* runs, int64_t rows, int64_t run_ns) noexcept nogil:
    """Move the mean of a class. The first time is only believed until a much shorter one."""
    cdef double gain
    cdef double error
    cdef double reach
    if runs.weight == 0 or (runs.weight <= 1 and run_ns * 2 < runs.ns):
        runs.rows = rows
        runs.ns = run_ns
        runs.deviation_ns = FIRST_DEVIATION * run_ns
        runs.weight = 1
        return
    gain = 1 / (runs.weight + 1)
    error = run_ns - runs.ns
    reach = CLIP * runs.deviation_ns
    error = min(max(error, -reach), reach)
    runs.rows += gain * (rows - runs.rows)
    runs.ns += gain * error
    runs.deviation_ns += gain * (abs(error) - runs.deviation_ns)
    runs.deviation_ns = max(runs.deviation_ns, LEAST_DEVIATION * runs.ns)
    runs.weight = min(runs.weight + 1, MEMORY - 1)


cdef void learn_slowness(RunCurve* curve, double ratio) noexcept nogil:
    """Follow the 95th percentile of time over expected time, whatever the outliers' size."""
    if ratio > curve.slow_ratio:
        curve.slow_ratio = min(curve.slow_ratio + 0.95 * SLOW_STEP, MOST_SLOW)
    else:
        curve.slow_ratio = max(curve.slow_ratio - 0.05 * SLOW_STEP, 1.0)


cdef bint learn_streak(RunCurve* curve, double ratio, double class_ratio) noexcept nogil:
    """Tell a change from chance: STREAK runs in a row far off on one side. True if it is one.

    Far from the class's own mean, too: beside a step in the cost (padding) the knots are not exact.
    """
    if ratio > FAR and class_ratio > FAR:
        curve.streak_ratio = min(curve.streak_ratio, ratio) if curve.streak > 0 else ratio
        curve.streak = curve.streak + 1 if curve.streak > 0 else 1
    elif ratio * FAR < 1 and class_ratio * FAR < 1:
        curve.streak_ratio = max(curve.streak_ratio, ratio) if curve.streak < 0 else ratio
        curve.streak = curve.streak - 1 if curve.streak < 0 else -1
    else:
        curve.streak = 0
    if -STREAK < curve.streak < STREAK:
        return False
    curve_scale(curve, curve.streak_ratio)
    return True


cdef void curve_scale(RunCurve* curve, double factor) noexcept nogil:
    """All runs take `factor` times what was expected from now on. Sizes soon learn their own."""
    cdef int index
    cdef SizeRuns* runs
    for index in range(CURVE_SIZES):
        runs = &curve.sizes[index]
        if runs.weight > 0:
            runs.ns = curve_ns(curve, <int64_t>(runs.rows + 0.5)) * factor
            runs.deviation_ns = max(runs.deviation_ns * factor, LEAST_DEVIATION * runs.ns)
            runs.weight = min(runs.weight, SCALED)
    curve.streak = 0
    fit(curve)


# ---------------------------------------------------------------------------- the knots

cdef void fit(RunCurve* curve) noexcept nogil:
    """Make the knots from the classes."""
    cdef double rows[CURVE_SIZES]
    cdef double ns[CURVE_SIZES]
    cdef double weights[CURVE_SIZES]
    cdef int points = 0
    cdef int index
    cdef double fixed
    cdef SizeRuns* runs
    curve.unfitted = 0
    fixed = fit_line(curve)
    for index in range(CURVE_SIZES):
        runs = &curve.sizes[index]
        if runs.weight > 0:
            rows[points] = runs.rows
            weights[points] = runs.weight
            ns[points] = (runs.weight * runs.ns + FEW * (fixed + curve.slope_ns * runs.rows)) / (runs.weight + FEW)
            points += 1
            runs.weight = max(runs.weight * FADE, LEAST_WEIGHT)
    if points == 0:
        return
    make_monotone(ns, weights, points)
    make_knots(curve, rows, ns, points)


cdef double fit_line(RunCurve* curve) noexcept nogil:
    """Set the slope, and return the fixed part, of the line nearest to all classes.

    Distances count relative to the time, so that small sizes are heard. While all runs have one
    size, a prior decides: half of the time of the smallest class is fixed.
    """
    cdef int index
    cdef double weight
    cdef double total = 0
    cdef double x = 0
    cdef double y = 0
    cdef double xx = 0
    cdef double xy = 0
    cdef double spread
    cdef SizeRuns* runs
    for index in range(CURVE_SIZES):
        runs = &curve.sizes[index]
        if runs.weight == 0:
            continue
        if total == 0:      # the smallest
            weight = PRIOR_WEIGHT / (<double>runs.ns * runs.ns)
            total = weight
            y = weight * PRIOR_FIXED * runs.ns
        weight = runs.weight / (<double>runs.ns * runs.ns)
        total += weight
        x += weight * runs.rows
        y += weight * runs.ns
        xx += weight * runs.rows * runs.rows
        xy += weight * runs.rows * runs.ns
    if total == 0:
        return 0
    spread = total * xx - x * x
    curve.slope_ns = max((total * xy - x * y) / spread, 0.0) if spread > 0 else 0.0
    if curve.slope_ns * x > y:      # a line through zero fits best
        curve.slope_ns = xy / xx
        return 0
    return (y - curve.slope_ns * x) / total


cdef void make_monotone(double* ns, double* weights, int points) noexcept nogil:
    """Replace neighbours that fall by their mean, until none does (pool adjacent violators)."""
    cdef int sizes[CURVE_SIZES]
    cdef int pools = 0
    cdef int index
    cdef int filled = points
    for index in range(points):
        ns[pools] = ns[index]
        weights[pools] = weights[index]
        sizes[pools] = 1
        while pools > 0 and ns[pools - 1] > ns[pools]:
            ns[pools - 1] = ((ns[pools - 1] * weights[pools - 1] + ns[pools] * weights[pools])
                             / (weights[pools - 1] + weights[pools]))
            weights[pools - 1] += weights[pools]
            sizes[pools - 1] += sizes[pools]
            pools -= 1
        pools += 1
    # Spread the pools over their points again, from the end: no pool lies behind its points.
    while pools > 0:
        pools -= 1
        for _ in range(sizes[pools]):
            filled -= 1
            ns[filled] = ns[pools]


cdef void make_knots(RunCurve* curve, const double* rows, const double* ns, int points) noexcept nogil:
    """Go through the points; before the first and after the last with the line's slope."""
    cdef int index
    cdef int right = 0          # the first point at or after the knot
    cdef double x
    cdef double part
    for index in range(CURVE_SIZES):
        x = upper_end(index)
        while right < points and rows[right] < x:
            right += 1
        if right == 0:
            # Fewer rows take no more time, and a row in a smaller run does not cost less.
            curve.knots[index] = max(ns[0] - curve.slope_ns * (rows[0] - x), ns[0] * x / rows[0])
        elif right == points:
            curve.knots[index] = ns[points - 1] + curve.slope_ns * (x - rows[points - 1])
        else:
            part = (x - rows[right - 1]) / (rows[right] - rows[right - 1])
            curve.knots[index] = ns[right - 1] + part * (ns[right] - ns[right - 1])
