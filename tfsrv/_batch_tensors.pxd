"""Rows of several tensors as one, and rows of one tensor for several."""

from libc.stdint cimport int64_t, uint64_t

from tfsrv._predict_request cimport PredictView, TensorView
from tfsrv._predict_response cimport TensorData
from tfsrv._tf cimport TF_Tensor


cdef enum RowsResult:
    ROWS_MADE = 0
    ROWS_INVALID = -1       # TensorFlow's Tensor::FromProto would refuse it, or not its rows
    ROWS_NO_MEMORY = -2
    ROWS_MISMATCH = -3      # not of the first one's kind
    ROWS_EMPTY_AMONG_OTHERS = -4  # rows without elements have nothing to be padded with


# The first dim counts rows: some of a tensor, all of it where it is still a request's bytes.
# Everything is borrowed.
cdef struct RowSource:
    const PredictView* view
    const TensorView* wire  # one of the view's inputs; NULL if it is `tensor`
    TF_Tensor* tensor
    int64_t first_row       # 0 of a `wire`
    int64_t rows            # all of a `wire`


cdef inline RowSource rows_of_wire(
    const PredictView* view, const TensorView* wire, int64_t rows
) noexcept nogil:
    """All rows of a request's input; `rows` is what rows_of_view says."""
    cdef RowSource source
    source.view = view
    source.wire = wire
    source.tensor = NULL
    source.first_row = 0
    source.rows = rows
    return source


cdef inline RowSource rows_of_tensor(
    TF_Tensor* tensor, int64_t first_row, int64_t rows
) noexcept nogil:
    cdef RowSource source
    source.view = NULL
    source.wire = NULL
    source.tensor = tensor
    source.first_row = first_row
    source.rows = rows
    return source


cdef int64_t rows_of_view(const PredictView* view, const TensorView* tensor) noexcept nogil
cdef bint rows_same_kind(
    const RowSource* a, const RowSource* b, bint pads_inner) noexcept nogil
cdef uint64_t rows_kind_hash(const RowSource* source, bint pads_inner) noexcept nogil
cdef int rows_merge(
    const RowSource* sources, int size, int64_t padding_rows, bint pads_inner,
    TF_Tensor** made, int* bad) noexcept nogil
cdef int64_t rows_padding_bytes(
    const RowSource* sources, int size, int64_t padding_rows) noexcept nogil
cdef int rows_join(
    TF_Tensor* const* parts, const int64_t* firsts, const int64_t* rows, int size,
    TF_Tensor** made) noexcept nogil
cdef TF_Tensor* rows_slice(TF_Tensor* whole, int64_t first, int64_t rows) noexcept nogil
cdef void rows_look(
    const TensorData* whole, int64_t first, int64_t rows, int64_t* dims,
    TensorData* into) noexcept nogil
