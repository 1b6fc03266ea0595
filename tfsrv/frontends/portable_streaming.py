"""Streaming calls on grpc.aio: the same handlers, codes and texts as in the native transport.

Flow control is grpc's own: a message is read when its handler asks for it, and written when the
client has taken those before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import grpc
import grpc.aio

from tfsrv._budget import give_in_flight_bytes, take_in_flight_bytes
from tfsrv._streaming_method import StreamingMethod, answer_stream
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.peers import is_local_peer
from tfsrv.frontends.transport import STOPPING

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Requests: TypeAlias = AsyncIterator[bytes]


class PortableStreams:
    """The streaming calls of one server, which can be ended while others go on."""

    def __init__(self) -> None:
        self._ending = asyncio.Event()

    async def answer(
        self, method: StreamingMethod, requests: Requests, context: Context
    ) -> ServingError | None:
        """Answer one call but for its status: the error that it ends with; None is well."""
        if method.local_only and not is_local_peer(context.peer()):
            return ServingError(
                Code.PERMISSION_DENIED,
                f"{method.name} is only answered on loopback and unix sockets",
            )
        charged = _Charged(requests)
        answering = asyncio.ensure_future(answer_stream(method, charged, _sender(context)))
        answering.add_done_callback(charged.end)
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({answering, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                return ServingError(Code.UNAVAILABLE, STOPPING)
            answering.result()
        except ServingError as error:
            return error
        finally:  # grpc cancels this task when the client leaves or the deadline passes
            answering.cancel()
            ending.cancel()
        return None

    async def end_after(self, seconds: float) -> None:
        """End the calls that there are then, and those that begin later, with UNAVAILABLE."""
        await asyncio.sleep(seconds)
        self._ending.set()


def _sender(context: Context) -> Callable[[bytes], Awaitable[None]]:
    """What sends a response, and ends the call when its client has left."""

    async def send(response: bytes) -> None:
        try:
            await context.write(response)
        except Exception:  # grpc's class for it is not public
            raise ServingError(Code.CANCELLED, "CANCELLED") from None

    return send


class _Charged:
    """The requests of a call; each counts against the in-flight budget until the next one comes."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._reading: Requests | None = None  # what grpc warns of if nobody ever reads it
        self._held = 0

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> bytes:
        if self._reading is None:
            self._reading = aiter(self._requests)
        request = await anext(self._reading)
        self._let_go()
        if not take_in_flight_bytes(len(request)):
            raise ServingError(
                Code.RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes)."
            )
        self._held = len(request)
        return request

    def end(self, answering: asyncio.Task[None]) -> None:
        """The handler is through."""
        self._let_go()
        if not answering.cancelled():
            answering.exception()  # nobody else asks, if it came after the call had ended

    def _let_go(self) -> None:
        give_in_flight_bytes(self._held)
        self._held = 0
