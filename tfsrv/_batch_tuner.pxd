from libc.stdint cimport int64_t
cdef struct TunerSettings:
    int64_t target_ns
    int64_t max_rows
    int64_t wait_ns
    int max_concurrency
    int only_arm
cdef struct Tuner:
    int64_t rows_limit
    int64_t wait_ns
    int concurrency
    int64_t avg
cdef void tuner_init(Tuner* tuner, const TunerSettings* settings) noexcept nogil
cdef void tuner_arrived(Tuner* tuner, int64_t now, int64_t rows) noexcept nogil
cdef void tuner_began(Tuner* tuner, int64_t now, int64_t rows, int running) noexcept nogil
cdef void tuner_ended(Tuner* tuner, int64_t now, int64_t rows, int64_t run_ns, int arm, int running, int64_t rows_waiting) noexcept nogil
cdef void tuner_latency(Tuner* tuner, int64_t ns) noexcept nogil
cdef int tuner_choose_arm(Tuner* tuner) noexcept nogil
cdef int64_t tuner_run_ns(const Tuner* tuner, int64_t rows) noexcept nogil
cdef int64_t tuner_run_slow_ns(const Tuner* tuner, int64_t rows) noexcept nogil
cdef int64_t tuner_row_ns(const Tuner* tuner) noexcept nogil
