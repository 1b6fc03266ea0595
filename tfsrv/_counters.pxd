"""Counts and histograms of requests: native, lock-free, cheap enough for every request."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    BUCKETS = 34            # 33 upper bounds of 10 µs * 1.8^n, and the overflow
    CODES = 17


cdef struct Histogram:
    uint64_t buckets[34]    # atomic, each; how many values each bucket got
    uint64_t sum_nanoseconds    # atomic


cdef struct Counters:
    # Of one (model, version, signature, method). Any thread may add; memory lives for ever.
    uint64_t codes[17]      # atomic, each; requests answered, by code
    Histogram total         # received to answered; OK only, as in TensorFlow Serving
    Histogram queue         # received to run
    Histogram run           # the session's run

cdef void histogram_add(Histogram* histogram, int64_t nanoseconds) noexcept nogil
# A negative queue_ns or run_ns: the request did not get that far, and the histogram is left alone.
cdef void counters_add(
    Counters* counters, int code, int64_t total_ns, int64_t queue_ns, int64_t run_ns) noexcept nogil
cdef Counters* counters_of(str model, int64_t version, str signature, str method) except NULL
