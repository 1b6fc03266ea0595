"""Resources: arithmetic, who has reserved what, and estimates from files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tfsrv.core.resource_tracker import ResourceTracker
from tfsrv.core.resources import RAM, Resource, ResourceAllocation, add, fits, subtract
from tfsrv.core.servable import ServableId
from tfsrv.errors import Code, ServingError
from tfsrv.servables.file_resources import estimate_from_files

GPU = Resource("gpu:0", "ram_in_bytes")
THREADS = Resource(kind="threads")

amounts = st.integers(min_value=0, max_value=20)
allocations = st.dictionaries(st.sampled_from([RAM, GPU, THREADS]), amounts)
totals = st.dictionaries(st.sampled_from([RAM, GPU]), amounts)


# -- arithmetic


def test_add_takes_resources_of_both() -> None:
    assert add({RAM: 1, GPU: 2}, {RAM: 10}) == {RAM: 11, GPU: 2}
    assert add({}, {}) == {}


def test_subtract_leaves_what_was_there_but_never_less_than_nothing() -> None:
    assert subtract({RAM: 10, GPU: 1}, {RAM: 4, GPU: 3, THREADS: 1}) == {RAM: 6, GPU: 0}


@pytest.mark.parametrize(
    ("part", "limits", "expected"),
    [
        ({}, {}, True),
        ({RAM: 5}, {}, True),
        ({RAM: 5}, {RAM: 5}, True),
        ({RAM: 6}, {RAM: 5}, False),
        ({RAM: 5, GPU: 9}, {RAM: 5}, True),
        ({RAM: 5, GPU: 9}, {RAM: 5, GPU: 8}, False),
        ({RAM: 0}, {RAM: 0}, True),
        ({}, {RAM: 0}, True),
    ],
)
def test_fits(part: ResourceAllocation, limits: ResourceAllocation, expected: bool) -> None:
    assert fits(part, limits) is expected


@given(allocations, allocations)
def test_subtract_undoes_add(one: ResourceAllocation, other: ResourceAllocation) -> None:
    assert subtract(add(one, other), other) == {**dict.fromkeys(other, 0), **one}


# -- the tracker


@pytest.fixture
def tracker() -> ResourceTracker:
    return ResourceTracker({RAM: 100, GPU: 10})


def test_reserves_until_nothing_is_left(tracker: ResourceTracker) -> None:
    assert tracker.reserve("a", {RAM: 60})
    assert not tracker.reserve("b", {RAM: 41})
    assert tracker.reserve("b", {RAM: 40})
    assert not tracker.reserve("c", {RAM: 1})
    assert tracker.reserve("c", {RAM: 0, GPU: 10})
    assert tracker.used() == {RAM: 100, GPU: 10}
    assert tracker.free() == {RAM: 0, GPU: 0}


def test_all_of_an_allocation_has_to_fit(tracker: ResourceTracker) -> None:
    assert not tracker.reserve("a", {RAM: 1, GPU: 11})
    assert tracker.used() == {}


def test_what_is_released_is_free_again(tracker: ResourceTracker) -> None:
    assert tracker.reserve("a", {RAM: 100})
    tracker.release("a")
    tracker.release("a")
    tracker.release("never there")
    assert tracker.free() == tracker.total == {RAM: 100, GPU: 10}


def test_resource_without_total_is_unlimited(tracker: ResourceTracker) -> None:
    assert tracker.reserve("a", {THREADS: 2**80})
    assert tracker.used() == {THREADS: 2**80}
    assert tracker.free() == {RAM: 100, GPU: 10}


def test_second_reservation_of_a_key_replaces_the_first_if_it_fits(
    tracker: ResourceTracker,
) -> None:
    assert tracker.reserve("a", {RAM: 60})
    assert tracker.reserve("a", {RAM: 90})
    assert not tracker.reserve("a", {RAM: 101})
    assert tracker.used() == {RAM: 90}


def test_overcommit_by_correction_blocks_until_enough_is_released(
    tracker: ResourceTracker,
) -> None:
    assert tracker.reserve("a", {RAM: 30})
    assert tracker.reserve("b", {RAM: 30})
    tracker.correct("a", {RAM: 120})
    assert tracker.used() == {RAM: 150}
    assert tracker.free()[RAM] == 0
    assert not tracker.reserve("c", {RAM: 1})
    assert tracker.reserve("other resource", {GPU: 1})
    tracker.release("b")
    assert not tracker.reserve("c", {RAM: 1})
    tracker.release("a")
    assert tracker.reserve("c", {RAM: 100})


def test_correction_gives_back_what_was_estimated_too_high(tracker: ResourceTracker) -> None:
    assert tracker.reserve("a", {RAM: 100, GPU: 5})
    tracker.correct("a", {RAM: 20})
    assert tracker.free() == {RAM: 80, GPU: 10}


def test_correction_counts_also_for_a_key_that_reserved_nothing(tracker: ResourceTracker) -> None:
    tracker.correct("a", {RAM: 20})
    assert tracker.used() == {RAM: 20}
    tracker.release("a")
    assert tracker.used() == {}


def test_amounts_below_zero_are_refused(tracker: ResourceTracker) -> None:
    with pytest.raises(ServingError, match="-1 of ram_in_bytes on main is no amount") as caught:
        tracker.reserve("a", {RAM: -1})
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(ServingError, match="is no amount"):
        tracker.correct("a", {GPU: -1})
    with pytest.raises(ServingError, match="is no amount"):
        ResourceTracker({RAM: -1})
    assert tracker.used() == {}


def test_later_changes_of_what_was_passed_in_do_not_count() -> None:
    total, allocation = {RAM: 10}, {RAM: 5}
    tracker = ResourceTracker(total)
    assert tracker.reserve("a", allocation)
    total[RAM] = allocation[RAM] = 1000
    assert tracker.total == {RAM: 10}
    tracker.release("a")
    assert tracker.used() == {}


class TrackerMachine(RuleBasedStateMachine):
    """A tracker beside a plain list of who has what."""

    @initialize(total=totals)
    def set_up(self, total: ResourceAllocation) -> None:
        self.tracker = ResourceTracker(total)
        self.model: dict[ServableId, ResourceAllocation] = {}

    keys = st.builds(ServableId, st.sampled_from("ab"), st.integers(1, 2))

    @rule(key=keys, allocation=allocations)
    def reserve(self, key: ServableId, allocation: ResourceAllocation) -> None:
        wished = {**self.model, key: allocation}
        fitting = all(
            amount == 0 or total_of(wished, resource) <= self.tracker.total[resource]
            for resource, amount in allocation.items()
            if resource in self.tracker.total
        )
        assert self.tracker.reserve(key, allocation) is fitting
        if fitting:
            self.model = wished

    @rule(key=keys, allocation=allocations)
    def correct(self, key: ServableId, allocation: ResourceAllocation) -> None:
        self.tracker.correct(key, allocation)
        self.model[key] = allocation

    @rule(key=keys)
    def release(self, key: ServableId) -> None:
        self.tracker.release(key)
        self.model.pop(key, None)

    @invariant()
    def sums_are_right(self) -> None:
        used, free = self.tracker.used(), self.tracker.free()
        for resource in (RAM, GPU, THREADS):
            total = total_of(self.model, resource)
            assert used.get(resource, 0) == total
            if resource in self.tracker.total:
                assert free[resource] == max(0, self.tracker.total[resource] - total)
        assert all(amount > 0 for amount in used.values())
        assert all(amount >= 0 for amount in free.values())


def total_of(model: dict[ServableId, ResourceAllocation], resource: Resource) -> int:
    return sum(allocation.get(resource, 0) for allocation in model.values())


TestTracker = TrackerMachine.TestCase


def test_threads_never_reserve_more_than_there_is() -> None:
    tracker = ResourceTracker({RAM: 10})
    too_much = threading.Event()

    def work(number: int) -> None:
        for _ in range(300):
            if tracker.reserve(number, {RAM: 3}):
                if tracker.used()[RAM] > 10:
                    too_much.set()
                tracker.release(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not too_much.is_set()
    assert tracker.used() == {}


# -- estimates


def test_estimate_is_1_2_times_the_sizes_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"x" * 100)
    (tmp_path / "variables" / "deep").mkdir(parents=True)
    (tmp_path / "variables" / "data").write_bytes(b"x" * 1000)
    (tmp_path / "variables" / "deep" / "more").write_bytes(b"x" * 11)
    assert estimate_from_files(tmp_path) == 1333  # 1333.2
    assert estimate_from_files(str(tmp_path / "saved_model.pb")) == 120


def test_estimate_of_an_empty_directory_is_nothing(tmp_path: Path) -> None:
    assert estimate_from_files(tmp_path) == 0


def test_estimate_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "data").write_bytes(b"x" * 10)
    version = tmp_path / "1"
    version.mkdir()
    (version / "data").symlink_to(elsewhere / "data")
    (version / "again").symlink_to(elsewhere)
    (version / "up").symlink_to(version)
    assert estimate_from_files(version) == 24


@pytest.mark.parametrize("name", ["missing", "dangling"])
def test_what_cannot_be_looked_at_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "dangling").symlink_to("nowhere")
    path = tmp_path / "1" if name == "dangling" else tmp_path / "missing"
    with pytest.raises(ServingError, match=f"No such file or directory: .*{name}") as caught:
        estimate_from_files(path)
    assert caught.value.code is Code.NOT_FOUND
