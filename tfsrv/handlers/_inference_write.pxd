"""Answers of Classify, Regress and MultiInference."""

from tfsrv._call cimport Call
from tfsrv._predict_response cimport TensorData
from tfsrv.handlers._call_plan cimport InferenceTask, Plan

cdef int write_inference(Call* call, Plan* plan) noexcept nogil
cdef int write_multi_inference(Call* call, Plan* plan) noexcept nogil
cdef int inference_write_one(
    Call* call, const TensorData* outputs, const InferenceTask* task) noexcept nogil
cdef int inference_write_all(
    Call* call, const TensorData* outputs, const InferenceTask* tasks, int size) noexcept nogil
