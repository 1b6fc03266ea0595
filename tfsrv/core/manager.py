"""Carries out loads and unloads, and keeps the serving map and the events in step with them.

What should be loaded is for others to say: AspiredVersionsManager has a wish and a policy for
it. Here is how it is done: on threads of their own, with retries, and in an order that requests
and watchers can rely on:

    AVAILABLE is told after the version is in the serving map,
    UNLOADING is told before it leaves the map,
    unload is called when nobody holds the version any more, END is told after that.

A version whose files have moved can be replaced by itself: the successor is loaded out of sight,
takes the place in the map when it is ready, and the old one unloads out of sight. The version is
AVAILABLE all the time; if the successor does not load, it stays so, with the error.
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
from tfsrv.core.failure import as_serving_error, is_permanent, to_be_kept
from tfsrv.core.loader import Loader
from tfsrv.core.loader_harness import BEFORE_READY, ENDED, LoaderHarness, State
from tfsrv.core.reservations import Answer, Reservations, Tracker
from tfsrv.core.resources import ResourceAllocation
from tfsrv.core.servable import ManagerState, ServableData, ServableState
from tfsrv.errors import Code, ServingError

DRAIN_SLICE_SECONDS = 0.5  # how often a wait for the last request looks whether to give up
LONGEST_RETRY_SECONDS = 600.0  # to which waits grow, unless the first one is longer

BUSY = frozenset(State) - {State.NEW, State.LOAD_REQUESTED, State.READY} - ENDED

logger = logging.getLogger("tfsrv")


@dataclass(frozen=True)
class LoadRetryOptions:
    """When a load that failed is tried again. The defaults are TensorFlow Serving's.

    The first wait is `load_retry_interval_micros`, each one after it is twice as long as the one
    before, up to ten minutes. TensorFlow Serving's are all the same.
    """

    max_num_load_retries: int = 5  # after the first try
    load_retry_interval_micros: int = 60_000_000  # negative: at once
    should_retry_model_load: Callable[[ServingError], bool] = lambda error: not is_permanent(error)

    def wait_seconds(self, num_tries: int) -> float:
        """How long to wait after so many tries have failed."""
        first = max(0, self.load_retry_interval_micros) / 1e6
        growing = first * 2.0 ** min(num_tries - 1, 60)
        return min(growing, max(first, LONGEST_RETRY_SECONDS))


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
    replace(), forget(), and push_out().
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
        tracker: Tracker | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_memory_freed: Callable[[], None] = lambda: None,
    ) -> None:
        """`tracker` is asked for room before a load; without one there is always room."""
        self._publisher = publisher
        self._event_bus = event_bus
        self._load_executor = load_executor
        self._unload_executor = unload_executor
        self._wake = wake
        self._retry = retry or LoadRetryOptions()
        self._clock = clock
        self._on_memory_freed = on_memory_freed
        self._reservations: Reservations[LoaderHarness] = Reservations(tracker)
        self._harnesses: dict[str, dict[int, LoaderHarness]] = {}
        self._successors: dict[LoaderHarness, LoaderHarness] = {}  # by whose place they take
        # Replaced or abandoned, and not unloaded yet: their versions may have other harnesses.
        self._out_of_sight: set[LoaderHarness] = set()
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

    @property
    def is_empty(self) -> bool:
        """Whether nothing is managed, nor left of anything."""
        return not self._harnesses and not self._successors and not self._out_of_sight

    def all_harnesses(self) -> list[LoaderHarness]:
        """Every version that is managed, with successors and what is left out of sight."""
        listed = [harness for each in self._harnesses.values() for harness in each.values()]
        return [*listed, *self._successors.values(), *self._out_of_sight]

    def harnesses(self, name: str) -> Mapping[int, LoaderHarness]:
        """All managed versions of a servable, those that ended too until they are forgotten."""
        return MappingProxyType(self._harnesses.get(name, {}))

    def successor(self, harness: LoaderHarness) -> LoaderHarness | None:
        """What is to take its place, or has failed to."""
        return self._successors.get(harness)

    def with_room_by_now(self) -> list[LoaderHarness]:
        """Versions that failed for want of room, and for which there is room now."""
        if not self._reservations.are_limited:
            return []
        return [
            harness
            for harness in self.all_harnesses()
            if harness.lacking is not None
            and self._reservations.would_fit(harness, harness.lacking)
        ]

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
        self._take_out(harness)

    def _take_out(self, harness: LoaderHarness) -> None:
        versions = self._harnesses[harness.id.name]
        del versions[harness.id.version]
        if not versions:
            del self._harnesses[harness.id.name]

    def load(self, harness: LoaderHarness) -> None:
        """Begin to load a version, as soon as there is room for it."""
        harness.move(State.LOAD_REQUESTED)
        if self._reservations.are_limited:
            self._submit(harness, self._run_estimate)
        else:
            self._approve(harness)

    def replace(self, harness: LoaderHarness, version: ServableData[Loader]) -> None:
        """Load a version that is ready once more, from elsewhere, and let that take its place."""
        if harness.state is not State.READY or harness in self._successors:
            raise ServingError(
                Code.FAILED_PRECONDITION, f"Servable: {harness.id} cannot be replaced now"
            )
        successor = LoaderHarness(version)
        successor.predecessor = harness
        self._successors[harness] = successor
        if version.error is not None:
            self._fail(successor, version.error)
        else:
            self.load(successor)

    def drop_successor(self, harness: LoaderHarness) -> None:
        """Let it stay as it is: a successor that loads is given up, one that failed forgotten."""
        successor = self._successors.get(harness)
        if successor is None:
            return
        if successor.ended:
            del self._successors[harness]
            self._tell(harness, ManagerState.AVAILABLE)  # without the successor's error
        else:
            self.cancel_load(successor)

    def cancel_load(self, harness: LoaderHarness) -> None:
        """Give up a version that is not ready yet.

        A load that runs can't be stopped, but its warm-up can: what it loads is unloaded at once,
        and it is not tried again.
        """
        if harness.cancelled or harness.state not in BEFORE_READY:
            return
        harness.cancelled = True
        task = self._load_tasks.get(harness)
        if task is not None and not task.cancel():
            self._cancel_warm_up(harness)
            return  # it runs, and will leave word
        self._load_tasks.pop(harness, None)
        self._retries = [retry for retry in self._retries if retry[2] is not harness]
        heapq.heapify(self._retries)
        self._fail(harness, _cancelled())

    def _cancel_warm_up(self, harness: LoaderHarness) -> None:
        """End what runs on a servable that nobody will use; before it is loaded nothing does."""
        try:
            harness.loader.cancel()
        except Exception:  # it takes longer, then
            logger.exception("the warm-up of %s was not cancelled", harness.id)

    def abandon(self, harness: LoaderHarness) -> None:
        """Have no more to do with a load that was given up and still runs.

        Its version ends here, and may be managed anew. What it loads after all is unloaded out
        of sight.
        """
        if not harness.cancelled or harness.ended:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"Servable: {harness.id} was not given up: {harness.state}",
            )
        if harness.predecessor is not None:
            del self._successors[harness.predecessor]
            harness.predecessor = None
        else:
            state = ServableState(harness.id, ManagerState.END, _cancelled())
            self._event_bus.publish(state)
            self._take_out(harness)
        harness.is_out_of_sight = True
        self._out_of_sight.add(harness)

    def unload(self, harness: LoaderHarness) -> None:
        """Begin to unload a version; it leaves the serving map at push_out()."""
        successor = self._successors.get(harness)
        if successor is not None and successor.ended:
            del self._successors[harness]
        elif successor is not None:
            self.cancel_load(successor)
        self._quiesce(harness)
        self._tell(harness, ManagerState.UNLOADING)
        self._hide(harness)

    def cancel_servables(self) -> None:
        """End the requests that still hold versions which are being unloaded."""
        for harness in self.all_harnesses():
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
            try:
                report()
            except Exception:
                # What is wrong with one version must not end the care for the others.
                logger.exception("word of %s was lost", harness.id)
        while self._retries and self._retries[0][0] <= self._clock():
            harness = heapq.heappop(self._retries)[2]
            is_approved = harness.state is State.LOADING
            self._submit(harness, self._run_load if is_approved else self._run_estimate)
        self.push_out()
        return changed

    def push_out(self) -> None:
        """Bring the serving map up to date, and go on with what waited for that."""
        self._serve_waiting()
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

    # -- making room

    def _run_estimate(self, harness: LoaderHarness) -> None:
        """On a thread of the load executor: looks at files."""
        allocation: ResourceAllocation = {}
        failure: ServingError | None = None
        if not harness.cancelled:
            try:
                allocation = harness.loader.estimate_resources()
            except BaseException as error:  # sys.exit() in a plug-in: word must be left anyhow
                cause = as_serving_error(error)
                failure = ServingError(
                    cause.code,
                    "Error while attempting to reserve resources to load servable "
                    f"{harness.id}: {cause.message}",
                )
        self._report(harness, lambda: self._estimated(harness, allocation, failure))

    def _estimated(
        self,
        harness: LoaderHarness,
        allocation: ResourceAllocation,
        failure: ServingError | None,
    ) -> None:
        del self._load_tasks[harness]
        if harness.cancelled:
            self._fail(harness, _cancelled())
        elif failure is not None:
            harness.num_tries += 1
            self._retry_or_fail(harness, failure)
        else:
            self._ask_for_room(harness, allocation)

    def _ask_for_room(self, harness: LoaderHarness, allocation: ResourceAllocation) -> None:
        waiting = {retry[2] for retry in self._retries}  # for a next try: for long, perhaps
        others_are_busy = any(
            other.state in BUSY and other not in waiting for other in self.all_harnesses()
        )
        answer = self._reservations.ask(harness, allocation, others_are_busy=others_are_busy)
        if answer is Answer.GRANTED:
            self._approve(harness)
        elif answer is Answer.REFUSED:
            harness.lacking = allocation
            text = f"Insufficient resources to load servable {harness.id}"
            self._fail(harness, ServingError(Code.RESOURCE_EXHAUSTED, text))

    def _serve_waiting(self) -> None:
        """Something may have ended: its room is for those who wait."""
        for waiting, allocation in self._reservations.take_waiting():
            self._ask_for_room(waiting, allocation)

    # -- loading

    def _approve(self, harness: LoaderHarness) -> None:
        harness.num_tries = 0
        harness.move(State.LOAD_APPROVED)
        self._submit(harness, self._run_load)

    def _submit(self, harness: LoaderHarness, run: Callable[[LoaderHarness], None]) -> None:
        self._load_tasks[harness] = self._load_executor.submit(lambda: run(harness))

    def _run_load(self, harness: LoaderHarness) -> None:
        """On a thread of the load executor."""
        self._report(harness, lambda: self._load_began(harness))
        failure: ServingError | None = None
        used: ResourceAllocation | None = None
        if not harness.cancelled:
            try:
                harness.servable = _load_and_warm_up(harness)
                harness.was_loaded = True
                used = self._used(harness.loader)
            except BaseException as error:  # as above
                logger.debug("load of %s failed", harness.id, exc_info=True)
                failure = to_be_kept(error)
        self._report(harness, lambda: self._load_ended(harness, failure, used))

    def _used(self, loader: Loader) -> ResourceAllocation | None:
        """What a loaded servable takes, if anybody wants to know and it can tell."""
        if not self._reservations.are_limited:
            return None
        try:
            return loader.estimate_resources()
        except BaseException:  # it is loaded: the first estimate will do
            logger.debug("no second estimate", exc_info=True)
            return None

    def _load_began(self, harness: LoaderHarness) -> None:
        harness.num_tries += 1
        if harness.num_tries == 1:
            harness.load_began_at = self._clock()
            harness.move(State.LOADING)
            self._tell(harness, ManagerState.LOADING)

    def _load_ended(
        self,
        harness: LoaderHarness,
        failure: ServingError | None,
        used: ResourceAllocation | None,
    ) -> None:
        del self._load_tasks[harness]
        if failure is not None:
            self._on_memory_freed()
        if harness.was_loaded:
            if used is not None:
                self._reservations.correct(harness, used)
            if harness.cancelled:
                harness.move(State.UNLOADING)
                self._submit_unload(harness)
            else:
                self._arrive(harness)
        elif harness.cancelled or failure is None:
            self._fail(harness, _cancelled())
        else:
            self._retry_or_fail(harness, failure)

    def _arrive(self, harness: LoaderHarness) -> None:
        """Ready: on the way into the map, in the place of its predecessor if it has one."""
        harness.move(State.READY)
        predecessor, harness.predecessor = harness.predecessor, None
        if predecessor is not None:
            del self._successors[predecessor]
            self._harnesses[harness.id.name][harness.id.version] = harness
            harness.is_aspired = predecessor.is_aspired
            predecessor.is_out_of_sight = True
            self._out_of_sight.add(predecessor)
            self._quiesce(predecessor)
        self._show(harness)
        self._arriving.append(harness)

    def _retry_or_fail(self, harness: LoaderHarness, failure: ServingError) -> None:
        if not self._may_retry(harness, failure):
            self._fail(harness, failure)
            return
        seconds = self._retry.wait_seconds(harness.num_tries)
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

    def _may_retry(self, harness: LoaderHarness, failure: ServingError) -> bool:
        return (
            harness.num_tries <= self._retry.max_num_load_retries
            and self._retry.should_retry_model_load(failure)
        )

    # -- unloading

    def _quiesce(self, harness: LoaderHarness) -> None:
        """Its last requests may go on; at push_out() the wait for their end begins."""
        harness.move(State.UNLOAD_REQUESTED)
        harness.move(State.QUIESCING)
        self._leaving.append(harness)

    def _submit_unload(self, harness: LoaderHarness) -> None:
        self._unload_executor.submit(lambda: self._run_unload(harness))

    def _run_unload(self, harness: LoaderHarness) -> None:
        """On a thread of the unload executor."""
        failure: ServingError | None = None
        if harness.state is State.QUIESCING:
            try:
                harness.loader.quiesce()
            except Exception:  # it is unloaded all the same, later perhaps
                logger.exception("%s did not quiesce", harness.id)
            while not self._publisher.drain(
                harness.id.name, harness.id.version, DRAIN_SLICE_SECONDS
            ):
                if self._given_up.is_set():
                    return
            self._report(harness, lambda: self._quiesced(harness))
        try:
            harness.loader.unload()
        except BaseException as error:  # as above
            logger.debug("unload of %s failed", harness.id, exc_info=True)
            failure = to_be_kept(error)
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
            self._reservations.release(harness)
            harness.move(State.DISABLED)
            logger.info("%s version %d is unloaded", harness.id.name, harness.id.version)
            self._tell(harness, ManagerState.END)
            self._out_of_sight.discard(harness)

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
        self._reservations.release(harness)
        harness.fail(error)
        self._out_of_sight.discard(harness)
        if harness.cancelled:
            logger.info("%s version %d: %s", harness.id.name, harness.id.version, error.message)
        else:
            verb = "unload" if harness.was_loaded else "load"
            if harness.predecessor is not None:
                verb = f"be replaced by {harness.origin}, and stays as it is"
            logger.error(
                "%s version %d failed to %s: %s", harness.id.name, harness.id.version, verb, error
            )
        if harness.predecessor is not None:
            self._successor_failed(harness, harness.predecessor)
        else:
            self._tell(harness, ManagerState.END)

    def _successor_failed(self, successor: LoaderHarness, predecessor: LoaderHarness) -> None:
        if successor.cancelled or predecessor.state is not State.READY:
            del self._successors[predecessor]
            return
        state = ServableState(predecessor.id, ManagerState.AVAILABLE, successor.error)
        self._event_bus.publish(state)

    def _tell(self, harness: LoaderHarness, state: ManagerState) -> None:
        if harness.predecessor is None and not harness.is_out_of_sight:
            self._event_bus.publish(ServableState(harness.id, state, harness.error))

    def _report(self, harness: LoaderHarness, report: Callable[[], None]) -> None:
        self._reports.append((harness, report))
        self._wake()


def _load_and_warm_up(harness: LoaderHarness) -> object:
    """The servable, ready for its first request if there will be one."""
    loader = harness.loader
    loader.load()
    try:
        # Who gives it up sets `cancelled` before it ends what runs: one of the two is seen here.
        if not harness.cancelled:
            loader.warm_up()
        return loader.servable()
    except BaseException:
        loader.unload()
        raise


def _cancelled() -> ServingError:
    return ServingError(Code.CANCELLED, "Loading of servable cancelled")
