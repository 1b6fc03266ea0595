"""A version that is wanted from elsewhere is replaced by itself, without a gap."""

from __future__ import annotations

import pytest

from tests.unit.puppets import PuppetLoader, PuppetServable, Stage, permanent
from tfsrv.core.aspired_version_policy import (
    AvailabilityPreservingPolicy,
)
from tfsrv.core.aspired_versions_manager import AspiredVersionsManagerOptions
from tfsrv.core.servable import ManagerState, ServableId
from tfsrv.errors import Code

START, LOADING, AVAILABLE, UNLOADING, END = ManagerState
A1 = ServableId("a", 1)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def version(stage: Stage, origin: str, *failures: Exception) -> PuppetLoader:
    loader = PuppetLoader(A1, failures, origin=origin)
    stage.loaders.append(loader)
    return loader


def shown(stage: Stage) -> PuppetServable:
    servable = stage.serving_map.servables["a"][1]
    assert isinstance(servable, PuppetServable)
    return servable


def serve(stage: Stage, origin: str = "/old") -> PuppetLoader:
    """Make version 1 of a available, from `origin`."""
    (loader,) = stage.aspire("a", version(stage, origin))
    stage.run_all()
    assert stage.available("a") == [1]
    return loader


def test_same_origin_is_not_loaded_again(stage: Stage) -> None:
    serve(stage)
    (again,) = stage.aspire("a", version(stage, "/old"))
    stage.run_all()
    assert again.calls == []


def test_other_origin_is_loaded_before_the_old_servable_goes(stage: Stage) -> None:
    old = serve(stage)
    old_servable = shown(stage)
    (new,) = stage.aspire("a", version(stage, "/new"))
    assert shown(stage) is old_servable
    stage.run_load()
    assert shown(stage) is new.servable()
    assert old_servable.is_loaded
    stage.run_all()
    assert old.calls == ["load", "warm_up", "unload"]
    assert stage.states("a", 1) == [START, LOADING, AVAILABLE, AVAILABLE]


def test_old_servable_unloads_after_its_last_request(stage: Stage) -> None:
    old = serve(stage)
    handle = stage.serving_map.acquire("a", 1)
    stage.aspire("a", version(stage, "/new"))
    stage.run_all()
    assert "unload" not in old.calls
    handle.release()
    stage.run_all()
    assert old.calls[-1] == "unload"


def test_what_fails_to_replace_leaves_the_old_servable_and_shows_its_error(stage: Stage) -> None:
    old = serve(stage)
    stage.aspire("a", version(stage, "/new", permanent("broken")))
    stage.run_all()
    assert shown(stage) is old.servable()
    assert stage.error("a", 1) == (Code.NOT_FOUND, "broken")
    assert stage.states("a", 1)[-1] is AVAILABLE


def test_failed_replacement_is_not_tried_again_until_its_origin_changes(stage: Stage) -> None:
    serve(stage)
    stage.aspire("a", version(stage, "/new", permanent("broken")))
    stage.run_all()
    (again,) = stage.aspire("a", version(stage, "/new"))
    stage.run_all()
    assert again.calls == []
    (other,) = stage.aspire("a", version(stage, "/other"))
    stage.run_all()
    assert shown(stage) is other.servable()
    assert stage.error("a", 1) is None


def test_going_back_to_the_old_origin_forgets_the_error(stage: Stage) -> None:
    old = serve(stage)
    stage.aspire("a", version(stage, "/new", permanent("broken")))
    stage.run_all()
    stage.aspire("a", version(stage, "/old"))
    assert stage.error("a", 1) is None
    assert shown(stage) is old.servable()


def test_going_back_during_the_load_gives_the_replacement_up(stage: Stage) -> None:
    old = serve(stage)
    new = PuppetLoader(A1, origin="/new", during_load=lambda: stage.aspire("a", back))
    back = version(stage, "/old")
    stage.aspire("a", new)
    stage.run_all()
    assert shown(stage) is old.servable()
    assert new.calls == ["load", "cancel", "unload"]
    assert back.calls == []
    assert stage.states("a", 1) == [START, LOADING, AVAILABLE]


def test_third_origin_takes_over_from_one_that_still_loads(stage: Stage) -> None:
    serve(stage)
    third = version(stage, "/third")
    new = PuppetLoader(A1, origin="/new", during_load=lambda: stage.aspire("a", third))
    stage.aspire("a", new)
    stage.run_all()
    assert shown(stage) is third.servable()
    assert new.calls == ["load", "cancel", "unload"]


def test_unaspired_during_the_replacement_everything_goes(stage: Stage) -> None:
    old = serve(stage)
    new = PuppetLoader(A1, origin="/new", during_load=lambda: stage.aspire("a"))
    stage.aspire("a", new)
    stage.run_all()
    assert stage.available("a") == []
    assert old.calls[-1] == new.calls[-1] == "unload"
    assert stage.states("a", 1) == [START, LOADING, AVAILABLE, UNLOADING, END]


def test_what_failed_is_loaded_when_it_comes_from_elsewhere(stage: Stage) -> None:
    stage.aspire("a", version(stage, "/bad", permanent("broken")))
    stage.run_all()
    (good,) = stage.aspire("a", version(stage, "/good"))
    stage.run_all()
    assert shown(stage) is good.servable()
    assert stage.states("a", 1) == [START, LOADING, END, START, LOADING, AVAILABLE]


def test_what_still_loads_is_given_up_for_what_comes_from_elsewhere(stage: Stage) -> None:
    (old,) = stage.aspire("a", version(stage, "/old"))
    (new,) = stage.aspire("a", version(stage, "/new"))
    stage.run_all()
    assert old.calls == []
    assert shown(stage) is new.servable()


def meanwhile(stage: Stage, *wanted: PuppetLoader) -> None:
    """During a load that hangs: another wish, which is carried out."""
    stage.aspire("a", *wanted)
    stage.run_all()


def test_load_that_hangs_does_not_keep_its_version_from_being_loaded_from_elsewhere(
    stage: Stage,
) -> None:
    other = version(stage, "/other")
    hanging = PuppetLoader(A1, origin="/hangs", during_load=lambda: meanwhile(stage, other))
    stage.aspire("a", hanging)
    stage.run_load()
    assert shown(stage) is other.servable()
    stage.run_all()  # it ended after all
    assert hanging.calls == ["load", "cancel", "unload"]
    assert stage.states("a", 1) == [START, LOADING, END, START, LOADING, AVAILABLE]


def test_load_that_hangs_does_not_keep_its_version_from_being_loaded_again(stage: Stage) -> None:
    again = version(stage, "/hangs")

    def remove_and_add() -> None:
        stage.aspire("a")
        meanwhile(stage, again)

    hanging = PuppetLoader(A1, origin="/hangs", during_load=remove_and_add)
    stage.aspire("a", hanging)
    stage.run_load()
    assert shown(stage) is again.servable()
    stage.run_all()
    assert hanging.calls[-1] == "unload"


def test_replacement_that_hangs_does_not_keep_another_one_from_being_loaded(stage: Stage) -> None:
    serve(stage)
    third = version(stage, "/third")
    hanging = PuppetLoader(A1, origin="/hangs", during_load=lambda: meanwhile(stage, third))
    stage.aspire("a", hanging)
    stage.run_load()
    assert shown(stage) is third.servable()
    stage.run_all()
    assert hanging.calls == ["load", "cancel", "unload"]
    assert stage.states("a", 1) == [START, LOADING, AVAILABLE, AVAILABLE]


def test_stop_waits_for_a_load_that_was_abandoned(stage: Stage) -> None:
    other = version(stage, "/other")

    def stop_meanwhile() -> None:
        meanwhile(stage, other)
        stage.manager.begin_stop()
        stage.run_all()
        assert stage.manager._basic_manager.all_harnesses() != []

    hanging = PuppetLoader(A1, origin="/hangs", during_load=stop_meanwhile)
    stage.aspire("a", hanging)
    stage.run_load()
    stage.run_all()
    assert hanging.calls[-1] == "unload"
    assert stage.manager._basic_manager.is_empty


class UnloadsFirst(AvailabilityPreservingPolicy):
    replaces_in_place = False


def test_policy_may_want_the_old_servable_to_go_first() -> None:
    stage = Stage(AspiredVersionsManagerOptions(policy=UnloadsFirst()))
    old = serve(stage)
    (new,) = stage.aspire("a", version(stage, "/new"))
    assert stage.available("a") == [] or shown(stage) is old.servable()
    stage.run_all()
    assert old.calls == ["load", "warm_up", "unload"]
    assert shown(stage) is new.servable()
    assert stage.states("a", 1) == [
        *(START, LOADING, AVAILABLE, UNLOADING, END),
        *(START, LOADING, AVAILABLE),
    ]  # fmt: skip


def test_stop_waits_for_servables_that_were_replaced(stage: Stage) -> None:
    old = serve(stage)
    handle = stage.serving_map.acquire("a", 1)
    stage.aspire("a", version(stage, "/new"))
    stage.run_all()
    stage.manager.begin_stop()
    stage.run_all()
    assert stage.serving_map.servables == {}
    assert "unload" not in old.calls
    handle.release()
    stage.run_all()
    assert old.calls[-1] == "unload"
