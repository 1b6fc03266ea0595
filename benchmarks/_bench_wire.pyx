"""The loops of bench_wire.py: native calls only, so that Python costs nothing."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from tfsrv._message cimport Message, message_clear, message_free, message_init
from tfsrv._predict_request cimport (
    PredictView,
    predict_view_free,
    predict_view_init,
    wire_read_predict,
)
from tfsrv._predict_response cimport TensorData, wire_write_predict
from tfsrv._tensor cimport tensor_from_view, tensor_release
from tfsrv._tf cimport TF_Tensor, api


cdef int64_t now() noexcept nogil:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return moment.tv_sec * 1000000000 + moment.tv_nsec


def parse_ns(data: bytes, times: int) -> float:
    """Nanoseconds to read a PredictRequest."""
    cdef PredictView view
    cdef int64_t start
    cdef int64_t count = times
    cdef int64_t _i
    cdef const char* at = PyBytes_AS_STRING(data)
    cdef size_t size = len(data)
    cdef int failed = 0
    predict_view_init(&view)
    start = now()
    for _i in range(count):
        failed |= wire_read_predict(at, size, &view)
    elapsed = now() - start
    predict_view_free(&view)
    if failed:
        raise ValueError("The request cannot be read")
    return elapsed / times


def tensors_ns(data: bytes, times: int) -> float:
    """Nanoseconds to make, and delete, the tensors of a PredictRequest that was read."""
    cdef PredictView view
    cdef TF_Tensor* tensor
    cdef int64_t start
    cdef int64_t count = times
    cdef int64_t _i
    cdef int j
    predict_view_init(&view)
    if wire_read_predict(PyBytes_AS_STRING(data), len(data), &view) != 0:
        raise ValueError("The request cannot be read")
    start = now()
    for _i in range(count):
        for j in range(view.inputs_size):
            if tensor_from_view(&view, &view.inputs[j], &tensor) == 0:
                tensor_release(tensor)
    elapsed = now() - start
    predict_view_free(&view)
    return elapsed / times


def write_ns(outputs: int, values: bytes, splice_from: int, times: int) -> float:
    """Nanoseconds to write a PredictResponse of so many float outputs of shape [1, n]."""
    cdef Message message
    cdef TensorData[8] tensors
    cdef int64_t[2] dims
    cdef int64_t start
    cdef int64_t count = times
    cdef size_t splice = splice_from
    cdef int used = outputs
    cdef int64_t _i
    cdef int j
    cdef int failed = 0
    dims[0] = 1
    dims[1] = len(values) // 4
    for j in range(used):
        tensors[j].alias.data = "output_0"
        tensors[j].alias.size = 8
        tensors[j].dtype = 1
        tensors[j].rank = 2
        tensors[j].dims = dims
        tensors[j].elements = dims[1]
        tensors[j].data = PyBytes_AS_STRING(values)
        tensors[j].size = len(values)
        tensors[j].holder = NULL
    message_init(&message)
    start = now()
    for _i in range(count):
        message_clear(&message)
        for j in range(used):
            tensors[j].taken = False
        failed |= wire_write_predict(
            &message, tensors, used, tensors[0].alias, 123, tensors[0].alias, False, splice,
            forget)
    elapsed = now() - start
    message_free(&message)
    if failed:
        raise ValueError("The response cannot be written")
    return elapsed / times


cdef void forget(void* holder) noexcept nogil:
    pass


def is_open() -> bool:
    """Whether tensors can be made."""
    return api.NewTensor != NULL
