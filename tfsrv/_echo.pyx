"""A native method that answers with its request: a transport without a model behind it.

For tests and measurements of the way from byte to byte: in place, or over a worker that takes
its time; copied, or left where it is until it is written.
"""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport buffer_append, buffer_append_bytes
from tfsrv._call cimport Call, call_charge, call_is_abandoned
from tfsrv._call_loop cimport call_complete
from tfsrv._method cimport STARTED_DONE, STARTED_RUNNING, Method
from tfsrv._clock cimport NS_PER_S, NS_PER_US
from tfsrv._message cimport message_clear, message_seal, message_splice
from tfsrv._status cimport CANCELLED, RESOURCE_EXHAUSTED, UNAVAILABLE, status_set
from tfsrv._run_queue cimport RunQueue, run_queue_free, run_queue_new, run_queue_push
from tfsrv._workers cimport WorkerPool

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int microseconds)


cdef void release_nothing(void* holder) noexcept nogil:
    pass


cdef void answer(Call* call, bint spliced) noexcept nogil:
    """The request as the response: a copy, or the very bytes, which live as long as the call."""
    cdef int failed = buffer_append(&call.response.head, b"\0\0\0\0\0\0\0\0", call.headroom)
    if spliced:
        failed |= message_splice(
            &call.response, call.body.data, call.body.size, NULL, release_nothing)
    else:
        failed |= buffer_append_bytes(&call.response.head, call.body)
    message_seal(&call.response)
    if failed or not call_charge(call, <int64_t>call.body.size):
        message_clear(&call.response)
        status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")


cdef int start(void* context, Call* call) noexcept nogil:
    cdef Echo* echo = <Echo*>context
    if echo.queue == NULL:
        answer(call, echo.spliced)
        return STARTED_DONE
    call.signature = echo
    if not run_queue_push(echo.queue, call):
        status_set(&call.status, UNAVAILABLE, "The queue is full.")
        return STARTED_DONE
    return STARTED_RUNNING


cdef void run(void* item) noexcept nogil:
    """A worker's part."""
    cdef Call* call = <Call*>item
    cdef Echo* echo = <Echo*>call.signature
    if call_is_abandoned(call):
        status_set(&call.status, CANCELLED, "CANCELLED")
    else:
        if echo.run_ns:
            usleep(<unsigned int>(echo.run_ns // NS_PER_US))
        answer(call, echo.spliced)
    call_complete(call)


cdef class EchoMethod(Method):
    """Answers with its request, after `run_seconds` on one of `workers`, or in place without them.

    Ownership: close() it once no call of it is in flight and before the workers go.
    """

    def __init__(
        self, name: str, workers: WorkerPool | None = None, run_seconds: float = 0.0,
        spliced: bool = False,
    ) -> None:
        if self.start != NULL:
            raise RuntimeError("made already")
        self.name = name
        self.workers = workers
        self.echo.run_ns = <int64_t>(run_seconds * NS_PER_S)
        self.echo.spliced = spliced
        if workers is not None:
            self.echo.queue = run_queue_new((<WorkerPool>workers).pool, run)
            if self.echo.queue == NULL:
                raise MemoryError
        self.start = start
        self.context = &self.echo

    def close(self) -> None:
        """Wait for what runs, and give the queue back."""
        cdef RunQueue* queue = self.echo.queue
        if queue != NULL:
            self.echo.queue = NULL
            with nogil:
                run_queue_free(queue)

    def __dealloc__(self):
        self.close()
