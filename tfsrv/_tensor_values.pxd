"""The values of a TensorProto of a request, with TensorFlow's rules (Tensor::FromProto)."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._predict_request cimport PredictView, TensorView

ctypedef int (*string_fn)(void* arg, int64_t index, Bytes value) noexcept nogil

cdef int64_t count_elements(const PredictView* view, const TensorView* tensor) noexcept nogil
cdef int64_t expanded_bytes(const PredictView* view, const TensorView* tensor) noexcept nogil
cdef void repeat_last(char* target, size_t unit, int64_t given, int64_t elements) noexcept nogil
cdef bint values_parse(const PredictView* view, const TensorView* tensor) noexcept nogil
cdef int read_values(
    const PredictView* view, const TensorView* tensor, void* target,
    int64_t elements) noexcept nogil
cdef int read_strings(
    const PredictView* view, const TensorView* tensor, int64_t elements, string_fn store,
    void* arg) noexcept nogil
cdef dict view_description(const PredictView* view, int64_t limit)
