"""The monotonic clock, in nanoseconds, without the GIL."""

from libc.stdint cimport int64_t


cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    struct timespec:
        long tv_sec
        long tv_nsec
    clockid_t CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec* now)

cdef extern from *:
    """
    #define TFSRV_NS_PER_US 1000LL
    #define TFSRV_NS_PER_MS 1000000LL
    #define TFSRV_NS_PER_S 1000000000LL
    """
    const int64_t NS_PER_US "TFSRV_NS_PER_US"  # as long long: an enum would overflow
    const int64_t NS_PER_MS "TFSRV_NS_PER_MS"
    const int64_t NS_PER_S "TFSRV_NS_PER_S"


cdef inline int64_t now_ns() noexcept nogil:
    """CLOCK_MONOTONIC: the clock of asyncio's and uvloop's loop.time() as well."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * NS_PER_S + now.tv_nsec
