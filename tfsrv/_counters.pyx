"""Counts and histograms of requests: native, lock-free, cheap enough for every request.

The histograms have the bounds of TensorFlow Serving's request_latency and runtime_latency
(monitoring::Buckets::Exponential(10, 1.8, 33), in microseconds; servables/tensorflow/util.cc), so
that dashboards made for it go on working. A value on a bound belongs to the bucket above, as there.

Requests that came by REST are counted apart, in a second set of counters that the first such request
makes; so are the times of failed requests. What was not asked for costs nothing but its pointer.

Adding is relaxed everywhere: a counter orders nothing but itself, and who reads while others
add gets each number right, if not all of the same moment.
"""

import threading

from libc.math cimport ceil
from libc.stdint cimport UINT64_MAX, int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from tfsrv._atomic cimport (
    add_relaxed_u64,
    cas_strong_ptr,
    load_acquire_ptr,
    load_relaxed_u64,
)
from tfsrv._clock cimport now_ns
from tfsrv._stress cimport gate_wait, run_together


cdef extern from *:
    int count_leading_zeros "__builtin_clzll"(unsigned long long value) noexcept nogil

cdef enum:
    CACHE_LINE = 64         # bytes
    BOUNDS = 33
    UNKNOWN_CODE = 2        # gRPC's UNKNOWN, for codes that are none

cdef double[33] bounds_micros
cdef uint64_t[34] bounds_nanoseconds    # the last one is beyond any value
cdef int[64] first_bucket   # by the highest bit of a value: the bucket of the smallest such value


cdef void make_bounds() noexcept:
    cdef double bound = 10.0
    cdef int i, bit
    for i in range(BOUNDS):
        bounds_micros[i] = bound
        # Rounded up: a whole number of nanoseconds is below the bound if it is below this.
        bounds_nanoseconds[i] = <uint64_t>ceil(bound * 1000.0)
        bound *= 1.8    # not a power: the very doubles that TensorFlow Serving has
    bounds_nanoseconds[BOUNDS] = UINT64_MAX
    for bit in range(64):
        i = 0
        while bounds_nanoseconds[i] <= <uint64_t>1 << bit:
            i += 1
        first_bucket[bit] = i

make_bounds()


cdef inline int bucket_of(uint64_t nanoseconds) noexcept nogil:
    """The bucket of a value that is not 0, nor above any int64.

    Values with the same highest bit are less than a factor of two apart, so there are at most
    two bounds between them.
    """
    cdef int bucket = first_bucket[63 - count_leading_zeros(nanoseconds)]
    bucket += nanoseconds >= bounds_nanoseconds[bucket]
    bucket += nanoseconds >= bounds_nanoseconds[bucket]
    return bucket


cdef void histogram_add(Histogram* histogram, int64_t nanoseconds) noexcept nogil:
    """Count one value. Below 0 counts as 0: clocks of two processors may differ a little."""
    if nanoseconds > 0:
        add_relaxed_u64(&histogram.buckets[bucket_of(<uint64_t>nanoseconds)], 1)
        add_relaxed_u64(&histogram.sum_nanoseconds, <uint64_t>nanoseconds)
    else:
        add_relaxed_u64(&histogram.buckets[0], 1)


cdef inline int example_bucket(uint64_t examples) noexcept nogil:
    """The bucket of a number of Examples: below 1, 2, 4 … 2^14, and beyond."""
    return 0 if examples == 0 else min(EXAMPLE_BUCKETS - 1, 64 - count_leading_zeros(examples))


cdef void* made_once(void** place, size_t size) noexcept nogil:
    """What `place` points to, made of zeros by whoever needs it first; NULL without memory."""
    cdef void* known = load_acquire_ptr(place)  # pairs with the exchange below: sees the zeros
    cdef void* made
    if known != NULL:
        return known
    made = calloc(1, size)
    if made == NULL or cas_strong_ptr(place, &known, made):
        return made
    free(made)
    return known


cdef inline Counters* of_entrypoint(Counters* counters, bint rest) noexcept nogil:
    """Where requests are counted that came by REST, or not; without memory they are counted together."""
    cdef void* apart
    if not rest:
        return counters
    apart = made_once(&counters.rest, sizeof(Counters))
    return <Counters*>apart if apart != NULL else counters


cdef void counters_add(
    Counters* counters, bint rest, int code, int64_t total_ns, int64_t queue_ns, int64_t run_ns
) noexcept nogil:
    """Count one request that was answered with `code`."""
    cdef Histogram* failed
    counters = of_entrypoint(counters, rest)
    if <unsigned int>code >= <unsigned int>CODES:
        code = UNKNOWN_CODE
    add_relaxed_u64(&counters.codes[code], 1)
    if code == 0:
        histogram_add(&counters.total, total_ns)
    elif total_ns >= 0:
        failed = <Histogram*>made_once(&counters.failed[code], sizeof(Histogram))
        if failed != NULL:
            histogram_add(failed, total_ns)
    if queue_ns >= 0:
        histogram_add(&counters.queue, queue_ns)
    if run_ns >= 0:
        histogram_add(&counters.run, run_ns)


cdef void examples_add(Counters* counters, bint rest, int64_t examples) noexcept nogil:
    """Count the tensorflow.Examples of one request, which has counters_add() too."""
    counters = of_entrypoint(counters, rest)
    add_relaxed_u64(&counters.examples[example_bucket(<uint64_t>examples)], 1)
    add_relaxed_u64(&counters.examples_sum, <uint64_t>examples)


# ------------------------------------------------------------------------------------ registry

cdef struct Entry:
    Counters counters       # first: the entry's address is its counters'
    Entry* next

cdef Entry* entries = NULL  # all of them, never freed: requests may end after all else is gone
cdef dict addresses = {}    # {(model, version, signature, method): Entry* as int}
cdef object registering = threading.Lock()


cdef Counters* counters_of(str model, int64_t version, str signature, str method) except NULL:
    """The counters of these four; the same ones each time.

    They are never freed, so no name may come from a client before it was found to be served:
    count such a request under model "", version 0, signature "".
    """
    global entries
    cdef tuple key = (model, version, signature, method)
    cdef void* memory = NULL
    cdef Entry* entry
    cdef uintptr_t address
    with registering:
        known = addresses.get(key)
        if known is not None:
            address = known
            return <Counters*>address
        if posix_memalign(&memory, CACHE_LINE, sizeof(Entry)) != 0:
            raise MemoryError
        memset(memory, 0, sizeof(Entry))
        entry = <Entry*>memory
        entry.next = entries
        entries = entry
        addresses[key] = <uintptr_t>entry
        return &entry.counters


# ---------------------------------------------------------------------------- what Python sees

BOUNDS_MICROS: tuple[float, ...] = tuple(bounds_micros)
EXAMPLE_BOUNDS: tuple[int, ...] = tuple([1 << i for i in range(EXAMPLE_BUCKETS - 1)])


def add_request(
    model: str, version: int, signature: str, method: str, code: int, total_ns: int,
    queue_ns: int = -1, run_ns: int = -1, *, rest: bool = False, examples: int = 0,
) -> None:
    """Count one request that Python answered; see counters_of and counters_add.

    Whatever a client could make up must have been found to exist: other names are "".
    """
    cdef Counters* counters = counters_of(model, version, signature, method)
    counters_add(counters, rest, code, total_ns, queue_ns, run_ns)
    if examples > 0:
        examples_add(counters, rest, examples)


def keys() -> list[tuple[str, int, str, str]]:
    """Model, version, signature and method of all counters there are."""
    with registering:
        return list(addresses)


def read_codes(key: tuple[str, int, str, str], rest: bool = False) -> tuple[int, ...]:
    """How many requests were answered with each gRPC code: of those by REST, or of the others."""
    cdef Counters* counters = existing_counters(key, rest)
    if counters == NULL:
        return (0,) * CODES
    return tuple([load_relaxed_u64(&counters.codes[code]) for code in range(CODES)])


def read_histograms(
    key: tuple[str, int, str, str], rest: bool = False
) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Total, queue and run: each its buckets' counts, and the sum of all values in nanoseconds."""
    cdef Counters* counters = existing_counters(key, rest)
    if counters == NULL:
        return (((0,) * BUCKETS, 0),) * 3
    return (
        read_histogram(&counters.total),
        read_histogram(&counters.queue),
        read_histogram(&counters.run),
    )


def read_failed(
    key: tuple[str, int, str, str], rest: bool = False
) -> dict[int, tuple[tuple[int, ...], int]]:
    """How long requests took that failed, by code; codes that nobody got are not there."""
    cdef Counters* counters = existing_counters(key, rest)
    cdef void* failed
    cdef int code
    found = {}
    for code in range(CODES if counters != NULL else 0):
        failed = load_acquire_ptr(&counters.failed[code])
        if failed != NULL:
            found[code] = read_histogram(<Histogram*>failed)
    return found


def read_examples(
    key: tuple[str, int, str, str], rest: bool = False
) -> tuple[tuple[int, ...], int]:
    """The requests with Examples, by EXAMPLE_BOUNDS, and how many Examples they had in all."""
    cdef Counters* counters = existing_counters(key, rest)
    if counters == NULL:
        return (0,) * EXAMPLE_BUCKETS, 0
    return (
        tuple([load_relaxed_u64(&counters.examples[i]) for i in range(EXAMPLE_BUCKETS)]),
        load_relaxed_u64(&counters.examples_sum),
    )


cdef Counters* existing_counters(tuple key, bint rest) except? NULL:
    """The counters of requests by REST, or of the others. NULL: nobody has come by REST."""
    cdef uintptr_t address = 0
    with registering:
        address = addresses[key]
    if rest:
        return <Counters*>load_acquire_ptr(&(<Counters*>address).rest)
    return <Counters*>address


cdef tuple read_histogram(const Histogram* histogram):
    cdef int bucket
    counts = []
    for bucket in range(BUCKETS):
        counts.append(load_relaxed_u64(&histogram.buckets[bucket]))
    return tuple(counts), load_relaxed_u64(&histogram.sum_nanoseconds)


# --------------------------------------------------------------------------------- under stress

cdef struct StressThread:
    int* gate
    Counters* counters
    int64_t adds
    int codes
    bint rest


cdef void* stress_add(void* arg) noexcept nogil:
    cdef StressThread* self = <StressThread*>arg
    cdef int64_t i
    if gate_wait(self.gate):
        for i in range(self.adds):
            counters_add(
                self.counters, self.rest, <int>(i % self.codes), 1000 * (i % 4096), 100 * (i % 4096), i % 4096)
            examples_add(self.counters, self.rest, i % 4096)
    return NULL


def stress(
    model: str, version: int, signature: str, method: str, threads: int, adds: int,
    codes: int, rest: bool = False
) -> int:
    """Count requests from native threads; returns the nanoseconds that it took.

    Each thread's i-th one of `adds` has code i % `codes`, i % 4096 Examples, and took i % 4096
    microseconds in all, a tenth of it in the queue, and a thousandth for the run.
    """
    cdef unsigned int count = threads
    cdef int64_t adds_each = adds
    cdef int code_count = codes
    cdef bint by_rest = rest
    cdef int gate = 0
    cdef int rc
    cdef unsigned int i
    cdef Counters* counters = counters_of(model, version, signature, method)
    cdef StressThread* arguments = <StressThread*>calloc(<size_t>count + 1, sizeof(StressThread))
    if arguments == NULL:
        raise MemoryError
    for i in range(count):
        arguments[i].gate = &gate
        arguments[i].counters = counters
        arguments[i].adds = adds_each
        arguments[i].codes = code_count
        arguments[i].rest = by_rest
    start = now_ns()
    with nogil:
        rc = run_together(stress_add, arguments, sizeof(StressThread), count, &gate)
    nanoseconds = now_ns() - start
    free(arguments)
    if rc != 0:
        raise RuntimeError("the threads could not be started")
    return nanoseconds
