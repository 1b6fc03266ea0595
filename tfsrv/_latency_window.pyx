"""The latency of the last second or two, as a histogram: its 99th percentile.

Not thread-safe: the caller holds the queue's lock.
"""

from libc.string cimport memset

cdef int64_t HALF_NS = 1_000_000_000        # a half fills for a second …
cdef int64_t LONGEST_HALF_NS = 10_000_000_000   # … or up to ten, until it can tell a percentile:
cdef uint32_t ENOUGH = 200                  # requests; the two slowest of them decide


cdef void latency_clear(LatencyWindow* window, int64_t now) noexcept nogil:
    memset(window, 0, sizeof(LatencyWindow))
    window.since_ns = now


cdef void latency_slide(LatencyWindow* window, int64_t now) noexcept nogil:
    """Forget the older half when the newer one is full."""
    cdef int64_t age = now - window.since_ns
    if age < HALF_NS or (age < LONGEST_HALF_NS and window.totals[window.filling] < ENOUGH):
        return
    window.filling ^= 1
    memset(&window.counts[window.filling][0], 0, sizeof(window.counts[0]))
    window.totals[window.filling] = 0
    window.since_ns = now


cdef int64_t lower_end(int bucket) noexcept nogil:
    if bucket < 8:
        return <int64_t>bucket << LATENCY_UNIT
    return <int64_t>(8 + (bucket & 7)) << (LATENCY_UNIT + (bucket >> 3) - 1)


cdef int64_t latency_p99(const LatencyWindow* window) noexcept nogil:
    """The 99th percentile, within a bucket linear; 0 when there is no request."""
    cdef double above = 0.01 * (<double>window.totals[0] + window.totals[1])
    cdef int bucket = LATENCY_BUCKETS - 1
    cdef int64_t low
    cdef double count
    if above == 0:
        return 0
    while bucket >= 0:
        count = <double>window.counts[0][bucket] + window.counts[1][bucket]
        if count >= above:
            low = lower_end(bucket)
            return low + <int64_t>((lower_end(bucket + 1) - low) * (1 - above / count))
        above -= count
        bucket -= 1
    return 0
