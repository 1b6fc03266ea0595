"""Answers to REST calls, in the form that the client wants."""

from tfsrv._call cimport Call
from tfsrv._inference_response cimport InferenceAnswer
from tfsrv._predict_response cimport TensorData

cdef bint rest_splices(const Call* call) noexcept nogil
cdef int rest_write_predict(
    Call* call, TensorData* outputs, int outputs_size, bint as_content, bint may_splice) noexcept nogil
cdef int rest_write_inference(Call* call, const InferenceAnswer* answer) noexcept nogil
