"""Methods that Python answers, in a coroutine for each request."""

from tfsrv._method cimport Method


cdef class PythonMethod(Method):
    cdef readonly object handler
    cdef readonly bint local_only   # refuses calls that did not come from this machine
    cdef readonly bint timed        # `handler` is told the time that is left
