"""The largest run, and the longest wait, with which latency stays below its target.

A request that comes just after a run has begun waits for a worker, and then for its own run: the
curve gives the largest run with which both fit. From there measured latency steers, one step at a
time, and each next one later; a step that proves bad is taken back.

    over the target, rows pile up           larger runs: they cost less a row
    over the target, no rows pile up        smaller runs, but never too small to keep up
    well below the target, rows pile up     larger runs, for throughput
    a target that cannot be met             the largest run that fits into it: no collapse

Not thread-safe: the caller holds the queue's lock.
"""

from libc.string cimport memset

from tfsrv._latency_window cimport latency_clear, latency_p99
from tfsrv._run_curve cimport curve_ns, curve_rows_needed, curve_rows_trusted, curve_rows_within

cdef int64_t FIRST_ROWS = 32            # a largest run that is tried before anything is known
cdef double RUN_PART = 0.9              # of the target, at most, for a run; the rest is everything else
cdef double RELAXED = 0.85              # of the target: below, there is room for larger runs
cdef double LEAST_RUNS = 4.0            # runs of one row: a target below cannot be met, and counts as this
cdef double HEADROOM = 1.3              # times the rate of arrival: what a limit has to be able to serve
cdef double GROW = 1.25                 # times the limit, a step up …
cdef double SHRINK = 0.8                # … and down
cdef double HELPED = 0.97               # times the latency before a step, or less: it has proved good
cdef double SAVES = 0.99                # times the cost of a row: less is no reason for larger runs
cdef double NEWS = 1.2                  # times the limit, or one part in: worth following the model …
cdef double IDLE_NEWS = 2.0             # … and when batches are far from either limit,
cdef double IDLE = 4.0                  # times below it
cdef int64_t ENOUGH_LATENCIES = 200     # requests, and
cdef int64_t SETTLE_NS = 500_000_000    # time, before latency is believed after a step
cdef int FAST_STEPS = 4                 # the pause after each further one is doubled,
cdef int DOUBLINGS = 6                  # so many times: 32 s; a target that cannot be met stops no work
cdef int64_t FOLLOW_NS = 100_000_000    # pause before the model is followed again, doubled each time
cdef int FOLLOW_DOUBLINGS = 9           # 51 s
cdef double OTHER_LOAD = 2.0            # times the rate of arrival, or one part in: start anew
cdef int FULL_PART = 20                 # one batch in so many at the limit, or smaller ones change nothing
cdef double WAIT_PAYS = 0.92            # times the cost of a row at twice the rows: a wait is tried
cdef int64_t WAIT_PART = 4              # a wait is at most one part in so many of the target,
cdef int64_t SHORT_WAIT_PART = 16       # and a short one, one part in so many


cdef void target_init(TargetRows* choice, int64_t target_ns, int64_t max_rows, int64_t max_wait_ns) noexcept nogil:
    memset(choice, 0, sizeof(TargetRows))
    choice.target_ns = target_ns
    choice.max_rows = max_rows
    choice.max_wait_ns = max_wait_ns
    choice.rows_limit = min(max_rows, FIRST_ROWS)


cdef void target_clear(TargetRows* choice, int64_t now) noexcept nogil:
    """Measure anew, as what comes now says nothing of what was before."""
    latency_clear(&choice.latencies, now)
    choice.cleared_ns = now
    choice.batches = 0
    choice.full_batches = 0
    choice.backlogged = 0


cdef void target_ended(TargetRows* choice, int64_t rows, int64_t rows_waiting) noexcept nogil:
    """A batch has run, and so many rows wait."""
    choice.batches += 1
    choice.full_batches += rows * 10 >= choice.rows_limit * 9
    choice.backlogged += rows_waiting > choice.rows_limit


cdef void target_restart(TargetRows* choice) noexcept nogil:
    """The model behaves differently, or the load: follow the curve again."""
    choice.steered = False
    choice.rows_before = 0
    choice.follows = 0
    choice.steps = 0
    choice.follow_again_ns = 0
    choice.step_again_ns = 0
    choice.began_rate = 0


cdef bint target_review(TargetRows* choice, int64_t now, const RunCurve* curve, const TargetLoad* load) noexcept nogil:
    """Choose again. True if the wait in force is too long."""
    cdef double target = max(<double>choice.target_ns, LEAST_RUNS * curve_ns(curve, 1))
    cdef int64_t most = min(choice.max_rows, curve_rows_trusted(curve))
    cdef int64_t fits = rows_in_time(curve, RUN_PART * target, most)
    if choice.began_rate == 0:
        choice.began_rate = load.arrival_rate
    elif is_news(load.arrival_rate, choice.began_rate, OTHER_LOAD):
        target_restart(choice)
        choice.began_rate = load.arrival_rate
    if not choice.steered and now >= choice.follow_again_ns:
        follow_model(choice, now, curve, load, target, fits)
    if choice.rows_limit < rows_to_keep_up(curve, load, 1, fits):
        choice.rows_limit = max(choice.rows_limit, rows_to_keep_up(curve, load, HEADROOM, fits))
    choose_most_wait(choice, curve, load)
    return may_step(choice, now) and step(choice, now, curve, load, fits)


# ---------------------------------------------------------------------------- by the model

cdef int64_t rows_in_time(const RunCurve* curve, double ns, int64_t most) noexcept nogil:
    """The largest run, at least one row, that 19 times of 20 takes no longer."""
    return max(curve_rows_within(curve, ns / curve.slow_ratio, most), 1)


cdef int64_t rows_to_keep_up(
    const RunCurve* curve, const TargetLoad* load, double headroom, int64_t most,
) noexcept nogil:
    """The smallest limit with which the rows that arrive, and some more, can be served."""
    cdef double rate = headroom * load.arrival_rate / load.concurrency
    return curve_rows_needed(curve, 1 / rate, most) if rate > 0 else 1


cdef void follow_model(
    TargetRows* choice, int64_t now, const RunCurve* curve, const TargetLoad* load, double target, int64_t fits,
) noexcept nogil:
    cdef double runs = 1 + 1.0 / load.concurrency       # until a worker is free, and the own one
    cdef int64_t rows = rows_in_time(curve, RUN_PART * target / runs, fits)
    cdef bint is_idle
    rows = max(rows, rows_to_keep_up(curve, load, HEADROOM, fits))
    is_idle = min(rows, choice.rows_limit) > IDLE * load.mean_rows
    if is_news(rows, choice.rows_limit, IDLE_NEWS if is_idle else NEWS):
        choice.rows_limit = rows
        choice.follow_again_ns = now + (FOLLOW_NS << min(choice.follows, FOLLOW_DOUBLINGS))
        choice.follows += 1
        target_clear(choice, now)


cdef bint is_news(double rows, double limit, double times) noexcept nogil:
    return rows > times * limit or limit > times * rows


cdef void choose_most_wait(TargetRows* choice, const RunCurve* curve, const TargetLoad* load) noexcept nogil:
    """A wait is tried only where larger batches are cheaper, and where there is time for it.

    A short one is always tried: it is kept if more rows are completed, and clients that wait for
    their answers are then answered sooner (Little's law).
    """
    cdef int64_t rows = max(<int64_t>load.mean_rows, 1)
    cdef double cost = curve_ns(curve, rows) / rows
    cdef double cost_at_twice = curve_ns(curve, 2 * rows) / (2 * rows)
    cdef int64_t spare = choice.target_ns - latency_p99(&choice.latencies)
    cdef bint is_full = rows * 10 >= choice.rows_limit * 9
    choice.most_wait_ns = 0
    if is_full or cost_at_twice > WAIT_PAYS * cost:
        return
    spare = max(spare, choice.target_ns // SHORT_WAIT_PART)
    choice.most_wait_ns = min(spare + load.base_wait_ns, choice.target_ns // WAIT_PART)
    if choice.max_wait_ns > 0:
        choice.most_wait_ns = min(choice.most_wait_ns, choice.max_wait_ns)


# ---------------------------------------------------------------------------- by latency

cdef bint may_step(const TargetRows* choice, int64_t now) noexcept nogil:
    """Enough was measured since the last step."""
    cdef int64_t counted = <int64_t>choice.latencies.totals[0] + choice.latencies.totals[1]
    return counted >= ENOUGH_LATENCIES and now - choice.cleared_ns >= SETTLE_NS


cdef bint step(
    TargetRows* choice, int64_t now, const RunCurve* curve, const TargetLoad* load, int64_t fits,
) noexcept nogil:
    """Move the limit, or take the last move back. True if the wait is to be cut instead."""
    cdef int64_t p99 = latency_p99(&choice.latencies)
    cdef bint is_over = p99 > choice.target_ns
    if has_proved_bad(choice, p99):
        take_back(choice, now)
        return False
    choice.rows_before = 0      # the last step has proved good
    if is_over and p99 - load.wait_ns <= choice.target_ns:
        target_clear(choice, now)
        return True
    if now < choice.step_again_ns:
        return False
    if rows_pile_up(choice):
        if is_over or p99 < RELAXED * choice.target_ns:
            grow(choice, now, p99, curve, fits)
    elif is_over and choice.full_batches * FULL_PART > choice.batches:
        shrink(choice, now, p99, curve, load)
    return False


cdef bint rows_pile_up(const TargetRows* choice) noexcept nogil:
    """Most batches are full, and leave enough waiting for another one."""
    return choice.full_batches * 2 > choice.batches and choice.backlogged * 2 > choice.batches


cdef bint has_proved_bad(const TargetRows* choice, int64_t p99) noexcept nogil:
    if choice.rows_before == 0:
        return False
    if choice.was_over:
        return p99 > HELPED * choice.p99_before
    return p99 > choice.target_ns


cdef void take_back(TargetRows* choice, int64_t now) noexcept nogil:
    choice.rows_limit = choice.rows_before
    choice.rows_before = 0
    choice.steps = max(choice.steps + 1, FAST_STEPS + 3)
    pause(choice, now)
    target_clear(choice, now)


cdef void grow(TargetRows* choice, int64_t now, int64_t p99, const RunCurve* curve, int64_t fits) noexcept nogil:
    """Larger runs serve more rows, if they cost less a row."""
    cdef int64_t rows = min(max(<int64_t>(GROW * choice.rows_limit), choice.rows_limit + 1), fits)
    cdef double cost = curve_ns(curve, choice.rows_limit) / choice.rows_limit
    if rows > choice.rows_limit and curve_ns(curve, rows) / rows < SAVES * cost:
        move(choice, now, p99, rows)


cdef void shrink(
    TargetRows* choice, int64_t now, int64_t p99, const RunCurve* curve, const TargetLoad* load,
) noexcept nogil:
    """It is the runs that take long, not the queue. Never below what keeps up."""
    cdef int64_t rows = max(<int64_t>(SHRINK * choice.rows_limit), 1)
    rows = max(rows, rows_to_keep_up(curve, load, HEADROOM, choice.rows_limit))
    if rows < choice.rows_limit:
        move(choice, now, p99, rows)


cdef void move(TargetRows* choice, int64_t now, int64_t p99, int64_t rows) noexcept nogil:
    choice.steered = True
    choice.rows_before = choice.rows_limit
    choice.p99_before = p99
    choice.was_over = p99 > choice.target_ns
    choice.rows_limit = rows
    choice.steps += 1
    pause(choice, now)
    target_clear(choice, now)


cdef void pause(TargetRows* choice, int64_t now) noexcept nogil:
    """The more steps there were, the longer until the next one: no load makes this restless."""
    cdef int doublings = min(max(choice.steps - FAST_STEPS, 0), DOUBLINGS)
    choice.step_again_ns = now + (SETTLE_NS << doublings)
