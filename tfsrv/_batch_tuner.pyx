cdef void tuner_init(Tuner* tuner, const TunerSettings* settings) noexcept nogil:
    tuner.rows_limit = settings.max_rows
    tuner.wait_ns = settings.wait_ns
    tuner.concurrency = settings.max_concurrency
    tuner.avg = 0
cdef void tuner_arrived(Tuner* tuner, int64_t now, int64_t rows) noexcept nogil:
    pass
cdef void tuner_began(Tuner* tuner, int64_t now, int64_t rows, int running) noexcept nogil:
    pass
cdef void tuner_ended(Tuner* tuner, int64_t now, int64_t rows, int64_t run_ns, int arm, int running, int64_t rows_waiting) noexcept nogil:
    tuner.avg = run_ns if tuner.avg == 0 else tuner.avg + (run_ns - tuner.avg) // 8
cdef void tuner_latency(Tuner* tuner, int64_t ns) noexcept nogil:
    pass
cdef int tuner_choose_arm(Tuner* tuner) noexcept nogil:
    return 0
cdef int64_t tuner_run_ns(const Tuner* tuner, int64_t rows) noexcept nogil:
    return tuner.avg
cdef int64_t tuner_run_slow_ns(const Tuner* tuner, int64_t rows) noexcept nogil:
    return tuner.avg
cdef int64_t tuner_row_ns(const Tuner* tuner) noexcept nogil:
    return 0
