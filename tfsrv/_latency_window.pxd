"""The latency of the last second or two, as a histogram."""

from libc.stdint cimport int64_t, uint32_t

cdef extern from *:
    int _clz64 "__builtin_clzll"(unsigned long long) noexcept nogil

cdef enum:
    LATENCY_BUCKETS = 160       # eight to the octave from 16 µs up to 8.6 s, the last one open
    LATENCY_UNIT = 11           # bits; a bucket is never narrower than 2 µs


cdef struct LatencyWindow:
    # Plain memory; zero is an empty window. Two halves, so that it slides: one fills, the other
    # holds what was before.
    uint32_t counts[2][LATENCY_BUCKETS]
    uint32_t totals[2]
    int64_t since_ns            # when the half that fills was begun
    int filling

cdef void latency_clear(LatencyWindow* window, int64_t now) noexcept nogil
cdef void latency_slide(LatencyWindow* window, int64_t now) noexcept nogil
cdef int64_t latency_p99(const LatencyWindow* window) noexcept nogil


cdef inline void latency_add(LatencyWindow* window, int64_t ns) noexcept nogil:
    """Count one request. A few nanoseconds: this is called for each."""
    cdef unsigned long long units = <unsigned long long>ns >> LATENCY_UNIT if ns > 0 else 0
    cdef int octave
    cdef int bucket
    if units < 8:
        bucket = <int>units
    else:
        octave = 63 - _clz64(units)
        bucket = (octave - 2) * 8 + <int>((units >> (octave - 3)) & 7)
        if bucket >= LATENCY_BUCKETS:
            bucket = LATENCY_BUCKETS - 1
    window.counts[window.filling][bucket] += 1
    window.totals[window.filling] += 1
