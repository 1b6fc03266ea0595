"""What TensorFlow ran and what batches held, counted over all models.

These are the metrics of TensorFlow's core/framework/metrics.cc (graph_runs and its like) and of TensorFlow
Serving's batching/batching_session.cc and batching_util.h, with their bounds. There they have no label of
a model, so that they are counted once for the process; memory lives for ever. A value on a bound belongs
to the bucket above, as there.

Adding is relaxed everywhere, as in _counters. Graphs are run by all threads at once, so that each of
them counts in a stripe that it shares with few; batches are fewer.
"""

from libc.math cimport ceil
from libc.stdint cimport UINT64_MAX, int64_t, uint64_t
from libc.stdlib cimport calloc, free

from tfsrv._atomic cimport (
    add_relaxed_u64,
    cas_strong_i64,
    load_relaxed_i64,
    load_relaxed_u64,
)
from tfsrv._readers cimport STRIPES, stripe_index
from tfsrv._stress cimport gate_wait, run_together
from tfsrv._tf cimport TF_Tensor, api


cdef extern from *:
    int count_leading_zeros "__builtin_clzll"(unsigned long long value) noexcept nogil

cdef enum:
    PADDING_SIZES = 1024    # of batches, whose padding is counted apart
    OTHER_SIZES = 0         # those of further sizes together; no batch has this one


cdef struct GraphRuns:
    uint64_t times[21]      # atomic, each; runs by what they took
    uint64_t nanoseconds    # atomic, as all sums
    uint64_t input_bytes[15]
    uint64_t input_bytes_sum
    uint64_t output_bytes[15]
    uint64_t output_bytes_sum
    char pad[16]            # to whole cache lines

cdef struct Rows:
    uint64_t buckets[15]    # atomic, each
    uint64_t sum            # atomic

cdef struct Padding:
    int64_t batch_size      # atomic; 0: free
    Rows rows

cdef struct BatchRuns:
    uint64_t runs           # atomic
    uint64_t queuing[53]    # atomic, each; parts of batches by how long they waited
    uint64_t queuing_nanoseconds
    Rows inputs             # rows of each input of each request
    Rows processed          # rows of each batch, with its padding
    Padding padding[1024]   # by the size of the batch, where its hash says or behind; the last one: others

cdef GraphRuns[16] graph_runs       # STRIPES of them
cdef BatchRuns batch_runs
cdef double[52] queuing_micros
cdef uint64_t[53] queuing_bounds    # nanoseconds; the last one is beyond any value
cdef int[64] first_bucket           # by the highest bit of a value: the bucket of the smallest such value


cdef void make_bounds() noexcept:
    cdef double bound = 100.0
    cdef int i, bit
    for i in range(QUEUING_BUCKETS - 1):
        queuing_micros[i] = bound
        queuing_bounds[i] = <uint64_t>ceil(bound * 1000.0)
        bound *= 1.2    # not a power: the very doubles that TensorFlow Serving has
    queuing_bounds[QUEUING_BUCKETS - 1] = UINT64_MAX
    for bit in range(64):
        i = 0
        while queuing_bounds[i] <= <uint64_t>1 << bit:
            i += 1
        first_bucket[bit] = i

make_bounds()


cdef inline int bits_of(uint64_t value) noexcept nogil:
    """The place of the highest bit that is set, from 1; 0 of 0."""
    return 64 - count_leading_zeros(value) if value else 0


cdef inline int queuing_bucket(uint64_t nanoseconds) noexcept nogil:
    cdef int bucket = first_bucket[63 - count_leading_zeros(nanoseconds | 1)]
    while nanoseconds >= queuing_bounds[bucket]:  # four times at most: 1.2^4 > 2
        bucket += 1
    return bucket


# -------------------------------------------------------------------------------------- counting

cdef void graph_run_add(
    int64_t run_ns, TF_Tensor* const* inputs, int inputs_size, TF_Tensor* const* outputs, int outputs_size
) noexcept nogil:
    """Count one run of a graph; `outputs_size` is -1 of one that failed."""
    cdef GraphRuns* runs = &graph_runs[stripe_index()]
    cdef uint64_t took = <uint64_t>max(0, run_ns)
    cdef uint64_t size = bytes_of(inputs, inputs_size)
    add_relaxed_u64(&runs.times[min(RUN_TIME_BUCKETS - 1, bits_of(took // 1_000_000))], 1)
    add_relaxed_u64(&runs.nanoseconds, took)
    add_relaxed_u64(&runs.input_bytes[bytes_bucket(size)], 1)
    add_relaxed_u64(&runs.input_bytes_sum, size)
    if outputs_size >= 0:
        size = bytes_of(outputs, outputs_size)
        add_relaxed_u64(&runs.output_bytes[bytes_bucket(size)], 1)
        add_relaxed_u64(&runs.output_bytes_sum, size)


cdef inline uint64_t bytes_of(TF_Tensor* const* tensors, int size) noexcept nogil:
    cdef uint64_t total = 0
    cdef int i
    for i in range(size):
        if tensors[i] != NULL:
            total += api.TensorByteSize(tensors[i])
    return total


cdef inline int bytes_bucket(uint64_t size) noexcept nogil:
    return min(RUN_BYTES_BUCKETS - 1, (bits_of(size) + 1) // 2)


cdef void batch_run_add(int64_t rows, int64_t padding_rows) noexcept nogil:
    """Count one batch, of so many rows and so many more of padding, that is about to run."""
    add_relaxed_u64(&batch_runs.runs, 1)
    rows_add(&batch_runs.processed, rows + padding_rows, 1)
    rows_add(&padding_of(rows + padding_rows).rows, padding_rows, 1)


cdef void batch_part_add(int64_t queuing_ns) noexcept nogil:
    """Count one part of a batch, and how long it has waited."""
    cdef uint64_t waited = <uint64_t>max(0, queuing_ns)
    add_relaxed_u64(&batch_runs.queuing[queuing_bucket(waited)], 1)
    add_relaxed_u64(&batch_runs.queuing_nanoseconds, waited)


cdef void batch_input_add(int64_t rows, int64_t inputs) noexcept nogil:
    """Count the rows of a request that has so many inputs of them."""
    rows_add(&batch_runs.inputs, rows, inputs)


cdef inline void rows_add(Rows* counted, int64_t rows, int64_t times) noexcept nogil:
    cdef uint64_t value = <uint64_t>max(0, rows)
    add_relaxed_u64(&counted.buckets[min(ROWS_BUCKETS - 1, bits_of(value))], <uint64_t>times)
    add_relaxed_u64(&counted.sum, value * <uint64_t>times)


cdef Padding* padding_of(int64_t batch_size) noexcept nogil:
    """Where the padding of batches of a size is counted, by whoever comes first with it."""
    cdef int64_t known
    cdef int first = <int>(<uint64_t>batch_size * 0x9E3779B97F4A7C15u >> 54)
    cdef int i
    cdef Padding* padding
    for i in range(PADDING_SIZES - 1):
        padding = &batch_runs.padding[(first + i) % (PADDING_SIZES - 1)]
        known = load_relaxed_i64(&padding.batch_size)
        if known == OTHER_SIZES and cas_strong_i64(&padding.batch_size, &known, batch_size):
            return padding
        if known == batch_size:
            return padding
    return &batch_runs.padding[PADDING_SIZES - 1]


# --------------------------------------------------------------------------- what Python sees

RUN_TIME_MICROS: tuple[int, ...] = tuple([1000 << i for i in range(RUN_TIME_BUCKETS - 1)])
RUN_BYTES: tuple[int, ...] = tuple([1 << 2 * i for i in range(RUN_BYTES_BUCKETS - 1)])
QUEUING_MICROS: tuple[float, ...] = tuple(queuing_micros)
ROWS: tuple[int, ...] = tuple([1 << i for i in range(ROWS_BUCKETS - 1)])


def read_graph_runs() -> tuple[tuple[tuple[int, ...], int], ...]:
    """Runs by RUN_TIME_MICROS, and their nanoseconds; bytes of inputs and of outputs by RUN_BYTES."""
    times, nanoseconds = [0] * RUN_TIME_BUCKETS, 0
    inputs, input_bytes = [0] * RUN_BYTES_BUCKETS, 0
    outputs, output_bytes = [0] * RUN_BYTES_BUCKETS, 0
    cdef GraphRuns* runs
    cdef int stripe, i
    for stripe in range(STRIPES):
        runs = &graph_runs[stripe]
        for i in range(RUN_TIME_BUCKETS):
            times[i] += load_relaxed_u64(&runs.times[i])
        for i in range(RUN_BYTES_BUCKETS):
            inputs[i] += load_relaxed_u64(&runs.input_bytes[i])
            outputs[i] += load_relaxed_u64(&runs.output_bytes[i])
        nanoseconds += load_relaxed_u64(&runs.nanoseconds)
        input_bytes += load_relaxed_u64(&runs.input_bytes_sum)
        output_bytes += load_relaxed_u64(&runs.output_bytes_sum)
    return (
        (tuple(times), nanoseconds), (tuple(inputs), input_bytes), (tuple(outputs), output_bytes))


def count_graph_runs() -> int:
    """How many runs read_graph_runs() would tell of."""
    cdef uint64_t total = 0
    cdef int stripe, i
    for stripe in range(STRIPES):
        for i in range(RUN_TIME_BUCKETS):
            total += load_relaxed_u64(&graph_runs[stripe].times[i])
    return total


def read_batch_runs() -> int:
    """How many batches have run."""
    return load_relaxed_u64(&batch_runs.runs)


def read_batch_queuing() -> tuple[tuple[int, ...], int]:
    """Parts of batches by QUEUING_MICROS, and the nanoseconds that all of them waited."""
    counts = [load_relaxed_u64(&batch_runs.queuing[i]) for i in range(QUEUING_BUCKETS)]
    return tuple(counts), load_relaxed_u64(&batch_runs.queuing_nanoseconds)


def read_batch_rows() -> tuple[tuple[tuple[int, ...], int], ...]:
    """Inputs of requests by the ROWS that they had, and batches by those that ran; each with its sum."""
    return read_rows(&batch_runs.inputs), read_rows(&batch_runs.processed)


def read_batch_padding() -> dict[int, tuple[tuple[int, ...], int]]:
    """Batches by the ROWS of their padding, for each size that a batch had; 0 stands for further sizes."""
    cdef Padding* padding
    cdef int i
    found = {}
    for i in range(PADDING_SIZES):
        padding = &batch_runs.padding[i]
        if load_relaxed_i64(&padding.batch_size) != OTHER_SIZES or (
            i == PADDING_SIZES - 1 and any(read_rows(&padding.rows)[0])
        ):
            found[load_relaxed_i64(&padding.batch_size)] = read_rows(&padding.rows)
    return dict(sorted(found.items()))


cdef tuple read_rows(const Rows* rows):
    cdef int i
    return tuple([load_relaxed_u64(&rows.buckets[i]) for i in range(ROWS_BUCKETS)]), load_relaxed_u64(&rows.sum)


def add_batch(rows: int, padding_rows: int, queuing_ns: int, inputs: int) -> None:
    """Count a batch of one request, for tests."""
    batch_run_add(rows, padding_rows)
    batch_part_add(queuing_ns)
    batch_input_add(rows, inputs)


def add_graph_run(run_ns: int) -> None:
    """Count a run of a graph that has neither inputs nor outputs, for tests."""
    graph_run_add(run_ns, NULL, 0, NULL, 0)


# --------------------------------------------------------------------------------- under stress

cdef struct StressThread:
    int* gate
    int64_t adds


cdef void* stress_add(void* arg) noexcept nogil:
    cdef StressThread* self = <StressThread*>arg
    cdef int64_t i
    if gate_wait(self.gate):
        for i in range(self.adds):
            graph_run_add(1000 * (i % 4096), NULL, 0, NULL, 0)
            batch_run_add(i % 64 + 1, i % 8)
            batch_part_add(1000 * (i % 4096))
            batch_input_add(i % 64 + 1, 2)
    return NULL


def stress(threads: int, adds: int) -> None:
    """Count runs and batches from native threads.

    Each thread's i-th of `adds` has i % 64 + 1 rows in two inputs, i % 8 more of padding, and waited and
    ran for i % 4096 microseconds each.
    """
    cdef unsigned int count = threads
    cdef int64_t adds_each = adds
    cdef int gate = 0
    cdef int rc
    cdef unsigned int i
    cdef StressThread* arguments = <StressThread*>calloc(<size_t>count + 1, sizeof(StressThread))
    if arguments == NULL:
        raise MemoryError
    for i in range(count):
        arguments[i].gate = &gate
        arguments[i].adds = adds_each
    with nogil:
        rc = run_together(stress_add, arguments, sizeof(StressThread), count, &gate)
    free(arguments)
    if rc != 0:
        raise RuntimeError("the threads could not be started")
