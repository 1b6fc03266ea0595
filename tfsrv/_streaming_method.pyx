"""Methods that Python answers with any number of messages, to any number of requests.

The seam for streaming APIs. A handler takes what comes and gives what goes:

    async def running_sum(requests):            # bidirectional
        total = 0
        async for request in requests:
            total += int(request)
            yield b"%d" % total

    async def countdown(request):               # one request, many answers
        for i in range(int(request), 0, -1):
            yield b"%d" % i

    {"/p.S/Sum": StreamingMethod("Sum", running_sum),
     "/p.S/Count": StreamingMethod("Count", of_one_request(countdown))}

Both directions have flow control. The next request is not read from the client until it is
asked for, and `yield` comes back when what was sent before has left, but for a little. A handler
raises ServingError for what goes wrong, and is cancelled when its caller leaves, when its deadline
passes, or when the server stops. It belongs to the loop, and must not hold it up.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from tfsrv._call cimport Call
from tfsrv._counters cimport counters_of
from tfsrv._method cimport STARTED_DONE, Method
from tfsrv._status cimport INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED, status_set

from tfsrv.errors import ServingError


cdef int refuse(void* context, Call* call) noexcept nogil:
    """The transports know these methods and give them no Call; others can't ask them."""
    status_set(&call.status, UNIMPLEMENTED, "This method is streaming, and was called as one that is not.")
    return STARTED_DONE


cdef class StreamingMethod(Method):
    """A method of which `handler(requests) -> responses` answers each call; both are async iterators.

    With `local_only` it never sees calls that did not come from this machine (see
    frontends/peers.py): they are PERMISSION_DENIED. There may be `max_calls` at a time, of all
    clients, for each holds some kilobytes even if nobody says anything: more are
    RESOURCE_EXHAUSTED.
    """

    def __init__(
        self,
        name: str,
        handler: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]],
        *,
        local_only: bool = False,
        max_calls: int = 10_000,
    ) -> None:
        self.name = name
        self.handler = handler
        self.local_only = local_only
        self.max_calls = max_calls
        self.counters = counters_of("", 0, "", name)
        self.context = <void*>self
        self.start = refuse


def of_one_request(
    handler: Callable[[bytes], AsyncGenerator[bytes, None]],
) -> Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]:
    """The handler of a server-streaming method: `handler` gets the one request that there must be."""

    async def answer(requests):
        request = await _only(requests)
        async with aclosing(handler(request)) as responses:
            async for response in responses:
                yield response

    return answer


async def _only(requests: AsyncIterator[bytes]) -> bytes:
    """The one request that comes, once it is known that no other does."""
    only = None
    async for request in requests:
        if only is not None:
            raise ServingError(UNIMPLEMENTED, "Several messages came on a call that takes one.")
        only = request
    if only is None:
        raise ServingError(UNIMPLEMENTED, "No message came on a call that takes one.")
    return only


async def answer_stream(
    method: StreamingMethod,
    requests: AsyncIterator[bytes],
    send: Callable[[bytes], Awaitable[object]],
) -> None:
    """Answer one call: `send` each response. For transports.

    Raises ServingError for whatever goes wrong, but CancelledError when the task is cancelled. The
    handler is closed at the end, also in the middle of its answers.
    """
    if method.calls >= method.max_calls:
        raise ServingError(
            RESOURCE_EXHAUSTED, f"There are {method.max_calls} calls of {method.name} already")
    method.calls += 1
    try:
        responses = method.handler(requests)
        try:
            async for response in responses:
                await send(bytes(response))
                response = None  # it may be long, and the next one may take its time
        finally:
            if hasattr(responses, "aclose"):  # iterators need not have it, generators do
                await responses.aclose()
    except (ServingError, asyncio.CancelledError):
        raise
    except Exception as error:
        logging.getLogger("tfsrv").exception("%s failed", method.name)
        raise ServingError(INTERNAL, f"{type(error).__name__}: {error}") from error
    finally:
        method.calls -= 1
