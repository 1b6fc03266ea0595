"""The loop that answers calls: from dispatch to done."""

from libc.stdint cimport int64_t

from tfsrv._call cimport Call, Deferred, LoopState
from tfsrv._method cimport Method

ctypedef void (*flush_fn)(void* argument) noexcept

cdef void call_dispatch(Call* call, Method method) noexcept
cdef void call_complete(Call* call) noexcept nogil
cdef void call_complete_all(Call* newest, Call* oldest) noexcept nogil
cdef void loop_defer(LoopState* loop, Deferred* deferred) noexcept nogil
cdef void call_finish(Call* call) noexcept
cdef void call_abandon(Call* call) noexcept


cdef class CallLoop:
    cdef LoopState state
    cdef object loop        # asyncio.AbstractEventLoop
    cdef object turns       # Turns of the handlers in Python
    cdef object timer       # TimerHandle that is armed, or None
    cdef int64_t armed_ns
    cdef int publish_fd     # written by serving maps when they change
    cdef list maps
    cdef flush_fn flushers[8]
    cdef void* flusher_arguments[8]
    cdef int flushers_size
    cdef void add_flusher(self, flush_fn flush, void* argument) noexcept
    cdef void remove_flusher(self, void* argument) noexcept
    cdef void flush(self) noexcept
    cdef void arm(self) noexcept
    cdef void arm_deferral(self) noexcept
