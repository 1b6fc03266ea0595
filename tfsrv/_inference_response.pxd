"""Answers of Classify, Regress and MultiInference, written from tensors as they lie in memory."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._message cimport Message
from tfsrv._predict_response cimport TensorData


# One result to be written; everything is borrowed, and checked by whoever fills it in.
cdef struct InferenceAnswer:
    Bytes signature_name
    bint is_regression
    int64_t rows
    int64_t width               # classes of each row
    const TensorData* classes   # rows * width strings; NULL: none
    const TensorData* scores    # rows * width floats, or the `rows` values of a regression; NULL: none


cdef int wire_write_inference(
    Message* message, const InferenceAnswer* answer, Bytes model_name, int64_t version) noexcept nogil
cdef int wire_write_multi_inference(
    Message* message, const InferenceAnswer* answers, int size, Bytes model_name,
    int64_t version) noexcept nogil
