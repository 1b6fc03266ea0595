"""One request in flight, whatever protocol it came by."""

from libc.stdint cimport int64_t

from tfsrv._batching cimport BatchTask
from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._message cimport Message
from tfsrv._predict_request cimport PredictView
from tfsrv._rest_call cimport RestCall
from tfsrv._servable cimport Servable
from tfsrv._status cimport Status
from tfsrv._timers cimport Timer, Timers


# In the loop's thread, with the GIL. `call` is the owner's from here on, to be given to
# call_free; NULL says that the deadline passed while a worker had the call.
ctypedef void (*done_fn)(void* owner, Call* call) noexcept

# In the loop's thread, with the GIL: the call, which somebody has between STARTED_RUNNING and
# call_complete, was abandoned. Completes it if it still waits for its turn there.
ctypedef void (*forget_fn)(Call* call) noexcept


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
    bint local              # it came from this machine, by loopback or a unix socket
    bint low_priority       # it may wait until nothing else does
    RestCall rest           # of a REST call
    size_t headroom         # bytes that the handler leaves free at the start of the response
    int64_t received_ns
    int64_t deadline_ns     # 0: none
    # the answer
    Status status
    Message response
    # the loop's
    Timer timer             # when the loop has to look at it
    bint parked
    bint running            # a worker has it
    bint resumes            # the worker did a part: the handler is to be started again
    void* task              # asyncio.Task that answers it, one reference; NULL for native methods
    int abandoned           # atomic; 1: do not run any more
    forget_fn forget        # to be told when it is abandoned; NULL: `abandoned` is enough
    void* turn              # what `forget` knows it by: a Python object, one reference, or NULL
    int64_t charged_bytes   # of the in-flight budget
    # the handler's
    bint parsed             # `body` was read, with this result
    int parse_result
    PredictView view
    Servable* servable      # one reference; NULL when there is none
    bint has_version        # `version` is that of the servable, or of the one that was held
    int64_t version
    void* signature         # of `servable`, as its handler knows it
    # Others than the loop's thread set it with the GIL only, with which the loop reads it.
    void* counters          # Counters of what was asked; NULL: not known yet
    int64_t examples        # tensorflow.Examples in it, once it is known to be good; else 0
    void* scratch           # owned
    size_t scratch_size
    int* wanted             # output indexes in the order of the answer; points into scratch
    int wanted_size
    int64_t run_start_ns    # 0: never ran
    int64_t run_ns
    BatchTask task_rows     # while it waits in a BatchQueue
    void* split             # the handler's, while rows of it are in different batches; else NULL


# Something to be done once, in the loop's thread, after all I/O events that are there: see loop_defer.
# Owned by who defers it, and in one loop's list at a time.
cdef struct Deferred:
    Deferred* next
    void* loop              # LoopState; NULL: not deferred
    void (*run)(Deferred* deferred, int64_t since_ns) noexcept  # since when the loop is at such things


# What native code sees of a CallLoop; owned by it, outlives every call of it.
cdef struct LoopState:
    int event_fd
    Call* completed         # atomic: stack of calls that workers are through with
    Call* finished          # calls that the loop's thread itself ran, newest first
    Deferred* deferred      # newest first
    bint deferral_armed     # the loop will come to them
    Call* parked
    Call* free_calls
    int free_size
    Buffer spare            # the last large request's memory, for the next one
    Timers timers           # of calls with a deadline, and of those that are parked
    int64_t in_flight       # dispatched and not finished, the loop's thread only
    int64_t waiting         # of these, with an owner
    int64_t event_ns        # when the present I/O event began; 0: none that counts
    void* call_loop         # CallLoop, borrowed
    bint closed


cdef Call* call_new(LoopState* loop) noexcept nogil
cdef void call_free(Call* call) noexcept nogil
cdef void call_free_memory(Call* call) noexcept nogil
cdef void call_set_error(Call* call, int code, str message) noexcept
cdef void call_set_serving_error(Call* call, object error) noexcept
cdef object call_error(const Call* call)
cdef Bytes call_signature_name(const Call* call) noexcept nogil
cdef void call_release_servable(Call* call) noexcept nogil
cdef void call_take_spare(Call* call, size_t needed) noexcept nogil
cdef void* call_scratch(Call* call, size_t size) noexcept nogil
cdef bint call_is_abandoned(Call* call) noexcept nogil
cdef bint call_charge(Call* call, int64_t bytes) noexcept nogil
cdef void call_give_back(Call* call, int64_t bytes) noexcept nogil
