"""The manager with its threads: nothing waits for what it need not, and nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.unit.puppets import FakeServingMap, PuppetLoader, data, transient
from tests.unit.waiting import eventually
from tfsrv.core.aspired_versions_manager import (
    AspiredVersionsManager,
    AspiredVersionsManagerOptions,
)
from tfsrv.core.event_bus import EventBus
from tfsrv.core.manager import LoadRetryOptions
from tfsrv.core.servable import ManagerState, ServableId, ServableState
from tfsrv.core.servable_state_monitor import ServableStateMonitor
from tfsrv.core.serving_map_publisher import ServingMapPublisher

LONG = 30.0


class Server:
    """A manager that runs."""

    def __init__(self) -> None:
        self.serving_map = FakeServingMap(waits=True)
        bus: EventBus[ServableState] = EventBus()
        self.monitor = ServableStateMonitor(bus)
        self.gates: list[threading.Event] = []
        self.manager = AspiredVersionsManager(
            ServingMapPublisher(self.serving_map),
            bus,
            AspiredVersionsManagerOptions(
                num_load_threads=2,
                num_unload_threads=2,
                retry=LoadRetryOptions(load_retry_interval_micros=1000),
            ),
        )
        self.manager.start()

    def gate(self) -> threading.Event:
        gate = threading.Event()
        self.gates.append(gate)
        return gate

    def aspire(self, name: str, *loaders: PuppetLoader) -> None:
        self.manager.set_aspired_versions(name, [data(loader) for loader in loaders])

    def available(self, name: str) -> list[int]:
        return sorted(self.serving_map.servables.get(name, {}))

    def is_in(self, name: str, version: int, state: ManagerState) -> bool:
        known = self.monitor.state(ServableId(name, version))
        return known is not None and known.manager_state is state


@pytest.fixture
def server() -> Iterator[Server]:
    threads_before = set(threading.enumerate())
    server = Server()
    yield server
    for gate in server.gates:
        gate.set()
    assert server.manager.stop(LONG)
    eventually(lambda: not set(threading.enumerate()) - threads_before)


def loader(name: str, version: int, gate: threading.Event | None = None) -> PuppetLoader:
    return PuppetLoader(ServableId(name, version), gate=gate)


def test_stuck_load_delays_no_other_servable(server: Server) -> None:
    stuck = loader("stuck", 1, server.gate())
    server.aspire("stuck", stuck)
    assert stuck.entered.wait(LONG)
    server.aspire("good", loader("good", 1))
    eventually(lambda: server.available("good") == [1])
    server.aspire("good", loader("good", 2))
    eventually(lambda: server.available("good") == [2])
    assert server.is_in("stuck", 1, ManagerState.LOADING)


def test_slow_request_delays_the_unload_of_its_own_version_only(server: Server) -> None:
    held, other = loader("held", 1), loader("other", 1)
    server.aspire("held", held)
    server.aspire("other", other)
    eventually(lambda: server.available("held") == server.available("other") == [1])
    handle = server.serving_map.acquire("held", 1)
    server.aspire("held", loader("held", 2))
    server.aspire("other", loader("other", 2))
    eventually(lambda: server.available("held") == server.available("other") == [2])
    eventually(lambda: other.calls[-1] == "unload")
    assert server.is_in("held", 1, ManagerState.UNLOADING)
    assert "unload" not in held.calls
    handle.release()
    eventually(lambda: server.is_in("held", 1, ManagerState.END))
    assert held.calls[-1] == "unload"


def test_a_version_is_told_that_no_request_comes_before_its_last_one_ends(server: Server) -> None:
    held = loader("held", 1)
    server.aspire("held", held)
    eventually(lambda: server.available("held") == [1])
    handle = server.serving_map.acquire("held", 1)
    assert not held.is_quiesced
    server.aspire("held", loader("held", 2))
    eventually(lambda: held.is_quiesced)
    assert "unload" not in held.calls
    handle.release()
    eventually(lambda: server.is_in("held", 1, ManagerState.END))


def test_a_version_that_cannot_quiesce_is_unloaded_all_the_same(server: Server) -> None:
    odd = PuppetLoader(ServableId("odd", 1), quiesce_failure=ValueError("no"))
    server.aspire("odd", odd)
    eventually(lambda: server.available("odd") == [1])
    server.aspire("odd")
    eventually(lambda: server.is_in("odd", 1, ManagerState.END))
    assert odd.calls[-1] == "unload"


def test_retries_happen_by_themselves(server: Server) -> None:
    server.aspire("a", PuppetLoader(ServableId("a", 1), [transient()] * 3))
    eventually(lambda: server.available("a") == [1])


def test_many_servables_come_and_go(server: Server) -> None:
    names = [f"m{number}" for number in range(100)]
    loaders = {name: loader(name, 1) for name in names}
    for name in names:
        server.aspire(name, loaders[name])
    eventually(lambda: len(server.serving_map.servables) == len(names))
    for name in names:
        server.aspire(name)
    eventually(lambda: all(server.is_in(name, 1, ManagerState.END) for name in names))
    assert all(each.calls == ["load", "warm_up", "unload"] for each in loaders.values())


def test_stop_unloads_what_is_loaded() -> None:
    server = Server()
    first = loader("a", 1)
    server.aspire("a", first)
    eventually(lambda: server.available("a") == [1])
    assert server.manager.stop(LONG)
    assert first.calls == ["load", "warm_up", "unload"]
    assert server.serving_map.servables == {}


def test_stop_cancels_requests_that_do_not_end_and_then_unloads() -> None:
    server = Server()

    class Stubborn(PuppetLoader):
        """Its request ends only when it is cancelled."""

        def cancel(self) -> None:
            super().cancel()
            handle.release()

    stubborn = Stubborn(ServableId("a", 1))
    server.aspire("a", stubborn)
    eventually(lambda: server.available("a") == [1])
    handle = server.serving_map.acquire("a", 1)
    assert server.manager.stop(0.01)
    assert stubborn.calls == ["load", "warm_up", "cancel", "unload"]


def test_stop_cancels_a_warm_up_that_would_take_for_ever() -> None:
    server = Server()
    cancelled = threading.Event()

    class Tireless(PuppetLoader):
        def cancel(self) -> None:
            super().cancel()
            cancelled.set()

    tireless = Tireless(ServableId("a", 1), during_warm_up=cancelled.wait)
    server.aspire("a", tireless)
    eventually(lambda: "warm_up" in tireless.calls)
    assert server.manager.stop(LONG)
    assert tireless.calls == ["load", "warm_up", "cancel", "unload"]


def test_control_thread_can_wait_for_as_long_as_anybody_wants() -> None:
    serving_map = FakeServingMap(waits=True)
    retry = LoadRetryOptions(load_retry_interval_micros=2**63 - 1)
    manager = AspiredVersionsManager(
        ServingMapPublisher(serving_map), EventBus(), AspiredVersionsManagerOptions(retry=retry)
    )
    manager.start()
    failing = PuppetLoader(ServableId("a", 1), [transient()])
    manager.set_aspired_versions("a", [data(failing)])
    eventually(failing.entered.is_set)
    manager.set_aspired_versions("b", [data(PuppetLoader(ServableId("b", 1)))])
    eventually(lambda: "b" in serving_map.servables)
    assert manager.stop(LONG)


def test_stop_leaves_behind_what_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tfsrv.core.control_thread.LAST_RESORT_SECONDS", 1.0)
    threads_before = set(threading.enumerate())
    server = Server()
    gate = server.gate()
    stuck, held = loader("stuck", 1, gate), loader("held", 1)
    server.aspire("stuck", stuck)
    server.aspire("held", held)
    assert stuck.entered.wait(LONG)
    eventually(lambda: server.available("held") == [1])
    handle = server.serving_map.acquire("held", 1)
    assert not server.manager.stop(0.01)
    assert "these did not end" in caplog.text
    assert "{name: stuck version: 1} (loading)" in caplog.text
    assert "{name: held version: 1} (quiescing)" in caplog.text
    assert "unload" not in held.calls  # a request holds it
    gate.set()
    handle.release()
    eventually(lambda: not set(threading.enumerate()) - threads_before)


def test_stop_of_an_idle_manager_is_quick_and_may_come_twice() -> None:
    server = Server()
    assert server.manager.stop(LONG)
    assert server.manager.stop(LONG)
