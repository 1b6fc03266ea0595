"""How many runs at once, and how long a wait, complete the most rows."""

from libc.stdint cimport int32_t, int64_t

cdef enum SearchState:
    SEARCH_FREE                 # not saturated: as many runs as there may be, no wait
    SEARCH_BASE                 # measures the base, then tries a candidate
    SEARCH_TRIAL                # measures a candidate
    SEARCH_BASE_AGAIN           # the candidate was better; is it, a second time?
    SEARCH_TRIAL_AGAIN
    SEARCH_SETTLED              # the base is the best


cdef struct LoadPoint:
    # What is chosen here.
    int32_t concurrency
    int64_t wait_ns


cdef struct LoadWindow:
    # What happened since its begin.
    int64_t since_ns
    int64_t active_ns           # with some run active
    double running_ns           # the same, times the runs
    int64_t rows                # completed
    double run_ns               # of all batches together
    double run_squares          # of the time of each batch, summed
    int32_t batches
    int32_t waited              # batches at whose end rows were waiting


cdef struct LoadDone:
    # What one or two windows have completed.
    int64_t rows
    int64_t ns
    double variance             # of the rate, relative


cdef struct LoadSearch:
    # Plain memory without owner; see search_init.
    int32_t max_concurrency
    int64_t most_wait_ns        # a wait may be tried up to this; 0: none may
    LoadPoint now               # in force
    LoadPoint base              # the best so far
    LoadPoint candidate
    LoadWindow window
    SearchState state
    int32_t running             # runs active since `last_ns`
    int64_t last_ns
    int32_t settling            # batches to pass before the window begins
    int32_t in_a_row            # windows that spoke for a change of state
    int32_t next_candidate
    int32_t worse               # candidates of this base that were worse; one bit each
    int32_t looks               # searches since the last of those was tried
    bint found                  # since the search began
    LoadDone base_done
    LoadDone trial_done
    double settled_rate         # rows per ns
    int64_t look_again_ns       # when
    int64_t pause_ns            # from one search to the next

cdef void search_init(LoadSearch* search, int max_concurrency) noexcept nogil
cdef void search_running(LoadSearch* search, int64_t now, int running) noexcept nogil
cdef void search_ended(LoadSearch* search, int64_t now, int64_t rows, int64_t run_ns,
                       int64_t rows_waiting) noexcept nogil
cdef void search_cut_wait(LoadSearch* search, int64_t now) noexcept nogil
