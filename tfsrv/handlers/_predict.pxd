"""Predict, from the request's bytes to the response's, without Python."""

from tfsrv.handlers._session_method cimport SessionMethod


cdef class PredictMethod(SessionMethod):
    pass
