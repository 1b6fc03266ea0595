"""Methods that Python answers with any number of messages, to any number of requests."""

from tfsrv._method cimport Method


cdef class StreamingMethod(Method):
    cdef readonly object handler
    cdef readonly bint local_only   # refuses calls that did not come from this machine
