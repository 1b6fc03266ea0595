"""How large batches are, how long they wait, how many run at once, and where: one queue's choices.

A tuner watches the batches of one queue and learns from them:

    how long a run of so many rows takes            _run_curve
    how fast rows leave while others wait           tuner_row_ns
    whether several runs at once, or a wait, pay    _load_search
    whether the caller's thread or the pool pays,
    and whether one thread alone does               _run_arms
    which runs keep latency below a target          _target_rows

Without a target nothing waits for a timer (unless the user says so), and a run takes what is
there, but for rows that would only make a long run longer.

Not thread-safe: every call is made under the queue's own lock. There is no clock, no allocation
and no loop over anything of the user's; per request a tuner costs a few nanoseconds, per batch
some tens, and a review, at most 20 times a second, a microsecond.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from tfsrv._latency_window cimport latency_p99, latency_slide
from tfsrv._load_search cimport (
    SEARCH_FREE,
    search_cut_wait,
    search_ended,
    search_init,
    search_running,
)
from tfsrv._run_arms cimport arms_choose, arms_explore, arms_init, arms_learn
from tfsrv._run_curve cimport (
    curve_is_known,
    curve_learn,
    curve_ns,
    curve_reset,
    curve_rows_efficient,
    curve_rows_needed,
    curve_rows_trusted,
    curve_rows_within,
    curve_scale,
)
from tfsrv._target_rows cimport (
    TargetLoad,
    target_clear,
    target_ended,
    target_init,
    target_restart,
    target_review,
)

cdef int64_t REVIEW_NS = 50_000_000         # between two reviews of the choices
cdef int64_t LARGEST = 1 << 40              # rows; beyond any use, and safe to multiply
cdef double LONGEST_NS = 1e18               # thirty years; some can be added without overflow
cdef double GAIN = 1 / 16.0                 # of one batch, in means over recent batches
cdef double ARRIVAL_GAIN = 0.3              # of one review, in the rate of arrival
cdef int64_t DRAIN_NS = 500_000_000         # of drain are remembered in full …
cdef int DRAIN_BATCHES = 16                 # … if they are so many batches; twice that halves
cdef int FEW_DRAINED = 4                    # batches say nothing yet of the drain
cdef int64_t FEW_SAMPLES = 8                # runs; the curve is not asked before
cdef double FLAT = 1.03                     # times the least cost of a row: no reason for a larger run
cdef double HEADROOM = 1.1                  # times the rate of arrival: what a limit has to be able to serve
cdef int64_t LONG_RUN_NS = 20_000_000       # shorter runs are never cut: nobody feels them

cdef double GATHER_PART = 0.125             # of a run: the longest wait where latency is not asked for
cdef double GATHER_PAYS = 0.92              # times the cost of a row, or less, at twice the rows: it is tried
cdef int DOUBTS = 20                        # reviews in a row, a second, that say the limit is wrong

cdef double SHORTER = 0.75                  # of the time of one run for all: worth runs side by side …
cdef int64_t SHORTER_NS = 1_000_000         # … if it is so much less

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
    target_init(&tuner.target, settings.target_ns, tuner.settings.max_rows, settings.max_wait_ns)
    tuner.rows_limit = tuner.target.rows_limit if settings.target_ns > 0 else tuner.settings.max_rows
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
        target_clear(&tuner.target, now)
    if run_ns > 0:
        learn_run(tuner, now, rows, run_ns, arm)
    learn_drain(tuner, now, rows, rows_waiting)
    learn_batch(tuner, rows, rows_waiting)
    search_ended(&tuner.search, now, rows, run_ns, rows_waiting)
    if now - tuner.reviewed_ns >= REVIEW_NS:
        review(tuner, now)
    take_choices(tuner)


cdef int tuner_choose_arm(Tuner* tuner) noexcept nogil:
    """Where the next run goes: ARM_CALLER, ARM_POOL or ARM_SINGLE. Asked once for each run."""
    return arms_choose(&tuner.arms)


cdef int64_t tuner_rows_now(const Tuner* tuner, int64_t rows_waiting) noexcept nogil:
    """The most rows of the run that is formed now; at least 1.

    Below rows_limit while several runs at once are kept busy: each takes its share of what is
    there. Else one long run takes nearly all, and the others go round with a few rows each. And,
    unless the user wants batches to fill up, where so many rows are there at once that runs side by
    side are much shorter: else all clients would come, wait and go together, on one worker.
    """
    cdef int64_t runs = tuner.concurrency
    cdef int64_t share
    if runs == 1:
        return tuner.rows_limit
    share = max((rows_waiting + tuner.in_flight + runs - 1) // runs, 1)
    if share >= tuner.rows_limit or (
        tuner.search.state == SEARCH_FREE and not is_worth_sharing(tuner, rows_waiting, share)
    ):
        return tuner.rows_limit
    return share


cdef bint is_worth_sharing(const Tuner* tuner, int64_t rows_waiting, int64_t share) noexcept nogil:
    cdef int64_t together_ns, shared_ns
    if tuner.settings.max_wait_ns > 0 or rows_waiting <= share:
        return False
    if rows_waiting > tuner.curve.largest_rows:
        return False  # what it takes is a guess: see it once
    together_ns = tuner_run_ns(tuner, min(rows_waiting, tuner.rows_limit))
    shared_ns = tuner_run_ns(tuner, share)
    return together_ns - shared_ns > SHORTER_NS and shared_ns < SHORTER * together_ns


cdef bint searches_wait(const Tuner* tuner) noexcept nogil:
    """The wait is what proves good; else it is the user's, or none."""
    return tuner.settings.target_ns > 0 or (tuner.settings.may_gather and tuner.settings.max_wait_ns <= 0)


cdef void take_choices(Tuner* tuner) noexcept nogil:
    """Put what the search says into the fields that the scheduler reads."""
    tuner.concurrency = tuner.search.now.concurrency
    if not searches_wait(tuner):
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
    return <int64_t>min(curve_ns(&tuner.curve, rows), LONGEST_NS)


cdef int64_t tuner_run_slow_ns(const Tuner* tuner, int64_t rows) noexcept nogil:
    """A time that 19 of 20 runs of so many rows keep; 0 while nothing is known."""
    return <int64_t>min(curve_ns(&tuner.curve, rows) * tuner.curve.slow_ratio, LONGEST_NS)


cdef int64_t tuner_row_ns(const Tuner* tuner) noexcept nogil:
    """The time in which the queue drains by one row while rows wait; 0 while nothing is known.

    Whatever else the workers do is in it: `rows ahead * row_ns` is the wait to be expected. But
    where batches were small, the drain was as slow as they are, and larger ones would be refused
    for it before they could show that they cost no more: what the curve says of these counts, too.
    """
    cdef int64_t rows = min(tuner.rows_limit, curve_rows_trusted(&tuner.curve))
    cdef int64_t row_ns = <int64_t>(curve_ns(&tuner.curve, rows) / (rows * tuner.concurrency))
    if tuner.drain_batches >= FEW_DRAINED and tuner.drain_rows > 0:
        return min(row_ns, tuner.drain_ns // tuner.drain_rows)
    return row_ns


cdef int64_t tuner_p99_ns(const Tuner* tuner) noexcept nogil:
    """The 99th percentile of latency over the last second or two; 0 without requests."""
    return latency_p99(&tuner.target.latencies)


# ---------------------------------------------------------------------------- learning

cdef void learn_run(Tuner* tuner, int64_t now, int64_t rows, int64_t run_ns, int arm) noexcept nogil:
    cdef double ratio = 0       # unknown
    cdef double factor
    if curve_is_known(&tuner.curve, rows):
        ratio = run_ns / curve_ns(&tuner.curve, rows)
    factor = arms_learn(&tuner.arms, now, arm, ratio, run_ns)
    if factor != 1:
        curve_scale(&tuner.curve, factor)
        return
    if arm != tuner.arms.current:
        return      # the curve is that of the current arm
    if curve_learn(&tuner.curve, rows, run_ns):
        arms_explore(&tuner.arms)
        tuner.drain_ns = <int64_t>(tuner.drain_ns * tuner.curve.streak_ratio)
        target_restart(&tuner.target)


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
    target_ended(&tuner.target, rows, rows_waiting)


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
    latency_slide(&tuner.target.latencies, now)
    if tuner.curve.samples >= FEW_SAMPLES:
        if tuner.settings.target_ns > 0:
            choose_for_target(tuner, now)
        else:
            choose_for_throughput(tuner)
            choose_gathering(tuner)
    count_changes(tuner)


cdef void choose_for_throughput(Tuner* tuner) noexcept nogil:
    """Take what is there, but no rows that make a long run longer and none of them cheaper.

    Only sizes that were seen count: where the curve is a guess, larger runs have to be tried.
    """
    cdef int64_t most = tuner.settings.max_rows
    cdef int64_t seen = min(most, tuner.curve.largest_rows)
    cdef int64_t rows = max(curve_rows_efficient(&tuner.curve, FLAT, seen),
                            curve_rows_within(&tuner.curve, LONG_RUN_NS, seen))
    cdef double rate = HEADROOM * tuner.arrival_rate / tuner.search.base.concurrency
    # A load that no size can serve is no reason either: some of it is refused, late or not.
    if 0 < rate * curve_ns(&tuner.curve, seen) <= HEADROOM * seen:
        rows = max(rows, curve_rows_needed(&tuner.curve, 1 / rate, seen))
    if rows * MATERIAL > seen:
        rows = most
    # A limit that is in force stays until it has been clearly wrong for a while.
    tuner.doubts = tuner.doubts + 1 if differs(rows, tuner.rows_limit, MATERIAL) else 0
    if tuner.doubts >= DOUBTS:
        tuner.rows_limit = rows
        tuner.doubts = 0


cdef void choose_gathering(Tuner* tuner) noexcept nogil:
    """Allow waits that are short beside a run, where larger batches are cheaper."""
    cdef int64_t rows = max(<int64_t>tuner.mean_rows, 1)
    cdef double run_ns = curve_ns(&tuner.curve, rows)
    cdef bint pays = curve_ns(&tuner.curve, 2 * rows) <= GATHER_PAYS * 2 * run_ns
    tuner.search.most_wait_ns = <int64_t>(GATHER_PART * run_ns) if pays and searches_wait(tuner) else 0


cdef void choose_for_target(Tuner* tuner, int64_t now) noexcept nogil:
    cdef TargetLoad load
    load.arrival_rate = tuner.arrival_rate
    load.mean_rows = tuner.mean_rows
    load.wait_ns = tuner.wait_ns
    load.base_wait_ns = tuner.search.base.wait_ns
    load.concurrency = tuner.search.base.concurrency
    if target_review(&tuner.target, now, &tuner.curve, &load):
        search_cut_wait(&tuner.search, now)
    tuner.rows_limit = tuner.target.rows_limit
    tuner.search.most_wait_ns = tuner.target.most_wait_ns


cdef void count_changes(Tuner* tuner) noexcept nogil:
    """Tell materially different choices. What the search only tries is none."""
    cdef int64_t wait_ns = tuner.search.base.wait_ns
    if not searches_wait(tuner):
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
        "arm": arm_name(tuner.arms.current),
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


cdef str arm_name(int arm):
    if arm == ARM_POOL:
        return "pool"
    return "single" if arm == ARM_SINGLE else "caller"


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
        may_gather: bool = False,
    ) -> None:
        cdef TunerSettings settings
        settings.max_rows = max_rows
        settings.max_concurrency = max_concurrency
        settings.target_ns = target_ns
        settings.max_wait_ns = max_wait_ns
        settings.arm = arm
        settings.may_gather = may_gather
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
        """Where the next run goes: 0 the caller's thread, 1 the pool, 2 that thread alone."""
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
