"""Answers of Predict, Classify and Regress as JSON, written from tensors as they lie in memory. No GIL."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._inference_response cimport InferenceAnswer
from tfsrv._predict_response cimport TensorData
from tfsrv._status cimport Status


# What an answer says of the model, if it was asked to.
cdef struct JsonModelSpec:
    Bytes name
    int64_t version
    Bytes signature_name


cdef int json_write_predict(
    Buffer* into, const TensorData* outputs, int size, bint in_rows, bint pretty,
    const JsonModelSpec* spec, Status* status) noexcept nogil
cdef int json_write_classify(
    Buffer* into, const InferenceAnswer* answer, bint pretty, const JsonModelSpec* spec,
    Status* status) noexcept nogil
cdef int json_write_regress(
    Buffer* into, const InferenceAnswer* answer, bint pretty, const JsonModelSpec* spec,
    Status* status) noexcept nogil
