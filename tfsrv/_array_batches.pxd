"""Batches of numpy arrays, run by a Python callable."""

from libc.stdint cimport int64_t

from tfsrv._array_rows cimport Form
from tfsrv._batching cimport Batch, BatchPart, BatchQueue, BatchSettings, BatchTask
from tfsrv._workers cimport WorkerPool


# What the scheduler sees of a request, without the GIL.
cdef struct ArrayTask:
    BatchTask task          # first: a BatchTask's address is its ArrayTask's
    int abandoned           # atomic: nobody waits for it any more
    bint is_split           # rows of it are in several batches


cdef class ArrayRequest:
    cdef:
        ArrayTask task
        ArrayQueue queue
        Form form
        list arrays         # what was submitted; None once it is answered
        int64_t rows_left   # that the scheduler has, or a batch; it has a reference until there are none
        void* before        # among those of the queue with rows left; borrowed
        void* after         # borrowed
        bint begun          # a batch that has it runs
        bint done           # it has its answer, or nobody wants one
        list parts          # of a split request: (first row, output arrays)
        object result
        object error        # an exception
        # Who waits, one of these; None once it was told.
        object lock
        object loop
        object waiter
        object future

    cdef bint answer(self, object result, object error)
    cdef void close_up(self)


cdef class ArrayQueue:
    cdef:
        object __weakref__
        WorkerPool workers  # has to outlive `queue`
        object owner        # lives as long as anything is outstanding
        BatchQueue* queue   # owned; NULL: closed
        BatchSettings settings
        object function
        readonly str name
        dict forms
        dict kinds
        object next_kind
        str closed          # why nothing is taken any more
        object idle         # an Event: closed, and nothing is outstanding
        Py_ssize_t outstanding
        void* first         # of the requests with rows left; borrowed
        set runners         # threads that are in a batch
        object kicking      # the loop that will kick the queue soon
        dict last_counts

    cdef ArrayRequest new_request(self, object inputs, double timeout, bint low)
    cdef int look_at(self, ArrayRequest request, object inputs) except -1
    cdef Form form_of(self, object inputs, list arrays)
    cdef int push(self, ArrayRequest request) except -1
    cdef object refusal(self, ArrayRequest request, int pushed)
    cdef void take_in(self, ArrayRequest request)
    cdef void let_go(self, ArrayRequest request, int64_t rows)
