"""Requests for Classify, Regress and MultiInference, as a Predict of one string tensor."""

from tfsrv._predict_request cimport PredictView

cdef int wire_read_inference(char* data, size_t size, PredictView* view) noexcept nogil
cdef int wire_read_multi_inference(char* data, size_t size, PredictView* view) noexcept nogil
cdef int examples_join(PredictView* view) noexcept nogil
