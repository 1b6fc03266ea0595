"""What Classify, Regress and MultiInference tell of requests and results that do not fit."""

from tfsrv._buffer cimport Bytes
from tfsrv._predict_response cimport TensorData
from tfsrv._status cimport Status

cdef int tell_text_and_name(
    Status* status, int code, int reason, const char* text, Bytes name) noexcept nogil
cdef int tell_wrong_kind(Status* status, Bytes method_name, bint is_regression) noexcept nogil
cdef int tell_not_strings(Status* status, int arg, int dtype) noexcept nogil
cdef int tell_wrong_dtype(Status* status, const char* text, int dtype) noexcept nogil
cdef int tell_wrong_shape(Status* status, const char* text, const TensorData* tensor) noexcept nogil
cdef int tell_two_sizes(
    Status* status, const char* text, long long one, const char* between, long long other) noexcept nogil
