"""CachingManager: loads at the first request, once for all who ask."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.unit.puppets import PuppetLoader, PuppetServable, data, permanent, transient
from tests.unit.waiting import eventually
from tfsrv._servable import ServableHandle
from tfsrv._serving_map import ServingMap
from tfsrv.core.caching_manager import CachingManager, CachingManagerOptions
from tfsrv.core.event_bus import EventBus
from tfsrv.core.handles import Manager
from tfsrv.core.loader import Loader
from tfsrv.core.manager import LoadRetryOptions
from tfsrv.core.servable import (
    ManagerState,
    ServableData,
    ServableId,
    ServableRequest,
    ServableState,
)
from tfsrv.errors import Code, ServingError

LONG = 30.0
A1, A2 = ServableId("a", 1), ServableId("a", 2)


class PuppetFactory:
    """Makes the loaders that it was told to, and others that load at once."""

    def __init__(self) -> None:
        self.latest = {"a": 1}
        self.prepared: dict[ServableId, list[PuppetLoader | ServingError]] = {}
        self.created: list[ServableId] = []
        self.loaders: list[PuppetLoader] = []

    def prepare(self, *loaders: PuppetLoader) -> None:
        for loader in loaders:
            self.prepared.setdefault(loader.id, []).append(loader)

    def create_loader(self, id: ServableId) -> ServableData[Loader]:
        self.created.append(id)
        prepared = self.prepared.get(id)
        loader = prepared.pop(0) if prepared else PuppetLoader(id)
        if isinstance(loader, ServingError):
            return ServableData(id, error=loader)
        self.loaders.append(loader)
        return data(loader)

    def latest_version(self, name: str) -> int:
        try:
            return self.latest[name]
        except KeyError:
            raise ServingError(Code.NOT_FOUND, f"there is no {name}") from None


class Stage:
    """Managers, all of which are stopped in the end, and threads that ask them."""

    def __init__(self) -> None:
        self.factory = PuppetFactory()
        self.serving_map = ServingMap()
        self.bus: EventBus[ServableState] = EventBus()
        self.events: list[ServableState] = []
        self.bus.subscribe(self.events.append)
        self.gates: list[threading.Event] = []
        self.managers: list[CachingManager] = []
        self.askers = ThreadPoolExecutor(16)

    def manager(self, options: CachingManagerOptions | None = None) -> CachingManager:
        manager = CachingManager(
            self.factory,
            options or CachingManagerOptions(load_timeout_seconds=LONG),
            serving_map=self.serving_map,
            event_bus=self.bus,
        )
        self.managers.append(manager)
        return manager

    def limited(self, max_loaded_servables: int) -> CachingManager:
        return self.manager(
            CachingManagerOptions(
                load_timeout_seconds=LONG, max_loaded_servables=max_loaded_servables
            )
        )

    def gate(self) -> threading.Event:
        gate = threading.Event()
        self.gates.append(gate)
        return gate

    def ask(
        self, manager: CachingManager, id: ServableId = A1, times: int = 1
    ) -> list[Future[ServableHandle]]:
        """Ask in threads, and return when all of them wait."""
        waiting = manager._waiting[id]
        request = ServableRequest.specific(id.name, id.version)
        futures = [self.askers.submit(manager.get_servable_handle, request) for _ in range(times)]
        eventually(lambda: manager._waiting[id] == waiting + times)
        return futures


@pytest.fixture
def stage() -> Iterator[Stage]:
    before = set(threading.enumerate())
    stage = Stage()
    yield stage
    for gate in stage.gates:
        gate.set()
    for manager in stage.managers:
        assert manager.stop(LONG)
        assert not manager._loads
        assert not manager._waiting
        assert not manager._leaving
    stage.askers.shutdown()
    for loader in stage.factory.loaders:
        assert loader.times_loaded == loader.calls.count("unload"), loader.id
    eventually(lambda: set(threading.enumerate()) <= before)


def specific(id: ServableId) -> ServableRequest:
    return ServableRequest.specific(id.name, id.version)


def use(manager: CachingManager, id: ServableId = A1) -> object:
    with manager.get_servable_handle(specific(id)) as handle:
        return handle.servable


# -- loading


def test_first_request_loads_and_later_ones_find_it(stage: Stage) -> None:
    manager = stage.manager()
    assert manager.list_available_servable_ids() == []
    servable = use(manager)
    assert isinstance(servable, PuppetServable)
    assert servable.is_loaded
    assert use(manager) is servable
    assert stage.factory.created == [A1]
    assert manager.list_available_servable_ids() == [A1]


def test_latest_is_what_the_factory_says_now(stage: Stage) -> None:
    manager = stage.manager()
    with manager.get_servable_handle(ServableRequest.latest("a")) as handle:
        assert handle.version == 1
    stage.factory.latest["a"] = 2
    with manager.get_servable_handle(ServableRequest.latest("a")) as handle:
        assert handle.version == 2
    assert manager.list_available_servable_ids() == [A1, A2]


def test_name_that_the_factory_does_not_know_is_its_error(stage: Stage) -> None:
    with pytest.raises(ServingError, match="there is no b") as caught:
        stage.manager().get_servable_handle(ServableRequest.latest("b"))
    assert caught.value.code is Code.NOT_FOUND


def test_watchers_see_the_usual_states(stage: Stage) -> None:
    manager = stage.manager()
    use(manager)
    assert manager.stop(LONG)
    assert [event.manager_state for event in stage.events] == list(ManagerState)


def test_many_who_ask_at_once_share_one_load(stage: Stage) -> None:
    manager, gate = stage.manager(), stage.gate()
    stage.factory.prepare(PuppetLoader(A1, gate=gate))
    futures = stage.ask(manager, A1, times=8)
    gate.set()
    handles = [future.result(LONG) for future in futures]
    assert len({id(handle.servable) for handle in handles}) == 1
    assert stage.factory.created == [A1]
    assert stage.serving_map.in_use("a", 1) == 8
    for handle in handles:
        handle.release()


def test_stuck_load_delays_no_other_servable(stage: Stage) -> None:
    manager = stage.manager(CachingManagerOptions(num_load_threads=2))
    stage.factory.prepare(PuppetLoader(A1, gate=stage.gate()))
    stage.ask(manager, A1)
    assert use(manager, A2)


def test_handles_on_all_that_is_loaded(stage: Stage) -> None:
    manager = stage.manager()
    use(manager, A2)
    use(manager, A1)
    handles = manager.get_available_servable_handles()
    assert list(handles) == [A1, A2]
    assert all(handle.version == id.version for id, handle in handles.items())
    for handle in handles.values():
        handle.release()


def test_manager_works_without_anything_given() -> None:
    with CachingManager(PuppetFactory()) as caching:
        manager: Manager = caching
        with manager.get_servable_handle(ServableRequest.latest("a")) as handle:
            assert handle.version == 1


# -- failures


def test_failure_is_for_all_who_wait_and_the_next_request_tries_anew(stage: Stage) -> None:
    manager, gate = stage.manager(), stage.gate()
    stage.factory.prepare(PuppetLoader(A1, [transient("try later")], gate=gate))
    futures = stage.ask(manager, A1, times=4)
    gate.set()
    errors = [future.exception(LONG) for future in futures]
    for error in errors:
        assert isinstance(error, ServingError)
        assert (error.code, error.message) == (Code.UNAVAILABLE, "try later")
    assert len({id(error) for error in errors}) == 4
    assert stage.factory.created == [A1]
    assert use(manager)
    assert stage.factory.created == [A1, A1]


def test_load_is_retried_within_a_request_if_wanted(stage: Stage) -> None:
    retry = LoadRetryOptions(max_num_load_retries=2, load_retry_interval_micros=1000)
    manager = stage.manager(CachingManagerOptions(retry=retry))
    stage.factory.prepare(PuppetLoader(A1, [transient(), transient()]))
    assert use(manager)
    assert stage.factory.created == [A1]


def test_error_of_the_factory_is_for_those_who_wait(stage: Stage) -> None:
    manager = stage.manager()
    stage.factory.prepared[A1] = [permanent("no files")]
    with pytest.raises(ServingError, match="no files") as caught:
        use(manager)
    assert caught.value.code is Code.NOT_FOUND
    assert [event.manager_state for event in stage.events] == [ManagerState.END]
    assert use(manager)


def test_fault_of_the_factory_ends_that_request_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = stage.manager()

    def broken(id: ServableId) -> ServableData[Loader]:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(stage.factory, "create_loader", broken)
        with pytest.raises(ServingError, match="RuntimeError: a bug"):
            use(manager)
        patch.setattr(stage.factory, "latest_version", broken)
        with pytest.raises(ServingError, match="RuntimeError: a bug"):
            manager.get_servable_handle(ServableRequest.latest("a"))
    assert use(manager)


def test_interrupted_request_leaves_nobody_waiting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = stage.manager()

    def interrupted(id: ServableId) -> ServableData[Loader]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage.factory, "create_loader", interrupted)
        with pytest.raises(KeyboardInterrupt):
            use(manager)
    assert use(manager)


def test_loader_of_another_version_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = stage.manager()
    monkeypatch.setattr(stage.factory, "create_loader", lambda id: data(PuppetLoader(A2)))
    with pytest.raises(ServingError, match=r"asked for \{name: a version: 1\}, the factory gave"):
        use(manager)


def test_request_waits_no_longer_than_it_said_and_the_load_goes_on(stage: Stage) -> None:
    manager, gate = stage.manager(), stage.gate()
    stage.factory.prepare(PuppetLoader(A1, gate=gate))
    for _ in range(2):
        with pytest.raises(ServingError, match=r"was not loaded within 0.01 s") as caught:
            manager.get_servable_handle(specific(A1), timeout_seconds=0.01)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
    gate.set()
    assert use(manager)
    assert stage.factory.created == [A1]


def test_time_limit_may_be_an_option(stage: Stage) -> None:
    manager = stage.manager(CachingManagerOptions(load_timeout_seconds=0.01))
    stage.factory.prepare(PuppetLoader(A1, gate=stage.gate()))
    with pytest.raises(ServingError, match=r"was not loaded within 0.01 s"):
        use(manager)


# -- the end


def test_stop_unloads_everything_and_refuses_later_requests(stage: Stage) -> None:
    manager = stage.manager()
    use(manager, A1)
    use(manager, A2)
    assert manager.stop(LONG)
    assert [loader.calls for loader in stage.factory.loaders] == [["load", "warm_up", "unload"]] * 2
    assert manager.list_available_servable_ids() == []
    for id in (A1, ServableId("new", 1)):
        with pytest.raises(ServingError, match="is stopped") as caught:
            use(manager, id)
        assert caught.value.code is Code.UNAVAILABLE


def test_requests_that_wait_fail_at_a_stop(stage: Stage) -> None:
    manager, gate = stage.manager(), stage.gate()
    stage.factory.prepare(PuppetLoader(A1, gate=gate))
    futures = stage.ask(manager, A1, times=3)
    stopping = stage.askers.submit(manager.stop, LONG)
    for future in futures:
        with pytest.raises(ServingError, match="is stopped"):
            future.result(LONG)
    gate.set()
    assert stopping.result(LONG)


def test_stop_waits_for_handles(stage: Stage) -> None:
    manager = stage.manager()
    handle = manager.get_servable_handle(specific(A1))
    stopping = stage.askers.submit(manager.stop, LONG)
    eventually(lambda: manager.list_available_servable_ids() == [])
    assert "unload" not in stage.factory.loaders[0].calls
    handle.release()
    assert stopping.result(LONG)


# -- the limit


def ids(*numbers: int) -> list[ServableId]:
    return [ServableId("m", number) for number in numbers]


def test_least_recently_used_one_leaves_first(stage: Stage) -> None:
    manager = stage.limited(2)
    m1, m2, m3 = ids(1, 2, 3)
    for id in (m1, m2, m1, m3):
        use(manager, id)
    assert manager.list_available_servable_ids() == [m1, m3]
    assert stage.factory.created == [m1, m2, m3]


def test_next_load_begins_when_the_one_that_leaves_has_gone(stage: Stage) -> None:
    manager, gate = stage.limited(1), stage.gate()
    m1, m2 = ids(1, 2)
    old, new = PuppetLoader(m1, unload_gate=gate), PuppetLoader(m2)
    stage.factory.prepare(old, new)
    use(manager, m1)
    (future,) = stage.ask(manager, m2)
    eventually(lambda: "unload" in old.calls)
    assert manager.list_available_servable_ids() == []
    assert new.calls == []
    gate.set()
    future.result(LONG).release()
    assert new.calls == ["load", "warm_up"]


def test_one_that_leaves_comes_back_after_it_has_gone(stage: Stage) -> None:
    manager, gate = stage.limited(1), stage.gate()
    m1, m2 = ids(1, 2)
    first, again = PuppetLoader(m1, unload_gate=gate), PuppetLoader(m1)
    stage.factory.prepare(first, again)
    use(manager, m1)
    (other,) = stage.ask(manager, m2)
    eventually(lambda: "unload" in first.calls)
    (back,) = stage.ask(manager, m1)
    assert again.calls == []
    gate.set()
    other.result(LONG).release()
    with back.result(LONG) as handle:
        assert handle.servable is again.servable()


def test_request_in_the_moment_of_leaving_gets_the_next_load(stage: Stage) -> None:
    manager = stage.limited(1)
    m1, m2 = ids(1, 2)
    first, again = PuppetLoader(m1), PuppetLoader(m1)
    stage.factory.prepare(first, again)
    late: list[Future[ServableHandle]] = []

    def ask_late(event: ServableState) -> None:
        if event.id == m1 and event.manager_state is ManagerState.UNLOADING and not late:
            late.extend(stage.ask(manager, m1))  # it is still in the map now

    stage.bus.subscribe(ask_late)
    use(manager, m1)
    use(manager, m2)
    with late[0].result(LONG) as handle:
        assert handle.servable is again.servable()


def test_no_more_leave_than_must(stage: Stage) -> None:
    manager, gate = stage.limited(2), stage.gate()
    m1, m2, m3, m4 = ids(1, 2, 3, 4)
    stage.factory.prepare(PuppetLoader(m1, unload_gate=gate))
    use(manager, m1)
    use(manager, m2)
    first, second = *stage.ask(manager, m3), *stage.ask(manager, m4)
    eventually(lambda: len(manager._queue) == 2)
    use(manager, m2)  # it stays while m1 is leaving
    assert manager.list_available_servable_ids() == [m2]
    gate.set()
    first.result(LONG).release()
    second.result(LONG).release()
    assert stage.factory.created == [m1, m2, m3, m4]


def test_load_that_waits_for_room_does_not_begin_after_a_stop(stage: Stage) -> None:
    manager, gate = stage.limited(1), stage.gate()
    m1, m2 = ids(1, 2)
    stage.factory.prepare(PuppetLoader(m1, unload_gate=gate))
    use(manager, m1)
    (future,) = stage.ask(manager, m2)
    eventually(lambda: manager._queue)
    stopping = stage.askers.submit(manager.stop, LONG)
    with pytest.raises(ServingError, match="is stopped"):
        future.result(LONG)
    gate.set()
    assert stopping.result(LONG)
    assert not [event for event in stage.events if event.id == m2]


def test_one_in_use_never_leaves_and_the_limit_gives_way(stage: Stage) -> None:
    manager = stage.limited(1)
    m1, m2, m3 = ids(1, 2, 3)
    held = manager.get_servable_handle(specific(m1))
    use(manager, m2)
    assert manager.list_available_servable_ids() == [m1, m2]
    use(manager, m3)
    assert manager.list_available_servable_ids() == [m1, m3]
    held.release()
    use(manager, m2)
    assert manager.list_available_servable_ids() == [m2]


def test_one_that_a_request_is_about_to_take_does_not_leave(stage: Stage) -> None:
    manager = stage.limited(1)
    m1, m2, m3 = ids(1, 2, 3)
    use(manager, m1)
    manager._waiting[m1] += 1  # a request that was not woken up yet
    use(manager, m2)
    assert manager.list_available_servable_ids() == [m1, m2]
    del manager._waiting[m1]
    use(manager, m3)
    assert manager.list_available_servable_ids() == [m3]


def test_limit_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CachingManagerOptions(max_loaded_servables=0)


def test_load_that_nobody_waits_for_any_more_can_leave(stage: Stage) -> None:
    manager, gate = stage.limited(1), stage.gate()
    m1, m2 = ids(1, 2)
    stage.factory.prepare(PuppetLoader(m1, gate=gate))
    with pytest.raises(ServingError, match="was not loaded"):
        manager.get_servable_handle(specific(m1), timeout_seconds=0.01)
    gate.set()
    eventually(lambda: manager.list_available_servable_ids() == [m1])
    use(manager, m2)
    assert manager.list_available_servable_ids() == [m2]


def test_failed_load_takes_no_room(stage: Stage) -> None:
    manager = stage.limited(1)
    m1, m2 = ids(1, 2)
    use(manager, m1)
    stage.factory.prepare(PuppetLoader(m2, [permanent("bad")]))
    with pytest.raises(ServingError, match="bad"):
        use(manager, m2)
    use(manager, m1)
    assert manager.list_available_servable_ids() == [m1]


# -- all at once


class Census:
    """Which versions are in memory, and whether one ever was there twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.in_memory: set[ServableId] = set()
        self.twice: list[ServableId] = []

    def enter(self, id: ServableId) -> None:
        with self._lock:
            if id in self.in_memory:
                self.twice.append(id)
            self.in_memory.add(id)

    def leave(self, id: ServableId) -> None:
        with self._lock:
            self.in_memory.remove(id)


class CountedLoader(PuppetLoader):
    def __init__(self, id: ServableId, failures: list[Exception | None], census: Census) -> None:
        super().__init__(id, failures)
        self._census = census

    def load(self) -> None:
        self._census.enter(self.id)
        try:
            super().load()
        except ServingError:
            self._census.leave(self.id)
            raise

    def unload(self) -> None:
        super().unload()
        self._census.leave(self.id)


class CountingFactory(PuppetFactory):
    """Some loads fail."""

    def __init__(self) -> None:
        super().__init__()
        self.census = Census()

    def create_loader(self, id: ServableId) -> ServableData[Loader]:
        self.created.append(id)
        fails = len(self.created) % 7 == 0
        loader = CountedLoader(id, [permanent("as it happens")] if fails else [], self.census)
        self.loaders.append(loader)
        return data(loader)


@pytest.mark.parametrize("max_loaded_servables", [None, 1, 3])
def test_many_threads_ask_for_many_servables(
    stage: Stage, max_loaded_servables: int | None
) -> None:
    stage.factory = factory = CountingFactory()
    manager = stage.manager(
        CachingManagerOptions(
            load_timeout_seconds=LONG,
            max_loaded_servables=max_loaded_servables,
            num_load_threads=4,
            num_unload_threads=2,
        )
    )
    wished = ids(*range(6))

    def work(seed: int) -> Counter[str]:
        choose = random.Random(seed)
        outcomes: Counter[str] = Counter()
        for _ in range(60):
            id = choose.choice(wished)
            try:
                with manager.get_servable_handle(specific(id)) as handle:
                    servable = handle.servable
                    assert isinstance(servable, PuppetServable)
                    assert servable.id == id
                    assert servable.is_loaded
                    outcomes["served"] += 1
            except ServingError as error:
                outcomes[error.message] += 1
        return outcomes

    outcomes = sum(
        (future.result(LONG) for future in [stage.askers.submit(work, k) for k in range(12)]),
        Counter[str](),
    )
    assert outcomes.total() == 12 * 60
    assert set(outcomes) <= {"served", "as it happens"}
    assert outcomes["served"] > 0
    assert not factory.census.twice
    if max_loaded_servables is None:
        assert len(factory.census.in_memory) == len(wished)
    assert manager.stop(LONG)
    assert not factory.census.in_memory
    assert len(factory.created) < 12 * 60
