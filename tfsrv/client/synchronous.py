"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, TypeVar

import grpc

from tfsrv.client import calls
from tfsrv.client.channel_transport import ChannelTransport, Metadata, make_channel
from tfsrv.client.channels import Option, Tls
from tfsrv.client.direct import DirectTransport, address_of
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

    Calls that wait go over connections of the client's own where they can, each over one of its
    own while it lasts: a small one takes a fifth of the processor time of gRPC's channel. They
    can't with TLS, a channel, options or `wait_for_ready`, for other names than host:port and
    unix:path, or where the environment names a proxy; and not with `transport="grpc"`.

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
        transport: Literal["auto", "grpc"] = "auto",
    ) -> None:
        if (target is None) == (channel is None):
            raise ValueError("give either a target or a channel")
        if transport not in ("auto", "grpc"):
            raise ValueError(f'transport is "auto" or "grpc", not {transport!r}')
        self._timeout = timeout
        self._retries = retries
        self._wait_for_ready = wait_for_ready
        self._metadata = tuple(metadata)
        if isinstance(tls, Tls):
            tls = tls.loaded()  # a file that is not there is told here, not by the first call
        self._channel = ChannelTransport(
            lambda: make_channel(str(target), tls, options), given=channel
        )
        address = None
        if transport != "grpc" and not (tls or options or wait_for_ready or channel):
            address = address_of(str(target))
        self._direct = None if address is None else DirectTransport(address)

    def close(self) -> None:
        """Close what is connected; calls under way may end with CANCELLED.

        A given channel stays open.
        """
        self._channel.close()
        if self._direct is not None:
            self._direct.close()

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
            self._channel.future(
                call.path,
                call.request,
                seconds(self._timeout if timeout is None else timeout),
                self._all(metadata),
                self._wait_for_ready,
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

    def health_list(
        self, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> dict[str, str]:
        """The health of all that the server tells of; a tfsrv has "model/NAME" among these."""
        return self._finish(calls.health_list(), timeout, metadata)

    def _finish(self, call: calls.Call[T], timeout: float | None, metadata: Metadata) -> T:
        """Send a call, and again as long as that may help; what its answer means."""
        return call.read(self._answer(call.path, call.request, timeout, self._all(metadata)))

    def _answer(
        self, path: str, request: bytes, timeout: float | None, metadata: Metadata
    ) -> bytes:
        deadline = Deadline(seconds(self._timeout if timeout is None else timeout))
        waits = delays(self._retries)
        while True:
            try:
                if self._direct is not None:
                    return self._direct.call(path, request, deadline.left(), metadata)
                return self._channel.call(
                    path, request, deadline.left(), metadata, self._wait_for_ready
                )
            except ClientError as error:
                if error.code is not Code.UNAVAILABLE:
                    raise
                delay = next(waits, None)
                if delay is None or not deadline.allows(delay):
                    raise
            time.sleep(delay)

    def _all(self, metadata: Metadata) -> Metadata:
        return (*self._metadata, *metadata) if metadata else self._metadata
