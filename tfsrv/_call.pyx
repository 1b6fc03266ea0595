"""One request in flight, and the loop that answers it.

A frontend takes a Call with call_new, fills `request` and `body`, and dispatches it to a
Method. What comes back comes by `done`, always in the loop's thread: at once, when a worker
is through, or when the deadline passes. After `done` the call is the frontend's, which gives it
back with call_free once the response has left.

Workers push finished calls on a lock-free stack and wake the loop once through an eventfd.
Deadlines are a heap of calls and one timer of the loop. A call whose owner left or whose deadline
passed is *abandoned*: it does not run any more, and dies quietly when it comes back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

from tfsrv._atomic cimport (
    add_relaxed_i64,
    cas_weak_ptr,
    exchange_int,
    exchange_ptr,
    load_acquire_int,
    load_relaxed_i64,
    load_relaxed_int,
    load_relaxed_ptr,
    store_relaxed_i64,
    store_relaxed_int,
    store_release_int,
)
from tfsrv._buffer cimport Buffer, Bytes, buffer_append, buffer_free, buffer_init
from tfsrv._clock cimport NS_PER_S, now_ns
from tfsrv._counters cimport Counters, counters_add, counters_of
from tfsrv._message cimport message_clear, message_free, message_init, message_read, message_seal
from tfsrv._predict_request cimport predict_view_clear, predict_view_free, predict_view_init
from tfsrv._servable cimport servable_release
from tfsrv._status cimport (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    status_add_bytes,
    status_clear,
    status_error,
    status_free,
    status_init,
    status_set,
)
from tfsrv._thread cimport EFD_CLOEXEC, EFD_NONBLOCK, close, eventfd, read, write

from tfsrv.errors import ServingError

cdef int FREE_CALLS = 1024                   # kept for reuse by each loop
cdef size_t KEPT_BYTES = 16384               # of a buffer of a call that is kept
cdef size_t SPARE_BYTES = 4 << 20            # one large request's memory is kept as well, up to this
cdef int64_t PARK_NS = 30 * NS_PER_S         # how long a request waits for its model's first version

# Bytes that requests and answers of all connections hold now, against what they may hold.
cdef int64_t budget_used = 0
cdef int64_t budget_limit = 0x7FFFFFFFFFFFFFFF
cdef int budget_short = 0   # atomic; 1: somebody was refused since budget_ran_out() was asked


# ---- the in-flight budget -------------------------------------------------------------------

cdef bint budget_take(int64_t bytes) noexcept nogil:
    """Count `bytes` more as in flight; False, and nothing changed, when that is over the limit."""
    if add_relaxed_i64(&budget_used, bytes) + bytes > load_relaxed_i64(&budget_limit):
        add_relaxed_i64(&budget_used, -bytes)
        store_relaxed_int(&budget_short, 1)
        return False
    return True


cdef void budget_give(int64_t bytes) noexcept nogil:
    add_relaxed_i64(&budget_used, -bytes)


cdef bint budget_ran_out() noexcept nogil:
    """Whether somebody was refused since this was asked the last time."""
    return load_relaxed_int(&budget_short) != 0 and exchange_int(&budget_short, 0) != 0


cdef bint call_charge(Call* call, int64_t bytes) noexcept nogil:
    """Charge `bytes` to the call until it is freed; False when the budget has no room."""
    if not budget_take(bytes):
        return False
    call.charged_bytes += bytes
    return True


def set_max_in_flight_bytes(limit: int) -> None:
    """Requests and answers of all connections together may hold `limit` bytes."""
    store_relaxed_i64(&budget_limit, limit)


def take_in_flight_bytes(size: int) -> bool:
    """Count `size` bytes more as in flight; False, and nothing changed, when that is over the limit."""
    return budget_take(size)


def give_in_flight_bytes(size: int) -> None:
    """Count `size` bytes less as in flight."""
    budget_give(size)


def in_flight_bytes() -> int:
    """Bytes that requests and answers hold now."""
    return load_relaxed_i64(&budget_used)


# ---- calls ------------------------------------------------------------------------------------

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
        free_memory(call)
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
    call.headroom = 0
    call.received_ns = 0
    call.deadline_ns = 0
    call.wake_ns = 0
    call.parked = False
    call.running = False
    call.resumes = False
    call.parsed = False
    call.task = NULL
    call.abandoned = 0
    call.charged_bytes = 0
    call.signature = NULL
    call.counters = NULL
    call.wanted = NULL
    call.wanted_size = 0
    call.run_start_ns = 0
    call.run_ns = 0
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


cdef void free_memory(Call* call) noexcept nogil:
    buffer_free(&call.request)
    status_free(&call.status)
    message_free(&call.response)
    predict_view_free(&call.view)
    free(call.scratch)
    free(call)


cdef void call_release_servable(Call* call) noexcept nogil:
    if call.servable != NULL:
        servable_release(call.servable)
        call.servable = NULL


cdef void* call_scratch(Call* call, size_t size) noexcept nogil:
    """`size` bytes that live as long as the call, 16-byte aligned; NULL without memory.

    There is one such block a call: asking again may move it.
    """
    cdef void* grown
    if size > call.scratch_size:
        grown = malloc(size)
        if grown == NULL:
            return NULL
        free(call.scratch)
        call.scratch = grown
        call.scratch_size = size
    return call.scratch


cdef bint call_is_abandoned(Call* call) noexcept nogil:
    """True when nobody waits for the call any more; for workers, before they run it."""
    return load_acquire_int(&call.abandoned) != 0


# ---- from dispatch to done ----------------------------------------------------------------------

cdef void call_dispatch(Call* call, Method method) noexcept:
    """Start the call; `done` may come before this returns. The loop's thread, with the GIL.

    `owner`, `done`, `body`, `headroom` and `deadline_ns` are set.
    """
    cdef LoopState* loop = call.loop
    call.method = <void*>method
    call.counters = method.counters
    if call.received_ns == 0:
        call.received_ns = now_ns()
    loop.in_flight += 1
    loop.waiting += 1
    if call.deadline_ns != 0:
        # `received_ns` may be long ago: the first byte's time.
        if call.deadline_ns <= now_ns():
            status_set(&call.status, DEADLINE_EXCEEDED, "Deadline Exceeded")
            finish(call)
            return
        wake_at(call, call.deadline_ns)
    start(call)


cdef void start(Call* call) noexcept:
    """Give the call to its handler and go on as the handler says."""
    cdef Method method = <Method>call.method
    cdef int started = method.start(method.context, call)
    if started == STARTED_RARE:
        started = STARTED_DONE
        if rewrite(call, method):
            started = method.start(method.context, call)
            if started == STARTED_RARE:
                status_set(&call.status, INTERNAL, "The request cannot be read.")
                started = STARTED_DONE
    if started == STARTED_DONE:
        finish(call)
    elif started == STARTED_RUNNING:
        call.running = True
    elif started == STARTED_PYTHON:
        launch(call, <PythonMethod>method)
    else:
        park(call)


cdef bint rewrite(Call* call, Method method) noexcept:
    """Let Python protobuf bring the request into a form that native code reads."""
    cdef bytes body
    call.rewritten = True
    try:
        body = method.rewrite(PyBytes_FromStringAndSize(call.body.data, <Py_ssize_t>call.body.size))
    except ServingError as error:
        set_error(call, error.code, error.message)
        return False
    except BaseException as error:
        set_error(call, INTERNAL, f"{type(error).__name__}: {error}")
        return False
    predict_view_clear(&call.view)
    call.parsed = False
    call.request.size = 0
    if buffer_append(&call.request, PyBytes_AS_STRING(body), <size_t>len(body)) != 0:
        set_error(call, INTERNAL, "out of memory")
        return False
    call.body = Bytes(call.request.data, call.request.size)
    return True


cdef void launch(Call* call, PythonMethod method) noexcept:
    """Let the method's coroutine answer, in a task of its own."""
    cdef _Coroutine coroutine
    try:
        request = PyBytes_FromStringAndSize(call.body.data, <Py_ssize_t>call.body.size)
        coroutine = _Coroutine.__new__(_Coroutine)
        coroutine.call = call
        task = (<CallLoop>call.loop.call_loop).loop.create_task(_answer(method.handler, request, coroutine))
        task.add_done_callback(coroutine.ended)
    except BaseException as error:
        set_error(call, INTERNAL, f"{type(error).__name__}: {error}")
        finish(call)
        return
    if coroutine.call == NULL:  # an eager task: answered already, and the call is gone
        return
    Py_INCREF(task)  # the call's reference, given back in finish()
    call.task = <void*>task


cdef class _Coroutine:
    """What a coroutine holds of the call that it answers."""

    cdef Call* call         # NULL once it was answered

    def ended(self, task: asyncio.Task[None]) -> None:
        """The task is over. One that was cancelled before its first step has run nothing of answer()."""
        if self.call != NULL:
            self.end(CANCELLED, "CANCELLED", b"")

    cdef void end(self, int code, str message, bytes response) noexcept:
        cdef Call* call = self.call
        cdef CallLoop loop = <CallLoop>call.loop.call_loop
        self.call = NULL
        status_clear(&call.status)
        if code != OK:
            set_error(call, code, message)
        elif not call_charge(call, <int64_t>len(response)):
            status_set(
                &call.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
        elif (
            buffer_append(&call.response.head, b"\0\0\0\0\0\0\0\0", call.headroom) != 0
            or buffer_append(&call.response.head, PyBytes_AS_STRING(response), <size_t>len(response)) != 0
        ):
            message_clear(&call.response)
            set_error(call, INTERNAL, "out of memory")
        else:
            message_seal(&call.response)
        finish(call)
        loop.flush()


async def _answer(handler: object, request: bytes, _Coroutine coroutine) -> None:
    """Run a Python handler for one call; never raises."""
    try:
        response = await handler(request)
        coroutine.end(OK, "", bytes(response))
    except ServingError as error:
        coroutine.end(error.code, error.message, b"")
    except asyncio.CancelledError:
        coroutine.end(CANCELLED, "CANCELLED", b"")
    except BaseException as error:
        logging.getLogger("tfsrv").exception("%s failed", handler)
        coroutine.end(INTERNAL, f"{type(error).__name__}: {error}", b"")


cdef void set_error(Call* call, int code, str message) noexcept:
    cdef bytes text = message.encode("utf-8", "replace")
    status_set(&call.status, code, "")
    status_add_bytes(&call.status, Bytes(PyBytes_AS_STRING(text), <size_t>len(text)))


cdef void call_complete(Call* call) noexcept nogil:
    """A worker is through with the call: `status` and `response` are set. Any thread."""
    cdef LoopState* loop = call.loop
    cdef uint64_t one = 1
    cdef void* first = load_relaxed_ptr(<void* const*>&loop.completed)
    call_release_servable(call)
    while True:
        call.next = <Call*>first
        # The loop takes the whole stack with acquire: it sees all that was written before this.
        if cas_weak_ptr(<void**>&loop.completed, &first, call):
            break
    if first == NULL:  # else the loop has been woken and has not come by yet
        write(loop.event_fd, &one, sizeof(one))


cdef void finish(Call* call) noexcept:
    """The call has its answer. The loop's thread; ends the call's time in the loop."""
    cdef int64_t now
    timer_remove(call)
    call.loop.in_flight -= 1
    if call.task != NULL:
        Py_DECREF(<object>call.task)  # the call's reference
        call.task = NULL
    if call.owner == NULL:
        call_free(call)
        return
    call.loop.waiting -= 1
    if call.counters != NULL:
        now = now_ns()
        counters_add(
            <Counters*>call.counters,
            call.status.code,
            now - call.received_ns,
            call.run_start_ns - call.received_ns if call.run_start_ns else -1,
            call.run_ns if call.run_start_ns else -1,
        )
    call.done(call.owner, call)


cdef void call_abandon(Call* call) noexcept:
    """The owner is gone: forget it, and do not run the call if that has not begun yet.

    The loop's thread. The call must not be used afterwards.
    """
    if call.counters != NULL:
        counters_add(<Counters*>call.counters, CANCELLED, -1, -1, -1)
    leave(call)


cdef void leave(Call* call) noexcept:
    """Take the owner off a call that was dispatched and is not done."""
    timer_remove(call)
    call.owner = NULL
    call.loop.waiting -= 1
    if call.parked:
        unpark(call)
        call.loop.in_flight -= 1
        call_free(call)
    elif call.task != NULL:
        try:
            (<object>call.task).cancel()
        except BaseException:
            logging.getLogger("tfsrv").exception("a request cannot be cancelled")
    else:
        store_release_int(&call.abandoned, 1)


cdef void expire(Call* call, int64_t now) noexcept:
    """The timer found the call due."""
    cdef void* owner = call.owner
    cdef done_fn done = call.done
    if call.parked:
        unpark(call)
        if call.deadline_ns != 0 and call.deadline_ns <= now:
            status_set(&call.status, DEADLINE_EXCEEDED, "Deadline Exceeded")
        else:
            status_set(&call.status, UNAVAILABLE, "Model ")
            status_add_bytes(&call.status, call.view.model_name)
            status_add_bytes(&call.status, Bytes(b" is still loading", 17))
        finish(call)
        return
    if call.counters != NULL:
        counters_add(<Counters*>call.counters, DEADLINE_EXCEEDED, -1, -1, -1)
    leave(call)
    done(owner, NULL)


# ---- parked calls ---------------------------------------------------------------------------------

cdef void park(Call* call) noexcept:
    """Keep the call until the serving map changes, its deadline passes or PARK_NS are over."""
    cdef LoopState* loop = call.loop
    cdef int64_t until = call.received_ns + PARK_NS
    if call.deadline_ns != 0 and call.deadline_ns < until:
        until = call.deadline_ns
    call.parked = True
    call.previous = NULL
    call.next = loop.parked
    if loop.parked != NULL:
        loop.parked.previous = call
    loop.parked = call
    wake_at(call, until)


cdef void unpark(Call* call) noexcept:
    if call.previous != NULL:
        call.previous.next = call.next
    else:
        call.loop.parked = call.next
    if call.next != NULL:
        call.next.previous = call.previous
    call.parked = False
    call.next = NULL
    call.previous = NULL


cdef void restart_parked(LoopState* loop) noexcept:
    """The serving map changed: start every parked call again, the oldest first."""
    cdef Call* call = loop.parked
    cdef Call* oldest = NULL
    cdef Call* following
    loop.parked = NULL
    while call != NULL:  # the list is newest first: turn it round
        following = call.next
        call.next = oldest
        oldest = call
        call = following
    while oldest != NULL:
        call = oldest
        oldest = call.next
        call.parked = False
        call.next = NULL
        call.previous = NULL
        timer_remove(call)
        if call.deadline_ns != 0:
            if call.deadline_ns <= now_ns():
                status_set(&call.status, DEADLINE_EXCEEDED, "Deadline Exceeded")
                finish(call)
                continue
            wake_at(call, call.deadline_ns)
        start(call)


# ---- the timer heap ---------------------------------------------------------------------------------

cdef void timer_put(LoopState* loop, size_t index, Call* call) noexcept nogil:
    loop.timers[index] = call
    call.timer_slot = index + 1


cdef void timer_up(LoopState* loop, size_t index, Call* call) noexcept nogil:
    cdef size_t parent
    while index > 0:
        parent = (index - 1) // 2
        if loop.timers[parent].wake_ns <= call.wake_ns:
            break
        timer_put(loop, index, loop.timers[parent])
        index = parent
    timer_put(loop, index, call)


cdef void timer_down(LoopState* loop, size_t index, Call* call) noexcept nogil:
    cdef size_t child
    while True:
        child = 2 * index + 1
        if child >= loop.timers_size:
            break
        if child + 1 < loop.timers_size and loop.timers[child + 1].wake_ns < loop.timers[child].wake_ns:
            child += 1
        if loop.timers[child].wake_ns >= call.wake_ns:
            break
        timer_put(loop, index, loop.timers[child])
        index = child
    timer_put(loop, index, call)


cdef void timer_remove(Call* call) noexcept nogil:
    """Out of the heap, if it is in it; O(log n)."""
    cdef LoopState* loop = call.loop
    cdef size_t index = call.timer_slot
    cdef Call* last
    if index == 0:
        return
    index -= 1
    call.timer_slot = 0
    loop.timers_size -= 1
    last = loop.timers[loop.timers_size]
    if last == call:
        return
    if index > 0 and loop.timers[(index - 1) // 2].wake_ns > last.wake_ns:
        timer_up(loop, index, last)
    else:
        timer_down(loop, index, last)


cdef void wake_at(Call* call, int64_t when) noexcept:
    """Have the timer look at the call at `when`. Without memory it has no deadline."""
    cdef LoopState* loop = call.loop
    cdef size_t capacity
    cdef Call** grown
    timer_remove(call)
    if loop.timers_size == loop.timers_capacity:
        capacity = loop.timers_capacity * 2 if loop.timers_capacity else 256
        grown = <Call**>realloc(loop.timers, capacity * sizeof(Call*))
        if grown == NULL:
            return
        loop.timers = grown
        loop.timers_capacity = capacity
    call.wake_ns = when
    loop.timers_size += 1
    timer_up(loop, loop.timers_size - 1, call)
    if call.timer_slot == 1:
        (<CallLoop>loop.call_loop).arm()


# ---- what Python sees ---------------------------------------------------------------------------------

cdef class Method:
    """One RPC. Its requests are handled without Python, unless it is a PythonMethod.

    A subclass sets `start` and `context`. Method tables keep it alive as long as the loop.
    """

    def rewrite(self, request: bytes) -> bytes:
        """Bring a request that native code does not read into a form that it does.

        Called when `start` answered STARTED_RARE. Raises ServingError if it is not valid.
        """
        raise ServingError(INTERNAL, "The request cannot be read.")


cdef int start_python(void* context, Call* call) noexcept nogil:
    return STARTED_PYTHON


cdef class PythonMethod(Method):
    """A method that a coroutine answers: `await handler(request: bytes) -> bytes`.

    The handler raises ServingError for what goes wrong, and is cancelled when its caller leaves
    or its deadline passes.
    """

    def __init__(self, name: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        self.name = name
        self.handler = handler
        self.counters = counters_of("", 0, "", name)  # which model is asked for, it does not know
        self.start = start_python


cdef class _Invocation:
    """Owner of a call that Python waits for."""

    cdef object future
    cdef Call* call         # NULL once done came

    cdef void answer(self, Call* call):
        self.call = NULL
        if call == NULL:
            if not self.future.done():
                self.future.set_exception(ServingError(DEADLINE_EXCEEDED, "Deadline Exceeded"))
            return
        if not self.future.done():
            if call.status.code != OK:
                self.future.set_exception(status_error(&call.status))
            else:
                self.future.set_result(response_bytes(call))
        call_free(call)


cdef bytes response_bytes(Call* call):
    cdef size_t size = call.response.left
    cdef bytes data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    message_read(&call.response, PyBytes_AS_STRING(data), size)
    return data


cdef void invocation_done(void* owner, Call* call) noexcept:
    cdef _Invocation invocation = <_Invocation>owner
    try:
        invocation.answer(call)
    except BaseException as error:  # nothing may unwind into the loop's C code
        if not invocation.future.done():
            invocation.future.set_exception(error)
    Py_DECREF(invocation)  # the call's reference


cdef class CallLoop:
    """Ties calls to an asyncio loop: completions, deadlines, and calls that wait for a model.

    Everything but call_complete belongs to the loop's thread. close() is called when the
    transports have stopped and no worker has a call of it any more.
    """

    def __cinit__(self, loop: asyncio.AbstractEventLoop) -> None:
        memset(&self.state, 0, sizeof(LoopState))
        self.state.event_fd = -1
        self.publish_fd = -1
        self.state.call_loop = <void*>self
        self.loop = loop
        self.timer = None
        self.maps = []
        self.state.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self.publish_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.state.event_fd < 0 or self.publish_fd < 0:
            raise OSError("cannot create an eventfd")
        loop.add_reader(self.state.event_fd, self._on_completed)
        loop.add_reader(self.publish_fd, self._on_published)

    @property
    def in_flight(self) -> int:
        """Calls that were dispatched and are not answered yet."""
        return self.state.waiting

    @property
    def held_by_workers(self) -> int:
        """Calls that are not through, those included whose owner has left."""
        return self.state.in_flight

    def watch(self, serving_map: object) -> None:
        """Start parked calls again whenever `serving_map` publishes."""
        serving_map.add_listener(self.publish_fd)
        self.maps.append(serving_map)

    async def invoke(self, Method method, request: bytes, timeout_seconds: float | None = None) -> bytes:
        """The answer to one request.

        Raises ServingError. Cancelling the task that awaits it takes the request out of its queue.
        """
        cdef Call* call = call_new(&self.state)
        cdef _Invocation invocation
        if call == NULL:
            raise MemoryError
        if buffer_append(&call.request, PyBytes_AS_STRING(request), <size_t>len(request)) != 0:
            call_free(call)
            raise MemoryError
        call.body = Bytes(call.request.data, call.request.size)
        call.received_ns = now_ns()
        if timeout_seconds is not None:
            call.deadline_ns = call.received_ns + <int64_t>(min(max(timeout_seconds, 0.0), 1e8) * NS_PER_S)
        invocation = _Invocation.__new__(_Invocation)
        invocation.future = self.loop.create_future()
        invocation.call = call
        Py_INCREF(invocation)  # the call's reference, given back in invocation_done or below
        call.owner = <void*>invocation
        call.done = invocation_done
        call_dispatch(call, method)
        self.flush()
        try:
            return await invocation.future
        except asyncio.CancelledError:
            if invocation.call != NULL:
                call_abandon(invocation.call)
                invocation.call = NULL
                Py_DECREF(invocation)  # the call's reference
            raise

    def close(self) -> None:
        """Let go of the loop. What workers still have, and what they write to, is leaked."""
        cdef Call* call
        if self.state.closed:
            return
        self._on_completed()
        self.state.closed = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for serving_map in self.maps:
            serving_map.remove_listener(self.publish_fd)
        self.maps.clear()
        self.loop.remove_reader(self.state.event_fd)
        self.loop.remove_reader(self.publish_fd)
        buffer_free(&self.state.spare)
        while self.state.free_calls != NULL:
            call = self.state.free_calls
            self.state.free_calls = call.next
            free_memory(call)
        if self.state.in_flight > 0:
            Py_INCREF(self)  # for ever: call_complete writes to the list and the eventfd that are ours

    cdef void add_flusher(self, flush_fn flush, void* argument) noexcept:
        """Call `flush` after each batch of answers, so that a frontend writes once for many."""
        assert self.flushers_size < 8
        self.flushers[self.flushers_size] = flush
        self.flusher_arguments[self.flushers_size] = argument
        self.flushers_size += 1

    cdef void remove_flusher(self, void* argument) noexcept:
        cdef int i
        for i in range(self.flushers_size):
            if self.flusher_arguments[i] == argument:
                self.flushers_size -= 1
                self.flushers[i] = self.flushers[self.flushers_size]
                self.flusher_arguments[i] = self.flusher_arguments[self.flushers_size]
                return

    cdef void flush(self) noexcept:
        cdef int i
        for i in range(self.flushers_size):
            self.flushers[i](self.flusher_arguments[i])

    cdef void arm(self) noexcept:
        """See to it that the timer goes off when the first call is due."""
        cdef int64_t due
        if self.state.timers_size == 0 or self.state.closed:
            return
        due = self.state.timers[0].wake_ns
        if self.timer is not None:
            if self.armed_ns <= due:
                return  # it goes off earlier and arms itself again
            self.timer.cancel()
        self.armed_ns = due
        # A loop's clock counts whole milliseconds in places: round up, never fire early.
        self.timer = self.loop.call_later(max(0.0, (due - now_ns()) / 1e9 + 0.001), self._on_timer)

    def _on_timer(self) -> None:
        cdef int64_t now = now_ns()
        cdef Call* call
        self.timer = None
        while self.state.timers_size > 0 and self.state.timers[0].wake_ns <= now:
            call = self.state.timers[0]
            timer_remove(call)
            expire(call, now)
        self.flush()
        self.arm()

    def _on_completed(self) -> None:
        cdef uint64_t count = 0
        cdef Call* call
        cdef Call* oldest = NULL
        cdef Call* following
        # Read first, then take: a call pushed in between finds an empty stack and wakes us again.
        read(self.state.event_fd, &count, sizeof(count))
        call = <Call*>exchange_ptr(<void**>&self.state.completed, NULL)
        while call != NULL:
            following = call.next
            call.next = oldest
            oldest = call
            call = following
        while oldest != NULL:
            call = oldest
            oldest = call.next
            call.next = NULL
            call.running = False
            if call.resumes and call.owner != NULL:
                call.resumes = False
                start(call)
            else:
                finish(call)
        self.flush()

    def _on_published(self) -> None:
        cdef uint64_t count = 0
        read(self.publish_fd, &count, sizeof(count))
        restart_parked(&self.state)
        self.flush()

    def __dealloc__(self):
        if self.state.event_fd >= 0:
            close(self.state.event_fd)
        if self.publish_fd >= 0:
            close(self.publish_fd)
        if self.state.in_flight == 0:
            free(self.state.timers)
