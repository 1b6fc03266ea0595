"""Methods that Python answers with any number of messages, to any number of requests."""

from tfsrv._method cimport Method


cdef class StreamingMethod(Method):
    cdef readonly object handler
    cdef readonly bint local_only   # refuses calls that did not come from this machine
    cdef readonly Py_ssize_t max_calls
    cdef Py_ssize_t calls           # under way
