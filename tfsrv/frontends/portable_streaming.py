"""Streaming calls on grpc.aio: the same handlers, codes and texts as in the native transport.

Flow control is grpc's own: a message is read when its handler asks for it, and written when the
client has taken those before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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
        answering = asyncio.ensure_future(answer_stream(method, _charged(requests), context.write))
        answering.add_done_callback(_hear)
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


def _hear(answering: asyncio.Task[None]) -> None:
    """Nobody else asks for the error of what was cancelled."""
    if not answering.cancelled():
        answering.exception()


async def _charged(requests: Requests) -> AsyncIterator[bytes]:
    """The requests, each counted against the in-flight budget until the next one comes."""
    held = 0
    try:
        async for request in requests:
            give_in_flight_bytes(held)
            held = 0
            if not take_in_flight_bytes(len(request)):
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED,
                    "Too many bytes are in flight (--max_in_flight_bytes).",
                )
            held = len(request)
            yield request
    finally:
        give_in_flight_bytes(held)
