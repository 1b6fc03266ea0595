"""StaticManager: a fixed set of servables."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.unit.puppets import PuppetLoader, permanent, transient
from tests.unit.waiting import eventually
from tfsrv._serving_map import ServingMap
from tfsrv.core.event_bus import EventBus
from tfsrv.core.handles import Manager
from tfsrv.core.manager import LoadRetryOptions
from tfsrv.core.servable import ManagerState, ServableId, ServableRequest, ServableState
from tfsrv.core.static_manager import StaticManager, StaticManagerBuilder
from tfsrv.errors import Code, ServingError

LONG = 30.0
A1, A2, B1 = ServableId("a", 1), ServableId("a", 2), ServableId("b", 1)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    eventually(lambda: set(threading.enumerate()) <= before)


@pytest.fixture
def builder() -> StaticManagerBuilder:
    return StaticManagerBuilder()


def test_everything_is_available_when_it_is_built(builder: StaticManagerBuilder) -> None:
    builder.add_servable(A1, "one")
    builder.add_servable(A2, "two")
    builder.add_servable(B1, "b")
    with builder.build() as manager:
        assert manager.list_available_servable_ids() == [A1, A2, B1]
        assert ask(manager, ServableRequest.latest("a")) == "two"
        assert ask(manager, ServableRequest.specific("a", 1)) == "one"
        handles = manager.get_available_servable_handles()
        assert {id: handle.servable for id, handle in handles.items()} == {
            A1: "one",
            A2: "two",
            B1: "b",
        }
        for handle in handles.values():
            handle.release()


def ask(manager: Manager, request: ServableRequest) -> object:
    with manager.get_servable_handle(request) as handle:
        return handle.servable


def test_what_is_not_there_is_not_found(builder: StaticManagerBuilder) -> None:
    builder.add_servable(A1, "one")
    with builder.build() as manager:
        for request in (ServableRequest.latest("b"), ServableRequest.specific("a", 2)):
            with pytest.raises(ServingError) as caught:
                manager.get_servable_handle(request)
            assert caught.value.code is Code.NOT_FOUND
            assert caught.value.message == f"Servable not found for request: {request}"


def test_nothing_can_be_served_too(builder: StaticManagerBuilder) -> None:
    with builder.build() as manager:
        assert manager.list_available_servable_ids() == []
        assert manager.get_available_servable_handles() == {}


def test_stop_unloads_when_the_last_handle_is_gone(builder: StaticManagerBuilder) -> None:
    loader = PuppetLoader(A1)
    builder.add_loader(A1, loader)
    manager = builder.build()
    handle = manager.get_servable_handle(ServableRequest.latest("a"))
    stopping = threading.Thread(target=manager.stop, args=(LONG,))
    stopping.start()
    eventually(lambda: manager.list_available_servable_ids() == [])
    assert loader.calls == ["load", "warm_up"]
    handle.release()
    stopping.join()
    assert loader.calls == ["load", "warm_up", "unload"]
    assert manager.stop(LONG)  # again


def test_stop_cancels_requests_that_do_not_end() -> None:
    class Stubborn(PuppetLoader):
        def cancel(self) -> None:
            super().cancel()
            handle.release()

    builder = StaticManagerBuilder()
    loader = Stubborn(A1)
    builder.add_loader(A1, loader)
    manager = builder.build()
    handle = manager.get_servable_handle(ServableRequest.latest("a"))
    assert manager.stop(0.01)
    assert loader.calls == ["load", "warm_up", "cancel", "unload"]


def test_stop_leaves_behind_what_hangs(
    builder: StaticManagerBuilder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("tfsrv.core.control_thread.LAST_RESORT_SECONDS", 1.0)
    loader = PuppetLoader(A1)
    builder.add_loader(A1, loader)
    manager = builder.build()
    handle = manager.get_servable_handle(ServableRequest.latest("a"))
    assert not manager.stop(0.01)
    assert "these did not end: {name: a version: 1} (quiescing)" in caplog.text
    assert "cancel" in loader.calls
    assert "unload" not in loader.calls  # a request holds it
    handle.release()


def test_fault_of_a_watcher_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    bus: EventBus[ServableState] = EventBus()

    def broken(event: ServableState) -> None:
        raise RuntimeError("a bug")

    bus.subscribe(broken)
    builder = StaticManagerBuilder(event_bus=bus)
    builder.add_servable(A1, "one")
    with builder.build() as manager:
        assert manager.list_available_servable_ids() == [A1]
    assert "a bug" in caplog.text


def test_first_failure_is_raised_and_the_others_are_unloaded(
    builder: StaticManagerBuilder,
) -> None:
    good, bad = PuppetLoader(A1), PuppetLoader(B1, [permanent("no such op")])
    builder.add_loader(A1, good)
    builder.add_loader(B1, bad)
    with pytest.raises(ServingError) as caught:
        builder.build()
    assert (caught.value.code, caught.value.message) == (
        Code.NOT_FOUND,
        "{name: b version: 1} did not become available: no such op",
    )
    assert good.calls in ([], ["load", "warm_up", "unload"])
    assert bad.calls == ["load"]


def test_loads_are_retried_only_if_wanted() -> None:
    retry = LoadRetryOptions(max_num_load_retries=1, load_retry_interval_micros=0)
    builder = StaticManagerBuilder(retry=retry)
    builder.add_loader(A1, PuppetLoader(A1, [transient()]))
    with builder.build() as manager:
        assert manager.list_available_servable_ids() == [A1]
    builder = StaticManagerBuilder()
    builder.add_loader(A1, PuppetLoader(A1, [transient()]))
    with pytest.raises(ServingError, match="disk is busy"):
        builder.build()


def test_build_has_a_time_limit(
    builder: StaticManagerBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfsrv.core.static_manager.FAILED_BUILD_STOP_SECONDS", 0.0)
    monkeypatch.setattr("tfsrv.core.control_thread.LAST_RESORT_SECONDS", 0.2)
    gate = threading.Event()
    stuck = PuppetLoader(A1, gate=gate)
    builder.add_loader(A1, stuck)
    builder.add_servable(B1, "b")
    try:
        with pytest.raises(ServingError, match=r"not available within 0.05 s: .*name: a") as caught:
            builder.build(timeout_seconds=0.05)
    finally:
        gate.set()
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_builder_refuses_a_second_of_the_same_and_a_second_use(
    builder: StaticManagerBuilder,
) -> None:
    builder.add_servable(A1, "one")
    with pytest.raises(ServingError, match=r"already being managed: \{name: a version: 1\}"):
        builder.add_servable(A1, "other")
    with builder.build():
        with pytest.raises(ServingError, match="has built its manager"):
            builder.build()
        with pytest.raises(ServingError, match="has built its manager"):
            builder.add_servable(A2, "two")


def test_events_and_map_may_be_given() -> None:
    serving_map, bus = ServingMap(), EventBus[ServableState]()
    states: list[ManagerState] = []
    bus.subscribe(lambda event: states.append(event.manager_state))
    builder = StaticManagerBuilder(serving_map=serving_map, event_bus=bus)
    builder.add_servable(A1, "one")
    manager: StaticManager = builder.build()
    with serving_map.acquire("a") as handle:
        assert handle.servable == "one"
    assert manager.stop(LONG)
    assert states == list(ManagerState)
