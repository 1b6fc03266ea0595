"""A PredictRequest as views into its bytes; read without the GIL."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes, bytes_compare, bytes_equal
from tfsrv._model_spec cimport ModelSpecView


# One TensorProto of a request, as views into the request's bytes.
#
# Two entries of the map with one key: the last wins. Several occurrences of the same
# sub-message merge, as protobuf does.
cdef struct TensorView:
    Bytes alias
    int dtype               # as on the wire, known or not
    bint unknown_rank
    int rank                # 255 also stands for more
    int dims_start          # the dims are PredictView.dims[dims_start : dims_start + rank]
    Bytes content           # tensor_content; the last one wins
    # The fields below are for _tensor_values: where the typed values stand.
    int bodies_start        # the TensorProto's bytes: PredictView.bodies[bodies_start:] ...
    int bodies_size         # ... so many of them
    Bytes run               # the values of the dtype's own field if in one run, else NULL
    int64_t values_size     # number of values in the dtype's own field; bytes for float8_val
    bint measured           # `expanded_bytes` is known
    int64_t expanded_bytes  # what _tensor.tensor_view_bytes says


cdef enum:
    FEW_INPUTS = 16         # more than these stand in the order of their aliases

# One task of a MultiInferenceRequest, as views into its bytes.
cdef struct TaskView:
    ModelSpecView spec
    Bytes method_name


# A PredictRequest, or a request for Classify, Regress or MultiInference as one, as views into its bytes.
# The arrays are owned and reused.
cdef struct PredictView:
    ModelSpecView spec
    TensorView* inputs
    int inputs_size
    int inputs_capacity
    Bytes* output_filter
    int output_filter_size
    int output_filter_capacity
    int64_t* dims
    int dims_size
    int dims_capacity
    Bytes* bodies
    int bodies_used
    int bodies_capacity
    # The fields below are _inference_request's.
    TaskView* tasks
    int tasks_size
    int tasks_capacity
    size_t unjoined_bytes   # of examples that have a context still to be joined with; 0: none
    void* joined            # owned; examples that were
    size_t joined_capacity


cdef enum:
    WIRE_KEPT_BYTES = 16 * 1024     # of each array of a view, from one request to the next

cdef int view_add_body(PredictView* view, Bytes body) noexcept nogil
cdef int view_grow(void** array, int* capacity, size_t item) noexcept nogil
cdef void predict_view_init(PredictView* view) noexcept nogil
cdef void predict_view_clear(PredictView* view) noexcept nogil
cdef void predict_view_drop_joined(PredictView* view) noexcept nogil
cdef size_t predict_view_bytes(const PredictView* view) noexcept nogil
cdef void predict_view_free(PredictView* view) noexcept nogil
cdef int wire_read_predict(const char* data, size_t size, PredictView* view) noexcept nogil

# The parts of it that a PredictResponse has too.
cdef int read_input(PredictView* view, Bytes message) noexcept nogil
cdef void drop_replaced_inputs(PredictView* view) noexcept nogil

cdef inline const TensorView* predict_view_find(
    const PredictView* view, Bytes alias
) noexcept nogil:
    """The request's input of that name; NULL when there is none."""
    cdef int low = 0, high = view.inputs_size, middle, order
    cdef int i
    if view.inputs_size <= FEW_INPUTS:
        for i in range(view.inputs_size):
            if bytes_equal(view.inputs[i].alias, alias):
                return &view.inputs[i]
        return NULL
    while low < high:
        middle = (low + high) // 2
        order = bytes_compare(view.inputs[middle].alias, alias)
        if order == 0:
            return &view.inputs[middle]
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return NULL
