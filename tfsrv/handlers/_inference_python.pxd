"""Classify, Regress and MultiInference on servables that are written in Python."""

from tfsrv._call cimport Call
from tfsrv.handlers._predict_python cimport PythonAnswering, PythonTurn


cdef class InferenceAnswering(PythonAnswering):
    cdef bint checks_method_name    # --enable_signature_method_name_check
    cdef list ask(self, PythonTurn turn, servable, str signature_name, bint is_regression)
    cdef int check_use(self, Call* call, signature_def, bint is_regression) except -1
    cdef int write(self, PythonTurn turn, list tasks, bint is_multi) except -1


cdef class OneAnswering(InferenceAnswering):
    cdef bint is_regression


cdef class MultiAnswering(InferenceAnswering):
    cdef int check(self, Call* call, signature_defs) except -1
