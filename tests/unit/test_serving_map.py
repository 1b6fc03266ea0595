"""The serving map: who is found, how long it lives, and what readers see while it changes."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tfsrv._servable import ServableHandle
from tfsrv._serving_map import ServingMap, live_counts
from tfsrv._serving_map_stress import CanaryServable, stress
from tfsrv.errors import Code, ServingError

LOOKUPS = 500_000  # of each native thread; a fraction of a second


class Model:
    """A servable that native handlers know nothing of; unlike `object`, it can be watched."""


@pytest.fixture
def serving_map() -> Iterator[ServingMap]:
    """A map of which nothing is left in memory after the test, but its empty table."""
    gc.collect()
    before = live_counts()
    made = ServingMap()
    yield made
    gc.collect()
    made.publish({})
    made.publish({})  # drops what the one before left out
    assert live_counts() == {**before, "tables": before["tables"] + 1}


def refusal(serving_map: ServingMap, name: str, **wanted: object) -> tuple[Code, str]:
    with pytest.raises(ServingError) as refused:
        serving_map.acquire(name, **wanted)  # type: ignore[arg-type]
    return refused.value.code, refused.value.message


# --- who is found


def test_finds_the_highest_version_without_version_and_label(serving_map: ServingMap) -> None:
    versions = {9: Model(), 10: Model(), -1: Model()}
    serving_map.publish({"a": versions})
    with serving_map.acquire("a") as handle:
        assert (handle.name, handle.version) == ("a", 10)
        assert handle.servable is versions[10]


@pytest.mark.parametrize("version", [0, 1, 7, 2**63 - 1, -(2**63)])
def test_finds_the_version_asked_for(serving_map: ServingMap, version: int) -> None:
    wanted = Model()
    serving_map.publish({"a": {3: Model(), version: wanted, 5: Model()}})
    with serving_map.acquire("a", version) as handle:
        assert handle.servable is wanted
        assert handle.version == version


def test_finds_the_version_that_a_label_stands_for(serving_map: ServingMap) -> None:
    labels = {"stable": 1, "canary": 2, "": 2, "stabl": 3}
    serving_map.publish({"a": {n: Model() for n in (1, 2, 3)}}, {"a": labels})
    for label, version in labels.items():
        with serving_map.acquire("a", label=label) as handle:
            assert handle.version == version


def test_finds_each_of_many_models(serving_map: ServingMap) -> None:
    names = [f"model_{n}" for n in range(500)] + ["x" * n for n in range(40)] + ["größe", "模型"]
    servables = {name: {1: Model()} for name in names}
    serving_map.publish(servables)
    for name in names:
        with serving_map.acquire(name) as handle:
            assert handle.servable is servables[name][1]
    assert refusal(serving_map, "model_500")[0] is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "wanted", "code", "message"),
    [
        ("no", {}, Code.NOT_FOUND, "Servable not found for request: Latest(no)"),
        ("no", {"version": 3}, Code.NOT_FOUND, "Servable not found for request: Specific(no, 3)"),
        ("a", {"version": 3}, Code.NOT_FOUND, "Servable not found for request: Specific(a, 3)"),
        ("a", {"label": "gone"}, Code.NOT_FOUND, "Servable not found for request: Specific(a, 9)"),
        ("a", {"label": "x"}, Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        ("no", {"label": "x"}, Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        ("none", {}, Code.NOT_FOUND, "Servable not found for request: Latest(none)"),
        ("labelled", {"label": "l"}, Code.NOT_FOUND, "Servable not found for request: "
         "Specific(labelled, 4)"),
        ("late", {}, Code.UNAVAILABLE, "Model late is still loading"),
        ("late", {"version": 1}, Code.UNAVAILABLE, "Model late is still loading"),
        ("late", {"label": "x"}, Code.UNAVAILABLE, "Model late is still loading"),
    ],
)  # fmt: skip
def test_refuses_with_the_texts_of_tensorflow_serving(
    serving_map: ServingMap, name: str, wanted: dict[str, object], code: Code, message: str
) -> None:
    serving_map.publish(
        {"a": {1: Model()}, "none": {}}, {"a": {"gone": 9}, "labelled": {"l": 4}}, {"late"}
    )
    assert refusal(serving_map, name, **wanted) == (code, message)


def test_an_empty_map_finds_nothing(serving_map: ServingMap) -> None:
    assert refusal(serving_map, "a")[0] is Code.NOT_FOUND


def test_a_pending_model_with_a_loaded_version_is_not_waited_for(serving_map: ServingMap) -> None:
    serving_map.publish({"a": {1: Model()}}, pending=["a"])
    serving_map.acquire("a").release()
    assert refusal(serving_map, "a", version=2)[0] is Code.NOT_FOUND


def test_a_version_and_a_label_together_are_a_mistake(serving_map: ServingMap) -> None:
    with pytest.raises(ValueError, match="not both"):
        serving_map.acquire("a", version=1, label="b")


# --- how long it lives


def test_a_handle_works_after_its_version_was_left_out(serving_map: ServingMap) -> None:
    model = Model()
    serving_map.publish({"a": {1: model}})
    with serving_map.acquire("a") as handle:
        serving_map.publish({})
        assert refusal(serving_map, "a")[0] is Code.NOT_FOUND
        assert handle.servable is model


def test_the_same_object_published_again_keeps_its_handles(serving_map: ServingMap) -> None:
    model = Model()
    serving_map.publish({"a": {1: model}})
    with serving_map.acquire("a"):
        serving_map.publish({"a": {1: model, 2: Model()}})
        assert serving_map.in_use("a", 1) == 1
        assert serving_map.drain("a", 1, 0.0)  # nothing was left out
        with serving_map.acquire("a", 1):
            assert serving_map.in_use("a", 1) == 2
    assert serving_map.in_use("a", 1) == 0


def test_another_object_under_the_same_version_replaces_it(serving_map: ServingMap) -> None:
    old, new = Model(), Model()
    serving_map.publish({"a": {1: old}})
    with serving_map.acquire("a") as handle:
        serving_map.publish({"a": {1: new}})
        assert handle.servable is old
        assert serving_map.acquire("a").servable is new
        assert not serving_map.drain("a", 1, 0.0)
    assert serving_map.drain("a", 1, 0.0)


def test_release_is_idempotent(serving_map: ServingMap) -> None:
    serving_map.publish({"a": {1: Model()}})
    first, second = serving_map.acquire("a"), serving_map.acquire("a")
    first.release()
    first.release()
    assert serving_map.in_use("a", 1) == 1
    second.release()
    assert serving_map.in_use("a", 1) == 0


def test_a_released_handle_gives_its_servable_no_more(serving_map: ServingMap) -> None:
    serving_map.publish({"a": {1: Model()}})
    handle = serving_map.acquire("a")
    handle.release()
    with pytest.raises(ValueError, match="the handle of a version 1 was released"):
        _ = handle.servable


def test_a_forgotten_handle_releases_itself(serving_map: ServingMap) -> None:
    serving_map.publish({"a": {1: Model()}})
    handle = serving_map.acquire("a")
    del handle
    assert serving_map.in_use("a", 1) == 0


def test_handles_are_made_by_the_map_only() -> None:
    with pytest.raises(TypeError):
        ServableHandle()


def test_drain_lets_go_of_the_object_after_its_last_handle(serving_map: ServingMap) -> None:
    model = Model()
    watched = weakref.ref(model)
    serving_map.publish({"a": {1: model}})
    del model
    handle = serving_map.acquire("a")
    serving_map.publish({})
    assert not serving_map.drain("a", 1, 0.01)
    assert watched() is not None
    handle.release()
    assert serving_map.drain("a", 1, 0.0)
    assert watched() is None


@pytest.mark.parametrize("timeout_seconds", [None, 60.0])
def test_drain_sleeps_until_the_last_release(
    serving_map: ServingMap, timeout_seconds: float | None
) -> None:
    serving_map.publish({"a": {1: Model()}})
    handles = [serving_map.acquire("a") for _ in range(3)]
    serving_map.publish({})
    with ThreadPoolExecutor(1) as executor:
        drained = executor.submit(serving_map.drain, "a", 1, timeout_seconds)
        for handle in handles:
            assert not drained.done()
            handle.release()
        assert drained.result(30)


def test_a_waiting_drain_uses_no_processor_time(serving_map: ServingMap) -> None:
    serving_map.publish({"a": {1: Model()}})
    with serving_map.acquire("a"):
        serving_map.publish({})
        before = time.thread_time()
        assert not serving_map.drain("a", 1, 0.2)
        assert time.thread_time() - before < 0.05


def test_drain_waits_for_its_own_version_only(serving_map: ServingMap) -> None:
    serving_map.publish({"a": {1: Model(), 2: Model()}, "b": {1: Model()}})
    with serving_map.acquire("a", 2), serving_map.acquire("b", 1):
        serving_map.publish({})
        assert serving_map.drain("a", 1, 0.0)
        assert serving_map.drain("never there", 1, 0.0)
        assert not serving_map.drain("a", 2, 0.0)
        assert not serving_map.drain("b", 1, float("-inf"))


def test_in_use_counts_handles_of_versions_left_out_too(serving_map: ServingMap) -> None:
    serving_map.publish({"a": {1: Model()}})
    with serving_map.acquire("a"):
        serving_map.publish({"a": {1: Model()}})
        with serving_map.acquire("a"):
            assert serving_map.in_use("a", 1) == 2
    assert serving_map.in_use("a", 1) == 0
    assert serving_map.in_use("nobody", 1) == 0


def test_what_nobody_drains_goes_with_the_next_publish(serving_map: ServingMap) -> None:
    model = Model()
    watched = weakref.ref(model)
    serving_map.publish({"a": {1: model}})
    del model
    serving_map.publish({})
    serving_map.publish({})
    assert watched() is None


def test_what_nobody_drains_goes_with_the_map() -> None:
    left_out, loaded = Model(), Model()
    watched = weakref.ref(left_out), weakref.ref(loaded)
    serving_map = ServingMap()
    serving_map.publish({"a": {1: left_out, 2: loaded}})
    serving_map.publish({"a": {2: loaded}})
    del left_out, loaded, serving_map
    assert [watch() for watch in watched] == [None, None]


def test_a_handle_may_outlive_the_map() -> None:
    serving_map = ServingMap()
    left_out, loaded = Model(), Model()
    serving_map.publish({"a": {1: left_out}, "b": {1: loaded}})
    watched = [weakref.ref(left_out), weakref.ref(loaded)]
    handles = [serving_map.acquire("a"), serving_map.acquire("b")]
    serving_map.publish({"b": {1: loaded}})
    del serving_map, left_out, loaded
    gc.collect()
    assert [handle.servable for handle in handles] == [watch() for watch in watched]
    with ThreadPoolExecutor(1) as executor:  # not the main thread, which does the burying
        for handle in handles:
            executor.submit(handle.release).result()
    deadline = time.monotonic() + 10
    while any(watch() is not None for watch in watched):
        assert time.monotonic() < deadline


def test_a_servable_whose_object_uses_the_map_while_it_dies(serving_map: ServingMap) -> None:
    class Troublesome:
        def __del__(self) -> None:
            serving_map.publish({"b": {1: Model()}})

    serving_map.publish({"a": {1: Troublesome()}})
    serving_map.publish({})
    assert serving_map.drain("a", 1, 0.0)
    serving_map.acquire("b").release()


# --- publishing what is wrong


@pytest.mark.parametrize(
    ("servables", "labels", "pending", "error"),
    [
        ({"a": {2: Model()}, "b": {2**63: Model()}}, {}, (), OverflowError),
        ({"a": {2: Model(), "3": Model()}}, {}, (), TypeError),
        ({"a": {2: Model()}}, {"a": {"x": 2**63}}, (), OverflowError),
        ({"a": {2: Model()}}, {"a": {"x": "y"}}, (), TypeError),
        ({"a": {2: Model()}, "\ud800": {}}, {}, (), UnicodeEncodeError),
        ({"a": {2: Model()}}, {}, "late", TypeError),
        ({"a": [1, 2]}, {}, (), TypeError),
    ],
)
def test_a_publish_that_raises_changes_nothing(
    serving_map: ServingMap,
    servables: dict[str, dict[int, object]],
    labels: dict[str, dict[str, int]],
    pending: tuple[str, ...],
    error: type[Exception],
) -> None:
    model = Model()
    serving_map.publish({"a": {1: model}}, {"a": {"stable": 1}})
    counts = live_counts()
    with pytest.raises(error):
        serving_map.publish(servables, labels, pending)
    assert live_counts() == counts
    assert serving_map.acquire("a", label="stable").servable is model
    assert serving_map.acquire("a").servable is model


# --- listeners


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_listeners_hear_of_each_publish(serving_map: ServingMap, eventfd: int) -> None:
    serving_map.add_listener(eventfd)
    serving_map.publish({})
    serving_map.publish({})
    assert os.eventfd_read(eventfd) == 2


def test_a_listener_finds_what_it_heard_of(serving_map: ServingMap) -> None:
    fd = os.eventfd(0)
    serving_map.add_listener(fd)

    def wait_and_look() -> int:
        os.eventfd_read(fd)
        with serving_map.acquire("a") as handle:
            return handle.version

    with ThreadPoolExecutor(1) as executor:
        seen = executor.submit(wait_and_look)
        serving_map.publish({"a": {3: Model()}})
        assert seen.result(30) == 3
    serving_map.remove_listener(fd)
    os.close(fd)


def test_a_listener_that_was_removed_hears_nothing(serving_map: ServingMap, eventfd: int) -> None:
    serving_map.add_listener(eventfd)
    serving_map.remove_listener(eventfd)
    serving_map.remove_listener(eventfd)
    serving_map.publish({})
    with pytest.raises(BlockingIOError):
        os.eventfd_read(eventfd)


def test_a_publish_that_raises_wakes_nobody(serving_map: ServingMap, eventfd: int) -> None:
    serving_map.add_listener(eventfd)
    with pytest.raises(OverflowError):
        serving_map.publish({"a": {2**63: Model()}})
    with pytest.raises(BlockingIOError):
        os.eventfd_read(eventfd)


# --- many threads


def while_running(
    work: Callable[[], dict[str, int]], step: Callable[[int], None]
) -> dict[str, int]:
    """Call `step` with 0, 1, 2 ... until `work`, in a thread beside it, is done."""
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(work)
        count = 0
        while not running.done():
            step(count)
            count += 1
        assert count > 10
        return running.result()


def test_readers_see_only_live_servables_while_all_are_replaced(serving_map: ServingMap) -> None:
    def publish(turn: int) -> None:
        versions = {1 + (turn + n) % 4: CanaryServable(1 + (turn + n) % 4) for n in range(3)}
        serving_map.publish({"a": versions, "b": {1: Model()}}, {"a": {"stable": 1 + turn % 4}})

    publish(0)
    seen = while_running(lambda: stress(serving_map, "a", "stable", 3, LOOKUPS), publish)
    assert seen["wrong"] == 0
    assert seen["found"] + seen["missed"] == 3 * LOOKUPS
    assert seen["found"] > 0
    assert seen["missed"] > 0
    serving_map.publish({})
    for version in range(1, 5):
        assert serving_map.drain("a", version, 0.0)


def test_drain_returns_while_readers_hold_and_release(serving_map: ServingMap) -> None:
    other = CanaryServable(2)

    def replace_and_drain(_: int) -> None:
        serving_map.publish({"a": {1: CanaryServable(1), 2: other}})
        serving_map.publish({"a": {2: other}})
        assert serving_map.drain("a", 1, 30)

    serving_map.publish({"a": {2: other}})
    seen = while_running(lambda: stress(serving_map, "a", "", 2, LOOKUPS), replace_and_drain)
    assert seen["wrong"] == 0


def test_publishers_take_turns(serving_map: ServingMap) -> None:
    def publish_often(model_name: str) -> None:
        for version in range(200):
            serving_map.publish({model_name: {version: Model()}})

    threads = [threading.Thread(target=publish_often, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [name for name in "abc" if refused_or_none(serving_map, name) is None]
    assert len(found) == 1


def refused_or_none(serving_map: ServingMap, name: str) -> ServingError | None:
    try:
        serving_map.acquire(name).release()
    except ServingError as error:
        return error
    return None
