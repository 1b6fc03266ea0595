"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

import grpc

from tfsrv.client import calls
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
Metadata = Sequence[tuple[str, str | bytes]]


class PredictionFuture(Future[Prediction]):
    """A Predict that is under way: a concurrent.futures.Future.

    Its result is a Prediction, its exception a ClientError. cancel() ends the call as well.
    """

    _call: Any = None

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        if self._call is not None:
            self._call.cancel()
        return True

    def _watch(self, call: Any) -> None:
        self._call = call
        call.add_done_callback(self._answered)

    def _answered(self, call: Any) -> None:
        """Runs in gRPC's thread."""
        if not self.set_running_or_notify_cancel():
            return
        try:
            if call.code() is grpc.StatusCode.OK:
                self.set_result(calls.read_prediction(call.result()))
            else:
                self.set_exception(error_of_call(call, calls.PREDICT))
        except BaseException as error:
            self.set_exception(error)


class Client:
    """Talks to one server, from any number of threads.

        with Client("localhost:8500") as client:
            client.predict("half_plus_two", {"x": [1.0, 2.0]})["y"]

    `target` is "host:port", "unix:/path/of/socket" or whatever else gRPC takes for a name. An own
    `channel` may be given instead, which stays open then.

    `timeout` is in seconds, for a call with all its repetitions; each call may have its own.
    math.inf waits for ever. A call that finds the server UNAVAILABLE is repeated up to `retries`
    times, see tfsrv.client.retries. With `wait_for_ready` a call waits for a server that is not
    there yet, up to its time-out. `metadata` goes along with every call. `options` are gRPC's
    channel arguments.

    Answers may be of any size. A call raises ClientError when it fails, TypeError or ValueError
    when it cannot be sent.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        channel: grpc.Channel | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        tls: Tls | grpc.ChannelCredentials | None = None,
        wait_for_ready: bool = False,
        metadata: Metadata = (),
        options: Sequence[Option] = (),
    ) -> None:
        if (target is None) == (channel is None):
            raise ValueError("give either a target or a channel")
        self._timeout = timeout
        self._retries = retries
        self._wait_for_ready = wait_for_ready
        self._metadata = tuple(metadata)
        self._owns_channel = channel is None
        self._channel: Any = channel or _channel(str(target), tls, options)
        self._is_closed = False
        self._callables: dict[str, Any] = {}

    def close(self) -> None:
        """Close the connection; calls under way end with CANCELLED. A given channel stays open."""
        self._is_closed = True
        self._callables.clear()
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def predict(
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
        return self._finish(call, timeout, metadata)

    def predict_future(
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
    ) -> PredictionFuture:
        """The same without waiting. It is not repeated, whatever comes of it.

        Callbacks of the future run in a thread of gRPC's, which they should leave soon.
        """
        call = calls.predict(model, inputs, signature, version, label, output_filter)
        future = PredictionFuture()
        future._watch(
            self._callable(call.path).future(
                call.request,
                timeout=seconds(self._timeout if timeout is None else timeout),
                metadata=self._all(metadata),
                wait_for_ready=self._wait_for_ready or None,
            )
        )
        return future

    def classify(
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
        return self._finish(call, timeout, metadata)

    def regress(
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
        return self._finish(call, timeout, metadata)

    def multi_inference(
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
        return self._finish(call, timeout, metadata)

    def status(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> list[VersionStatus]:
        """Where the versions of a model stand, highest first; those that failed say why."""
        return self._finish(calls.status(model, version, label), timeout, metadata)

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> ModelMetadata:
        """The signatures of a version, with their inputs and outputs."""
        return self._finish(calls.metadata(model, version, label), timeout, metadata)

    def reload(
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
        return self._finish(calls.reload(models, metrics), timeout, metadata)

    def list_models(
        self, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> list[ListedModel]:
        """All configured models. Only of tfsrv, with --enable_model_management."""
        return self._finish(calls.list_models(), timeout, metadata)

    def health(
        self, service: str = "", *, timeout: float | None = None, metadata: Metadata = ()
    ) -> str:
        """What the server says of its health, or of a service's: SERVING, NOT_SERVING."""
        return self._finish(calls.health(service), timeout, metadata)

    def _finish(self, call: calls.Call[T], timeout: float | None, metadata: Metadata) -> T:
        """Send a call, and again as long as that may help; what its answer means."""
        return call.read(self._answer(call.path, call.request, timeout, self._all(metadata)))

    def _answer(
        self, path: str, request: bytes, timeout: float | None, metadata: Metadata | None
    ) -> bytes:
        send = self._callable(path)
        deadline = Deadline(seconds(self._timeout if timeout is None else timeout))
        wait = self._wait_for_ready or None
        waits = delays(self._retries)
        while True:
            try:
                answer: bytes = send(
                    request, timeout=deadline.left(), metadata=metadata, wait_for_ready=wait
                )
            except grpc.RpcError as error:
                failed = error_of_call(error, path)
            else:
                return answer
            delay = next(waits, None) if failed.code is Code.UNAVAILABLE else None
            if delay is None or not deadline.allows(delay):
                raise failed
            time.sleep(delay)

    def _callable(self, path: str) -> Any:
        """gRPC's callable of a method, for bytes; made once."""
        found = self._callables.get(path)
        if found is None:
            if self._is_closed:
                raise ClientError(Code.CANCELLED, "The client is closed")
            found = self._callables[path] = self._channel.unary_unary(path)
        return found

    def _all(self, metadata: Metadata) -> Metadata | None:
        return (*self._metadata, *metadata) or None


def _channel(
    target: str, tls: Tls | grpc.ChannelCredentials | None, options: Sequence[Option]
) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(target, channel_options(None, options))
    if isinstance(tls, Tls):
        return grpc.secure_channel(target, tls.credentials(), channel_options(tls, options))
    return grpc.secure_channel(target, tls, channel_options(None, options))
