"""Loads under a limit: who gets room, who waits, who is refused and gets another chance."""

from __future__ import annotations

import pytest

from tests.unit.puppets import PuppetLoader, Stage, data, permanent, transient
from tfsrv.core.aspired_version_policy import ResourcePreservingPolicy
from tfsrv.core.aspired_versions_manager import AspiredVersionsManagerOptions
from tfsrv.core.resource_tracker import ResourceTracker
from tfsrv.core.resources import RAM, ResourceAllocation
from tfsrv.core.servable import ManagerState, ServableId
from tfsrv.errors import Code, ServingError

START, LOADING, AVAILABLE, UNLOADING, END = ManagerState
NO_ROOM = (
    Code.RESOURCE_EXHAUSTED,
    "Insufficient resources to load servable {name: %s version: %d}",
)


class Room(Stage):
    """A stage with 100 bytes."""

    def __init__(self, **options: object) -> None:
        self.tracker = ResourceTracker({RAM: 100})
        super().__init__(AspiredVersionsManagerOptions(tracker=self.tracker, **options))  # type: ignore[arg-type]

    def sized(self, name: str, version: int, ram_bytes: int, **more: object) -> PuppetLoader:
        loader = PuppetLoader(ServableId(name, version), ram_bytes=ram_bytes, **more)  # type: ignore[arg-type]
        self.loaders.append(loader)
        return loader

    def used(self) -> int:
        return self.tracker.used().get(RAM, 0)

    def is_refused(self, name: str, version: int) -> bool:
        code, text = NO_ROOM
        return self.error(name, version) == (code, text % (name, version))


@pytest.fixture
def room() -> Room:
    return Room()


def test_what_fits_is_loaded_and_counted_until_it_is_unloaded(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 60))
    room.run_all()
    assert room.available("a") == [1]
    assert room.used() == 60
    room.aspire("a")
    room.run_all()
    assert room.used() == 0


def test_what_does_not_fit_ends_with_resource_exhausted(room: Room) -> None:
    (loader,) = room.aspire("a", room.sized("a", 1, 101))
    room.run_all()
    assert loader.calls == []
    assert room.is_refused("a", 1)
    assert room.states("a", 1) == [START, END]


def test_what_can_never_fit_does_not_wait_for_others(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 60))
    room.run_load()  # its estimate: it is about to load
    room.aspire("b", room.sized("b", 1, 1000))
    room.loads.run_next(1)
    room.manager.step()
    assert room.is_refused("b", 1)


def test_load_that_waits_for_its_next_try_is_not_waited_for(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 60, failures=[transient()]))
    room.run_load()
    room.run_load()  # it fails
    room.aspire("b", room.sized("b", 1, 60))
    room.run_load()
    assert room.is_refused("b", 1)


def test_old_version_stays_when_the_new_one_does_not_fit_beside_it(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 60))
    room.run_all()
    room.aspire("a", room.sized("a", 2, 60))
    room.run_all()
    assert room.available("a") == [1]
    assert room.is_refused("a", 2)


def test_resource_preserving_policy_makes_room_by_unloading_first() -> None:
    room = Room(policy=ResourcePreservingPolicy())
    room.aspire("a", room.sized("a", 1, 60))
    room.run_all()
    room.aspire("a", room.sized("a", 2, 60))
    room.run_all()
    assert room.available("a") == [2]
    assert room.states("a", 1)[-1] is END


def test_waits_while_an_unload_is_under_way(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 60))
    room.run_all()
    handle = room.serving_map.acquire("a", 1)
    room.aspire("a")
    room.run_all()  # cannot end: a request holds it
    (waiting,) = room.aspire("b", room.sized("b", 1, 60))
    room.run_all()
    assert waiting.calls == []
    assert room.states("b", 1) == [START]
    handle.release()
    room.run_all()
    assert room.available("b") == [1]


def test_waits_for_a_load_that_may_turn_out_to_need_less(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 90, used_ram_bytes=30))
    room.run_load()  # its estimate
    room.aspire("b", room.sized("b", 1, 60))
    room.run_all()
    assert room.available("a") == room.available("b") == [1]
    assert room.used() == 90


def test_is_refused_when_the_load_that_it_waited_for_needs_what_it_said(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 90))
    room.run_load()  # its estimate
    room.aspire("b", room.sized("b", 1, 60))
    room.run_all()
    assert room.available("a") == [1]
    assert room.is_refused("b", 1)


def test_failed_load_gives_its_room_to_who_waits(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 90, failures=[permanent()]))
    room.run_load()
    room.aspire("b", room.sized("b", 1, 60))
    room.run_all()
    assert room.available("b") == [1]
    assert room.used() == 60


def test_load_that_was_given_up_gives_its_room_to_who_waits(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 90))
    room.run_load()  # its estimate
    room.aspire("b", room.sized("b", 1, 60))
    room.loads.run_next(1)  # b's estimate: there is no room
    room.manager.step()
    room.aspire("a")
    room.run_all()
    assert room.available("b") == [1]


def test_who_waits_can_be_given_up(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 90))
    room.run_load()
    room.aspire("b", room.sized("b", 1, 60))
    room.loads.run_next(1)
    room.manager.step()
    room.aspire("b")
    assert room.states("b", 1) == [START, END]
    room.run_all()
    assert room.available("a") == [1]


def test_what_was_refused_is_loaded_when_there_is_room(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 60))
    room.run_all()
    room.aspire("b", room.sized("b", 1, 60))
    room.run_all()
    assert room.is_refused("b", 1)
    room.aspire("a")
    room.run_all()
    assert room.available("b") == [1]
    assert room.states("b", 1) == [START, END, START, LOADING, AVAILABLE]


def test_what_was_refused_is_not_tried_while_there_is_too_little_room(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 60))
    room.aspire("c", room.sized("c", 1, 10))
    room.run_all()
    room.aspire("b", room.sized("b", 1, 60))
    room.run_all()
    room.aspire("c")
    room.run_all()
    assert room.states("b", 1) == [START, END]


def test_replacement_needs_room_beside_what_it_replaces(room: Room) -> None:
    room.aspire("a", room.sized("a", 1, 60, origin="/old"))
    room.aspire("c", room.sized("c", 1, 30))
    room.run_all()
    room.aspire("a", room.sized("a", 1, 40, origin="/new"))
    room.run_all()
    assert room.is_refused("a", 1)
    assert room.available("a") == [1]
    room.aspire("c")
    room.run_all()
    assert room.error("a", 1) is None
    assert room.used() == 40


class NoEstimate(PuppetLoader):
    failures: list[Exception]

    def estimate_resources(self) -> ResourceAllocation:
        self.calls.append("estimate")
        if self.failures:
            raise self.failures.pop()
        return {RAM: 1}


def test_estimate_that_fails_for_good_ends_the_version(room: Room) -> None:
    loader = NoEstimate(ServableId("a", 1))
    loader.failures = [ServingError(Code.NOT_FOUND, "no such file")]
    room.aspire_data("a", data(loader))
    room.run_all()
    assert room.error("a", 1) == (
        Code.NOT_FOUND,
        "Error while attempting to reserve resources to load servable {name: a version: 1}: "
        "no such file",
    )


def test_estimate_is_tried_again_as_a_load_is(room: Room) -> None:
    loader = NoEstimate(ServableId("a", 1))
    loader.failures = [ServingError(Code.UNAVAILABLE, "busy")]
    room.aspire_data("a", data(loader))
    room.run_all()
    assert room.states("a", 1) == [START]
    room.advance(61)
    room.run_all()
    assert room.available("a") == [1]


def test_who_waits_for_an_estimate_can_be_given_up(room: Room) -> None:
    loader = NoEstimate(ServableId("a", 1))
    loader.failures = [ServingError(Code.UNAVAILABLE, "busy")]
    room.aspire_data("a", data(loader))
    room.run_all()
    room.aspire("a")
    room.advance(61)
    room.run_all()
    assert room.states("a", 1) == [START, END]
    assert loader.calls == ["estimate"]
