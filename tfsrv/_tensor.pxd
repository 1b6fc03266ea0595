"""TF_Tensors: made from requests, looked into for answers."""

from libc.stdint cimport int64_t

from tfsrv._predict_request cimport PredictView, TensorView
from tfsrv._predict_response cimport TensorData
from tfsrv._tf cimport TF_Tensor
from tfsrv._tstring cimport TString

cdef enum:
    MAX_RANK = 254          # of TensorFlow's TensorShape

cdef size_t dtype_size(int dtype) noexcept nogil
cdef int64_t tensor_view_bytes(const PredictView* view, const TensorView* tensor) noexcept nogil
cdef void tensor_views_measure(PredictView* view) noexcept nogil
cdef bint tensor_view_parses(const PredictView* view, const TensorView* tensor) noexcept nogil
cdef int tensor_from_view(
    const PredictView* view, const TensorView* tensor, TF_Tensor** made) noexcept nogil
cdef bint is_known_type(int dtype) noexcept nogil
cdef int fill_strings(
    const PredictView* view, const TensorView* tensor, TString* strings, int64_t elements) noexcept nogil
cdef void numbers_deallocator(void* data, size_t size, void* key) noexcept nogil
cdef void strings_deallocator(void* data, size_t size, void* key) noexcept nogil
cdef int tensor_data(TF_Tensor* tensor, int64_t* dims, TensorData* into) noexcept nogil
cdef void tensor_release(void* tensor) noexcept nogil


cdef class Tensor:
    cdef TF_Tensor* tensor  # owned
