"""Whether the server, and each of its models, takes requests: grpc.health.v1.Health, and REST.

    name                                                    SERVING when
    ""                                                      requests can be answered, see below
    tensorflow.serving.PredictionService, PredictionService the same
    tensorflow.serving.ModelService, ModelService           the port answers
    model/NAME                                              a version of the model is available

Requests can be answered when TensorFlow is open, no model has been left undecided since the start,
and a configured model is available, unless none is configured. Models that are added later make
nobody wait for them: `model/NAME` tells of each. While the server drains, nothing is SERVING.

TensorFlow Serving's server.cc sets the short names, SERVING for ever. The protocol:
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from tfsrv._proto import message_class
from tfsrv.core.servable import ManagerState
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.requests import as_unicode, read_request

if TYPE_CHECKING:
    from tfsrv.core.servable import ServableState

MAX_REQUEST_BYTES = 4096  # a name; it is kept as long as somebody watches it
SLICE = 200  # names are rendered so many at a time: other calls get their turn between

SERVER_NAMES = ("", "tensorflow.serving.PredictionService", "PredictionService")
PORT_NAMES = ("tensorflow.serving.ModelService", "ModelService")
MODEL_PREFIX = "model/"


class HealthStatus(IntEnum):
    """HealthCheckResponse.ServingStatus."""

    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class HealthCore(Protocol):
    """The part of ServerCore that is used here."""

    def model_names(self) -> Collection[str]: ...

    def is_any_pending(self) -> bool: ...

    def subscribe_decided(self, callback: Callable[[str], object]) -> Callable[[], None]: ...

    def subscribe_states(self, callback: Callable[[ServableState], object]) -> Callable[[], None]:
        """Call `callback`, on any thread, with each change of the state of a version."""

    def subscribe_models(self, callback: Callable[[tuple[str, ...]], object]) -> Callable[[], None]:
        """Call `callback`, on any thread, with the names of the configured models that change."""


class Health:
    """The state of everything that has a name, and the handlers that tell it.

    Made before the core starts, so that it hears of every version. All but what the core calls
    belongs to `loop`.
    """

    def __init__(self, core: HealthCore, loop: asyncio.AbstractEventLoop) -> None:
        self._core = core
        self._loop = loop
        self._is_open = False  # TensorFlow is
        self._has_started = False  # every model was decided once
        self._is_draining = False
        self._watchers: dict[str, set[asyncio.Event]] = {}  # by what they watch
        self._seen: dict[str, HealthStatus] = {}  # of what is watched
        self._lock = threading.Lock()  # for the rest
        self._available: dict[str, set[int]] = {}  # versions by model
        self._is_changed = False  # the loop will look
        self._names = frozenset(map(as_unicode, core.model_names()))  # of the configured models
        self._unsubscribe = [
            core.subscribe_states(self._hear),
            core.subscribe_decided(self._look_soon),
            core.subscribe_models(self._hear_of_models),
        ]
        self._look()

    @property
    def is_draining(self) -> bool:
        """Whether the server is going away."""
        return self._is_draining

    # -- what the server says

    def opened(self) -> None:
        """TensorFlow is open."""
        self._is_open = True
        self._look()

    def drain(self) -> None:
        """The server is going away: from here on, nothing is SERVING, and everybody is told."""
        self._is_draining = True
        for end in self._unsubscribe:
            end()
        self._look()

    # -- handlers

    async def check(self, request: bytes) -> bytes:
        """Answer one Check. NOT_FOUND for a name that is not known. Raises ServingError."""
        name = _service(request)
        status = self._status(name)
        if status is HealthStatus.SERVICE_UNKNOWN:
            raise ServingError(Code.NOT_FOUND, f"There is no service {name}")
        return _response(status)

    async def list_all(self, request: bytes) -> bytes:
        """Answer one List, with every name that is known. Raises ServingError."""
        read_request("grpc.health.v1.HealthListRequest", request, MAX_REQUEST_BYTES)
        response: Any = message_class("grpc.health.v1.HealthListResponse")()
        for index, name in enumerate(self._known()):
            response.statuses[name].status = self._status(name)
            if index % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        serialized: bytes = response.SerializeToString()
        return serialized

    async def watch(self, request: bytes) -> AsyncGenerator[bytes]:
        """Answer one Watch: the status of now, and then each one that is another.

        A client that is slow to read gets the latest, not all. Raises ServingError.
        """
        name = _service(request)
        told = None
        with self._watching(name) as changed:
            while True:
                changed.clear()
                status = self._status(name)
                if status is not told:
                    told = status
                    yield _response(status)
                else:
                    await changed.wait()

    @contextmanager
    def _watching(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set when the status of `name` may have changed."""
        changed = asyncio.Event()
        self._watchers.setdefault(name, set()).add(changed)
        self._seen[name] = self._status(name)
        try:
            yield changed
        finally:
            self._watchers[name].discard(changed)
            if not self._watchers[name]:
                del self._watchers[name]
                del self._seen[name]

    # -- for whoever asks in Python

    @property
    def is_serving(self) -> bool:
        """Whether requests can be answered."""
        return self._status("") is HealthStatus.SERVING

    def model_status(self, name: str) -> HealthStatus:
        """Whether a version of a model is available; SERVICE_UNKNOWN if nobody knows the model."""
        return self._status(MODEL_PREFIX + name)

    def why_not_serving(self) -> str:
        """What keeps the server from answering requests; "" if nothing does."""
        if self._is_draining:
            return "The server is shutting down."
        if not self._is_open:
            return "TensorFlow is being opened."
        if not self._has_started:
            return "The first versions of models are on their way."
        return "" if self._is_any_available() else "No model is available."

    def unavailable_models(self) -> frozenset[str]:
        """The configured models of which no version is available."""
        with self._lock:
            return self._names - self._available.keys()

    # -- what there is

    def _status(self, name: str) -> HealthStatus:
        if name in SERVER_NAMES:
            is_serving = self._is_open and self._has_started and self._is_any_available()
        elif name in PORT_NAMES:
            is_serving = True
        elif name.startswith(MODEL_PREFIX):
            model = name.removeprefix(MODEL_PREFIX)
            with self._lock:
                is_serving = model in self._available
            if not is_serving and model not in self._names:
                return HealthStatus.SERVICE_UNKNOWN
        else:
            return HealthStatus.SERVICE_UNKNOWN
        if is_serving and not self._is_draining:
            return HealthStatus.SERVING
        return HealthStatus.NOT_SERVING

    def _is_any_available(self) -> bool:
        """Whether a configured model is available, or none is configured."""
        with self._lock:
            return not self._names or not self._available.keys().isdisjoint(self._names)

    def _known(self) -> list[str]:
        """All names, those of servables included that a source has brought."""
        with self._lock:
            models = self._available.keys() | self._names
        return [*SERVER_NAMES, *PORT_NAMES, *(MODEL_PREFIX + name for name in sorted(models))]

    # -- what changes

    def _hear(self, state: ServableState) -> None:
        """A version has another state. Any thread."""
        name = as_unicode(state.id.name)
        with self._lock:
            versions = self._available.get(name, set())
            if state.manager_state is ManagerState.AVAILABLE:
                self._available.setdefault(name, versions).add(state.id.version)
            else:
                versions.discard(state.id.version)
                if not versions:
                    self._available.pop(name, None)
        self._look_soon()

    def _hear_of_models(self, names: Collection[str]) -> None:
        """Other models are configured. Any thread."""
        with self._lock:
            self._names = frozenset(map(as_unicode, names))
        self._look_soon()

    def _look_soon(self, _: object = None) -> None:
        """Have the loop look, once for many changes. Any thread."""
        with self._lock:
            if self._is_changed:
                return
            self._is_changed = True
        self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """Wake the watchers of what has changed."""
        with self._lock:
            self._is_changed = False
        self._has_started = self._has_started or not self._core.is_any_pending()
        for name, watchers in self._watchers.items():
            status = self._status(name)
            if status is not self._seen[name]:
                self._seen[name] = status
                for changed in watchers:
                    changed.set()


def _service(request: bytes) -> str:
    """The name that a HealthCheckRequest asks for."""
    message = read_request("grpc.health.v1.HealthCheckRequest", request, MAX_REQUEST_BYTES)
    name: str = message.service
    return name


def _response(status: HealthStatus) -> bytes:
    message = message_class("grpc.health.v1.HealthCheckResponse")(status=int(status))
    serialized: bytes = message.SerializeToString()
    return serialized
