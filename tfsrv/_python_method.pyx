"""Methods that Python answers, in a coroutine for each request.

For what is asked for seldom. Such a call is in its loop's hands like any other: it may be
abandoned, which cancels the coroutine, and its answer counts against the in-flight budget.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t

from tfsrv._buffer cimport buffer_append
from tfsrv._call cimport Call, call_charge, call_set_error, call_set_serving_error
from tfsrv._call_loop cimport CallLoop, call_finish
from tfsrv._clock cimport NS_PER_S, now_ns
from tfsrv._method cimport STARTED_DONE, STARTED_PYTHON, Method
from tfsrv._counters cimport counters_of
from tfsrv._message cimport message_clear, message_seal
from tfsrv._status cimport (
    CANCELLED,
    INTERNAL,
    OK,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    status_clear,
    status_set,
)

from tfsrv._turns import Turns
from tfsrv.errors import ServingError


cdef int start_python(void* context, Call* call) noexcept with gil:
    cdef PythonMethod method = <PythonMethod>context
    if method.local_only and not call.local:
        call_set_error(
            call, PERMISSION_DENIED, f"{method.name} is only answered on loopback and unix sockets")
        return STARTED_DONE
    launch(call, method)
    return STARTED_PYTHON


cdef class PythonMethod(Method):
    """A method that a coroutine answers: `await handler(request: bytes) -> bytes`.

    The handler raises ServingError for what goes wrong, and is cancelled when its caller leaves
    or its deadline passes. With `local_only` it never sees calls that did not come from this
    machine (see frontends/peers.py), nor those of which nobody says where they came from: they
    are PERMISSION_DENIED. A `timed` one is called as `handler(request, seconds)`: so much time is
    left until its deadline, or None.
    """

    def __init__(
        self,
        name: str,
        handler: Callable[..., Awaitable[bytes]],
        *,
        local_only: bool = False,
        timed: bool = False,
    ) -> None:
        self.name = name
        self.handler = handler
        self.local_only = local_only
        self.timed = timed
        self.counters = counters_of("", 0, "", name)  # which model is asked for, it does not know
        self.context = <void*>self
        self.start = start_python


cdef void launch(Call* call, PythonMethod method) noexcept:
    """Let the method's coroutine answer, in a task of its own."""
    cdef _Coroutine coroutine
    cdef CallLoop loop
    try:
        request = PyBytes_FromStringAndSize(call.body.data, <Py_ssize_t>call.body.size)
        coroutine = _Coroutine.__new__(_Coroutine)
        coroutine.call = call
        arguments = (request, seconds_left(call)) if method.timed else (request,)
        loop = <CallLoop>call.loop.call_loop
        task = loop.loop.create_task(_answer(loop.turns, method.handler, arguments, coroutine))
        task.add_done_callback(coroutine.ended)
    except BaseException as error:
        call_set_error(call, INTERNAL, f"{type(error).__name__}: {error}")
        call_finish(call)
        return
    if coroutine.call == NULL:  # an eager task: answered already, and the call is gone
        return
    Py_INCREF(task)  # the call's reference, given back in call_finish()
    call.task = <void*>task


cdef object seconds_left(const Call* call):
    """Until the call's deadline; None if it has none."""
    return None if call.deadline_ns == 0 else max(0.0, (call.deadline_ns - now_ns()) / <double>NS_PER_S)


cdef class _Coroutine:
    """What a coroutine holds of the call that it answers."""

    cdef Call* call         # NULL once it was answered

    def ended(self, task: asyncio.Task[None]) -> None:
        """The task is over. One that was cancelled before its first step has run nothing of answer()."""
        if self.call != NULL:
            self.end(CANCELLED, "CANCELLED", b"")

    cdef void fail(self, error) noexcept:
        """Answer with a ServingError."""
        cdef Call* call = self.call
        cdef CallLoop loop = <CallLoop>call.loop.call_loop
        self.call = NULL
        call_set_serving_error(call, error)
        call_finish(call)
        loop.flush()

    cdef void end(self, int code, str message, bytes response) noexcept:
        cdef Call* call = self.call
        cdef CallLoop loop = <CallLoop>call.loop.call_loop
        self.call = NULL
        status_clear(&call.status)
        if code != OK:
            call_set_error(call, code, message)
        elif not call_charge(call, <int64_t>len(response)):
            status_set(
                &call.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
        elif (
            buffer_append(&call.response.head, b"\0\0\0\0\0\0\0\0", call.headroom) != 0
            or buffer_append(&call.response.head, PyBytes_AS_STRING(response), <size_t>len(response)) != 0
        ):
            message_clear(&call.response)
            call_set_error(call, INTERNAL, "out of memory")
        else:
            message_seal(&call.response)
        call_finish(call)
        loop.flush()


async def _answer(
    turns: Turns, handler: object, arguments: tuple[object, ...], _Coroutine coroutine
) -> None:
    """Run a Python handler for one call, when it is its turn; never raises."""
    try:
        turn = turns.take()
        if turn is not None:
            await turn
        response = await handler(*arguments)
        coroutine.end(OK, "", bytes(response))
    except ServingError as error:
        coroutine.fail(error)
    except asyncio.CancelledError:
        coroutine.end(CANCELLED, "CANCELLED", b"")
    except BaseException as error:
        logging.getLogger("tfsrv").exception("%s failed", handler)
        coroutine.end(INTERNAL, f"{type(error).__name__}: {error}", b"")
