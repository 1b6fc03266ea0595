"""One request in flight, whatever protocol it came by: what it holds, and how that is reused.

A frontend takes a Call with call_new and gives it back with call_free, both in the thread of the
call's loop. A loop keeps some calls with their memory, and the memory of one large request.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from tfsrv._atomic cimport load_acquire_int
from tfsrv._budget cimport budget_give, budget_take, budget_take_low
from tfsrv._buffer cimport (
    Buffer,
    Bytes,
    block_reserve,
    buffer_append,
    buffer_free,
    buffer_init,
)
from tfsrv._message cimport message_clear, message_free, message_init
from tfsrv._model_spec cimport model_spec_signature
from tfsrv._predict_request cimport predict_view_clear, predict_view_free, predict_view_init
from tfsrv._servable cimport servable_release
from tfsrv._status cimport (
    INTERNAL,
    INVALID_INPUT,
    NO_REASON,
    QUEUE_FULL,
    RUN_FAILED,
    SIGNATURE_NOT_FOUND,
    status_add_bytes,
    status_clear,
    status_error,
    status_free,
    status_init,
    status_set,
)

from tfsrv.errors import ErrorDetails, Reason

cdef int FREE_CALLS = 1024                   # kept for reuse by each loop
cdef size_t KEPT_BYTES = 16384               # of a buffer of a call that is kept
cdef size_t SPARE_BYTES = 4 << 20            # one large request's memory is kept as well, up to this


cdef Call* call_new(LoopState* loop) noexcept nogil:
    """A call without owner, request or deadline; NULL without memory. The loop's thread only."""
    cdef Call* call = loop.free_calls
    if call != NULL:
        loop.free_calls = call.next
        loop.free_size -= 1
        call.next = NULL
        return call
    call = <Call*>calloc(1, sizeof(Call))
    if call == NULL:
        return NULL
    call.loop = loop
    call.timer.holder = call
    buffer_init(&call.request)
    status_init(&call.status)
    message_init(&call.response)
    predict_view_init(&call.view)
    return call


cdef void call_free(Call* call) noexcept nogil:
    """Give everything of the call back. The loop's thread only, and no worker has it."""
    cdef LoopState* loop = call.loop
    call_release_servable(call)
    message_clear(&call.response)
    predict_view_clear(&call.view)
    if call.charged_bytes:
        budget_give(call.charged_bytes)
    if loop.closed or loop.free_size >= FREE_CALLS:
        call_free_memory(call)
        return
    if call.request.capacity > KEPT_BYTES:
        keep_spare(call)
    if call.response.head.capacity > KEPT_BYTES:
        message_free(&call.response)
    if call.status.message.capacity > KEPT_BYTES:
        status_free(&call.status)
    if call.scratch_size > KEPT_BYTES:
        free(call.scratch)
        call.scratch = NULL
        call.scratch_size = 0
    call.request.size = 0
    status_clear(&call.status)
    call.owner = NULL
    call.done = NULL
    call.method = NULL
    call.body = Bytes(NULL, 0)
    call.rewritten = False
    call.local = False
    call.low_priority = False
    memset(&call.rest, 0, sizeof(call.rest))
    call.headroom = 0
    call.received_ns = 0
    call.deadline_ns = 0
    call.parked = False
    call.running = False
    call.resumes = False
    call.parsed = False
    call.task = NULL
    call.abandoned = 0
    call.forget = NULL
    call.turn = NULL
    call.charged_bytes = 0
    call.has_version = False
    call.signature = NULL
    call.counters = NULL
    call.examples = 0
    call.wanted = NULL
    call.wanted_size = 0
    call.run_start_ns = 0
    call.run_ns = 0
    call.split = NULL
    call.previous = NULL
    call.next = loop.free_calls
    loop.free_calls = call
    loop.free_size += 1


cdef void keep_spare(Call* call) noexcept nogil:
    """Take the memory of a large request off the call; the largest one so far is kept."""
    cdef Buffer smaller = call.request
    if SPARE_BYTES >= smaller.capacity > call.loop.spare.capacity:
        smaller = call.loop.spare
        call.loop.spare = call.request
    buffer_free(&smaller)
    buffer_init(&call.request)


cdef void call_take_spare(Call* call, size_t needed) noexcept nogil:
    """Move a request that grows beyond what small ones need to memory that is there already.

    Growing by steps copies everything received once more, and touches fresh pages.
    """
    cdef Buffer spare = call.loop.spare
    if needed <= KEPT_BYTES or spare.capacity < needed:
        return
    spare.size = 0
    buffer_append(&spare, call.request.data, call.request.size)
    buffer_free(&call.request)
    call.request = spare
    buffer_init(&call.loop.spare)


cdef void call_free_memory(Call* call) noexcept nogil:
    """Free a call that call_free has kept; when its loop ends."""
    buffer_free(&call.request)
    status_free(&call.status)
    message_free(&call.response)
    predict_view_free(&call.view)
    free(call.scratch)
    free(call)


cdef void call_release_servable(Call* call) noexcept nogil:
    if call.servable != NULL:
        call.version = call.servable.version  # an error will tell which one it was
        call.has_version = True
        servable_release(call.servable)
        call.servable = NULL


cdef void* call_scratch(Call* call, size_t size) noexcept nogil:
    """`size` bytes that live as long as the call, 16-byte aligned; NULL without memory.

    There is one such block a call: asking again may move it.
    """
    return block_reserve(&call.scratch, &call.scratch_size, size)


cdef bint call_charge(Call* call, int64_t bytes) noexcept nogil:
    """Charge `bytes` to the call until it is freed; False when the budget has no room."""
    if not (budget_take_low(bytes) if call.low_priority else budget_take(bytes)):
        return False
    call.charged_bytes += bytes
    return True


cdef void call_give_back(Call* call, int64_t bytes) noexcept nogil:
    """What was charged is not held any more, before the call is freed."""
    budget_give(bytes)
    call.charged_bytes -= bytes


cdef bint call_is_abandoned(Call* call) noexcept nogil:
    """True when nobody waits for the call any more; for workers, before they run it."""
    return load_acquire_int(&call.abandoned) != 0


cdef void call_set_error(Call* call, int code, str message) noexcept:
    """Have the call answered with this error, whose text came from Python."""
    cdef bytes text
    status_set(&call.status, code, "")  # first: without memory for the text it is an error still
    text = message.encode("utf-8", "replace")
    status_add_bytes(&call.status, Bytes(PyBytes_AS_STRING(text), <size_t>len(text)))


cdef void call_set_serving_error(Call* call, error) noexcept:
    """The same of a ServingError, with its details. Of a call without a view of its request."""
    call_set_error(call, error.code or INTERNAL, error.message)
    try:
        set_details(call, error.details)
    except BaseException:
        call.status.reason = NO_REASON  # the code and the message say enough


cdef int set_details(Call* call, details) except -1:
    """Put ErrorDetails where native code has them: names in the view, which lie in scratch memory."""
    cdef bytes names
    cdef char* at
    if details is None:
        return 0
    model, label, signature = [
        text.encode("utf-8", "replace") for text in (details.model, details.label, details.signature)]
    names = model + label + signature
    at = <char*>call_scratch(call, <size_t>len(names) + 1)
    if at == NULL:
        raise MemoryError
    memcpy(at, PyBytes_AS_STRING(names), <size_t>len(names))
    call.view.spec.name = Bytes(at, <size_t>len(model))
    at += len(model)
    call.view.spec.version_label = Bytes(at, <size_t>len(label))
    call.view.spec.has_version_label = len(label) > 0
    at += len(label)
    call.view.spec.signature_name = Bytes(at, <size_t>len(signature))
    call.has_version = details.version is not None
    call.version = details.version or 0
    call.status.reason = details.reason
    return 0


cdef object call_error(const Call* call):
    """The ServingError that the call was answered with."""
    error = status_error(&call.status)
    if call.status.reason != NO_REASON:
        error.details = ErrorDetails(
            Reason(call.status.reason),
            text_of(call.view.spec.name),
            call.version if call.has_version else call.view.spec.version if call.view.spec.has_version else None,
            text_of(call.view.spec.version_label),
            text_of(call_signature_name(call)),
        )
    return error


cdef Bytes call_signature_name(const Call* call) noexcept nogil:
    """The signature that an error is about, the default one too; none if it is about another thing."""
    if call.status.reason not in (SIGNATURE_NOT_FOUND, INVALID_INPUT, RUN_FAILED, QUEUE_FULL):
        return Bytes(NULL, 0)
    if call.view.spec.present:
        return model_spec_signature(&call.view.spec)
    return call.view.spec.signature_name  # of a call that Python answered, as it said


cdef str text_of(Bytes text):
    return text.data[:text.size].decode("utf-8", "replace") if text.size else ""
