"""Predict, from the request's bytes to the response's, without Python."""

from tfsrv._method cimport Method
from tfsrv._run_queue cimport RunQueue
from tfsrv._workers cimport Pool
from tfsrv.handlers._predict_python cimport PythonPredictor


cdef struct Context:
    void* map               # of `PredictMethod.serving_map`
    Pool* pool              # of `PredictMethod.workers`
    void* python            # PredictMethod.python, borrowed
    RunQueue* unread        # large requests that wait to be parsed; owned by the PredictMethod
    bint as_content         # --enable_serialization_as_tensor_content
    bint checks_method_name   # --enable_signature_method_name_check
    size_t max_message_bytes


cdef class PredictMethod(Method):
    cdef Context settings   # `context` points to it
    cdef readonly object serving_map
    cdef readonly object workers
    cdef PythonPredictor python
