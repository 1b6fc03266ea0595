"""A native method that answers with its request."""

from libc.stdint cimport int64_t

from tfsrv._method cimport Method
from tfsrv._run_queue cimport RunQueue
from tfsrv._workers cimport WorkerPool


# What a worker needs of an EchoMethod; owned by it.
cdef struct Echo:
    RunQueue* queue         # owned; NULL: run in place
    int64_t run_ns
    bint spliced


cdef class EchoMethod(Method):
    cdef Echo echo
    cdef WorkerPool workers  # kept alive; None: run in place
