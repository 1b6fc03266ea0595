"""The small pieces of the lifecycle: data, adapters, publisher, memory, damped log."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from tests.unit.puppets import FakeServingMap, permanent
from tests.unit.waiting import eventually
from tfsrv._serving_map import ServingMap
from tfsrv.core.damped_log import DampedLog
from tfsrv.core.handles import PublishedServables
from tfsrv.core.memory import MemoryReleaser
from tfsrv.core.servable import ServableData, ServableId, ServableRequest
from tfsrv.core.serving_map_publisher import ServingMapPublisher
from tfsrv.core.source import SourceAdapter, connect
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.sources.static import StaticStoragePathSource

A1 = ServableId("a", 1)


# -- ServableData


def test_servable_id_reads_as_in_tensorflow_serving() -> None:
    assert str(A1) == "{name: a version: 1}"


def test_servable_data_gives_its_data_or_raises_its_error() -> None:
    assert ServableData(A1, "path").data == "path"
    with pytest.raises(ServingError, match="missing"):
        _ = ServableData[str](A1, error=permanent("missing")).data


def test_servable_data_is_either_data_or_error() -> None:
    with pytest.raises(ValueError, match="either data or an error"):
        ServableData[str](A1)
    with pytest.raises(ValueError, match="either data or an error"):
        ServableData(A1, "path", error=permanent())


def test_servable_data_is_equal_if_it_says_the_same() -> None:
    assert ServableData(A1, "path") == ServableData(A1, "path")
    assert ServableData(A1, "path") != ServableData(A1, "other")
    assert ServableData[str](A1, error=permanent()) == ServableData[str](A1, error=permanent())
    assert ServableData[str](A1, error=permanent()) != ServableData(A1, "path")


# -- ServableRequest


def test_servable_request_reads_as_in_tensorflow_serving() -> None:
    assert str(ServableRequest.latest("m")) == "Latest(m)"
    assert str(ServableRequest.specific("m", 3)) == "Specific(m, 3)"
    assert str(ServableRequest.specific("m", 0)) == "Specific(m, 0)"


def test_servable_request_is_a_value() -> None:
    assert ServableRequest.latest("m") == ServableRequest.latest("m")
    assert ServableRequest.latest("m") != ServableRequest.specific("m", 0)
    assert len({ServableRequest.specific("m", 1), ServableRequest.specific("m", 1)}) == 1
    with pytest.raises(AttributeError):
        ServableRequest.latest("m").version = 1  # type: ignore[misc]


# -- sources and adapters


class Recorder:
    """A target that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[ServableData[int]]]] = []

    def set_aspired_versions(self, name: str, versions: object) -> None:
        self.calls.append((name, list(versions)))  # type: ignore[call-overload]


class Length(SourceAdapter[StoragePath, int]):
    """The length of a path; some it does not like."""

    def convert(self, version: ServableData[StoragePath]) -> int:
        if version.data.path == "bad":
            raise ValueError("a bad path")
        return len(version.data.path)


def test_adapter_hands_on_what_it_converted() -> None:
    source, adapter, target = StaticStoragePathSource("a", 1, "/models"), Length(), Recorder()
    connect(source, adapter)
    connect(adapter, target)
    source.start()
    source.stop()
    assert target.calls == [("a", [ServableData(A1, 7)])]


def test_adapter_turns_a_failure_into_the_error_of_that_version_only() -> None:
    adapter, target = Length(), Recorder()
    connect(adapter, target)
    adapter.set_aspired_versions(
        "a",
        [
            ServableData(A1, StoragePath("bad")),
            ServableData(ServableId("a", 2), StoragePath("good")),
        ],
    )
    ((_, (first, second)),) = target.calls
    assert first.error is not None
    assert first.error.message == "ValueError: a bad path"
    assert second.data == 4


def test_adapter_hands_errors_through() -> None:
    adapter, target = Length(), Recorder()
    connect(adapter, target)
    adapter.set_aspired_versions("a", [ServableData(A1, error=permanent("missing"))])
    assert target.calls == [("a", [ServableData(A1, error=permanent("missing"))])]


def test_source_has_one_target() -> None:
    source = StaticStoragePathSource("a", 1, "/models")
    with pytest.raises(ServingError, match="without a target"):
        source.start()
    connect(source, Length())
    with pytest.raises(ServingError, match="already has a target") as caught:
        connect(source, Length())
    assert caught.value.code is Code.FAILED_PRECONDITION


# -- the publisher


def test_publisher_puts_servables_and_pending_names_together() -> None:
    serving_map = FakeServingMap()
    pending = {"a", "b"}
    publisher = ServingMapPublisher(serving_map, pending_names=lambda: pending)
    publisher.set_servables({"a": {1: "servable"}})
    assert serving_map.servables == {"a": {1: "servable"}}
    assert serving_map.pending == {"a", "b"}
    pending.discard("a")
    publisher.refresh()
    assert serving_map.pending == {"b"}
    assert serving_map.servables == {"a": {1: "servable"}}


def test_publisher_tells_what_it_shows() -> None:
    publisher = ServingMapPublisher(FakeServingMap())
    assert publisher.servable_ids() == []
    publisher.set_servables({"b": {1: "b1"}, "a": {2: "a2", 1: "a1"}})
    assert publisher.servable_ids() == [A1, ServableId("a", 2), ServableId("b", 1)]


def test_handles_are_on_what_is_published() -> None:
    serving_map = ServingMap()
    publisher = ServingMapPublisher(serving_map)
    published = PublishedServables(serving_map, publisher)
    publisher.set_servables({"a": {1: "a1", 2: "a2"}})
    with published.get_servable_handle(ServableRequest.latest("a")) as handle:
        assert handle.servable == "a2"
    with published.get_servable_handle(ServableRequest.specific("a", 1)) as handle:
        assert handle.servable == "a1"
    handles = published.get_available_servable_handles()
    assert {id.version: handle.servable for id, handle in handles.items()} == {1: "a1", 2: "a2"}


def test_what_leaves_while_handles_are_taken_is_left_out() -> None:
    serving_map = ServingMap()
    publisher = ServingMapPublisher(serving_map)
    publisher.set_servables({"a": {1: "a1", 2: "a2"}})
    serving_map.publish({"a": {1: "a1"}})  # as if between the list and the handles
    handles = PublishedServables(serving_map, publisher).get_available_servable_handles()
    assert list(handles) == [A1]


# -- memory


def test_memory_is_released_soon_and_at_most_once_in_an_interval() -> None:
    times: list[float] = []
    releaser = MemoryReleaser(trim=lambda: times.append(time.monotonic()), interval_seconds=0.2)
    releaser.request()
    eventually(lambda: len(times) == 1)
    for _ in range(10):
        releaser.request()
    eventually(lambda: len(times) == 2)
    releaser.stop()
    assert len(times) == 2
    assert times[1] - times[0] >= 0.2


def test_memory_releaser_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    releaser = MemoryReleaser(interval_seconds=30)
    releaser.request()
    releaser.stop()  # ends its pause
    releaser.request()  # nothing happens any more
    assert set(threading.enumerate()) <= before


def test_memory_releaser_thread_ends_when_nobody_asks() -> None:
    before = set(threading.enumerate())
    trims: list[int] = []
    releaser = MemoryReleaser(trim=lambda: trims.append(1), interval_seconds=0.01)
    releaser.request()
    eventually(lambda: trims)
    eventually(lambda: set(threading.enumerate()) <= before)
    releaser.request()
    eventually(lambda: len(trims) == 2)
    releaser.stop()


# -- the damped log


@pytest.fixture
def damped() -> DampedLog:
    return DampedLog(logging.getLogger("tfsrv"))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_repeated_problem_is_logged_ever_more_rarely(
    damped: DampedLog, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        damped.problem("a", "no base path")
    assert lines(caplog) == [
        "no base path",
        *(f"no base path (seen {times} times)" for times in (2, 4, 8, 16, 32, 64)),
    ]


def test_another_problem_is_logged_at_once(
    damped: DampedLog, caplog: pytest.LogCaptureFixture
) -> None:
    damped.problem("a", "no base path")
    damped.problem("a", "no versions")
    damped.problem("b", "no base path")
    assert lines(caplog) == ["no base path", "no versions", "no base path"]


def test_recovery_is_logged_once_and_begins_anew(
    damped: DampedLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tfsrv")
    damped.recovered("a", "fine")
    damped.problem("a", "bad")
    damped.recovered("a", "fine again")
    damped.recovered("a", "fine again")
    damped.problem("a", "bad")
    assert lines(caplog) == ["bad", "fine again", "bad"]


def test_note_is_logged_once(damped: DampedLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        damped.note("a", "odd name")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "odd name")
    ]
