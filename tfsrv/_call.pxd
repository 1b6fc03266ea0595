"""One request in flight, whatever protocol it came by, and the loop that answers it."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._message cimport Message
from tfsrv._predict_request cimport PredictView
from tfsrv._servable cimport Servable
from tfsrv._status cimport Status


cdef enum Started:          # what a handler says when it was given a call
    STARTED_DONE = 0        # status and response are set
    STARTED_RUNNING = 1     # a worker has it and will call call_complete
    STARTED_PARKED = 2      # to be started again when the serving map changes
    STARTED_RARE = 3        # not for native code: rewrite it in Python, then start it again
    STARTED_PYTHON = 4      # a coroutine answers it

ctypedef int (*start_fn)(void* context, Call* call) noexcept nogil
# In the loop's thread, with the GIL. `call` is the owner's from here on, to be given to
# call_free; NULL says that the deadline passed while a worker had the call.
ctypedef void (*done_fn)(void* owner, Call* call) noexcept
ctypedef void (*flush_fn)(void* argument) noexcept


# Owned by the loop, from call_new to call_free; lent to one worker between STARTED_RUNNING
# and call_complete. Only `abandoned` may be touched by the loop while a worker has it.
cdef struct Call:
    LoopState* loop
    Call* next              # in the list that it is in: completed, parked or free
    Call* previous          # parked only
    # whose it is
    void* owner             # NULL: nobody waits any more
    done_fn done
    void* method            # Method, borrowed: method tables live as long as their loop
    # the request
    Buffer request          # owned; as received, framing included
    Bytes body              # the message in `request`
    bint rewritten          # went through Python protobuf already
    size_t headroom         # bytes that the handler leaves free at the start of the response
    int64_t received_ns
    int64_t deadline_ns     # 0: none
    # the answer
    Status status
    Message response
    # the loop's
    int64_t wake_ns         # when the timer has to look at it
    size_t timer_slot       # index in the timer heap + 1; 0: not in it
    bint parked
    bint running            # a worker has it
    bint resumes            # the worker did a part: the handler is to be started again
    void* task              # asyncio.Task that answers it, one reference; NULL for native methods
    int abandoned           # atomic; 1: do not run any more
    int64_t charged_bytes   # of the in-flight budget
    # the handler's
    bint parsed             # `body` was read, with this result
    int parse_result
    PredictView view
    Servable* servable      # one reference; NULL when there is none
    void* signature         # of `servable`, as its handler knows it
    void* counters          # Counters of what was asked; NULL: not known yet
    void* scratch           # owned
    size_t scratch_size
    int* wanted             # output indexes in the order of the answer; points into scratch
    int wanted_size
    int64_t run_start_ns    # 0: never ran
    int64_t run_ns


# What native code sees of a CallLoop; owned by it, outlives every call of it.
cdef struct LoopState:
    int event_fd
    Call* completed         # atomic: stack of calls that workers are through with
    Call* parked
    Call* free_calls
    int free_size
    Buffer spare            # the last large request's memory, for the next one
    Call** timers           # owned; heap by wake_ns
    size_t timers_size
    size_t timers_capacity
    int64_t in_flight       # dispatched and not finished, the loop's thread only
    int64_t waiting         # of these, with an owner
    int64_t event_ns        # when the present I/O event began; 0: none that counts
    void* call_loop         # CallLoop, borrowed
    bint closed


cdef Call* call_new(LoopState* loop) noexcept nogil
cdef void call_free(Call* call) noexcept nogil
cdef void call_dispatch(Call* call, Method method) noexcept
cdef void call_complete(Call* call) noexcept nogil
cdef void call_release_servable(Call* call) noexcept nogil
cdef void call_abandon(Call* call) noexcept
cdef void call_take_spare(Call* call, size_t needed) noexcept nogil
cdef void* call_scratch(Call* call, size_t size) noexcept nogil
cdef bint call_is_abandoned(Call* call) noexcept nogil
cdef bint call_charge(Call* call, int64_t bytes) noexcept nogil

cdef bint budget_take(int64_t bytes) noexcept nogil
cdef void budget_give(int64_t bytes) noexcept nogil
cdef bint budget_ran_out() noexcept nogil


cdef class Method:
    cdef start_fn start
    cdef void* context      # the subclass says whose it is
    cdef void* counters     # Counters of calls of which no more is known; live for ever
    cdef readonly str name


cdef class PythonMethod(Method):
    cdef readonly object handler


cdef class CallLoop:
    cdef LoopState state
    cdef object loop        # asyncio.AbstractEventLoop
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
