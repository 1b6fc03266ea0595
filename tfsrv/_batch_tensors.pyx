"""Batches of tensors: rows of many requests put behind each other, and taken apart again.

Rows go from the bytes of their requests straight into the batch's memory, once; there is no
tensor of a single request. Memory is a block of `_memory`, which the batch's deallocator gives
back: nothing is known here of how long TensorFlow keeps a batch.

What is merged, and how inner dims and rows are padded, are the rules of TensorFlow Serving
(tensorflow_serving/batching/batching_session.cc and batching_util.cc). But a request that cannot
be read is named, so that the others can go on without it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from tfsrv._buffer cimport Bytes
from tfsrv._inner_padding cimport MOST_PADDED_RANK, pad_inner
from tfsrv._memory cimport Block, memory_take
from tfsrv._predict_request cimport (
    predict_view_find,
    predict_view_free,
    predict_view_init,
    wire_read_predict,
)
from tfsrv._tensor cimport (
    MAX_RANK,
    Tensor,
    fill_strings,
    is_known_type,
    numbers_deallocator,
    strings_deallocator,
    tensor_data,
    tensor_view_bytes,
)
from tfsrv._tensor_proto cimport dtype_bytes
from tfsrv._tensor_values cimport count_elements, read_values
from tfsrv._tf cimport DT_STRING, api, tensor_deallocator
from tfsrv._tstring cimport TString, tstring_get, tstring_set
from tfsrv._wire_format cimport WIRE_OK

from tfsrv._tf import open_library
from tfsrv.errors import Code, ServingError

cdef extern from *:
    bint multiply_overflows "__builtin_mul_overflow"(
        int64_t a, int64_t b, int64_t* product) nogil
    bint add_overflows "__builtin_add_overflow"(int64_t a, int64_t b, int64_t* sum) nogil


cdef int64_t MOST_BYTES = <int64_t>1 << 60  # more than there is, and safe to add

# Kinds


cdef inline int source_dtype(const RowSource* source) noexcept nogil:
    return source.wire.dtype if source.wire != NULL else api.TensorType(source.tensor)


cdef inline int source_rank(const RowSource* source) noexcept nogil:
    return source.wire.rank if source.wire != NULL else api.NumDims(source.tensor)


cdef inline int64_t source_dim(const RowSource* source, int index) noexcept nogil:
    if source.wire != NULL:
        return source.view.dims[source.wire.dims_start + index]
    return api.Dim(source.tensor, index)


cdef int64_t rows_of_view(const PredictView* view, const TensorView* tensor) noexcept nogil:
    """The first dim of a request's input; -1 if it has none, or an impossible shape."""
    if tensor.rank == 0 or count_elements(view, tensor) < 0:
        return -1
    return view.dims[tensor.dims_start]


cdef bint rows_same_kind(
    const RowSource* a, const RowSource* b, bint pads_inner
) noexcept nogil:
    """Whether rows of both can be in one batch: one dtype, one rank of 1 at least, one inner shape.

    With `pads_inner` inner dims may differ, but the rank is 6 at most. Looks at no values.
    """
    cdef int rank = source_rank(a)
    cdef int i
    if source_dtype(a) != source_dtype(b) or rank != source_rank(b):
        return False
    if not 1 <= rank <= (MOST_PADDED_RANK if pads_inner else MAX_RANK):
        return False
    if not pads_inner:
        for i in range(1, rank):
            if source_dim(a, i) != source_dim(b, i):
                return False
    return True


cdef uint64_t rows_kind_hash(const RowSource* source, bint pads_inner) noexcept nogil:
    """Equal for all rows of the same kind."""
    cdef int rank = source_rank(source)
    cdef uint64_t value = mixed(<uint64_t>source_dtype(source) << 32 | <uint64_t>rank)
    cdef int i
    if not pads_inner and rank <= MAX_RANK:
        for i in range(1, rank):
            value = mixed(value ^ <uint64_t>source_dim(source, i))
    return value


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    """The output function of SplitMix64: each bit of `value` changes about half of the result's."""
    value += <uint64_t>0x9E3779B97F4A7C15ULL
    value = (value ^ value >> 30) * <uint64_t>0xBF58476D1CE4E5B9ULL
    value = (value ^ value >> 27) * <uint64_t>0x94D049BB133111EBULL
    return value ^ value >> 31


# Merging


cdef struct Merge:
    int dtype
    size_t unit             # bytes of an element
    int rank
    int64_t[254] dims       # of the tensor to be made
    int64_t row_elements    # product of its inner dims
    int64_t elements
    Block block


cdef int rows_merge(
    const RowSource* sources, int size, int64_t padding_rows, bint pads_inner,
    TF_Tensor** made, int* bad
) noexcept nogil:
    """Make one tensor of the rows of `size` sources, in their order; it is the caller's.

    `padding_rows` copies of the first row of the last source that has rows are put behind them,
    rows of zeros if none has. With `pads_inner` inner dims grow to the largest among the sources,
    at their ends, filled with the first element of the source (not of the row) each.

    A RowsResult. `bad` is the index of a source that alone is the cause: without it the others
    may be merged; else -1. Nothing is kept if nothing was made. Without sources: ROWS_INVALID.
    """
    cdef Merge merge
    cdef int result
    made[0] = NULL
    bad[0] = -1
    result = plan(sources, size, padding_rows, pads_inner, &merge, bad)
    if result != ROWS_MADE:
        return result
    result = take_block(&merge)
    if result != ROWS_MADE:
        return result
    result = copy_sources(sources, size, padding_rows, &merge, bad)
    if result != ROWS_MADE:
        deallocator_of(merge.dtype)(
            merge.block.data, <size_t>merge.elements * merge.unit, merge.block.key)
        return result
    made[0] = api.NewTensor(
        merge.dtype, merge.dims, merge.rank, merge.block.data,
        <size_t>merge.elements * merge.unit, deallocator_of(merge.dtype), merge.block.key)
    return ROWS_MADE if made[0] != NULL else ROWS_INVALID  # the deallocator has run if it is NULL


cdef int64_t rows_padding_bytes(
    const RowSource* sources, int size, int64_t padding_rows
) noexcept nogil:
    """About the memory that rows_merge takes beyond that of the sources, for rows and inner dims of padding.

    Rather more, where there are texts; 1 << 60 for more than that. The sources are of one kind: where
    inner dims are not padded they are equal.
    """
    cdef double unit = <double>dtype_bytes(source_dtype(&sources[0]))
    cdef double padded = 1      # elements of a row
    cdef double row_bytes = 0   # of the one that is repeated, the last
    cdef double total = 0
    cdef double own, text
    cdef int64_t most
    cdef int i, j
    for j in range(1, source_rank(&sources[0])):
        most = 0
        for i in range(size):
            most = max(most, source_dim(&sources[i], j))
        padded *= <double>most
    for i in range(size):
        if sources[i].rows == 0:
            continue
        own = row_elements_of(&sources[i])
        text = text_bytes_of(&sources[i])
        row_bytes = padded * unit + text + (padded - own) * text
        total += <double>sources[i].rows * (padded - own) * (unit + text)
    return <int64_t>min(total + <double>padding_rows * row_bytes, <double>MOST_BYTES)


cdef double row_elements_of(const RowSource* source) noexcept nogil:
    cdef double elements = 1
    cdef int j
    for j in range(1, source_rank(source)):
        elements *= <double>source_dim(source, j)
    return elements


cdef double text_bytes_of(const RowSource* source) noexcept nogil:
    """All texts of the source: none of them is longer. 0 if it is not of strings."""
    cdef const TString* strings
    cdef double total = 0
    cdef int64_t elements, i
    if source_dtype(source) != DT_STRING:
        return 0
    if source.wire != NULL:
        elements = count_elements(source.view, source.wire)
        return max(0.0, <double>(
            tensor_view_bytes(source.view, source.wire) - elements * <int64_t>sizeof(TString)))
    elements = <int64_t>row_elements_of(source)
    strings = <const TString*>api.TensorData(source.tensor) + elements * source.first_row
    for i in range(elements * source.rows):
        total += <double>tstring_get(&strings[i]).size
    return total


cdef inline tensor_deallocator deallocator_of(int dtype) noexcept nogil:
    return strings_deallocator if dtype == DT_STRING else numbers_deallocator


cdef int plan(
    const RowSource* sources, int size, int64_t padding_rows, bint pads_inner, Merge* merge,
    int* bad
) noexcept nogil:
    """Find the shape of the tensor to be made. Whatever TensorFlow would abort at ends here."""
    cdef int64_t rows = padding_rows
    cdef int i
    cdef int j
    cdef int result
    if size < 1 or padding_rows < 0:
        return ROWS_INVALID
    for i in range(size):
        result = check(&sources[0], &sources[i], pads_inner)
        if result != ROWS_MADE:
            bad[0] = i
            return result
        if add_overflows(rows, sources[i].rows, &rows):
            return ROWS_NO_MEMORY
    merge.dtype = source_dtype(&sources[0])
    merge.unit = dtype_bytes(merge.dtype)
    merge.rank = source_rank(&sources[0])
    merge.dims[0] = rows
    for j in range(1, merge.rank):
        merge.dims[j] = source_dim(&sources[0], j)
        if pads_inner:
            for i in range(1, size):
                merge.dims[j] = max(merge.dims[j], source_dim(&sources[i], j))
    if not fits(merge):
        return ROWS_NO_MEMORY
    return find_empty(sources, size, merge, bad) if pads_inner else ROWS_MADE


cdef int check(const RowSource* first, const RowSource* source, bint pads_inner) noexcept nogil:
    """Whether a source is one, and goes with the first. Looks at no values but strings' lengths."""
    cdef int64_t needed
    if not is_carried(source):
        return ROWS_INVALID
    if not rows_same_kind(first, source, pads_inner):
        return ROWS_MISMATCH
    if source.wire == NULL:
        if source.first_row < 0 or source.rows < 0:
            return ROWS_INVALID
        return ROWS_MADE if source.rows <= source_dim(source, 0) - source.first_row else ROWS_INVALID
    needed = tensor_view_bytes(source.view, source.wire)
    if needed < 0 or source.first_row != 0 or source.rows != source_dim(source, 0):
        return ROWS_INVALID
    return ROWS_MADE if needed < INT64_MAX else ROWS_NO_MEMORY


cdef inline bint is_carried(const RowSource* source) noexcept nogil:
    cdef int dtype = source_dtype(source)
    return dtype_bytes(dtype) != 0 and is_known_type(dtype)


cdef bint fits(Merge* merge) noexcept nogil:
    """Count elements, which must fit at every step from left to right, even if a later dim is 0.

    The product of the inner dims fits then, too, unless there is no row to have elements.
    """
    cdef int64_t total
    cdef int i
    merge.elements = merge.dims[0]
    for i in range(1, merge.rank):
        if multiply_overflows(merge.elements, merge.dims[i], &merge.elements):
            return False
    merge.row_elements = merge.elements // merge.dims[0] if merge.dims[0] else 0
    return not multiply_overflows(merge.elements, <int64_t>merge.unit, &total)


cdef int find_empty(
    const RowSource* sources, int size, const Merge* merge, int* bad
) noexcept nogil:
    """Refuse a source with rows, but no elements, if the batch has some."""
    cdef int i
    cdef int j
    if merge.row_elements == 0:
        return ROWS_MADE
    for i in range(size):
        for j in range(1, merge.rank):
            if sources[i].rows and source_dim(&sources[i], j) == 0:
                bad[0] = i
                return ROWS_EMPTY_AMONG_OTHERS
    return ROWS_MADE


cdef int take_block(Merge* merge) noexcept nogil:
    cdef size_t size = <size_t>merge.elements * merge.unit
    merge.block = memory_take(size)
    if merge.block.data == NULL:
        return ROWS_NO_MEMORY
    if merge.dtype == DT_STRING:
        memset(merge.block.data, 0, size)  # empty strings: its deallocator works from here on
    return ROWS_MADE


cdef int copy_sources(
    const RowSource* sources, int size, int64_t padding_rows, const Merge* merge, int* bad
) noexcept nogil:
    cdef size_t row_bytes = <size_t>merge.row_elements * merge.unit
    cdef char* target = <char*>merge.block.data
    cdef char* last = NULL
    cdef int result
    cdef int i
    for i in range(size):
        if sources[i].rows == 0 or row_bytes == 0:
            # There is nothing to copy, and `check` has looked at all that can be wrong with it.
            continue
        result = copy_source(&sources[i], merge, target)
        if result != ROWS_MADE:
            bad[0] = i if result == ROWS_INVALID else -1
            return result
        last = target
        target += <size_t>sources[i].rows * row_bytes
    return repeat_row(merge, last, target, padding_rows) if row_bytes else ROWS_MADE


cdef int copy_source(const RowSource* source, const Merge* merge, char* target) noexcept nogil:
    """Write the rows of one source, inner dims padded. Strings at `target` are empty before."""
    cdef int64_t[6] dims  # MOST_PADDED_RANK
    cdef int64_t elements = source.rows
    cdef bint differs = False
    cdef int result
    cdef int i
    for i in range(1, merge.rank):
        elements *= source_dim(source, i)
        differs |= source_dim(source, i) != merge.dims[i]
    if source.wire != NULL:
        result = read_wire(source, merge, target, elements)
    else:
        result = read_tensor(source, merge, target, elements)
    if result != ROWS_MADE or not differs:
        return result
    dims[0] = source.rows
    for i in range(1, merge.rank):
        dims[i] = source_dim(source, i)
    if pad_inner(target, merge.dtype, merge.rank, dims, merge.dims) != 0:
        return ROWS_NO_MEMORY
    return ROWS_MADE


cdef int repeat_row(
    const Merge* merge, const char* row, char* target, int64_t times
) noexcept nogil:
    """Write a row so many times; zeros if it is NULL."""
    cdef size_t row_bytes = <size_t>merge.row_elements * merge.unit
    cdef int64_t _i
    if row == NULL:
        memset(target, 0, <size_t>times * row_bytes)
        return ROWS_MADE
    for _i in range(times):
        if merge.dtype != DT_STRING:
            memcpy(target, row, row_bytes)
        elif copy_strings(<const TString*>row, <TString*>target, merge.row_elements) != ROWS_MADE:
            return ROWS_NO_MEMORY
        target += row_bytes
    return ROWS_MADE


# Elements of one source, without gaps


cdef int read_wire(
    const RowSource* source, const Merge* merge, char* target, int64_t elements
) noexcept nogil:
    if merge.dtype == DT_STRING:  # the codes are the same
        return fill_strings(source.view, source.wire, <TString*>target, elements)
    if read_values(source.view, source.wire, target, elements) != 0:
        return ROWS_INVALID
    return ROWS_MADE


cdef int read_tensor(
    const RowSource* source, const Merge* merge, char* target, int64_t elements
) noexcept nogil:
    cdef const char* start = <const char*>api.TensorData(source.tensor)
    start += <size_t>(elements // source.rows * source.first_row) * merge.unit
    if merge.dtype == DT_STRING:
        return copy_strings(<const TString*>start, <TString*>target, elements)
    memcpy(target, start, <size_t>elements * merge.unit)
    return ROWS_MADE


cdef int copy_strings(const TString* source, TString* target, int64_t count) noexcept nogil:
    cdef Bytes text
    cdef int64_t i
    for i in range(count):
        text = tstring_get(&source[i])
        if tstring_set(&target[i], text.data, text.size) != 0:
            return ROWS_NO_MEMORY
    return ROWS_MADE


# Taking apart


cdef int rows_join(
    TF_Tensor* const* parts, const int64_t* firsts, const int64_t* rows, int size,
    TF_Tensor** made
) noexcept nogil:
    """Make one tensor of rows of several: rows[i] of parts[i] from firsts[i] on, in their order.

    A RowsResult: ROWS_MISMATCH if dtypes or inner dims differ, ROWS_INVALID for rows that are not
    there, and for scalars.
    """
    cdef RowSource* sources
    cdef int result
    cdef int bad
    cdef int i
    made[0] = NULL
    if size < 1:
        return ROWS_INVALID
    sources = <RowSource*>malloc(<size_t>size * sizeof(RowSource))
    if sources == NULL:
        return ROWS_NO_MEMORY
    for i in range(size):
        sources[i] = rows_of_tensor(parts[i], firsts[i], rows[i])
    result = rows_merge(sources, size, 0, False, made, &bad)
    free(sources)
    return result


cdef TF_Tensor* rows_slice(TF_Tensor* whole, int64_t first, int64_t rows) noexcept nogil:
    """A tensor, the caller's, with a copy of some rows of another.

    NULL without memory. It is NULL, too, for rows that are not there, and for a scalar.
    """
    cdef RowSource source = rows_of_tensor(whole, first, rows)
    cdef TF_Tensor* made
    cdef int bad
    rows_merge(&source, 1, 0, False, &made, &bad)
    return made


cdef void rows_look(
    const TensorData* whole, int64_t first, int64_t rows, int64_t* dims, TensorData* into
) noexcept nogil:
    """Look at some rows of a tensor, to write them: nothing is copied.

    `whole` has the rows, and lives as long as `into` is used, which has no holder. `dims` has
    room for its rank.
    """
    cdef int64_t row_elements = whole.elements // whole.dims[0] if whole.dims[0] else 0
    cdef size_t row_bytes = whole.size // <size_t>whole.dims[0] if whole.dims[0] else 0
    memcpy(dims, whole.dims, <size_t>whole.rank * sizeof(int64_t))
    dims[0] = rows
    into[0] = whole[0]
    into.dims = dims
    into.elements = rows * row_elements
    into.size = <size_t>rows * row_bytes
    if row_bytes:
        into.data = <const char*>whole.data + <size_t>first * row_bytes
    into.holder = NULL
    into.taken = False


# The face for Python: for tests and tools


class RowsError(ServingError):
    """Rows that make no tensor; `source` is the index of the one to blame, if it is one."""

    def __init__(self, code: int, message: object, source: int | None = None) -> None:
        super().__init__(code, message)
        self.source = source


cdef object error_of(int result, int bad, str alias):
    """The exception for a RowsResult."""
    source = bad if bad >= 0 else None
    if result == ROWS_NO_MEMORY:
        return MemoryError()
    if result == ROWS_EMPTY_AMONG_OTHERS:
        text = "Got empty tensor in batch of non-empty tensors."
    elif result == ROWS_MISMATCH:
        text = f"tensors of different kinds: {alias}"
    else:
        text = f"tensor parsing error: {alias}"
    return RowsError(Code.INVALID_ARGUMENT, text, source)


cdef class _Sources:
    """The same input of several requests; keeps their bytes."""
    cdef list requests
    cdef PredictView* views
    cdef RowSource* sources
    cdef int size

    def __cinit__(self, requests: list, alias: bytes):
        cdef Bytes name
        cdef const TensorView* wire
        cdef bytes request
        cdef int i
        self.requests = requests
        self.size = 0
        self.views = <PredictView*>calloc(len(requests) + 1, sizeof(PredictView))
        self.sources = <RowSource*>calloc(len(requests) + 1, sizeof(RowSource))
        if self.views == NULL or self.sources == NULL:
            raise MemoryError
        name.data = PyBytes_AS_STRING(alias)
        name.size = len(alias)
        for i, request in enumerate(requests):
            predict_view_init(&self.views[i])
            self.size = i + 1
            if wire_read_predict(request, len(request), &self.views[i]) != WIRE_OK:
                raise ServingError(Code.INTERNAL, "The request cannot be decoded")
            wire = predict_view_find(&self.views[i], name)
            if wire == NULL:
                raise KeyError(alias.decode())
            self.sources[i] = rows_of_wire(
                &self.views[i], wire, rows_of_view(&self.views[i], wire))

    def __dealloc__(self):
        cdef int i
        for i in range(self.size):
            predict_view_free(&self.views[i])
        free(self.views)
        free(self.sources)


def merge_requests(
    requests: Sequence[bytes], alias: str, padding_rows: int = 0, pads_inner: bool = False
) -> Tensor:
    """One tensor of the rows of one input of serialized PredictRequests. Opens TensorFlow.

    RowsError, INVALID_ARGUMENT, if it cannot be made; ServingError INTERNAL for a request that
    cannot be decoded; KeyError for one without the input.
    """
    cdef _Sources sources
    cdef Tensor tensor = Tensor()
    cdef int64_t padding = padding_rows
    cdef bint pads = pads_inner
    cdef int result
    cdef int bad
    open_library()
    sources = _Sources(list(requests), alias.encode())
    with nogil:
        result = rows_merge(
            sources.sources, sources.size, padding, pads, &tensor.tensor, &bad)
    if result != ROWS_MADE:
        raise error_of(result, bad, alias)
    return tensor


def same_kind(first: bytes, second: bytes, alias: str, pads_inner: bool = False) -> bool:
    """Whether one input of two serialized PredictRequests can be in one batch."""
    cdef _Sources sources = _Sources([first, second], alias.encode())
    return rows_same_kind(&sources.sources[0], &sources.sources[1], pads_inner)


def kind_hash(request: bytes, alias: str, pads_inner: bool = False) -> int:
    """Equal for what same_kind finds equal."""
    cdef _Sources sources = _Sources([request], alias.encode())
    return rows_kind_hash(&sources.sources[0], pads_inner)


def rows_of_request(request: bytes, alias: str) -> int:
    """The first dim of an input; -1 if it has none, or an impossible shape."""
    cdef _Sources sources = _Sources([request], alias.encode())
    return sources.sources[0].rows


def slice_tensor(tensor: Tensor, first: int, rows: int) -> Tensor:
    """A copy of some rows. RowsError if they are not there; or if there is no memory."""
    cdef Tensor made = Tensor()
    cdef int64_t start = first
    cdef int64_t count = rows
    with nogil:
        made.tensor = rows_slice(tensor.tensor, start, count)
    if made.tensor == NULL:
        raise error_of(ROWS_INVALID, -1, f"rows {first} to {first + rows}")
    return made


def join_tensors(parts: Sequence[tuple[Tensor, int, int]]) -> Tensor:
    """One tensor of rows of several: of (tensor, first row, number of rows)."""
    cdef Tensor made = Tensor()
    cdef Tensor tensor
    cdef list kept = list(parts)
    cdef int size = len(kept)
    cdef TF_Tensor** tensors = <TF_Tensor**>calloc(size + 1, sizeof(void*))
    cdef int64_t* numbers = <int64_t*>calloc(size + 1, 2 * sizeof(int64_t))
    cdef int result
    cdef int i
    try:
        if tensors == NULL or numbers == NULL:
            raise MemoryError
        for i, (tensor, first, rows) in enumerate(kept):
            tensors[i] = tensor.tensor
            numbers[i] = first
            numbers[size + i] = rows
        with nogil:
            result = rows_join(tensors, numbers, numbers + size, size, &made.tensor)
        if result != ROWS_MADE:
            raise error_of(result, -1, "join")
        return made
    finally:
        free(tensors)
        free(numbers)


def look_at_rows(tensor: Tensor, first: int, rows: int) -> tuple[tuple[int, ...], int, bytes]:
    """What the writer of responses would see of some rows: shape, elements, memory.

    ValueError for rows that are not there.
    """
    cdef TensorData whole
    cdef TensorData part
    cdef int64_t[254] whole_dims
    cdef int64_t[254] dims
    cdef int i
    tensor_data(tensor.tensor, whole_dims, &whole)
    if whole.rank == 0 or first < 0 or rows < 0 or first + rows > whole_dims[0]:
        raise ValueError(f"There are no rows {first} to {first + rows}")
    whole.alias.size = 0
    rows_look(&whole, first, rows, dims, &part)
    return (
        tuple([part.dims[i] for i in range(part.rank)]),
        part.elements,
        PyBytes_FromStringAndSize(<const char*>part.data, <Py_ssize_t>part.size),
    )
