"""Calls in batches."""

from tfsrv._call cimport Call
from tfsrv._workers cimport Pool

cdef int batch_call(Pool* pool, Call* call) noexcept nogil
