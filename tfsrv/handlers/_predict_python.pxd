"""Predict on servables that are written in Python."""

from tfsrv._call cimport Call


cdef class PythonPredictor:
    cdef readonly object threads    # python_threads.PythonThreads
    cdef bint as_content            # --enable_serialization_as_tensor_content
    cdef size_t max_message_bytes
    cdef object failures            # DampedLog, under `failures_lock`
    cdef object failures_lock
    cdef int start(self, Call* call) except -1
    cdef int log_failure(self, str text, error) except -1


cdef int start_in_python(void* predictor, Call* call) noexcept with gil
