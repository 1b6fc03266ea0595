"""A manager that loads a servable when it is first asked for.

For many servables of which few are in use: nobody lists them in advance. A factory knows how to
load each, and the manager keeps what was loaded, all of it or the most recently used.

    with CachingManager(factory, CachingManagerOptions(max_loaded_servables=10)) as manager:
        with manager.get_servable_handle(ServableRequest.latest("m")) as handle:
            run(handle.servable)

As TensorFlow Serving's core/caching_manager.h, with a limit and time-outs added.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from tfsrv._servable import ServableHandle
from tfsrv._serving_map import ServingMap
from tfsrv.core.event_bus import EventBus
from tfsrv.core.failure import as_serving_error
from tfsrv.core.handles import PublishedServables
from tfsrv.core.loader import Loader
from tfsrv.core.loader_harness import LoaderHarness, State
from tfsrv.core.manager import LoadRetryOptions
from tfsrv.core.servable import ServableData, ServableId, ServableRequest, ServableState
from tfsrv.core.serving_map_publisher import ReadableServingMap, ServingMapPublisher
from tfsrv.core.threaded_basic_manager import NO_RETRIES, ThreadedBasicManager
from tfsrv.errors import Code, ServingError

STOP_SECONDS = 10.0  # for requests, when a `with` ends


class LoaderFactory(Protocol):
    """Knows all servables that there could be. Called on the threads of requests."""

    def create_loader(self, id: ServableId) -> ServableData[Loader]:
        """A loader for `id`, or the error for which there is none. Cheap: nothing is loaded."""

    def latest_version(self, name: str) -> int:
        """The version that ServableRequest.latest(name) means now."""


@dataclass(frozen=True)
class CachingManagerOptions:
    load_timeout_seconds: float | None = 30.0  # how long a request waits; None: for ever
    max_loaded_servables: int | None = None  # None: no limit
    num_load_threads: int = 0  # 0: half of the processors, two at least
    num_unload_threads: int = 0
    # While these go on the requests wait; once they are over, the next request tries anew.
    retry: LoadRetryOptions = NO_RETRIES

    def __post_init__(self) -> None:
        if self.max_loaded_servables is not None and self.max_loaded_servables < 1:
            raise ValueError("max_loaded_servables is at least 1")


class _Load:
    """One load for all requests that wait for it."""

    def __init__(self, id: ServableId) -> None:
        self.id = id
        self.version: ServableData[Loader] | None = None  # from the factory
        self.harness: LoaderHarness | None = None  # once it has begun
        self.done = threading.Event()
        self.error: ServingError | None = None  # set before `done`
        self._claimed = threading.Lock()

    def claim(self) -> bool:
        """True for the first who calls: it is for that thread to get the loader."""
        return self._claimed.acquire(blocking=False)


class CachingManager:
    """A Manager that loads what it is asked for, each version once however many threads ask.

    A request for the latest version asks the factory which one that is, every time. A load that
    fails fails for all who wait for it; the next request after that tries anew.

    With `max_loaded_servables`, the one that was asked for least recently is unloaded before
    another is loaded, but never one that is in use or about to be: when all are, the limit gives
    way, and later loads bring the number down again.

    Thread-safety: any thread may call. Not on the threads of the event bus: a request may wait
    for events.
    """

    def __init__(
        self,
        factory: LoaderFactory,
        options: CachingManagerOptions | None = None,
        *,
        serving_map: ReadableServingMap | None = None,
        event_bus: EventBus[ServableState] | None = None,
        on_memory_freed: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts its thread. Without a serving map it gets one of its own."""
        self._factory = factory
        self._options = options or CachingManagerOptions()
        self._serving_map = serving_map or ServingMap()
        self._publisher = ServingMapPublisher(self._serving_map)
        self._published = PublishedServables(self._serving_map, self._publisher)

        # No handle is given out, and none is chosen to leave, but under the lock: so what is
        # idle when it is chosen stays idle.
        self._lock = threading.Lock()
        self._loads: dict[ServableId, _Load] = {}  # not done yet
        self._waiting: Counter[ServableId] = Counter()  # requests that will take a handle
        self._last_used: dict[ServableId, int] = {}  # by _ticks
        self._ticks = itertools.count()
        self._leaving: set[ServableId] = set()  # chosen to leave, and not gone yet
        self._is_stopped = False

        self._queue: list[_Load] = []  # loads that have not begun; the control thread's
        self._control = ThreadedBasicManager(
            self._publisher,
            event_bus or EventBus(),
            self._on_change,
            retry=self._options.retry,
            num_load_threads=self._options.num_load_threads,
            num_unload_threads=self._options.num_unload_threads,
            on_memory_freed=on_memory_freed,
        )

    def list_available_servable_ids(self) -> list[ServableId]:
        """What is loaded now; more can be had."""
        return self._published.list_available_servable_ids()

    def get_servable_handle(
        self, request: ServableRequest, timeout_seconds: float | None = None
    ) -> ServableHandle:
        """A handle on what `request` names, loaded now if need be.

        Raises the error of the factory or of the load, DEADLINE_EXCEEDED when that takes longer
        than `timeout_seconds` (by default the option's; the load goes on, for later requests),
        and UNAVAILABLE after stop().
        """
        id = self._find_id(request)
        with self._lock:
            handle = self._acquire(id)
        if handle is not None:
            return handle
        if timeout_seconds is None:
            timeout_seconds = self._options.load_timeout_seconds
        return self._load_and_acquire(id, timeout_seconds)

    def get_available_servable_handles(self) -> dict[ServableId, ServableHandle]:
        """A handle on each that is loaded now."""
        with self._lock:
            handles = self._published.get_available_servable_handles()
            return {id: handle for id, handle in handles.items() if id not in self._leaving}

    def stop(self, timeout_seconds: float) -> bool:
        """Unload everything and end all threads; requests that wait for a load fail.

        Those that use a servable get `timeout_seconds` to let go of it, then they are
        cancelled. Returns False if something hangs all the same.
        """
        with self._lock:
            self._is_stopped = True
            loads = list(self._loads.values())
        for load in loads:
            self._finish(load, _stopped())
        return self._control.stop(timeout_seconds)

    def __enter__(self) -> CachingManager:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(STOP_SECONDS)

    # -- on the threads of requests

    def _find_id(self, request: ServableRequest) -> ServableId:
        if request.version is not None:
            return ServableId(request.name, request.version)
        try:
            return ServableId(request.name, self._factory.latest_version(request.name))
        except Exception as error:
            raise as_serving_error(error) from error

    def _load_and_acquire(self, id: ServableId, timeout_seconds: float | None) -> ServableHandle:
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._lock:
            found = self._acquire_or_join(id)
            self._waiting[id] += 1  # once loaded, it stays until it is taken
        try:
            while isinstance(found, _Load):
                if found.claim():
                    self._create_loader(found)
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not found.done.wait(left):
                    raise ServingError(
                        Code.DEADLINE_EXCEEDED,
                        f"Servable {id} was not loaded within {timeout_seconds:g} s",
                    )
                if found.error is not None:
                    # Each request raises its own: a traceback is of one thread.
                    raise ServingError(found.error.code, found.error.message) from found.error
                with self._lock:
                    found = self._acquire_or_join(id)
            return found
        finally:
            with self._lock:
                self._waiting[id] -= 1
                if not self._waiting[id]:
                    del self._waiting[id]

    def _acquire(self, id: ServableId) -> ServableHandle | None:
        """A handle if it is loaded. Under the lock."""
        if self._is_stopped:
            raise _stopped()
        if id in self._leaving:
            return None
        try:
            handle = self._serving_map.acquire(id.name, id.version)
        except ServingError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        self._last_used[id] = next(self._ticks)
        return handle

    def _acquire_or_join(self, id: ServableId) -> ServableHandle | _Load:
        """A handle, or the load to wait for. Under the lock."""
        handle = self._acquire(id)
        return handle if handle is not None else self._loads.setdefault(id, _Load(id))

    def _create_loader(self, load: _Load) -> None:
        try:
            load.version = self._factory.create_loader(load.id)
            if load.version.id != load.id:
                raise ServingError(
                    Code.INTERNAL, f"asked for {load.id}, the factory gave {load.version.id}"
                )
        except BaseException as error:
            self._finish(load, as_serving_error(error))
            if not isinstance(error, Exception):  # say, Ctrl-C: the others get its name
                raise
        else:
            self._control.call_soon(lambda: self._enqueue(load))

    def _finish(self, load: _Load, error: ServingError | None) -> None:
        """Any thread. The first one to say how a load ended is right."""
        with self._lock:
            if self._loads.get(load.id) is load:
                del self._loads[load.id]
                load.error = error
                load.done.set()

    # -- on the control thread

    def _enqueue(self, load: _Load) -> None:
        self._queue.append(load)
        self._begin_loads()

    def _on_change(self, name: str) -> None:
        for harness in list(self._control.basic_manager.harnesses(name).values()):
            if harness.state is State.READY:
                self._settle(harness)
            elif harness.ended:
                self._control.basic_manager.forget(harness)
                with self._lock:
                    self._leaving.discard(harness.id)
                    self._last_used.pop(harness.id, None)
                self._settle(harness)
        self._begin_loads()

    def _settle(self, harness: LoaderHarness) -> None:
        """Tell those who wait for it how it went."""
        with self._lock:
            load = self._loads.get(harness.id)
        if load is not None and load.harness is harness:
            self._finish(load, harness.error)

    def _begin_loads(self) -> None:
        """Begin the loads for which there is room, in the order in which they were asked for."""
        for load in list(self._queue):
            if load.done.is_set():  # stopped
                self._queue.remove(load)
            elif load.id.version in self._control.basic_manager.harnesses(load.id.name):
                continue  # it is on its way out, and may come back after that
            elif self._has_room():
                self._queue.remove(load)
                self._begin(load)
            else:
                return

    def _begin(self, load: _Load) -> None:
        assert load.version is not None
        basic_manager = self._control.basic_manager
        load.harness = basic_manager.manage(load.version)
        if load.harness.ended:  # the factory had an error for it
            basic_manager.forget(load.harness)
            self._finish(load, load.harness.error)
        else:
            basic_manager.load(load.harness)

    def _has_room(self) -> bool:
        """Whether another load may begin; if not, something is leaving that makes room."""
        if self._options.max_loaded_servables is None:
            return True
        harnesses = self._harnesses()
        too_many = len(harnesses) + 1 - self._options.max_loaded_servables
        if too_many <= 0:
            return True
        for harness in self._choose_to_leave(harnesses, too_many - len(self._leaving)):
            self._control.basic_manager.unload(harness)
        return not self._leaving

    def _harnesses(self) -> list[LoaderHarness]:
        """All that take memory, or will."""
        basic_manager = self._control.basic_manager
        return [
            harness
            for name in basic_manager.names
            for harness in basic_manager.harnesses(name).values()
            if not harness.ended
        ]

    def _choose_to_leave(self, harnesses: list[LoaderHarness], number: int) -> list[LoaderHarness]:
        """Up to `number` that are idle, those asked for least recently first."""
        with self._lock:
            idle = [
                harness
                for harness in harnesses
                if harness.state is State.READY
                and harness.id not in self._waiting
                and not self._serving_map.in_use(harness.id.name, harness.id.version)
            ]
            # One whose requests had gone when it was loaded was never used.
            idle.sort(key=lambda harness: self._last_used.get(harness.id, -1))
            chosen = idle[: max(0, number)]
            self._leaving.update(harness.id for harness in chosen)
        return chosen


def _stopped() -> ServingError:
    return ServingError(Code.UNAVAILABLE, "the manager of servables is stopped")
