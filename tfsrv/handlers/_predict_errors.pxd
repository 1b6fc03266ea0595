"""What Predict tells of a request that does not fit. Each sets the status and returns its code."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._predict_request cimport PredictView
from tfsrv._signature cimport Signature, SignatureInput
from tfsrv._status cimport Status

cdef int tell_unknown_label(Status* status, Bytes label) noexcept nogil
cdef int tell_unknown_servable(
    Status* status, const PredictView* view, int64_t version) noexcept nogil
cdef int tell_unknown_signature(Status* status, Bytes name) noexcept nogil
cdef int tell_wrong_method_name(Status* status, const Signature* signature) noexcept nogil
cdef int tell_wrong_size(
    Status* status, const PredictView* view, const Signature* signature) noexcept nogil
cdef int tell_missing_input(
    Status* status, const PredictView* view, const Signature* signature, const SignatureInput* input) noexcept nogil
cdef int tell_unknown_input(
    Status* status, const PredictView* view, const Signature* signature) noexcept nogil
cdef int tell_bad_tensor(Status* status, Bytes alias) noexcept nogil
cdef int tell_unknown_output(Status* status, const Signature* signature, Bytes alias) noexcept nogil
cdef int tell_output_twice(Status* status, Bytes alias) noexcept nogil
