"""The client of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from tfsrv.client import calls
from tfsrv.client.channel_transport import Metadata
from tfsrv.client.channels import Option, Tls, channel_options
from tfsrv.client.errors import ClientError, error_of_call
from tfsrv.client.examples import Example
from tfsrv.client.models import Model
from tfsrv.client.results import (
    Classifications,
    ListedModel,
    ModelMetadata,
    Prediction,
    Regressions,
    VersionStatus,
)
from tfsrv.client.retries import Deadline, delays, seconds
from tfsrv.errors import Code

T = TypeVar("T")


class AsyncClient:
    """Talks to one server, from the tasks of one event loop.

        async with AsyncClient("localhost:8500") as client:
            answers = await asyncio.gather(*(client.predict("m", {"x": x}) for x in many))

    All as in Client, but that calls are awaited, and that whoever cancels the task cancels the
    call. Belongs to the loop in which the first call is made.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        channel: grpc.aio.Channel | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        tls: Tls | grpc.ChannelCredentials | None = None,
        wait_for_ready: bool = False,
        metadata: Metadata = (),
        options: Sequence[Option] = (),
    ) -> None:
        if (target is None) == (channel is None):
            raise ValueError("give either a target or a channel")
        self._target = target
        self._tls = tls.loaded() if isinstance(tls, Tls) else tls
        self._options = tuple(options)
        self._timeout = timeout
        self._retries = retries
        self._wait_for_ready = wait_for_ready
        self._metadata = tuple(metadata)
        self._channel: Any = channel
        self._is_closed = False
        self._callables: dict[str, Any] = {}

    async def close(self) -> None:
        """Close the connection; calls under way end with CANCELLED. A given channel stays open."""
        self._is_closed = True
        self._callables.clear()
        if self._target is not None and self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def predict(
        self,
        model: str,
        inputs: Mapping[str, object],
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        output_filter: Iterable[str] = (),
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Prediction:
        """Run a signature, by default "serving_default", of the highest version by default.

        `inputs` maps its inputs to arrays, or to lists and scalars of Python; see
        tfsrv.client.values for their types. `output_filter` names the outputs that are wanted.
        """
        call = calls.predict(model, inputs, signature, version, label, output_filter)
        return await self._finish(call, timeout, metadata)

    async def classify(
        self,
        model: str,
        examples: Iterable[Example],
        *,
        context: Example | None = None,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Classifications:
        """The classes of each example. `context` has the features that all of them share."""
        call = calls.classify(model, examples, context, signature, version, label)
        return await self._finish(call, timeout, metadata)

    async def regress(
        self,
        model: str,
        examples: Iterable[Example],
        *,
        context: Example | None = None,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Regressions:
        """The value of each example. `context` has the features that all of them share."""
        call = calls.regress(model, examples, context, signature, version, label)
        return await self._finish(call, timeout, metadata)

    async def multi_inference(
        self,
        model: str,
        examples: Iterable[Example],
        *,
        classify: Iterable[str] = (),
        regress: Iterable[str] = (),
        context: Example | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> dict[str, Classifications | Regressions]:
        """Run the named signatures on the same examples at once; their results by signature."""
        call = calls.multi_inference(model, examples, context, classify, regress, version, label)
        return await self._finish(call, timeout, metadata)

    async def status(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> list[VersionStatus]:
        """Where the versions of a model stand, highest first; those that failed say why."""
        return await self._finish(calls.status(model, version, label), timeout, metadata)

    async def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> ModelMetadata:
        """The signatures of a version, with their inputs and outputs."""
        return await self._finish(calls.metadata(model, version, label), timeout, metadata)

    async def reload(
        self,
        models: Iterable[Model] | str,
        *,
        metrics: Iterable[str] = (),
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> dict[str, int]:
        """Have the server serve these models, and no others; waits until it does.

        A str is a ModelServerConfig in text format. Answers by how much each of the server's
        counters named in `metrics` has grown.
        """
        return await self._finish(calls.reload(models, metrics), timeout, metadata)

    async def list_models(
        self, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> list[ListedModel]:
        """All configured models. Only of tfsrv, with --enable_model_management."""
        return await self._finish(calls.list_models(), timeout, metadata)

    async def health(
        self, service: str = "", *, timeout: float | None = None, metadata: Metadata = ()
    ) -> str:
        """What the server says of its health, or of a service's: SERVING, NOT_SERVING."""
        return await self._finish(calls.health(service), timeout, metadata)

    async def health_list(
        self, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> dict[str, str]:
        """The health of all that the server tells of; a tfsrv has "model/NAME" among these."""
        return await self._finish(calls.health_list(), timeout, metadata)

    async def _finish(self, call: calls.Call[T], timeout: float | None, metadata: Metadata) -> T:
        """Send a call, and again as long as that may help; what its answer means."""
        return call.read(await self._answer(call.path, call.request, timeout, self._all(metadata)))

    async def _answer(
        self, path: str, request: bytes, timeout: float | None, metadata: Metadata | None
    ) -> bytes:
        send = self._callable(path)
        deadline = Deadline(seconds(self._timeout if timeout is None else timeout))
        wait = self._wait_for_ready or None
        waits = delays(self._retries)
        while True:
            try:
                answer: bytes = await send(
                    request, timeout=deadline.left(), metadata=metadata, wait_for_ready=wait
                )
            except grpc.RpcError as error:
                failed = error_of_call(error, path)
            else:
                return answer
            delay = next(waits, None) if failed.code is Code.UNAVAILABLE else None
            if delay is None or not deadline.allows(delay):
                raise failed
            await asyncio.sleep(delay)

    def _callable(self, path: str) -> Any:
        """gRPC's callable of a method, for bytes; made once."""
        found = self._callables.get(path)
        if found is None:
            if self._is_closed:
                raise ClientError(Code.CANCELLED, "The client is closed")
            if self._channel is None:  # gRPC's channels want the loop that they are made in
                self._channel = _channel(str(self._target), self._tls, self._options)
            found = self._callables[path] = self._channel.unary_unary(path)
        return found

    def _all(self, metadata: Metadata) -> Metadata | None:
        return (*self._metadata, *metadata) or None


def _channel(
    target: str, tls: Tls | grpc.ChannelCredentials | None, options: Sequence[Option]
) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(target, channel_options(None, options))
    if isinstance(tls, Tls):
        return grpc.aio.secure_channel(target, tls.credentials(), channel_options(tls, options))
    return grpc.aio.secure_channel(target, tls, channel_options(None, options))
