"""A manager of servables that are the same from start to end: for embedding, and for tests.

builder = StaticManagerBuilder()
builder.add_loader(ServableId("model", 3), loader)
builder.add_servable(ServableId("capitals", 1), {"France": "Paris"})
with builder.build() as manager, manager.get_servable_handle(
    ServableRequest.latest("capitals")
) as handle:
    print(handle.servable["France"])
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

from tfsrv._servable import ServableHandle
from tfsrv._serving_map import ServingMap
from tfsrv.core.event_bus import EventBus
from tfsrv.core.handles import PublishedServables
from tfsrv.core.loader import Loader
from tfsrv.core.loader_harness import State
from tfsrv.core.manager import LoadRetryOptions
from tfsrv.core.servable import ServableData, ServableId, ServableRequest, ServableState
from tfsrv.core.serving_map_publisher import ReadableServingMap, ServingMapPublisher
from tfsrv.core.threaded_basic_manager import NO_RETRIES, ThreadedBasicManager
from tfsrv.errors import Code, ServingError

STOP_SECONDS = 10.0  # for requests, when a `with` ends
FAILED_BUILD_STOP_SECONDS = 1.0  # nobody knows of the manager yet


class StaticManager:
    """A Manager of what a StaticManagerBuilder gave it. Any thread may call."""

    def __init__(
        self,
        versions: Sequence[ServableData[Loader]],
        serving_map: ReadableServingMap,
        event_bus: EventBus[ServableState],
        *,
        retry: LoadRetryOptions,
        num_load_threads: int,
    ) -> None:
        """Begin to load; for the builder."""
        publisher = ServingMapPublisher(serving_map)
        self._published = PublishedServables(serving_map, publisher)
        self._missing = {version.id for version in versions}  # the control thread's
        self._error: ServingError | None = None
        self._decided = threading.Event()  # all are available, or there is an error
        self._control = ThreadedBasicManager(
            publisher, event_bus, self._look, retry=retry, num_load_threads=num_load_threads
        )
        self._control.call_soon(lambda: self._load(versions))

    def list_available_servable_ids(self) -> list[ServableId]:
        return self._published.list_available_servable_ids()

    def get_servable_handle(self, request: ServableRequest) -> ServableHandle:
        return self._published.get_servable_handle(request)

    def get_available_servable_handles(self) -> dict[ServableId, ServableHandle]:
        return self._published.get_available_servable_handles()

    def wait_until_available(self, timeout_seconds: float | None) -> None:
        """Raises the error of the first servable that failed, or DEADLINE_EXCEEDED."""
        if not self._decided.wait(timeout_seconds):
            missing = ", ".join(str(id) for id in sorted(self._missing.copy()))
            raise ServingError(
                Code.DEADLINE_EXCEEDED, f"not available within {timeout_seconds:g} s: {missing}"
            )
        if self._error is not None:
            raise self._error

    def stop(self, timeout_seconds: float) -> bool:
        """Unload everything and end all threads.

        Requests get `timeout_seconds` to let go of what they use, then they are cancelled.
        Returns False if something hangs all the same.
        """
        return self._control.stop(timeout_seconds)

    def __enter__(self) -> StaticManager:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(STOP_SECONDS)

    def _load(self, versions: Sequence[ServableData[Loader]]) -> None:
        for version in versions:
            harness = self._control.basic_manager.manage(version)
            self._control.basic_manager.load(harness)
        self._decide()

    def _look(self, name: str) -> None:
        for harness in self._control.basic_manager.harnesses(name).values():
            if harness.state is State.READY:
                self._missing.discard(harness.id)
            elif harness.error is not None and self._error is None:
                self._error = ServingError(
                    harness.error.code,
                    f"{harness.id} did not become available: {harness.error.message}",
                )
        self._decide()

    def _decide(self) -> None:
        if self._error is not None or not self._missing:
            self._decided.set()


class StaticManagerBuilder:
    """Gathers servables, and builds a manager of them once. For one thread."""

    def __init__(
        self,
        *,
        serving_map: ReadableServingMap | None = None,
        event_bus: EventBus[ServableState] | None = None,
        retry: LoadRetryOptions = NO_RETRIES,
        num_load_threads: int = 0,
    ) -> None:
        """Without a serving map it gets one of its own; 0 threads as ControlThread says."""
        self._serving_map = serving_map
        self._event_bus = event_bus
        self._retry = retry
        self._num_load_threads = num_load_threads
        self._versions: dict[ServableId, ServableData[Loader]] = {}
        self._is_built = False

    def add_loader(self, id: ServableId, loader: Loader) -> None:
        """What `loader` loads will be `id`. The loader belongs to the manager.

        Raises FAILED_PRECONDITION when there is one already, or after build().
        """
        self._check_not_built()
        if id in self._versions:
            raise ServingError(
                Code.FAILED_PRECONDITION, f"This servable is already being managed: {id}"
            )
        self._versions[id] = ServableData(id, loader)

    def add_servable(self, id: ServableId, servable: object) -> None:
        """`servable` itself will be `id`. Otherwise as add_loader()."""
        self.add_loader(id, _ReadyMade(servable))

    def build(self, timeout_seconds: float | None = None) -> StaticManager:
        """Load all servables; returns when all are available.

        Raises the error of the first one that failed, or DEADLINE_EXCEEDED; what was loaded is
        unloaded then.
        """
        self._check_not_built()
        self._is_built = True
        manager = StaticManager(
            list(self._versions.values()),
            self._serving_map or ServingMap(),
            self._event_bus or EventBus(),
            retry=self._retry,
            num_load_threads=self._num_load_threads,
        )
        try:
            manager.wait_until_available(timeout_seconds)
        except BaseException:
            manager.stop(FAILED_BUILD_STOP_SECONDS)
            raise
        return manager

    def _check_not_built(self) -> None:
        if self._is_built:
            raise ServingError(Code.FAILED_PRECONDITION, "this builder has built its manager")


class _ReadyMade(Loader):
    """A servable that needs no loading."""

    def __init__(self, servable: object) -> None:
        self._servable: object = servable

    def load(self) -> None:
        """It is there."""

    def servable(self) -> object:
        return self._servable

    def unload(self) -> None:
        self._servable = None
