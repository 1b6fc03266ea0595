"""Routers, and the adapters that stand at their ports."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

import pytest

from tests.unit.puppets import permanent
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.source import ErrorInjectingSourceAdapter, connect
from tfsrv.core.source_router import DynamicSourceRouter, SourceRouter, StaticSourceRouter
from tfsrv.errors import Code, ServingError

T = TypeVar("T")

Router = SourceRouter[str]


class Recorder(Generic[T]):
    """A target that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[ServableData[T]]]] = []

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[T]]) -> None:
        self.calls.append((name, list(versions)))

    def versions(self) -> list[tuple[str, list[int]]]:
        return [(name, [each.id.version for each in versions]) for name, versions in self.calls]


def recorders(router: Router) -> list[Recorder[str]]:
    """A target for each port."""
    targets = [Recorder[str]() for _ in router.output_ports]
    for port, target in zip(router.output_ports, targets, strict=True):
        connect(port, target)
    return targets


def aspire(router: Router, name: str, *versions: int) -> None:
    router.set_aspired_versions(
        name, [ServableData(ServableId(name, version), f"/{version}") for version in versions]
    )


# -- static


@pytest.mark.parametrize(
    ("name", "port"),
    [
        ("an_apple", 0),
        ("orange", 1),
        ("apple_and_orange", 0),
        ("orange_and_apple", 0),
        ("pear", 2),
        ("", 2),
        ("Apple", 2),
    ],
)
def test_static_router_takes_the_first_substring_that_is_in_the_name(name: str, port: int) -> None:
    router = StaticSourceRouter[str](["apple", "orange"])
    targets = recorders(router)
    aspire(router, name, 1, 2)
    assert [target.versions() for target in targets] == [
        [(name, [1, 2])] if number == port else [] for number in range(3)
    ]


def test_router_hands_on_what_it_was_given() -> None:
    router = StaticSourceRouter[str]([])
    (target,) = recorders(router)
    versions = [
        ServableData(ServableId("a", 1), "/1"),
        ServableData[str](ServableId("a", 2), error=permanent("missing")),
    ]
    router.set_aspired_versions("a", versions)
    router.set_aspired_versions("a", [])
    assert target.calls == [("a", versions), ("a", [])]


def test_router_without_targets_says_so() -> None:
    with pytest.raises(ServingError, match="without a target"):
        aspire(StaticSourceRouter[str]([]), "a", 1)


class Wrong(SourceRouter[str]):
    def __init__(self, port: int) -> None:
        super().__init__(2)
        self._port = port

    def route(self, name: str, versions: Sequence[ServableData[str]]) -> int:
        return self._port


@pytest.mark.parametrize("port", [-1, 2])
def test_route_to_a_port_that_is_not_there_is_an_error(port: int) -> None:
    router = Wrong(port)
    targets = recorders(router)
    with pytest.raises(ServingError, match=f"Wrong routes servable a to port {port}, but has 2"):
        aspire(router, "a", 1)
    assert [target.calls for target in targets] == [[], []]


def test_router_needs_a_port() -> None:
    with pytest.raises(ValueError, match="at least one output port"):
        DynamicSourceRouter[str](0)


# -- dynamic


def test_dynamic_router_goes_by_the_name() -> None:
    router = DynamicSourceRouter[str](3, {"a": 0, "b": 1})
    targets = recorders(router)
    for name in ("a", "b", "unknown"):
        aspire(router, name, 1)
    assert [target.versions() for target in targets] == [
        [("a", [1])],
        [("b", [1])],
        [("unknown", [1])],
    ]


@pytest.mark.parametrize(
    ("port", "message"),
    [
        (-1, "Port number out of range: -1 for servable b"),
        (3, "Port number out of range: 3 for servable b"),
        (2, "Servable b cannot be routed to port 2: the last port is for names without a route"),
    ],
)
def test_wrong_routes_are_refused_as_a_whole(port: int, message: str) -> None:
    router = DynamicSourceRouter[str](3, {"a": 0})
    with pytest.raises(ServingError) as caught:
        router.update_routes({"a": 1, "b": port})
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, message)
    assert router.routes == {"a": 0}
    with pytest.raises(ServingError, match=message):
        DynamicSourceRouter[str](3, {"b": port})


def test_routes_are_copied() -> None:
    routes = {"a": 0}
    router = DynamicSourceRouter[str](3, routes)
    before = router.routes
    routes["b"] = 7
    assert router.routes == {"a": 0}
    router.update_routes({"a": 1})
    assert before == {"a": 0}
    assert router.routes == {"a": 1}


def test_new_name_gets_its_route_without_moving_others() -> None:
    router = DynamicSourceRouter[str](3, {"a": 0})
    first, second, _ = recorders(router)
    aspire(router, "a", 1)
    router.update_routes({"a": 0, "b": 1})
    aspire(router, "b", 1)
    aspire(router, "a", 2)
    assert first.versions() == [("a", [1]), ("a", [2])]
    assert second.versions() == [("b", [1])]


def test_changed_route_moves_nothing_by_itself() -> None:
    router = DynamicSourceRouter[str](3, {"a": 0})
    first, second, _ = recorders(router)
    aspire(router, "a", 1)
    router.update_routes({"a": 1})
    assert first.versions() == [("a", [1])]
    assert second.versions() == []


def test_old_port_lets_go_before_the_new_one_takes_over() -> None:
    router = DynamicSourceRouter[str](3, {"a": 0})
    calls: list[tuple[int, list[int]]] = []
    for number, port in enumerate(router.output_ports):
        port.set_aspired_versions_callback(
            lambda name, versions, number=number: calls.append(  # type: ignore[misc]
                (number, [each.id.version for each in versions])
            )
        )
    aspire(router, "a", 1)
    router.update_routes({"a": 1})
    aspire(router, "a", 1, 2)
    aspire(router, "a", 2)
    assert calls == [(0, [1]), (0, []), (1, [1, 2]), (1, [2])]


def test_name_that_loses_its_route_is_let_go_and_goes_to_the_last_port() -> None:
    router = DynamicSourceRouter[str](2, {"a": 0})
    first, last = recorders(router)
    aspire(router, "a", 1)
    router.update_routes({})
    aspire(router, "a", 1)
    assert first.versions() == [("a", [1]), ("a", [])]
    assert last.versions() == [("a", [1])]


def test_port_of_an_emptied_name_hears_no_more_of_it() -> None:
    router = DynamicSourceRouter[str](3, {"a": 0})
    first, second, _ = recorders(router)
    aspire(router, "a", 1)
    aspire(router, "a")
    router.update_routes({"a": 1})
    aspire(router, "a", 1)
    assert first.versions() == [("a", [1]), ("a", [])]
    assert second.versions() == [("a", [1])]


def test_routes_change_while_versions_pass() -> None:
    """Whatever the order, a name ends at one port only."""
    router = DynamicSourceRouter[str](3, {})
    living: dict[str, set[int]] = {name: set() for name in "abcd"}
    most_at_once = dict.fromkeys(living, 0)

    def hear(port: int, name: str, versions: Sequence[ServableData[str]]) -> None:
        (living[name].add if versions else living[name].discard)(port)
        most_at_once[name] = max(most_at_once[name], len(living[name]))

    for number, port in enumerate(router.output_ports):
        port.set_aspired_versions_callback(
            lambda name, versions, number=number: hear(number, name, versions)  # type: ignore[misc]
        )

    def source(name: str) -> None:
        for version in range(300):
            aspire(router, name, *range(version % 3))

    def reloads() -> None:
        for turn in range(300):
            router.update_routes({name: (turn + k) % 2 for k, name in enumerate("abc")})

    threads = [threading.Thread(target=source, args=(name,)) for name in "abcd"]
    threads.append(threading.Thread(target=reloads))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most_at_once == dict.fromkeys(living, 1)


# -- error injecting


def test_error_injecting_adapter_ends_every_version_with_its_error() -> None:
    adapter = ErrorInjectingSourceAdapter[str, int](permanent("No platform found for model"))
    target = Recorder[int]()
    connect(adapter, target)
    adapter.set_aspired_versions(
        "a", [ServableData(ServableId("a", version), "/") for version in (1, 2)]
    )
    adapter.set_aspired_versions("a", [])
    injected = [
        ServableData[int](ServableId("a", version), error=permanent("No platform found for model"))
        for version in (1, 2)
    ]
    assert target.calls == [("a", injected), ("a", [])]


def test_error_injecting_adapter_keeps_an_error_that_is_there() -> None:
    adapter = ErrorInjectingSourceAdapter[str, int](permanent("No platform"))
    target = Recorder[int]()
    connect(adapter, target)
    adapter.set_aspired_versions(
        "a", [ServableData[str](ServableId("a", 1), error=permanent("missing"))]
    )
    assert target.calls == [
        ("a", [ServableData[int](ServableId("a", 1), error=permanent("missing"))])
    ]
