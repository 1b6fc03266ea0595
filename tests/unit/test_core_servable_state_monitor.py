"""The monitor and the bus that it listens to."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.unit.puppets import permanent
from tfsrv.core.event_bus import EventBus
from tfsrv.core.servable import ManagerState, ServableId, ServableState
from tfsrv.core.servable_state_monitor import MAX_ENDED_VERSIONS, ServableStateMonitor
from tfsrv.errors import ServingError

LONG = 30.0


@pytest.fixture
def bus() -> EventBus[ServableState]:
    return EventBus()


@pytest.fixture
def monitor(bus: EventBus[ServableState]) -> ServableStateMonitor:
    return ServableStateMonitor(bus)


def state(
    name: str, version: int, manager_state: ManagerState, error: ServingError | None = None
) -> ServableState:
    return ServableState(ServableId(name, version), manager_state, error)


def test_knows_the_last_state_of_a_version(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    bus.publish(state("a", 1, ManagerState.START))
    bus.publish(state("a", 1, ManagerState.LOADING))
    assert monitor.state(ServableId("a", 1)) == state("a", 1, ManagerState.LOADING)
    assert monitor.state(ServableId("a", 2)) is None
    assert monitor.state(ServableId("b", 1)) is None


def test_versions_come_highest_first(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    for version in (2, 10, 1):
        bus.publish(state("a", version, ManagerState.AVAILABLE))
    assert list(monitor.versions("a")) == [10, 2, 1]
    assert list(monitor.all_states()["a"]) == [10, 2, 1]
    assert monitor.versions("b") == {}


def test_remembers_what_has_ended(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    error = permanent("broken")
    bus.publish(state("a", 1, ManagerState.END, error))
    bus.publish(state("a", 2, ManagerState.AVAILABLE))
    assert monitor.versions("a")[1].error is error


def test_forgets_the_versions_of_a_servable_that_ended_first(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    bus.publish(state("other", 1, ManagerState.END))
    bus.publish(state("a", 1, ManagerState.END))
    bus.publish(state("a", 2, ManagerState.AVAILABLE))
    for version in range(3, 3 + MAX_ENDED_VERSIONS):
        bus.publish(state("a", version, ManagerState.END))
    versions = monitor.versions("a")
    assert len(versions) == MAX_ENDED_VERSIONS + 1
    assert 1 not in versions
    assert versions[2].manager_state is ManagerState.AVAILABLE
    assert list(monitor.versions("other")) == [1]


def test_version_that_came_back_is_not_among_those_that_ended(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    bus.publish(state("a", 1, ManagerState.END))
    bus.publish(state("a", 1, ManagerState.AVAILABLE))
    for version in range(2, 2 + MAX_ENDED_VERSIONS):
        bus.publish(state("a", version, ManagerState.END))
    assert len(monitor.versions("a")) == MAX_ENDED_VERSIONS + 1


def test_forgets_servables_that_ended_long_ago(
    bus: EventBus[ServableState], monitor: ServableStateMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfsrv.core.servable_state_monitor.MAX_ENDED", 3)
    for name in "abcd":
        bus.publish(state(name, 1, ManagerState.END))
    assert set(monitor.all_states()) == {"b", "c", "d"}


def test_hears_nothing_after_close(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    monitor.close()
    bus.publish(state("a", 1, ManagerState.START))
    assert monitor.versions("a") == {}


def test_wait_returns_the_highest_available_version(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    for version in (1, 2):
        bus.publish(state("a", version, ManagerState.AVAILABLE))
    bus.publish(state("a", 3, ManagerState.LOADING))
    found = monitor.wait_until_available_or_failed(["a"], LONG)
    assert found == {"a": state("a", 2, ManagerState.AVAILABLE)}


def test_wait_returns_the_failure_when_every_version_has_failed(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    failed = state("a", 1, ManagerState.END, permanent())
    bus.publish(failed)
    assert monitor.wait_until_available_or_failed(["a"], LONG) == {"a": failed}


def test_wait_goes_on_while_another_version_loads(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    bus.publish(state("a", 2, ManagerState.END, permanent()))
    bus.publish(state("a", 1, ManagerState.LOADING))
    assert monitor.wait_until_available_or_failed(["a"], 0) == {"a": None}


def test_wait_ends_with_the_event_that_it_waits_for(
    bus: EventBus[ServableState], monitor: ServableStateMonitor
) -> None:
    bus.publish(state("a", 1, ManagerState.AVAILABLE))
    available = state("b", 1, ManagerState.AVAILABLE)
    publisher = threading.Timer(0.01, bus.publish, [available])
    publisher.start()
    found = monitor.wait_until_available_or_failed(["a", "b"], LONG)
    publisher.join()
    assert found["b"] == available


def test_wait_gives_up_after_its_time(monitor: ServableStateMonitor) -> None:
    assert monitor.wait_until_available_or_failed(["a"], 0.01) == {"a": None}


def test_subscribers_hear_events_in_order_until_they_unsubscribe(
    bus: EventBus[ServableState],
) -> None:
    first: list[ServableState] = []
    second: list[ServableState] = []
    end_first = bus.subscribe(first.append)
    bus.subscribe(second.append)
    events = [state("a", 1, each) for each in (ManagerState.START, ManagerState.LOADING)]
    bus.publish(events[0])
    end_first()
    bus.publish(events[1])
    assert first == events[:1]
    assert second == events


def test_fault_of_a_subscriber_harms_nobody(
    bus: EventBus[ServableState], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: ServableState) -> None:
        raise RuntimeError("oops")

    heard: list[ServableState] = []
    bus.subscribe(fail)
    bus.subscribe(heard.append)
    bus.publish(state("a", 1, ManagerState.START))
    assert len(heard) == 1
    assert "a subscriber failed" in caplog.text


def test_events_reach_an_event_loop(bus: EventBus[ServableState]) -> None:
    async def listen() -> ServableState:
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[ServableState] = asyncio.Queue()
        bus.subscribe(lambda event: loop.call_soon_threadsafe(heard.put_nowait, event))
        await asyncio.to_thread(bus.publish, state("a", 1, ManagerState.AVAILABLE))
        return await asyncio.wait_for(heard.get(), LONG)

    assert asyncio.run(listen()).manager_state is ManagerState.AVAILABLE
