"""Which method runs a model for a REST request."""

from tfsrv._method cimport Method
from tfsrv.frontends._http1_routes cimport HttpRoutes


cdef class RestRoutes(HttpRoutes):
    cdef Method predict
    cdef Method classify
    cdef Method regress
    cdef bint has_management
