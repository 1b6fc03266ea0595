"""Counts and histograms of requests: native, lock-free, cheap enough for every request."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    BUCKETS = 34            # 33 upper bounds of 10 µs * 1.8^n, and the overflow
    EXAMPLE_BUCKETS = 16    # 15 upper bounds of 2^n, and the overflow
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
    uint64_t examples[16]   # atomic, each; requests by how many tensorflow.Examples they had
    uint64_t examples_sum   # atomic; of Examples
    void* failed[17]        # atomic, each; Histogram, owned: received to answered, by code; NULL: none yet
    void* rest              # atomic; Counters, owned: of requests that came by REST, and here are the others

cdef void histogram_add(Histogram* histogram, int64_t nanoseconds) noexcept nogil
# `rest`: it came by REST. A negative queue_ns or run_ns: the request did not get that far; a negative
# total_ns of one that failed: nobody knows. That histogram is left alone.
cdef void counters_add(
    Counters* counters, bint rest, int code, int64_t total_ns, int64_t queue_ns, int64_t run_ns) noexcept nogil
cdef void examples_add(Counters* counters, bint rest, int64_t examples) noexcept nogil
cdef Counters* counters_of(str model, int64_t version, str signature, str method) except NULL
