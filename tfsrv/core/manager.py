"""Carries out loads and unloads, and keeps the serving map and the events in step with them.

What should be loaded is for others to say: AspiredVersionsManager has a wish and a policy for
it. Here is how it is done: on threads of their own, with retries, and in an order that requests
and watchers can rely on:

    AVAILABLE is told after the version is in the serving map,
    UNLOADING is told before it leaves the map,
    unload is called when nobody holds the version any more, END is told after that.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from tfsrv.core.event_bus import EventBus
from tfsrv.core.executor import Executor, Task
from tfsrv.core.failure import as_serving_error, is_permanent
from tfsrv.core.loader import Loader
from tfsrv.core.loader_harness import BEFORE_READY, LoaderHarness, State
from tfsrv.core.servable import ManagerState, ServableData, ServableState
from tfsrv.errors import Code, ServingError

DRAIN_SLICE_SECONDS = 0.5  # how often a wait for the last request looks whether to give up

logger = logging.getLogger("tfsrv")


@dataclass(frozen=True)
class LoadRetryOptions:
    """When a load that failed is tried again. The defaults are TensorFlow Serving's."""

    max_num_load_retries: int = 5  # after the first try
    load_retry_interval_micros: int = 60_000_000  # negative: at once
    should_retry_model_load: Callable[[ServingError], bool] = lambda error: not is_permanent(error)


class Publisher(Protocol):
    """Shows servables to requests; see ServingMapPublisher."""

    def set_servables(self, servables: Mapping[str, Mapping[int, object]]) -> None: ...

    def drain(self, name: str, version: int, timeout_seconds: float | None) -> bool: ...


class BasicManager:
    """Loads and unloads versions when told.

    Thread rules: one thread, the control thread, calls all methods, and makes all moves and
    events. The threads of the executors only run loaders and leave word of it; `wake` is called
    then, and the control thread should call `take_in`.

    A round of the control thread: take_in(), then any number of manage(), load(), unload(),
    forget(), and push_out().
    """

    def __init__(
        self,
        publisher: Publisher,
        event_bus: EventBus[ServableState],
        load_executor: Executor,
        unload_executor: Executor,
        wake: Callable[[], None],
        *,
        retry: LoadRetryOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_memory_freed: Callable[[], None] = lambda: None,
    ) -> None:
        self._publisher = publisher
        self._event_bus = event_bus
        self._load_executor = load_executor
        self._unload_executor = unload_executor
        self._wake = wake
        self._retry = retry or LoadRetryOptions()
        self._clock = clock
        self._on_memory_freed = on_memory_freed
        self._harnesses: dict[str, dict[int, LoaderHarness]] = {}
        # Left by the executors' threads: what to call here, and about which version.
        self._reports: deque[tuple[LoaderHarness, Callable[[], None]]] = deque()
        self._load_tasks: dict[LoaderHarness, Task] = {}  # loads that may not have begun
        self._retries: list[tuple[float, int, LoaderHarness]] = []  # a heap, by when it is due
        self._sequence = itertools.count()  # breaks ties in the heap
        self._servables: dict[str, dict[int, object]] = {}  # replaced, never changed in place
        self._is_published = True
        self._arriving: list[LoaderHarness] = []
        self._leaving: list[LoaderHarness] = []
        self._given_up = threading.Event()

    # -- what there is

    @property
    def names(self) -> list[str]:
        return list(self._harnesses)

    def harnesses(self, name: str) -> Mapping[int, LoaderHarness]:
        """All managed versions of a servable, those that ended too until they are forgotten."""
        return MappingProxyType(self._harnesses.get(name, {}))

    def next_due_seconds(self) -> float | None:
        """How long until take_in has to be called for a retry; None if there is none."""
        return max(0.0, self._retries[0][0] - self._clock()) if self._retries else None

    # -- what can be done

    def manage(self, version: ServableData[Loader]) -> LoaderHarness:
        """Take a version in. One that comes with an error has its end at once."""
        versions = self._harnesses.setdefault(version.id.name, {})
        if version.id.version in versions:
            raise ServingError(
                Code.FAILED_PRECONDITION, f"This servable is already being managed: {version.id}"
            )
        harness = versions[version.id.version] = LoaderHarness(version)
        if version.error is None:
            self._tell(harness, ManagerState.START)
        else:
            self._fail(harness, version.error)
        return harness

    def forget(self, harness: LoaderHarness) -> None:
        """Manage a version no longer, after its end."""
        if not harness.ended:
            raise ServingError(
                Code.FAILED_PRECONDITION, f"Servable: {harness.id} has not ended: {harness.state}"
            )
        versions = self._harnesses[harness.id.name]
        del versions[harness.id.version]
        if not versions:
            del self._harnesses[harness.id.name]

    def load(self, harness: LoaderHarness) -> None:
        """Begin to load a version."""
        harness.move(State.LOAD_REQUESTED)
        harness.move(State.LOAD_APPROVED)
        self._submit_load(harness)

    def cancel_load(self, harness: LoaderHarness) -> None:
        """Give up a version that is not ready yet.

        A load that runs can't be stopped: what it loads is unloaded at once, and it is not
        tried again.
        """
        if harness.cancelled or harness.state not in BEFORE_READY:
            return
        harness.cancelled = True
        if harness.state in (State.LOAD_APPROVED, State.LOADING):
            task = self._load_tasks.get(harness)
            if task is not None and not task.cancel():
                return  # it runs, and will leave word
        self._load_tasks.pop(harness, None)
        self._retries = [retry for retry in self._retries if retry[2] is not harness]
        heapq.heapify(self._retries)
        self._fail(harness, _cancelled())

    def unload(self, harness: LoaderHarness) -> None:
        """Begin to unload a version; it leaves the serving map at push_out()."""
        harness.move(State.UNLOAD_REQUESTED)
        harness.move(State.QUIESCING)
        self._tell(harness, ManagerState.UNLOADING)
        self._hide(harness)
        self._leaving.append(harness)

    def cancel_servables(self) -> None:
        """End the requests that still hold versions which are being unloaded."""
        for versions in self._harnesses.values():
            for harness in versions.values():
                if harness.state is State.QUIESCING:
                    harness.loader.cancel()

    def give_up(self) -> None:
        """Wait no longer for requests: versions that are held stay loaded."""
        self._given_up.set()

    # -- the two ends of a round

    def take_in(self) -> set[str]:
        """Take note of what the threads have done, and show what became ready.

        Returns the names of the servables for which something changed.
        """
        changed = set()
        while self._reports:
            harness, report = self._reports.popleft()
            changed.add(harness.id.name)
            report()
        while self._retries and self._retries[0][0] <= self._clock():
            self._submit_load(heapq.heappop(self._retries)[2])
        self.push_out()
        return changed

    def push_out(self) -> None:
        """Bring the serving map up to date, and go on with what waited for that."""
        if not self._is_published:
            self._publisher.set_servables(self._servables)
            self._is_published = True
        arriving, self._arriving = self._arriving, []
        for harness in arriving:
            logger.info(
                "%s version %d is available, loaded in %.3f s",
                harness.id.name,
                harness.id.version,
                self._clock() - harness.load_began_at,
            )
            self._tell(harness, ManagerState.AVAILABLE)
        leaving, self._leaving = self._leaving, []
        for harness in leaving:
            self._submit_unload(harness)

    # -- loading

    def _submit_load(self, harness: LoaderHarness) -> None:
        self._load_tasks[harness] = self._load_executor.submit(lambda: self._run_load(harness))

    def _run_load(self, harness: LoaderHarness) -> None:
        """On a thread of the load executor."""
        self._report(harness, lambda: self._load_began(harness))
        failure: ServingError | None = None
        if not harness.cancelled:
            try:
                harness.servable = _load_and_warm_up(harness.loader)
                harness.was_loaded = True
            except Exception as error:
                logger.debug("load of %s failed", harness.id, exc_info=True)
                failure = as_serving_error(error)
        self._report(harness, lambda: self._load_ended(harness, failure))

    def _load_began(self, harness: LoaderHarness) -> None:
        harness.num_tries += 1
        if harness.num_tries == 1:
            harness.load_began_at = self._clock()
            harness.move(State.LOADING)
            self._tell(harness, ManagerState.LOADING)

    def _load_ended(self, harness: LoaderHarness, failure: ServingError | None) -> None:
        del self._load_tasks[harness]
        if failure is not None:
            self._on_memory_freed()
        if harness.was_loaded:
            if harness.cancelled:
                harness.move(State.UNLOADING)
                self._submit_unload(harness)
            else:
                harness.move(State.READY)
                self._show(harness)
                self._arriving.append(harness)
        elif harness.cancelled or failure is None:
            self._fail(harness, _cancelled())
        elif self._may_retry(harness, failure):
            seconds = max(0, self._retry.load_retry_interval_micros) / 1e6
            logger.warning(
                "%s version %d failed to load, retry %d of %d in %g s: %s",
                harness.id.name,
                harness.id.version,
                harness.num_tries,
                self._retry.max_num_load_retries,
                seconds,
                failure,
            )
            entry = (self._clock() + seconds, next(self._sequence), harness)
            heapq.heappush(self._retries, entry)
        else:
            self._fail(harness, failure)

    def _may_retry(self, harness: LoaderHarness, failure: ServingError) -> bool:
        return (
            harness.num_tries <= self._retry.max_num_load_retries
            and self._retry.should_retry_model_load(failure)
        )

    # -- unloading

    def _submit_unload(self, harness: LoaderHarness) -> None:
        self._unload_executor.submit(lambda: self._run_unload(harness))

    def _run_unload(self, harness: LoaderHarness) -> None:
        """On a thread of the unload executor."""
        failure: ServingError | None = None
        if harness.state is State.QUIESCING:
            while not self._publisher.drain(
                harness.id.name, harness.id.version, DRAIN_SLICE_SECONDS
            ):
                if self._given_up.is_set():
                    return
            self._report(harness, lambda: self._quiesced(harness))
        try:
            harness.loader.unload()
        except Exception as error:
            logger.debug("unload of %s failed", harness.id, exc_info=True)
            failure = as_serving_error(error)
        self._report(harness, lambda: self._unload_ended(harness, failure))

    def _quiesced(self, harness: LoaderHarness) -> None:
        harness.move(State.QUIESCED)
        harness.move(State.UNLOADING)

    def _unload_ended(self, harness: LoaderHarness, failure: ServingError | None) -> None:
        harness.servable = None
        self._on_memory_freed()
        if failure is not None:
            self._fail(harness, failure)
        elif harness.cancelled:
            self._fail(harness, _cancelled())
        else:
            harness.move(State.DISABLED)
            logger.info("%s version %d is unloaded", harness.id.name, harness.id.version)
            self._tell(harness, ManagerState.END)

    # -- what the world sees

    def _show(self, harness: LoaderHarness) -> None:
        versions = self._servables.get(harness.id.name, {})
        self._replace(harness, {**versions, harness.id.version: harness.servable})

    def _hide(self, harness: LoaderHarness) -> None:
        versions = dict(self._servables[harness.id.name])
        del versions[harness.id.version]
        self._replace(harness, versions)

    def _replace(self, harness: LoaderHarness, versions: dict[int, object]) -> None:
        self._servables = {**self._servables, harness.id.name: versions}
        if not versions:
            del self._servables[harness.id.name]
        self._is_published = False

    def _fail(self, harness: LoaderHarness, error: ServingError) -> None:
        harness.fail(error)
        if error.code is Code.CANCELLED:
            logger.info("%s version %d: %s", harness.id.name, harness.id.version, error.message)
        else:
            verb = "unload" if harness.was_loaded else "load"
            logger.error(
                "%s version %d failed to %s: %s", harness.id.name, harness.id.version, verb, error
            )
        self._tell(harness, ManagerState.END)

    def _tell(self, harness: LoaderHarness, state: ManagerState) -> None:
        self._event_bus.publish(ServableState(harness.id, state, harness.error))

    def _report(self, harness: LoaderHarness, report: Callable[[], None]) -> None:
        self._reports.append((harness, report))
        self._wake()


def _load_and_warm_up(loader: Loader) -> object:
    """The servable, ready for its first request."""
    loader.load()
    try:
        loader.warm_up()
        return loader.servable()
    except BaseException:
        loader.unload()
        raise


def _cancelled() -> ServingError:
    return ServingError(Code.CANCELLED, "Loading of servable cancelled")
