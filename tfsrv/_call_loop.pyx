"""The loop that answers calls: from dispatch to done.

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

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from tfsrv._atomic cimport cas_weak_ptr, exchange_ptr, load_relaxed_ptr, store_release_int
from tfsrv._buffer cimport Bytes, buffer_append, buffer_free
from tfsrv._call cimport (
    call_charge,
    call_error,
    call_free,
    call_free_memory,
    call_new,
    call_release_servable,
    call_set_error,
    done_fn,
)
from tfsrv._clock cimport NS_PER_S, now_ns
from tfsrv._counters cimport Counters, counters_add, examples_add
from tfsrv._message cimport message_read
from tfsrv._method cimport (
    STARTED_DONE,
    STARTED_PARKED,
    STARTED_RARE,
    STARTED_RUNNING,
)
from tfsrv._status cimport (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    MODEL_LOADING,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    status_add_bytes,
    status_set,
)
from tfsrv._thread cimport EFD_CLOEXEC, EFD_NONBLOCK, close, eventfd, read, write
from tfsrv._timers cimport timers_free, timers_put, timers_remove
from tfsrv._predict_request cimport predict_view_clear
from tfsrv._rest_call cimport REST_NONE

from tfsrv._turns import Turns
from tfsrv.errors import ServingError

cdef int64_t PARK_NS = 30 * NS_PER_S         # how long a request waits for its model's first version


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
            call_finish(call)
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
    if call.loop.deferred != NULL and not call.loop.deferral_armed:
        (<CallLoop>call.loop.call_loop).arm_deferral()
    if started == STARTED_DONE:
        call_finish(call)
    elif started == STARTED_RUNNING:
        call.running = True
    elif started == STARTED_PARKED:
        park(call)


cdef bint rewrite(Call* call, Method method) noexcept:
    """Let Python protobuf bring the request into a form that native code reads."""
    cdef bytes body
    call.rewritten = True
    try:
        body = method.rewrite(PyBytes_FromStringAndSize(call.body.data, <Py_ssize_t>call.body.size))
    except ServingError as error:
        # No transport has vouched for REST's body, as gRPC's does.
        call_set_error(call, INVALID_ARGUMENT if call.rest.verb else error.code or INTERNAL, error.message)
        return False
    except BaseException as error:
        call_set_error(call, INTERNAL, f"{type(error).__name__}: {error}")
        return False
    predict_view_clear(&call.view)
    call.parsed = False
    call.request.size = 0
    if buffer_append(&call.request, PyBytes_AS_STRING(body), <size_t>len(body)) != 0:
        call_set_error(call, INTERNAL, "out of memory")
        return False
    call.body = Bytes(call.request.data, call.request.size)
    return True


cdef void call_complete(Call* call) noexcept nogil:
    """A worker is through with the call: `status` and `response` are set. Any thread."""
    call_release_servable(call)
    call_complete_all(call, call)


cdef void call_complete_all(Call* newest, Call* oldest) noexcept nogil:
    """Workers are through with these calls of one loop, a list on `next`: one wake-up for all.

    As call_complete, but their servables are released already.
    """
    cdef LoopState* loop = newest.loop
    cdef uint64_t one = 1
    cdef void* first = load_relaxed_ptr(<void* const*>&loop.completed)
    while True:
        oldest.next = <Call*>first
        # The loop takes the whole stack with acquire: it sees all that was written before this.
        if cas_weak_ptr(<void**>&loop.completed, &first, newest):
            break
    if first == NULL:  # else the loop has been woken and has not come by yet
        write(loop.event_fd, &one, sizeof(one))


cdef void loop_defer(LoopState* loop, Deferred* deferred) noexcept nogil:
    """Have `deferred.run` called in this loop's thread, after all I/O events that are there now.

    From within a handler's `start`, so that requests that came together can be looked at together.
    """
    deferred.loop = loop
    deferred.next = loop.deferred
    loop.deferred = deferred


cdef void call_finish(Call* call) noexcept:
    """The call has its answer. The loop's thread; ends the call's time in the loop."""
    cdef int64_t now
    cdef bint rest = call.rest.verb != REST_NONE
    # A REST call that cannot be read has it still; a client that reads slowly must not keep it loaded.
    call_release_servable(call)
    timers_remove(&call.loop.timers, &call.timer)
    call.loop.in_flight -= 1
    if call.task != NULL:
        Py_DECREF(<object>call.task)  # the call's reference
        call.task = NULL
    if call.turn != NULL:
        Py_DECREF(<object>call.turn)  # the call's reference
        call.turn = NULL
    if call.owner == NULL:
        call_free(call)
        return
    call.loop.waiting -= 1
    if call.counters != NULL:
        now = now_ns()
        counters_add(
            <Counters*>call.counters,
            rest,
            call.status.code,
            now - call.received_ns,
            call.run_start_ns - call.received_ns if call.run_start_ns else -1,
            call.run_ns if call.run_start_ns else -1,
        )
        if call.examples > 0:
            examples_add(<Counters*>call.counters, rest, call.examples)
    call.done(call.owner, call)


cdef void call_abandon(Call* call) noexcept:
    """The owner is gone: forget it, and do not run the call if that has not begun yet.

    The loop's thread. The call must not be used afterwards.
    """
    if call.counters != NULL:
        counters_add(
            <Counters*>call.counters, call.rest.verb != REST_NONE, CANCELLED, now_ns() - call.received_ns, -1, -1)
    leave(call)


cdef void leave(Call* call) noexcept:
    """Take the owner off a call that was dispatched and is not done."""
    timers_remove(&call.loop.timers, &call.timer)
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
        if call.forget != NULL:
            call.forget(call)


cdef void wake_at(Call* call, int64_t when) noexcept:
    """Have the timer look at the call at `when`. Without memory it has no deadline."""
    if timers_put(&call.loop.timers, &call.timer, when):
        (<CallLoop>call.loop.call_loop).arm()


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
            status_add_bytes(&call.status, call.view.spec.name)
            status_add_bytes(&call.status, Bytes(b" is still loading", 17))
            call.status.reason = MODEL_LOADING
        call_finish(call)
        return
    if call.counters != NULL:
        counters_add(
            <Counters*>call.counters, call.rest.verb != REST_NONE, DEADLINE_EXCEEDED, now - call.received_ns, -1, -1)
    leave(call)
    done(owner, NULL)


cdef Call* turned_round(Call* newest) noexcept:
    """The same list, with the oldest call first."""
    cdef Call* oldest = NULL
    cdef Call* call
    while newest != NULL:
        call = newest
        newest = call.next
        call.next = oldest
        oldest = call
    return oldest


cdef void finish_all(Call* newest) noexcept:
    """Of a list of calls that were run, oldest first."""
    cdef Call* call
    cdef Call* oldest = turned_round(newest)
    while oldest != NULL:
        call = oldest
        oldest = call.next
        call.next = NULL
        call.running = False
        if call.resumes and call.owner != NULL:
            call.resumes = False
            start(call)
        else:
            call_finish(call)


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
    cdef Call* call
    cdef Call* oldest = turned_round(loop.parked)
    loop.parked = NULL
    while oldest != NULL:
        call = oldest
        oldest = call.next
        call.parked = False
        call.next = NULL
        call.previous = NULL
        timers_remove(&call.loop.timers, &call.timer)
        if call.deadline_ns != 0:
            if call.deadline_ns <= now_ns():
                status_set(&call.status, DEADLINE_EXCEEDED, "Deadline Exceeded")
                call_finish(call)
                continue
            wake_at(call, call.deadline_ns)
        start(call)


# ---- what Python sees ---------------------------------------------------------------------------------

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
                self.future.set_exception(call_error(call))
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
        self.turns = Turns(loop)
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

    async def invoke(
        self,
        Method method,
        request: bytes,
        timeout_seconds: float | None = None,
        *,
        local: bool = False,
        low_priority: bool = False,
    ) -> bytes:
        """The answer to one request; `local` says that it came from this machine.

        With `low_priority` it runs when nothing else waits, if requests are batched.

        Raises ServingError. Cancelling the task that awaits it takes the request out of its queue.
        The request's bytes count against the in-flight budget as long as the call has them, which
        may be longer than anybody awaits it.
        """
        cdef Call* call = call_new(&self.state)
        cdef _Invocation invocation
        if call == NULL:
            raise MemoryError
        if not call_charge(call, <int64_t>len(request)):
            call_free(call)
            raise ServingError(
                RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
        if buffer_append(&call.request, PyBytes_AS_STRING(request), <size_t>len(request)) != 0:
            call_free(call)
            raise MemoryError
        call.body = Bytes(call.request.data, call.request.size)
        call.local = local
        call.low_priority = low_priority
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
        self._on_deferred()
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
            call_free_memory(call)
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
        if self.state.timers.size == 0 or self.state.closed:
            return
        due = self.state.timers.heap[0].wake_ns
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
        while self.state.timers.size > 0 and self.state.timers.heap[0].wake_ns <= now:
            call = <Call*>self.state.timers.heap[0].holder
            timers_remove(&call.loop.timers, &call.timer)
            expire(call, now)
        self.flush()
        self.arm()

    def _on_completed(self) -> None:
        cdef uint64_t count = 0
        # Read first, then take: a call pushed in between finds an empty stack and wakes us again.
        read(self.state.event_fd, &count, sizeof(count))
        finish_all(<Call*>exchange_ptr(<void**>&self.state.completed, NULL))
        self.flush()

    cdef void arm_deferral(self) noexcept:
        self.state.deferral_armed = True
        self.loop.call_soon(self._on_deferred)

    def _on_deferred(self) -> None:
        cdef Deferred* deferred = self.state.deferred
        cdef Deferred* following
        cdef Call* finished
        cdef int64_t since_ns = now_ns()
        self.state.deferral_armed = False
        self.state.deferred = NULL
        while deferred != NULL:
            following = deferred.next
            deferred.next = NULL
            deferred.loop = NULL
            deferred.run(deferred, since_ns)
            deferred = following
        finished = self.state.finished
        self.state.finished = NULL
        finish_all(finished)
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
            timers_free(&self.state.timers)
