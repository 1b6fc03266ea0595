"""Answers of Classify, Regress and MultiInference."""

from tfsrv._call cimport Call
from tfsrv.handlers._predict_plan cimport Plan

cdef int write_inference(Call* call, Plan* plan) noexcept nogil
cdef int write_multi_inference(Call* call, Plan* plan) noexcept nogil
