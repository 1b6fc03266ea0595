"""How large batches are, how long they wait, how many run at once, and where: one queue's choices.

A tuner watches the batches of one queue and learns from them:

    how long a run of so many rows takes            _run_curve
    how fast rows leave while others wait           tuner_row_ns
    whether several runs at once, or a wait, pay    _load_search
    whether the caller's thread or the pool pays    _run_arms
    the 99th percentile of latency                  _latency_window

With a target for latency the largest run is chosen here: by the curve at first, then by what
latency does. Without one nothing waits for a timer (unless the user says so), and a run takes
what is there, but for rows that would only make a long run longer.

Not thread-safe: every call is made under the queue's own lock. There is no clock, no allocation
and no loop over anything of the user's; per request a tuner costs a few nanoseconds, per batch
some tens, and a review, at most 20 times a second, a microsecond.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from tfsrv._latency_window cimport latency_clear, latency_p99, latency_slide
from tfsrv._load_search cimport (
    SEARCH_FREE,
    search_cut_wait,
    search_ended,
    search_init,
    search_running,
)
from tfsrv._run_arms cimport arms_choose, arms_explore, arms_init, arms_learn
from tfsrv._run_curve cimport (
    curve_learn,
    curve_ns,
    curve_reset,
    curve_rows_efficient,
    curve_rows_needed,
    curve_rows_within,
    curve_scale,
)

cdef int64_t REVIEW_NS = 50_000_000         # between two reviews of the choices
cdef int64_t LARGEST = 1 << 40              # rows; beyond any use, and safe to multiply
cdef double GAIN = 1 / 16.0                 # of one batch, in means over recent batches
cdef double ARRIVAL_GAIN = 0.3              # of one review, in the rate of arrival
cdef int64_t DRAIN_NS = 500_000_000         # of drain are remembered in full …
cdef int DRAIN_BATCHES = 16                 # … if they are so many batches; twice that halves
cdef int FEW_DRAINED = 4                    # batches say nothing yet of the drain
cdef int64_t FIRST_ROWS = 32                # a largest run that is tried unseen, under a target
cdef int64_t FURTHER = 4                    # times the largest run seen: as far as the curve is trusted
cdef int64_t FEW_SAMPLES = 8                # runs; the curve is not asked before

# Without a target.
cdef double FLAT = 1.03                     # times the least cost of a row: no reason for a larger run
cdef int64_t LONG_RUN_NS = 20_000_000       # shorter runs are never cut: nobody feels them

# With a target.
cdef double RUN_PART = 0.9                  # of the target, at most, for a run; the rest is everything else
cdef double RELAXED = 0.85                  # of the target: below, there is room for larger runs
cdef double LEAST_TARGET_RUNS = 4.0         # runs of one row: a lower target cannot be met, and counts as this
cdef double HEADROOM = 1.3                  # times the rate of arrival: what a limit has to be able to serve
cdef double GROW = 1.25                     # of the limit, a step up …
cdef double SHRINK = 0.8                    # … and down
cdef double HELPED = 0.97                   # of the latency before a step: it has proved good
cdef double SAVES = 0.99                    # of the cost of a row: less is no reason for larger runs
cdef double NEWS = 1.2                      # times the limit, or one part in: worth following the model …
cdef double IDLE_NEWS = 2.0                 # … and when batches are far from either limit
cdef int64_t ENOUGH_LATENCIES = 200         # requests, and
cdef int64_t SETTLE_NS = 500_000_000        # time, before latency is believed after a step
cdef int64_t HOLD_NS = 10_000_000_000       # no step after one that proved bad …
cdef int64_t LONGEST_HOLD_NS = 60_000_000_000   # … doubled up to this
cdef double WAIT_PAYS = 0.92                # of the cost of a row, or less, at twice the rows: a wait is tried
cdef int64_t WAIT_PART = 4                  # a wait is at most one part in so many of the target

cdef double MATERIAL = 1.25                 # times what was last told, or one part in, counts as a change


# ---------------------------------------------------------------------------- one queue

cdef void tuner_init(Tuner* tuner, const TunerSettings* settings) noexcept nogil:
    """Begin to learn. Values out of range are brought into it."""
    memset(tuner, 0, sizeof(Tuner))
    tuner.settings = settings[0]
    tuner.settings.max_rows = min(max(settings.max_rows, 1), LARGEST)
    tuner.settings.max_concurrency = max(settings.max_concurrency, 1)
    curve_reset(&tuner.curve)
    arms_init(&tuner.arms, settings.arm)
    search_init(&tuner.search, tuner.settings.max_concurrency)
    tuner.rows_limit = tuner.settings.max_rows
    if settings.target_ns > 0:
        tuner.rows_limit = min(tuner.rows_limit, FIRST_ROWS)
    tuner.hold_ns = HOLD_NS
    tuner.told_rows = tuner.rows_limit
    tuner.told_concurrency = tuner.settings.max_concurrency
    tuner.told_arm = tuner.arms.current
    take_choices(tuner)
    tuner.told_wait_ns = tuner.wait_ns


cdef void tuner_began(Tuner* tuner, int64_t now, int64_t rows, int running) noexcept nogil:
    """A batch starts to run; `running` are the active runs of this queue, this one included."""
    tuner.in_flight += rows
    search_running(&tuner.search, now, running)
    take_choices(tuner)     # after idle time: nothing waits


cdef void tuner_ended(Tuner* tuner, int64_t now, int64_t rows, int64_t run_ns, int arm, int running,
                      int64_t rows_waiting) noexcept nogil:
    """A batch has run. `running` are the runs that go on, without this one.

    `rows` are the same as when it began: those of requests, without padding. `run_ns` is 0 if the
    run failed and its time tells nothing; `arm` is where it ran; `rows_waiting` are queued and not
    in a run.
    """
    tuner.in_flight = max(tuner.in_flight - rows, 0)
    search_running(&tuner.search, now, running)
    if tuner.reviewed_ns == 0:
        tuner.reviewed_ns = now
        latency_clear(&tuner.latencies, now)
        tuner.cleared_ns = now
    if run_ns > 0:
        learn_run(tuner, now, rows, run_ns, arm)
    learn_drain(tuner, now, rows, rows_waiting)
    learn_batch(tuner, rows, rows_waiting)
    search_ended(&tuner.search, now, rows, run_ns, rows_waiting)
    if now - tuner.reviewed_ns >= REVIEW_NS:
        review(tuner, now)
    take_choices(tuner)


cdef int tuner_choose_arm(Tuner* tuner) noexcept nogil:
    """Where the next run goes, ARM_CALLER or ARM_POOL. Asked once for each run."""
    return arms_choose(&tuner.arms)


cdef int64_t tuner_rows_now(const Tuner* tuner, int64_t rows_waiting) noexcept nogil:
    """The most rows of the run that is formed now; at least 1.

    Below rows_limit while several runs at once are kept busy: each takes its share of what is
    there. Else one long run takes nearly all, and the others go round with a few rows each.
    """
    cdef int64_t runs = tuner.concurrency
    if runs == 1 or tuner.search.state == SEARCH_FREE:
        return tuner.rows_limit
    return min(max((rows_waiting + tuner.in_flight + runs - 1) // runs, 1), tuner.rows_limit)


cdef void take_choices(Tuner* tuner) noexcept nogil:
    """Put what the search says into the fields that the scheduler reads."""
    tuner.concurrency = tuner.search.now.concurrency
    if tuner.settings.target_ns <= 0:
        tuner.wait_ns = tuner.settings.max_wait_ns
        tuner.rows_enough = tuner.rows_limit if tuner.wait_ns > 0 else 1
        return
    tuner.wait_ns = tuner.search.now.wait_ns
    tuner.rows_enough = 1
    if tuner.wait_ns > 0:
        # All that were there when the last batches ended: the next ones need not wait for more.
        tuner.rows_enough = min(max(<int64_t>(tuner.gathered_rows + 0.5), 1), tuner.rows_limit)


# ---------------------------------------------------------------------------- what is known

cdef int64_t tuner_run_ns(const Tuner* tuner, int64_t rows) noexcept nogil:
    """The expected time of a run of so many rows; 0 while nothing is known."""
    return <int64_t>curve_ns(&tuner.curve, rows)


cdef int64_t tuner_run_slow_ns(const Tuner* tuner, int64_t rows) noexcept nogil:
    """A time that 19 of 20 runs of so many rows keep; 0 while nothing is known."""
    return <int64_t>(curve_ns(&tuner.curve, rows) * tuner.curve.slow_ratio)


cdef int64_t tuner_row_ns(const Tuner* tuner) noexcept nogil:
    """The time in which the queue drains by one row while rows wait; 0 while nothing is known.

    Whatever else the workers do is in it: `rows ahead * row_ns` is the wait to be expected.
    """
    cdef int64_t rows
    if tuner.drain_batches >= FEW_DRAINED and tuner.drain_rows > 0:
        return tuner.drain_ns // tuner.drain_rows
    rows = min(tuner.rows_limit, trusted_rows(tuner))
    return <int64_t>(curve_ns(&tuner.curve, rows) / (rows * tuner.concurrency))


cdef int64_t tuner_p99_ns(const Tuner* tuner) noexcept nogil:
    """The 99th percentile of latency over the last second or two; 0 without requests."""
    return latency_p99(&tuner.latencies)


cdef int64_t trusted_rows(const Tuner* tuner) noexcept nogil:
    """The largest run that the curve is asked about."""
    return max(FIRST_ROWS, FURTHER * tuner.curve.largest_rows)


# ---------------------------------------------------------------------------- learning

cdef void learn_run(Tuner* tuner, int64_t now, int64_t rows, int64_t run_ns, int arm) noexcept nogil:
    cdef double expected = curve_ns(&tuner.curve, rows)
    cdef double factor = arms_learn(
        &tuner.arms, now, arm, run_ns / expected if expected > 0 else 0, run_ns)
    if factor != 1:
        curve_scale(&tuner.curve, factor)
        return
    if arm != tuner.arms.current:
        return      # the curve is that of the current arm
    if curve_learn(&tuner.curve, rows, run_ns):
        arms_explore(&tuner.arms)
        tuner.drain_ns = <int64_t>(tuner.drain_ns * tuner.curve.streak_ratio)
        tuner.steered = False
        tuner.rows_before = 0
        tuner.hold_until_ns = 0


cdef void learn_drain(Tuner* tuner, int64_t now, int64_t rows, int64_t rows_waiting) noexcept nogil:
    """From one end to the next these rows have left, if rows waited all that time."""
    if tuner.was_waiting:
        tuner.drain_ns += max(now - tuner.ended_ns, 0)
        tuner.drain_rows += rows
        tuner.drain_batches += 1
        if tuner.drain_ns > 2 * DRAIN_NS and tuner.drain_batches > 2 * DRAIN_BATCHES:
            tuner.drain_ns //= 2
            tuner.drain_rows //= 2
            tuner.drain_batches //= 2
    tuner.was_waiting = rows_waiting > 0
    tuner.ended_ns = now


cdef void learn_batch(Tuner* tuner, int64_t rows, int64_t rows_waiting) noexcept nogil:
    if tuner.mean_rows == 0:
        tuner.mean_rows = rows
        tuner.gathered_rows = rows + rows_waiting
    tuner.mean_rows += GAIN * (rows - tuner.mean_rows)
    tuner.gathered_rows += GAIN * (rows + rows_waiting - tuner.gathered_rows)
    tuner.batches += 1
    tuner.full_batches += rows * 10 >= tuner.rows_limit * 9
    tuner.backlogged += rows_waiting > tuner.rows_limit


# ---------------------------------------------------------------------------- the review

cdef void review(Tuner* tuner, int64_t now) noexcept nogil:
    """Choose again, from what has been learned since the last review."""
    cdef int64_t passed = now - tuner.reviewed_ns
    cdef double rate = tuner.arrived / <double>passed
    if passed > 20 * REVIEW_NS:     # a long pause: what was before tells nothing
        tuner.arrival_rate = rate
    else:
        tuner.arrival_rate += ARRIVAL_GAIN * (rate - tuner.arrival_rate)
    tuner.arrived = 0
    tuner.reviewed_ns = now
    latency_slide(&tuner.latencies, now)
    if tuner.curve.samples >= FEW_SAMPLES:
        if tuner.settings.target_ns > 0:
            choose_for_target(tuner, now)
        else:
            choose_for_throughput(tuner)
    count_changes(tuner)


cdef void choose_for_throughput(Tuner* tuner) noexcept nogil:
    """Take what is there, but no rows that make a long run longer and none of them cheaper.

    Only sizes that were seen count: where the curve is a guess, larger runs have to be tried.
    """
    cdef int64_t most = tuner.settings.max_rows
    cdef int64_t seen = min(most, tuner.curve.largest_rows)
    cdef int64_t rows = max(curve_rows_efficient(&tuner.curve, FLAT, seen),
                            curve_rows_within(&tuner.curve, LONG_RUN_NS, seen))
    if rows * MATERIAL > seen:
        rows = most
    # A limit that is in force stays until it is clearly wrong; so it does not follow noise.
    if differs(rows, tuner.rows_limit, MATERIAL):
        tuner.rows_limit = rows


cdef void count_changes(Tuner* tuner) noexcept nogil:
    """Tell materially different choices. What the search only tries is none."""
    cdef int64_t wait_ns = tuner.search.base.wait_ns
    if tuner.settings.target_ns <= 0:
        wait_ns = tuner.settings.max_wait_ns
    if (tuner.told_concurrency == tuner.search.base.concurrency and tuner.told_arm == tuner.arms.current
            and not differs(tuner.told_rows, tuner.rows_limit, MATERIAL)
            and not differs(tuner.told_wait_ns, wait_ns, MATERIAL)):
        return
    tuner.changes += 1
    tuner.told_rows = tuner.rows_limit
    tuner.told_wait_ns = wait_ns
    tuner.told_concurrency = tuner.search.base.concurrency
    tuner.told_arm = tuner.arms.current


cdef bint differs(double a, double b, double times) noexcept nogil:
    return a > times * b or b > times * a


# ---------------------------------------------------------------------------- under a target

cdef void choose_for_target(Tuner* tuner, int64_t now) noexcept nogil:
    """Choose the largest run and the longest wait that may be tried.

    A request that comes just after a run has begun waits for a worker, and then for its own run:
    the model's choice is the largest run with which both fit. Measured latency corrects it, one
    step at a time; a step that proves bad is taken back, and nothing moves for a while.
    """
    cdef int64_t p99 = tuner_p99_ns(tuner)
    cdef double target = max(<double>tuner.settings.target_ns,
                             LEAST_TARGET_RUNS * curve_ns(&tuner.curve, 1))
    cdef int64_t most = min(tuner.settings.max_rows, trusted_rows(tuner))
    cdef int64_t fits = max(rows_in_time(tuner, target * RUN_PART, most), 1)
    if not tuner.steered:
        follow_model(tuner, now, target, fits)
    elif tuner.rows_limit > fits:
        tuner.rows_limit = fits
    choose_most_wait(tuner, p99)
    if may_step(tuner, now):
        step(tuner, now, p99, fits)


cdef int64_t rows_in_time(const Tuner* tuner, double ns, int64_t most) noexcept nogil:
    """The largest run that 19 times of 20 takes no longer."""
    return curve_rows_within(&tuner.curve, ns / tuner.curve.slow_ratio, most)


cdef int64_t rows_to_keep_up(const Tuner* tuner, int64_t most) noexcept nogil:
    """The smallest limit with which the rows that arrive can be served."""
    cdef double rate = HEADROOM * tuner.arrival_rate / tuner.search.base.concurrency
    return curve_rows_needed(&tuner.curve, 1 / rate, most) if rate > 0 else 1


cdef void follow_model(Tuner* tuner, int64_t now, double target, int64_t fits) noexcept nogil:
    cdef double share = 1 + 1.0 / tuner.search.base.concurrency   # of a run: the wait, and the run
    cdef int64_t rows = rows_in_time(tuner, target * RUN_PART / share, fits)
    cdef bint is_idle
    rows = max(rows, rows_to_keep_up(tuner, fits))
    is_idle = min(rows, tuner.rows_limit) > 4 * tuner.mean_rows
    if differs(rows, tuner.rows_limit, IDLE_NEWS if is_idle else NEWS):
        tuner.rows_limit = rows
        clear_latency(tuner, now)


cdef void choose_most_wait(Tuner* tuner, int64_t p99) noexcept nogil:
    """A wait is tried only where larger batches are cheaper, and where there is time for it."""
    cdef int64_t rows = max(<int64_t>tuner.mean_rows, 1)
    cdef double cost = curve_ns(&tuner.curve, rows) / rows
    cdef double cost_twice = curve_ns(&tuner.curve, 2 * rows) / (2 * rows)
    cdef int64_t spare = tuner.settings.target_ns - p99
    cdef int64_t most
    if rows * 10 >= tuner.rows_limit * 9 or cost_twice > WAIT_PAYS * cost or spare <= 0:
        tuner.search.most_wait_ns = 0
        return
    most = min(spare + tuner.search.base.wait_ns, tuner.settings.target_ns // WAIT_PART)
    if tuner.settings.max_wait_ns > 0:
        most = min(most, tuner.settings.max_wait_ns)
    tuner.search.most_wait_ns = most


cdef bint may_step(const Tuner* tuner, int64_t now) noexcept nogil:
    """Enough was measured since the last step."""
    cdef int64_t counted = <int64_t>tuner.latencies.totals[0] + tuner.latencies.totals[1]
    return counted >= ENOUGH_LATENCIES and now - tuner.cleared_ns >= SETTLE_NS


cdef void step(Tuner* tuner, int64_t now, int64_t p99, int64_t fits) noexcept nogil:
    """Move the limit, or take the last move back."""
    cdef int64_t target = tuner.settings.target_ns
    cdef bint is_over = p99 > target
    cdef bint is_short = tuner.full_batches * 2 > tuner.batches and tuner.backlogged * 2 > tuner.batches
    if tuner.rows_before > 0 and proved_bad(tuner, p99):
        tuner.rows_limit = tuner.rows_before
        tuner.rows_before = 0
        tuner.hold_until_ns = now + tuner.hold_ns
        tuner.hold_ns = min(2 * tuner.hold_ns, LONGEST_HOLD_NS)
        clear_latency(tuner, now)
        return
    if tuner.rows_before > 0:
        tuner.rows_before = 0
        tuner.hold_ns = HOLD_NS
    if is_over and tuner.wait_ns > 0:
        search_cut_wait(&tuner.search, now)
        clear_latency(tuner, now)
    elif now < tuner.hold_until_ns:
        return
    elif is_short and (is_over or p99 < RELAXED * target):
        grow(tuner, now, p99, fits)
    elif is_over and not is_short:
        shrink(tuner, now, p99)


cdef bint proved_bad(const Tuner* tuner, int64_t p99) noexcept nogil:
    if tuner.was_over:
        return p99 > HELPED * tuner.p99_before
    return p99 > tuner.settings.target_ns


cdef void grow(Tuner* tuner, int64_t now, int64_t p99, int64_t fits) noexcept nogil:
    """Rows wait for more than one run: larger ones serve more of them, if they cost less a row."""
    cdef int64_t rows = min(max(<int64_t>(GROW * tuner.rows_limit), tuner.rows_limit + 1), fits)
    cdef double cost = curve_ns(&tuner.curve, tuner.rows_limit) / tuner.rows_limit
    if rows > tuner.rows_limit and curve_ns(&tuner.curve, rows) / rows < SAVES * cost:
        move(tuner, now, p99, rows)


cdef void shrink(Tuner* tuner, int64_t now, int64_t p99) noexcept nogil:
    """Rows do not pile up, so it is the runs that take long. Never below what keeps up."""
    cdef int64_t used = min(tuner.rows_limit, <int64_t>(2 * tuner.mean_rows) + 1)
    cdef int64_t rows = max(<int64_t>(SHRINK * used), rows_to_keep_up(tuner, tuner.rows_limit), 1)
    if rows < tuner.rows_limit:
        move(tuner, now, p99, rows)


cdef void move(Tuner* tuner, int64_t now, int64_t p99, int64_t rows) noexcept nogil:
    tuner.steered = True
    tuner.rows_before = tuner.rows_limit
    tuner.p99_before = p99
    tuner.was_over = p99 > tuner.settings.target_ns
    tuner.rows_limit = rows
    clear_latency(tuner, now)


cdef void clear_latency(Tuner* tuner, int64_t now) noexcept nogil:
    """Measure anew what comes after a step."""
    latency_clear(&tuner.latencies, now)
    tuner.cleared_ns = now
    tuner.batches = 0
    tuner.full_batches = 0
    tuner.backlogged = 0


# ---------------------------------------------------------------------------- what Python sees

cdef dict tuner_describe(const Tuner* tuner):
    """The learned curve and the choices, for a log or a page of counters. Needs the GIL."""
    cdef int64_t rows = 1
    curve = {}
    while tuner.curve.samples > 0 and rows <= min(tuner.settings.max_rows, 2 * tuner.curve.largest_rows):
        curve[rows] = tuner_run_ns(tuner, rows)
        rows *= 2
    return {
        "rows_limit": tuner.rows_limit,
        "rows_enough": tuner.rows_enough,
        "wait_ns": tuner.wait_ns,
        "concurrency": tuner.concurrency,
        "arm": "pool" if tuner.arms.current == ARM_POOL else "caller",
        "changes": tuner.changes,
        "p99_ns": tuner_p99_ns(tuner),
        "row_ns": tuner_row_ns(tuner),
        "rows_per_second": tuner.arrival_rate * 1e9,
        "mean_rows": tuner.mean_rows,
        "saturated": tuner.search.state != SEARCH_FREE,
        "samples": tuner.curve.samples,
        "slow_ratio": tuner.curve.slow_ratio,
        "curve_ns": curve,
    }


cdef class BatchTuner:
    """A tuner for tests and tools. Times are in nanoseconds of any clock that does not go back.

        tuner = BatchTuner(64)
        tuner.began(0, 8, 1)
        tuner.ended(2_000_000, 8, 2_000_000, 0, 0, 0)
        tuner.run_ns(8)         # 2000000

    Not thread-safe, as the native one.
    """

    def __cinit__(
        self,
        max_rows: int,
        *,
        max_concurrency: int = 1,
        target_ns: int = 0,
        max_wait_ns: int = 0,
        arm: int = ARM_EITHER,
    ) -> None:
        cdef TunerSettings settings
        settings.max_rows = max_rows
        settings.max_concurrency = max_concurrency
        settings.target_ns = target_ns
        settings.max_wait_ns = max_wait_ns
        settings.arm = arm
        tuner_init(&self.tuner, &settings)

    @property
    def rows_limit(self) -> int:
        """The most rows of a run."""
        return self.tuner.rows_limit

    @property
    def rows_enough(self) -> int:
        """An open batch of so many rows waits no longer."""
        return self.tuner.rows_enough

    @property
    def wait_ns(self) -> int:
        """How long an open batch waits for more rows once a worker is free."""
        return self.tuner.wait_ns

    @property
    def concurrency(self) -> int:
        """Runs at once."""
        return self.tuner.concurrency

    @property
    def changes(self) -> int:
        """How often a choice has changed materially."""
        return self.tuner.changes

    def arrived(self, rows: int) -> None:
        """A request of so many rows was queued."""
        tuner_arrived(&self.tuner, rows)

    def began(self, now: int, rows: int, running: int) -> None:
        """A batch starts to run; `running` includes it."""
        tuner_began(&self.tuner, now, rows, running)

    def ended(
        self, now: int, rows: int, run_ns: int, arm: int, running: int, rows_waiting: int
    ) -> None:
        """A batch has run; `running` go on without it."""
        tuner_ended(&self.tuner, now, rows, run_ns, arm, running, rows_waiting)

    def latency(self, ns: int) -> None:
        """A request was answered `ns` after it arrived."""
        tuner_latency(&self.tuner, ns)

    def choose_arm(self) -> int:
        """Where the next run goes: 0 the caller's thread, 1 the pool."""
        return tuner_choose_arm(&self.tuner)

    def rows_now(self, rows_waiting: int) -> int:
        """The most rows of the run that is formed now."""
        return tuner_rows_now(&self.tuner, rows_waiting)

    def run_ns(self, rows: int) -> int:
        """The expected time of a run; 0 while nothing is known."""
        return tuner_run_ns(&self.tuner, rows)

    def run_slow_ns(self, rows: int) -> int:
        """A time that 19 of 20 runs keep."""
        return tuner_run_slow_ns(&self.tuner, rows)

    def row_ns(self) -> int:
        """The time in which the queue drains by one row while rows wait."""
        return tuner_row_ns(&self.tuner)

    def p99_ns(self) -> int:
        """The 99th percentile of latency over the last second or two."""
        return tuner_p99_ns(&self.tuner)

    def describe(self) -> dict:
        """All that is known and chosen."""
        return tuner_describe(&self.tuner)
