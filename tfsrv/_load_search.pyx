"""How many runs at once, and how long a wait, complete the most rows: found by trying.

On a CPU two runs at once may each take twice as long and only split the waiting requests into
more, smaller batches; for a callable that waits, or a GPU, two at once nearly double throughput.
A short wait can let the clients of the last batch join the next one, or be pure loss. No model
tells, so this measures: while the queue is saturated it counts rows per second in *windows*, of
the best point so far (the base) and of a neighbour, in turn and twice, and keeps the better.

    free → base → trial → base again → trial again → base (the better one) → …
              ↘ settled (no neighbour is better)  → base (after a pause, or on change)
    any → free (no longer saturated)

Not thread-safe: the caller holds the queue's lock.
"""

from libc.math cimport sqrt
from libc.string cimport memset

cdef int64_t WINDOW_NS = 100_000_000            # at least: time slices of the system average out
cdef int WINDOW_BATCHES = 20                    # at least: noise of 20 % a batch becomes 4 %
cdef double ERROR = 0.025                       # of its rate: a window is longer if the load is less steady …
cdef int64_t LONG_WINDOW_NS = 1_000_000_000     # … up to this; then a gain has to be larger to be believed
cdef double SATURATED = 0.9                     # of the time some run is active
cdef double FULL = 0.8                          # of the runs there may be at once are active, on average
cdef double IDLE = 0.5                          # of the time a run is active: light load, beyond doubt
cdef int64_t IDLE_NS = 50_000_000               # without any run is light load at once
cdef double BETTER = 1.05                       # times the base's rate; less is not worth a change
cdef double SURE = 2.0                          # standard errors of the difference are no chance
cdef double CHANGED = 0.2                       # of the settled rate: look again at once
cdef int IN_A_ROW = 2                           # windows have to agree before the state changes
cdef double RATE_GAIN = 0.1                     # of one window, in the settled rate
cdef int64_t FIRST_PAUSE_NS = 10_000_000_000    # from a search to the next …
cdef int64_t LONGEST_PAUSE_NS = 60_000_000_000  # … doubled up to this while nothing better is found
cdef int FORGIVE = 4                            # searches; what was worse is tried again in each so many
cdef int CANDIDATES = 8                         # see candidate_of


cdef void search_init(LoadSearch* search, int max_concurrency) noexcept nogil:
    memset(search, 0, sizeof(LoadSearch))
    search.max_concurrency = max(max_concurrency, 1)
    search.now.concurrency = search.max_concurrency
    search.base = search.now
    search.pause_ns = FIRST_PAUSE_NS // 2


# ---------------------------------------------------------------------------- what happens

cdef void search_running(LoadSearch* search, int64_t now, int running) noexcept nogil:
    """From `now` on so many runs are active."""
    cdef int64_t passed = max(now - search.last_ns, 0)
    if search.running > 0:
        search.window.active_ns += passed
        search.window.running_ns += <double>passed * search.running
    elif passed > IDLE_NS and search.last_ns > 0:
        set_free(search, now)
    search.running = running
    search.last_ns = now


cdef void search_ended(LoadSearch* search, int64_t now, int64_t rows, int64_t run_ns,
                       int64_t rows_waiting) noexcept nogil:
    """A batch has ended. The choice may be another one afterwards."""
    cdef LoadWindow* window = &search.window
    cdef int64_t elapsed
    if search.settling > 0:
        search.settling -= 1
        if search.settling == 0:
            begin_window(search, now)
        return
    window.rows += rows
    window.run_ns += run_ns
    window.run_squares += <double>run_ns * run_ns
    window.batches += 1
    window.waited += rows_waiting > 0
    elapsed = now - window.since_ns
    if elapsed < WINDOW_NS:
        return
    if active_part(search, elapsed) < SATURATED:
        unsaturated(search, now, active_part(search, elapsed) < IDLE)
    elif window.batches >= WINDOW_BATCHES and tells_enough(search, elapsed):
        if is_full(search, elapsed):
            saturated(search, now, elapsed)
        else:
            unsaturated(search, now, False)


cdef double active_part(const LoadSearch* search, int64_t elapsed) noexcept nogil:
    """How much of the window some run was active, or may have been waited for on purpose."""
    cdef double waited = <double>search.now.wait_ns * search.window.batches
    return min(search.window.active_ns + waited, <double>elapsed) / elapsed


cdef bint is_full(const LoadSearch* search, int64_t elapsed) noexcept nogil:
    """Rows waited for a worker, or all runs that there may be were active."""
    cdef double waited = <double>search.now.wait_ns * search.window.batches
    return (search.window.waited * 2 >= search.window.batches
            or search.window.running_ns + waited >= FULL * search.now.concurrency * elapsed)


cdef bint tells_enough(const LoadSearch* search, int64_t elapsed) noexcept nogil:
    """The window's rate is precise, or as good as it gets. Where none is asked for, any will do."""
    return (search.state == SEARCH_FREE or elapsed >= LONG_WINDOW_NS
            or variance_of(&search.window) <= ERROR * ERROR)


cdef double variance_of(const LoadWindow* window) noexcept nogil:
    """The relative variance of the window's rate: from chance in who comes, and in the times of runs."""
    cdef double mean = window.run_ns / window.batches
    cdef double spread = window.run_squares / window.batches / (mean * mean) - 1 if mean > 0 else 0
    return 1.0 / max(window.rows, 1) + max(spread, 0.0) / window.batches


cdef void begin_window(LoadSearch* search, int64_t now) noexcept nogil:
    memset(&search.window, 0, sizeof(LoadWindow))
    search.window.since_ns = now


cdef void use(LoadSearch* search, int64_t now, LoadPoint point) noexcept nogil:
    """Put a choice in force. The runs that were begun under the last one are not counted."""
    if point.concurrency == search.now.concurrency and point.wait_ns == search.now.wait_ns:
        begin_window(search, now)
        return
    search.settling = search.now.concurrency + point.concurrency + 2
    search.now = point
    begin_window(search, now)


# ---------------------------------------------------------------------------- saturated or not

cdef void unsaturated(LoadSearch* search, int64_t now, bint beyond_doubt) noexcept nogil:
    if search.state == SEARCH_FREE:
        search.in_a_row = 0
        begin_window(search, now)
        return
    search.in_a_row = search.in_a_row + 1 if search.in_a_row > 0 else 1
    if beyond_doubt or search.in_a_row >= IN_A_ROW:
        set_free(search, now)
    else:
        begin_window(search, now)


cdef void set_free(LoadSearch* search, int64_t now) noexcept nogil:
    """Light load: an idle worker takes what is there at once. What was learned is kept."""
    cdef LoadPoint free
    free.concurrency = search.max_concurrency
    free.wait_ns = 0
    search.state = SEARCH_FREE
    search.in_a_row = 0
    use(search, now, free)


cdef void saturated(LoadSearch* search, int64_t now, int64_t elapsed) noexcept nogil:
    """A window is full."""
    if search.state == SEARCH_FREE:
        search.in_a_row += 1
        if search.in_a_row < IN_A_ROW:
            begin_window(search, now)
        elif search.look_again_ns > 0:      # learned before
            settle(search, now)
        else:
            look(search, now)
        return
    if search.state == SEARCH_SETTLED:
        watch(search, now, search.window.rows / <double>elapsed)
        return
    search.in_a_row = 0
    if search.state == SEARCH_BASE:
        take_first(&search.base_done, &search.window, elapsed)
        try_next(search, now)
    elif search.state == SEARCH_TRIAL:
        take_first(&search.trial_done, &search.window, elapsed)
        search.state = SEARCH_BASE_AGAIN if is_better(search, SURE / 2) else SEARCH_BASE
        if rate_of(search.trial_done) < rate_of(search.base_done):
            search.worse |= 1 << (search.next_candidate - 1)
        use(search, now, search.base)
    elif search.state == SEARCH_BASE_AGAIN:
        take_second(&search.base_done, &search.window, elapsed)
        search.state = SEARCH_TRIAL_AGAIN
        use(search, now, search.candidate)
    else:
        take_second(&search.trial_done, &search.window, elapsed)
        if is_better(search, SURE):
            search.base = search.candidate
            search.next_candidate = 0
            search.worse = 0
            search.found = True
        search.state = SEARCH_BASE
        use(search, now, search.base)


# ---------------------------------------------------------------------------- the search

cdef void take_first(LoadDone* done, const LoadWindow* window, int64_t elapsed) noexcept nogil:
    done.rows = window.rows
    done.ns = elapsed
    done.variance = variance_of(window)


cdef void take_second(LoadDone* done, const LoadWindow* window, int64_t elapsed) noexcept nogil:
    done.rows += window.rows
    done.ns += elapsed
    done.variance = (done.variance + variance_of(window)) / 4


cdef bint is_better(const LoadSearch* search, double errors) noexcept nogil:
    """The candidate completes more rows in the same time, by more than the chance of arrivals."""
    cdef double base = rate_of(search.base_done)
    cdef double gain = rate_of(search.trial_done) / base - 1
    cdef double error = sqrt(search.base_done.variance + search.trial_done.variance)
    return gain > max(BETTER - 1, errors * error)


cdef double rate_of(LoadDone done) noexcept nogil:
    """Rows per ns."""
    return done.rows / <double>done.ns


cdef void look(LoadSearch* search, int64_t now) noexcept nogil:
    """Begin a search around the base. What costs clients their latency is not tried each time."""
    search.looks += 1
    if search.looks >= FORGIVE:
        search.looks = 0
        search.worse = 0
    search.next_candidate = 0
    search.found = False
    search.in_a_row = 0
    search.state = SEARCH_BASE
    use(search, now, search.base)


cdef void try_next(LoadSearch* search, int64_t now) noexcept nogil:
    """Try the next neighbour of the base, or settle for it."""
    cdef int64_t run_ns = <int64_t>(search.window.run_ns / max(search.window.batches, 1))
    cdef int index
    while search.next_candidate < CANDIDATES:
        index = search.next_candidate
        search.next_candidate += 1
        if not search.worse >> index & 1 and candidate_of(search, index, run_ns):
            search.state = SEARCH_TRIAL
            use(search, now, search.candidate)
            return
    search.pause_ns = FIRST_PAUSE_NS if search.found else min(2 * search.pause_ns, LONGEST_PAUSE_NS)
    search.look_again_ns = now + search.pause_ns
    search.settled_rate = rate_of(search.base_done)
    settle(search, now)


cdef bint candidate_of(LoadSearch* search, int index, int64_t run_ns) noexcept nogil:
    """Set the neighbour number `index` of the base. False if there is no such."""
    cdef int32_t runs = search.base.concurrency
    cdef int64_t wait_ns = search.base.wait_ns
    if index == 0:
        runs = runs // 2
    elif index == 1:
        runs = min(2 * runs, search.max_concurrency)
    elif index == 2:
        runs = runs - 1 if runs > 2 else 0
    elif index == 3:
        runs = runs + 1 if runs > 1 and 2 * runs > runs + 1 else 0
    elif wait_ns == 0:      # an eighth, a quarter, half, a sixteenth of the time of a run
        wait_ns = run_ns >> (7 - index if index < 7 else 4)
    elif index == 4:
        wait_ns = 2 * wait_ns if 4 * wait_ns <= run_ns else -1
    elif index == 5:
        wait_ns = wait_ns // 2
    elif index == 6:
        wait_ns = 0
    if runs < 1 or runs > search.max_concurrency or wait_ns < 0:
        return False
    if wait_ns > search.base.wait_ns and wait_ns > search.most_wait_ns:
        return False
    if runs == search.base.concurrency and wait_ns == search.base.wait_ns:
        return False
    search.candidate.concurrency = runs
    search.candidate.wait_ns = wait_ns
    return True


cdef void settle(LoadSearch* search, int64_t now) noexcept nogil:
    search.state = SEARCH_SETTLED
    search.in_a_row = 0
    use(search, now, search.base)


cdef void watch(LoadSearch* search, int64_t now, double rate) noexcept nogil:
    """While settled: look again when the pause is over, or the rate is another one."""
    search.in_a_row = min(search.in_a_row, 0)   # below zero: windows with another rate
    if abs(rate - search.settled_rate) > CHANGED * search.settled_rate:
        search.in_a_row -= 1
    else:
        search.in_a_row = 0
        search.settled_rate += RATE_GAIN * (rate - search.settled_rate)
    if -search.in_a_row >= IN_A_ROW:
        search.pause_ns = FIRST_PAUSE_NS // 2
        search.worse = 0
        look(search, now)
    elif now >= search.look_again_ns:
        look(search, now)
    else:
        begin_window(search, now)


cdef void search_cut_wait(LoadSearch* search, int64_t now) noexcept nogil:
    """Latency is too high with this wait: go on with half of it, or without one if it is short."""
    cdef int64_t wait_ns = search.base.wait_ns // 2
    if search.window.batches > 0 and wait_ns * 32 < search.window.run_ns / search.window.batches:
        wait_ns = 0
    search.base.wait_ns = wait_ns
    search.worse = 0
    search.pause_ns = min(2 * search.pause_ns, LONGEST_PAUSE_NS)
    search.look_again_ns = now + search.pause_ns
    settle(search, now)
