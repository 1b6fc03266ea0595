"""The manager, stepped by hand: what is loaded follows what is wanted."""

from __future__ import annotations

import logging
import weakref

import pytest

from tests.unit.puppets import PuppetLoader, Stage, data, permanent, transient
from tfsrv.core.aspired_version_policy import (
    AspiredServableStateSnapshot,
    AspiredVersionPolicy,
    ServableAction,
)
from tfsrv.core.aspired_versions_manager import AspiredVersionsManagerOptions
from tfsrv.core.loader import Loader
from tfsrv.core.manager import LoadRetryOptions
from tfsrv.core.servable import ManagerState, ServableData, ServableId, ServableState
from tfsrv.errors import Code, ServingError

START, LOADING, AVAILABLE, UNLOADING, END = ManagerState
CANCELLED_TEXT = "Loading of servable cancelled"


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_loads_what_is_aspired(stage: Stage) -> None:
    stage.aspire("a", 1)
    stage.run_all()
    assert stage.available("a") == [1]
    assert stage.states("a", 1) == [START, LOADING, AVAILABLE]


def test_version_is_not_available_before_its_load_has_ended(stage: Stage) -> None:
    stage.aspire("a", 1)
    assert stage.available("a") == []
    assert stage.states("a", 1) == [START]


def test_warms_up_after_load_and_before_the_first_request(stage: Stage) -> None:
    (loader,) = stage.aspire("a", 1)
    stage.run_all()
    assert loader.calls == ["load", "warm_up"]


def test_unloads_everything_for_an_empty_set(stage: Stage) -> None:
    (loader,) = stage.aspire("a", 1)
    stage.run_all()
    stage.aspire("a")
    stage.run_all()
    assert loader.calls == ["load", "warm_up", "unload"]
    assert stage.states("a", 1) == [START, LOADING, AVAILABLE, UNLOADING, END]
    assert stage.error("a", 1) is None


def test_unloads_old_version_only_after_new_one_is_available(stage: Stage) -> None:
    stage.aspire("a", 1)
    stage.run_all()
    stage.events.clear()
    stage.aspire("a", 2)
    assert stage.available("a") == [1]
    stage.run_all()
    assert stage.available("a") == [2]
    assert [(event.id.version, event.manager_state) for event in stage.events] == [
        (2, START),
        (2, LOADING),
        (2, AVAILABLE),
        (1, UNLOADING),
        (1, END),
    ]


def test_failed_new_version_leaves_old_one_serving(stage: Stage) -> None:
    stage.aspire("a", 1)
    stage.run_all()
    stage.aspire("a", stage.loader("a", 2, [permanent()]))
    stage.run_all()
    assert stage.available("a") == [1]
    assert stage.states("a", 2) == [START, LOADING, END]


def test_repeated_wish_changes_nothing(stage: Stage) -> None:
    stage.aspire("a", 1)
    stage.run_all()
    num_events, num_publications = len(stage.events), stage.serving_map.num_publications
    (second,) = stage.aspire("a", 1)
    stage.run_all()
    assert second.calls == []
    assert len(stage.events) == num_events
    assert stage.serving_map.num_publications == num_publications


def test_latest_wish_wins(stage: Stage) -> None:
    stage.manager.set_aspired_versions("a", [data(stage.loader("a", 1))])
    stage.manager.set_aspired_versions("a", [data(stage.loader("a", 2))])
    stage.run_all()
    assert stage.available("a") == [2]
    assert stage.states("a", 1) == []


def test_wish_for_one_servable_leaves_the_others_alone(stage: Stage) -> None:
    stage.aspire("a", 1)
    stage.aspire("b", 1)
    stage.run_all()
    stage.aspire("a")
    stage.run_all()
    assert stage.available("b") == [1]


def test_several_aspired_versions_load_side_by_side(stage: Stage) -> None:
    stage.aspire("a", 1, 2, 3)
    assert len(stage.loads.tasks) == 3
    stage.run_load()
    assert stage.available("a") == [3]  # the highest comes first
    stage.run_all()
    assert stage.available("a") == [1, 2, 3]


def test_refuses_version_of_another_servable(stage: Stage) -> None:
    with pytest.raises(ServingError, match="is no version of servable b"):
        stage.manager.set_aspired_versions("b", [data(stage.loader("a", 1))])


# -- requests


def test_unload_waits_for_the_handles_of_its_version_only(stage: Stage) -> None:
    (old,) = stage.aspire("a", 1)
    stage.aspire("b", 1)
    stage.run_all()
    held_by_others = stage.serving_map.acquire("b", 1)
    stage.aspire("a", 2)
    stage.run_all()
    assert old.calls[-1] == "unload"
    held_by_others.release()


def test_unload_is_not_called_while_a_request_holds_the_version(stage: Stage) -> None:
    (loader,) = stage.aspire("a", 1)
    stage.run_all()
    handle = stage.serving_map.acquire("a", 1)
    stage.aspire("a")
    stage.run_all()
    assert stage.available("a") == []
    assert "unload" not in loader.calls
    handle.release()
    stage.run_all()
    assert loader.calls[-1] == "unload"


def test_servable_is_in_the_map_when_available_is_told_and_when_unloading_is(
    stage: Stage,
) -> None:
    seen: list[tuple[ManagerState, list[int]]] = []

    def see(state: ServableState) -> None:
        seen.append((state.manager_state, stage.available("a")))

    stage.bus.subscribe(see)
    stage.aspire("a", 1)
    stage.run_all()
    stage.aspire("a")
    stage.run_all()
    assert seen == [(START, []), (LOADING, []), (AVAILABLE, [1]), (UNLOADING, [1]), (END, [])]


def test_map_is_published_once_for_many_loads(stage: Stage) -> None:
    for number in range(10):
        stage.aspire(f"m{number}", 1)
    while stage.loads.tasks:
        stage.loads.run_next()
    stage.manager.step()
    assert stage.serving_map.num_publications == 1
    assert len(stage.serving_map.servables) == 10


# -- wishes that change their mind


def test_version_aspired_again_while_it_unloads_is_loaded_again_after_it_has_gone(
    stage: Stage,
) -> None:
    stage.aspire("a", 1)
    stage.run_all()
    stage.aspire("a")
    (second,) = stage.aspire("a", 1)
    assert second.calls == []
    stage.run_all()
    assert second.calls == ["load", "warm_up"]
    assert stage.available("a") == [1]
    assert stage.states("a", 1) == [
        *(START, LOADING, AVAILABLE, UNLOADING, END),
        *(START, LOADING, AVAILABLE),
    ]


def test_rollback_to_a_version_on_its_way_out_keeps_the_newer_one_until_it_is_back(
    stage: Stage,
) -> None:
    stage.aspire("a", 1)
    stage.run_all()
    stage.aspire("a", 2)
    stage.run_load()  # 2 is available, and 1 on its way out
    stage.aspire("a", 1)
    assert stage.available("a") == [2]
    stage.run_unload()  # 1 has gone, and comes again
    assert stage.available("a") == [2]
    stage.run_all()
    assert stage.available("a") == [1]


def test_old_version_that_still_serves_is_aspired_again_without_a_load(stage: Stage) -> None:
    (first,) = stage.aspire("a", 1)
    stage.run_all()
    (second,) = stage.aspire("a", 2)
    stage.aspire("a", 1)
    stage.run_all()
    assert stage.available("a") == [1]
    assert first.calls == ["load", "warm_up"]
    assert second.calls == []


def test_unaspired_version_in_the_queue_is_never_loaded(stage: Stage) -> None:
    (loader,) = stage.aspire("a", 1)
    stage.aspire("a")
    stage.run_all()
    assert loader.calls == []
    assert stage.states("a", 1) == [START, END]
    assert stage.error("a", 1) == (Code.CANCELLED, CANCELLED_TEXT)


def test_version_unaspired_during_its_load_is_unloaded_at_once(stage: Stage) -> None:
    loader = PuppetLoader(ServableId("a", 1), during_load=lambda: stage.aspire("a"))
    stage.aspire("a", loader)
    stage.run_all()
    assert loader.calls == ["load", "cancel", "unload"]
    assert stage.states("a", 1) == [START, LOADING, END]
    assert stage.error("a", 1) == (Code.CANCELLED, CANCELLED_TEXT)


def test_version_unaspired_during_its_warm_up_is_cancelled_and_unloaded(stage: Stage) -> None:
    loader = PuppetLoader(ServableId("a", 1), during_warm_up=lambda: stage.aspire("a"))
    stage.aspire("a", loader)
    stage.run_all()
    assert loader.calls == ["load", "warm_up", "cancel", "unload"]
    assert stage.states("a", 1) == [START, LOADING, END]
    assert stage.error("a", 1) == (Code.CANCELLED, CANCELLED_TEXT)


def test_version_unaspired_ends_all_the_same_if_its_warm_up_cannot_be_cancelled(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Deaf(PuppetLoader):
        def cancel(self) -> None:
            raise RuntimeError("deaf")

    loader = Deaf(ServableId("a", 1), during_warm_up=lambda: stage.aspire("a"))
    stage.aspire("a", loader)
    stage.run_all()
    assert loader.calls == ["load", "warm_up", "unload"]
    assert stage.error("a", 1) == (Code.CANCELLED, CANCELLED_TEXT)
    assert "was not cancelled" in caplog.text


def test_version_cancelled_during_its_load_and_aspired_again_comes_back(stage: Stage) -> None:
    def change_mind_twice() -> None:
        stage.aspire("a")
        stage.aspire("a", 1)

    stage.aspire("a", PuppetLoader(ServableId("a", 1), during_load=change_mind_twice))
    stage.run_all()
    assert stage.available("a") == [1]
    assert stage.states("a", 1) == [START, LOADING, END, START, LOADING, AVAILABLE]


def test_failure_of_a_load_that_was_cancelled_is_no_failure(stage: Stage) -> None:
    loader = PuppetLoader(ServableId("a", 1), [permanent()], during_load=lambda: stage.aspire("a"))
    stage.aspire("a", loader)
    stage.run_all()
    assert stage.error("a", 1) == (Code.CANCELLED, CANCELLED_TEXT)


# -- failures


def test_transient_failure_is_tried_again_after_the_interval(stage: Stage) -> None:
    (loader,) = stage.aspire("a", stage.loader("a", 1, [transient()]))
    stage.run_load()
    stage.advance(59.9)
    assert not stage.loads.tasks
    stage.advance(0.2)
    stage.run_all()
    assert loader.calls == ["load", "load", "warm_up"]
    assert stage.states("a", 1) == [START, LOADING, AVAILABLE]  # retries are invisible


def test_waits_twice_as_long_after_each_failure_up_to_ten_minutes() -> None:
    options = LoadRetryOptions(load_retry_interval_micros=100_000_000)
    assert [options.wait_seconds(tries) for tries in (1, 2, 3, 4, 2000)] == [
        100, 200, 400, 600, 600,
    ]  # fmt: skip
    longer = LoadRetryOptions(load_retry_interval_micros=3_600_000_000)
    assert longer.wait_seconds(5) == 3600


def test_second_retry_waits_longer_than_the_first(stage: Stage) -> None:
    (loader,) = stage.aspire("a", stage.loader("a", 1, [transient(), transient()]))
    stage.run_load()
    stage.advance(61)
    stage.run_load()
    stage.advance(61)
    assert not stage.loads.tasks
    stage.advance(60)
    stage.run_all()
    assert loader.calls == ["load", "load", "load", "warm_up"]


def test_gives_up_after_five_retries(stage: Stage) -> None:
    (loader,) = stage.aspire("a", stage.loader("a", 1, [transient()] * 9))
    for _ in range(20):
        stage.run_all()
        stage.advance(600)
    assert loader.calls == ["load"] * 6
    assert stage.error("a", 1) == (Code.UNAVAILABLE, "disk is busy")


def test_loader_that_wants_to_end_the_process_ends_its_version_only() -> None:
    stage = Stage(_retry(max_num_load_retries=0))
    stage.aspire("a", stage.loader("a", 1, [SystemExit(3)]))  # type: ignore[list-item]
    stage.run_all()
    assert stage.error("a", 1) == (Code.UNKNOWN, "SystemExit: 3")


def test_fault_in_one_round_does_not_end_the_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage.aspire("a", 1)
    monkeypatch.setattr(stage.manager._basic_manager, "_load_began", _faulty)
    stage.run_load()
    assert "word of {name: a version: 1} was lost" in caplog.text
    monkeypatch.undo()
    stage.aspire("b", 1)
    stage.run_all()
    assert stage.available("b") == [1]


def _faulty(*arguments: object) -> None:
    raise RuntimeError("a fault")


def test_negative_retry_interval_means_at_once() -> None:
    stage = Stage(_retry(load_retry_interval_micros=-1))
    stage.aspire("a", stage.loader("a", 1, [transient(), transient()]))
    stage.run_all()
    assert stage.available("a") == [1]


def test_no_retries_when_none_are_asked_for() -> None:
    stage = Stage(_retry(max_num_load_retries=0))
    (loader,) = stage.aspire("a", stage.loader("a", 1, [transient()]))
    stage.run_all()
    assert loader.calls == ["load"]
    assert stage.states("a", 1)[-1] is END


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.DATA_LOSS])
def test_permanent_failure_is_not_tried_again(stage: Stage, code: Code) -> None:
    (loader,) = stage.aspire("a", stage.loader("a", 1, [ServingError(code, "no")]))
    stage.run_all()
    stage.advance(1000)
    stage.run_all()
    assert loader.calls == ["load"]
    assert stage.error("a", 1) == (code, "no")


def test_unaspiring_cancels_retries(stage: Stage) -> None:
    (loader,) = stage.aspire("a", stage.loader("a", 1, [transient()]))
    stage.run_load()
    stage.aspire("a")
    stage.advance(1000)
    stage.run_all()
    assert loader.calls == ["load"]
    assert stage.states("a", 1) == [START, LOADING, END]
    assert stage.error("a", 1) == (Code.CANCELLED, CANCELLED_TEXT)


def test_load_that_waits_for_its_retry_holds_up_no_other(stage: Stage) -> None:
    stage.aspire("a", stage.loader("a", 1, [transient()]))
    stage.run_load()
    assert stage.loads.tasks == []  # no thread sleeps
    stage.aspire("b", 1)
    stage.run_all()
    assert stage.available("b") == [1]


def test_failed_version_stays_failed_while_it_is_aspired(stage: Stage) -> None:
    stage.aspire("a", stage.loader("a", 1, [permanent()]))
    stage.run_all()
    (second,) = stage.aspire("a", 1)
    stage.run_all()
    assert second.calls == []


def test_failed_version_is_tried_again_after_it_was_taken_back(stage: Stage) -> None:
    stage.aspire("a", stage.loader("a", 1, [permanent()]))
    stage.run_all()
    stage.aspire("a")
    stage.aspire("a", 1)
    stage.run_all()
    assert stage.available("a") == [1]


def test_failed_warm_up_is_a_failed_load_and_unloads(stage: Stage) -> None:
    loader = PuppetLoader(ServableId("a", 1), warm_up_failure=permanent("cold"))
    stage.aspire("a", loader)
    stage.run_all()
    assert loader.calls == ["load", "warm_up", "unload"]
    assert stage.error("a", 1) == (Code.NOT_FOUND, "cold")


class Record:
    """Large, perhaps."""


def test_error_of_a_failed_load_keeps_nothing_of_it_alive(stage: Stage) -> None:
    records: list[weakref.ref[Record]] = []

    class Heavy(PuppetLoader):
        def warm_up(self) -> None:
            record = Record()
            records.append(weakref.ref(record))
            try:
                raise ValueError("the cause")
            except ValueError:
                raise permanent("cold") from None

    stage.aspire("a", Heavy(ServableId("a", 1)))
    stage.run_all()
    assert stage.error("a", 1) == (Code.NOT_FOUND, "cold")
    assert [record() for record in records] == [None]


def test_failed_unload_shows_in_the_state(stage: Stage) -> None:
    stage.aspire("a", PuppetLoader(ServableId("a", 1), unload_failure=transient("stuck")))
    stage.run_all()
    stage.aspire("a")
    stage.run_all()
    assert stage.states("a", 1)[-1] is END
    assert stage.error("a", 1) == (Code.UNAVAILABLE, "stuck")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (MemoryError(), Code.RESOURCE_EXHAUSTED),
        (FileNotFoundError(2, "No such file", "/x"), Code.NOT_FOUND),
        (RuntimeError("odd"), Code.UNKNOWN),
    ],
)
def test_any_exception_of_a_loader_is_told_as_a_serving_error(
    raised: Exception, code: Code
) -> None:
    stage = Stage(_retry(max_num_load_retries=0))
    stage.aspire("a", stage.loader("a", 1, [raised]))
    stage.run_all()
    error = stage.error("a", 1)
    assert error is not None
    assert error[0] is code


def test_error_of_the_source_ends_the_version_directly(stage: Stage) -> None:
    stage.aspire_data("a", ServableData[Loader](ServableId("a", 1), error=permanent("no file")))
    stage.run_all()
    assert stage.states("a", 1) == [END]
    assert stage.error("a", 1) == (Code.NOT_FOUND, "no file")


def test_error_of_the_source_is_told_once(stage: Stage) -> None:
    for _ in range(3):
        error = ServableData[Loader](ServableId("a", 1), error=permanent("no file"))
        stage.aspire_data("a", error)
    assert stage.states("a", 1) == [END]


def test_version_whose_source_recovers_is_loaded(stage: Stage) -> None:
    stage.aspire_data("a", ServableData[Loader](ServableId("a", 1), error=permanent("no file")))
    stage.aspire("a", 1)
    stage.run_all()
    assert stage.available("a") == [1]


class _BrokenFor(AspiredVersionPolicy):
    """A policy with a fault in one servable."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get_next_action(
        self,
        versions: list[AspiredServableStateSnapshot],  # type: ignore[override]
    ) -> ServableAction | None:
        if versions[0].id.name == self._name:
            raise RuntimeError("policy fault")
        return AspiredVersionsManagerOptions().policy.get_next_action(versions)


def test_fault_of_a_policy_in_one_servable_leaves_the_others_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(AspiredVersionsManagerOptions(policy=_BrokenFor("a")))
    stage.manager.set_aspired_versions("a", [data(stage.loader("a", 1))])
    stage.manager.set_aspired_versions("b", [data(stage.loader("b", 1))])
    stage.run_all()
    assert stage.available("b") == [1]
    assert "failed on servable a" in caplog.text


# -- stop


def test_stop_unloads_everything_and_takes_no_more_wishes(stage: Stage) -> None:
    (first,) = stage.aspire("a", 1)
    (second,) = stage.aspire("b", 1)
    stage.run_all()
    stage.manager.begin_stop()
    stage.aspire("c", 1)
    stage.run_all()
    assert first.calls[-1] == second.calls[-1] == "unload"
    assert stage.states("c", 1) == []


def test_stop_cancels_loads_that_wait(stage: Stage) -> None:
    stage.aspire("a", stage.loader("a", 1, [transient()]))
    stage.run_load()
    stage.aspire("b", 1)
    stage.manager.begin_stop()
    stage.run_all()
    assert stage.states("a", 1)[-1] is END
    assert stage.states("b", 1) == [START, END]


# -- log


def test_logs_one_line_when_a_version_is_available(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tfsrv")
    stage.aspire("a", 1)
    stage.run_all()
    assert [record.getMessage() for record in caplog.records] == [
        "a version 1 is available, loaded in 0.000 s"
    ]


def test_logs_one_error_without_a_trace_when_a_load_failed(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tfsrv")
    stage.aspire("a", stage.loader("a", 1, [permanent("Op type not registered 'X'")]))
    stage.run_all()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "a version 1 failed to load: NOT_FOUND: Op type not registered 'X'")
    ]
    assert caplog.records[0].exc_info is None


def _retry(**options: int) -> AspiredVersionsManagerOptions:
    return AspiredVersionsManagerOptions(retry=LoadRetryOptions(**options))  # type: ignore[arg-type]
