"""Stand-ins for what surrounds a manager, moved by hand."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence

from tfsrv.core.aspired_versions_manager import (
    AspiredVersionsManager,
    AspiredVersionsManagerOptions,
)
from tfsrv.core.event_bus import EventBus
from tfsrv.core.loader import Loader
from tfsrv.core.resources import RAM, ResourceAllocation
from tfsrv.core.servable import ManagerState, ServableData, ServableId, ServableState
from tfsrv.core.servable_state_monitor import ServableStateMonitor
from tfsrv.core.serving_map_publisher import ServingMapPublisher
from tfsrv.errors import Code, ServingError


class PuppetServable:
    """What a PuppetLoader loads."""

    def __init__(self, id: ServableId) -> None:
        self.id = id
        self.is_loaded = True
        self.is_cancelled = False


class PuppetLoader(Loader):
    """Does what it is told, and remembers what was done with it.

    `failures` are raised by the tries of load, one after the other; None lets a try succeed,
    and so does the end of the list. `gate` holds load up until it is set, `unload_gate` unload.
    """

    def __init__(
        self,
        id: ServableId,
        failures: Sequence[Exception | None] = (),
        *,
        warm_up_failure: Exception | None = None,
        quiesce_failure: Exception | None = None,
        unload_failure: Exception | None = None,
        gate: threading.Event | None = None,
        unload_gate: threading.Event | None = None,
        during_load: Callable[[], object] = lambda: None,
        during_warm_up: Callable[[], object] = lambda: None,
        origin: object = None,
        ram_bytes: int = 0,
        used_ram_bytes: int | None = None,
    ) -> None:
        """`ram_bytes` is the estimate before the load, `used_ram_bytes` the one after it."""
        self.id = id
        self.calls: list[str] = []
        self.entered = threading.Event()  # load was called
        self._failures = deque(failures)
        self._warm_up_failure = warm_up_failure
        self._quiesce_failure = quiesce_failure
        self._unload_failure = unload_failure
        self.is_quiesced = False
        self._gate = gate
        self._unload_gate = unload_gate
        self._during_load = during_load
        self._during_warm_up = during_warm_up
        self.times_loaded = 0  # without a failure
        self._servable: PuppetServable | None = None
        self._origin = origin
        self._ram_bytes = ram_bytes
        self._used_ram_bytes = ram_bytes if used_ram_bytes is None else used_ram_bytes

    @property
    def origin(self) -> object:
        return self._origin

    def estimate_resources(self) -> ResourceAllocation:
        is_loaded = self._servable is not None
        return {RAM: self._used_ram_bytes if is_loaded else self._ram_bytes}

    def load(self) -> None:
        self.calls.append("load")
        self.entered.set()
        if self._gate is not None:
            self._gate.wait()
        self._during_load()
        failure = self._failures.popleft() if self._failures else None
        if failure is not None:
            raise failure
        self._servable = PuppetServable(self.id)
        self.times_loaded += 1

    def warm_up(self) -> None:
        assert self._servable is not None, "warmed up without being loaded"
        self.calls.append("warm_up")
        self._during_warm_up()
        if self._servable.is_cancelled:
            raise ServingError(Code.CANCELLED, "Session has been closed.")
        if self._warm_up_failure is not None:
            raise self._warm_up_failure

    def servable(self) -> PuppetServable:
        assert self._servable is not None
        return self._servable

    def has_loaded(self, servable: object) -> bool:
        return self._servable is servable

    def quiesce(self) -> None:
        assert self._servable is not None, "quiesced without being loaded"
        self.is_quiesced = True
        if self._quiesce_failure is not None:
            raise self._quiesce_failure

    def unload(self) -> None:
        self.calls.append("unload")
        if self._unload_gate is not None:
            self._unload_gate.wait()
        assert self._servable is not None, "unloaded without being loaded"
        self._servable.is_loaded = False
        self._servable = None
        if self._unload_failure is not None:
            raise self._unload_failure

    def cancel(self) -> None:
        self.calls.append("cancel")
        if self._servable is not None:
            self._servable.is_cancelled = True


class FakeHandle:
    """Holds a servable of a FakeServingMap."""

    def __init__(self, serving_map: FakeServingMap, id: ServableId, servable: object) -> None:
        self._serving_map = serving_map
        self._id = id
        self.servable = servable

    def release(self) -> None:
        self._serving_map.release(self._id, self.servable)


class WouldWaitError(Exception):
    """A thread would wait here."""


class FakeServingMap:
    """A serving map in Python, with the same promises.

    Where a drain would wait, it raises WouldWaitError unless `waits`.
    """

    def __init__(self, *, waits: bool = False) -> None:
        self._waits = waits
        self.servables: dict[str, dict[int, object]] = {}
        self.pending: frozenset[str] = frozenset()
        self.num_publications = 0
        self._condition = threading.Condition()
        self._handles: Counter[tuple[ServableId, object]] = Counter()

    def publish(
        self,
        servables: Mapping[str, Mapping[int, object]],
        labels: Mapping[str, Mapping[str, int]] = {},
        pending: Collection[str] = (),
    ) -> None:
        with self._condition:
            self.servables = {name: dict(versions) for name, versions in servables.items()}
            self.pending = frozenset(pending)
            self.num_publications += 1

    def acquire(self, name: str, version: int) -> FakeHandle:
        with self._condition:
            servable = self.servables[name][version]
            id = ServableId(name, version)
            self._handles[id, servable] += 1
            return FakeHandle(self, id, servable)

    def release(self, id: ServableId, servable: object) -> None:
        with self._condition:
            self._handles[id, servable] -= 1
            self._condition.notify_all()

    def in_use(self, name: str, version: int) -> int:
        with self._condition:
            return sum(
                count for (id, _), count in self._handles.items() if id == ServableId(name, version)
            )

    def drain(self, name: str, version: int, timeout_seconds: float | None) -> bool:
        with self._condition:
            if self._left_out_in_use(name, version) and not self._waits:
                raise WouldWaitError
            return self._condition.wait_for(
                lambda: not self._left_out_in_use(name, version), timeout_seconds
            )

    def _left_out_in_use(self, name: str, version: int) -> bool:
        shown = self.servables.get(name, {}).get(version)
        return any(
            count
            for (id, servable), count in self._handles.items()
            if id == ServableId(name, version) and servable is not shown
        )


class HandTask:
    """A task of a HandExecutor."""

    def __init__(self, executor: HandExecutor, run: Callable[[], None]) -> None:
        self._executor = executor
        self.run = run

    def cancel(self) -> bool:
        if self not in self._executor.tasks:
            return False
        self._executor.tasks.remove(self)
        return True


class HandExecutor:
    """Keeps its tasks until somebody runs them."""

    def __init__(self) -> None:
        self.tasks: list[HandTask] = []
        self.slots = 0

    def submit(self, run: Callable[[], None]) -> HandTask:
        task = HandTask(self, run)
        self.tasks.append(task)
        return task

    def run_next(self, index: int = 0) -> bool:
        """Run a task; False, and it stays, if it would wait."""
        task = self.tasks.pop(index)
        try:
            task.run()
        except WouldWaitError:
            self.tasks.insert(index, task)
            return False
        return True

    def run_all(self) -> bool:
        """Run all tasks that do not wait; whether there were any."""
        return sum(self.run_next(index) for index in reversed(range(len(self.tasks)))) > 0

    def set_slots(self, slots: int) -> None:
        self.slots = slots

    def stop(self, timeout_seconds: float) -> bool:
        self.tasks.clear()
        return True


class Stage:
    """A manager without threads, and everything around it.

    stage.aspire("a", 1)    # a source wants version 1 of a
    stage.run_all()         # let everything happen that can happen now
    """

    def __init__(self, options: AspiredVersionsManagerOptions | None = None) -> None:
        self.now = 1000.0
        self.serving_map = FakeServingMap()
        self.bus: EventBus[ServableState] = EventBus()
        self.events: list[ServableState] = []
        self.bus.subscribe(self.events.append)
        self.monitor = ServableStateMonitor(self.bus)
        self.loads = HandExecutor()
        self.unloads = HandExecutor()
        self.loaders: list[PuppetLoader] = []
        self.manager = AspiredVersionsManager(
            ServingMapPublisher(self.serving_map),
            self.bus,
            options,
            load_executor=self.loads,
            unload_executor=self.unloads,
            clock=lambda: self.now,
        )

    def loader(
        self, name: str, version: int, failures: Sequence[Exception | None] = ()
    ) -> PuppetLoader:
        loader = PuppetLoader(ServableId(name, version), failures)
        self.loaders.append(loader)
        return loader

    def aspire(self, name: str, *versions: int | PuppetLoader) -> list[PuppetLoader]:
        """Set the aspired versions of `name`, and let the manager take note."""
        loaders = [
            self.loader(name, version) if isinstance(version, int) else version
            for version in versions
        ]
        self.aspire_data(name, *(data(loader) for loader in loaders))
        return loaders

    def aspire_data(self, name: str, *versions: ServableData[Loader]) -> None:
        self.manager.set_aspired_versions(name, versions)
        self.manager.step()

    def run_load(self) -> None:
        self.loads.run_next()
        self.manager.step()

    def run_unload(self) -> None:
        self.unloads.run_next()
        self.manager.step()

    def run_all(self) -> None:
        self.manager.step()
        while self.loads.run_all() or self.unloads.run_all():
            self.manager.step()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.manager.step()

    def available(self, name: str) -> list[int]:
        return sorted(self.serving_map.servables.get(name, {}))

    def states(self, name: str, version: int) -> list[ManagerState]:
        """The states that a version went through."""
        id = ServableId(name, version)
        return [event.manager_state for event in self.events if event.id == id]

    def error(self, name: str, version: int) -> tuple[Code, str] | None:
        """The code and message with which a version ended."""
        state = self.monitor.state(ServableId(name, version))
        if state is None or state.error is None:
            return None
        return (state.error.code, state.error.message)


def data(loader: PuppetLoader) -> ServableData[Loader]:
    return ServableData[Loader](loader.id, loader)


def transient(message: str = "disk is busy") -> ServingError:
    return ServingError(Code.UNAVAILABLE, message)


def permanent(message: str = "Op type not registered") -> ServingError:
    return ServingError(Code.NOT_FOUND, message)
