"""Policies: pure functions from a snapshot to the next action."""

from __future__ import annotations

import itertools

import pytest

from tfsrv.core.aspired_version_policy import (
    Action,
    AspiredServableStateSnapshot,
    AspiredVersionPolicy,
    AvailabilityPreservingPolicy,
    ResourcePreservingPolicy,
    ServableAction,
)
from tfsrv.core.loader_harness import ENDED, State
from tfsrv.core.servable import ServableId

Wanted = dict[int, State]


def next_action(
    policy: AspiredVersionPolicy, aspired: Wanted, others: Wanted
) -> tuple[Action, int] | None:
    snapshots = [
        AspiredServableStateSnapshot(ServableId("a", version), state, is_aspired)
        for versions, is_aspired in ((aspired, True), (others, False))
        for version, state in versions.items()
    ]
    action: ServableAction | None = policy.get_next_action(snapshots)
    return None if action is None else (action.action, action.id.version)


NEW, LOADING, READY, ERROR = State.NEW, State.LOADING, State.READY, State.ERROR
QUIESCING = State.QUIESCING


@pytest.mark.parametrize(
    ("aspired", "others", "expected"),
    [
        pytest.param({}, {}, None, id="nothing to do for nothing"),
        pytest.param({1: NEW}, {}, (Action.LOAD, 1), id="loads what is new"),
        pytest.param({1: NEW, 2: NEW}, {}, (Action.LOAD, 2), id="loads the highest first"),
        pytest.param({2: NEW}, {1: READY}, (Action.LOAD, 2), id="loads before it unloads"),
        pytest.param({2: LOADING}, {1: READY}, None, id="waits for the load"),
        pytest.param({2: READY}, {1: READY}, (Action.UNLOAD, 1), id="then unloads"),
        pytest.param({2: ERROR}, {1: READY}, None, id="keeps the old one if the new one failed"),
        pytest.param({}, {1: READY, 2: READY}, (Action.UNLOAD, 1), id="unloads the lowest first"),
        pytest.param({}, {2: READY}, (Action.UNLOAD, 2), id="unloads all if none is aspired"),
        pytest.param(
            {3: NEW}, {1: READY, 2: READY}, (Action.UNLOAD, 1), id="keeps one old version only"
        ),
        pytest.param(
            {2: READY, 3: NEW}, {1: READY}, (Action.UNLOAD, 1), id="one ready version is enough"
        ),
        pytest.param({1: QUIESCING}, {2: READY}, None, id="waits for one that comes back"),
        pytest.param({1: READY}, {2: QUIESCING}, None, id="unloads nothing twice"),
    ],
)
def test_availability_preserving_policy(
    aspired: Wanted, others: Wanted, expected: tuple[Action, int] | None
) -> None:
    assert next_action(AvailabilityPreservingPolicy(), aspired, others) == expected


@pytest.mark.parametrize(
    ("aspired", "others", "expected"),
    [
        pytest.param({}, {}, None, id="nothing to do for nothing"),
        pytest.param({1: NEW, 2: NEW}, {}, (Action.LOAD, 2), id="loads the highest first"),
        pytest.param({2: NEW}, {1: READY}, (Action.UNLOAD, 1), id="unloads before it loads"),
        pytest.param({2: NEW}, {1: QUIESCING}, None, id="waits for requests"),
        pytest.param({2: NEW}, {1: State.UNLOADING}, None, id="waits for the unload"),
        pytest.param({2: NEW}, {1: LOADING}, None, id="waits for a load that was given up"),
        pytest.param({2: NEW}, {1: State.DISABLED}, (Action.LOAD, 2), id="then loads"),
        pytest.param({2: NEW}, {1: ERROR}, (Action.LOAD, 2), id="a failed one takes nothing"),
        pytest.param({1: READY, 2: NEW}, {}, (Action.LOAD, 2), id="both are aspired to"),
        pytest.param({2: ERROR}, {}, None, id="a failed version leaves nothing"),
    ],
)
def test_resource_preserving_policy(
    aspired: Wanted, others: Wanted, expected: tuple[Action, int] | None
) -> None:
    assert next_action(ResourcePreservingPolicy(), aspired, others) == expected


# -- all snapshots of three versions

VERSIONS = (1, 2, 3)
ALL_SNAPSHOTS = [
    [
        AspiredServableStateSnapshot(ServableId("a", version), state, is_aspired)
        for version, (state, is_aspired) in zip(VERSIONS, kinds, strict=True)
    ]
    for kinds in itertools.product(itertools.product(State, (True, False)), repeat=len(VERSIONS))
]
Snapshots = list[AspiredServableStateSnapshot]
POLICIES = [AvailabilityPreservingPolicy(), ResourcePreservingPolicy()]


def ids(snapshots: Snapshots, *states: State, is_aspired: bool | None = None) -> set[ServableId]:
    return {
        each.id
        for each in snapshots
        if each.state in states and is_aspired in (None, each.is_aspired)
    }


def test_snapshots_are_all_that_there_can_be() -> None:
    assert len(ALL_SNAPSHOTS) == (11 * 2) ** 3


@pytest.mark.parametrize("policy", POLICIES, ids=lambda each: type(each).__name__)
class TestEveryPolicy:
    def test_does_only_what_is_legal(self, policy: AspiredVersionPolicy) -> None:
        for snapshots in ALL_SNAPSHOTS:
            action = policy.get_next_action(snapshots)
            if action is not None and action.action is Action.LOAD:
                assert action.id in ids(snapshots, NEW, is_aspired=True), snapshots
            elif action is not None:
                assert action.id in ids(snapshots, READY, is_aspired=False), snapshots

    def test_loads_the_highest_and_unloads_the_lowest(self, policy: AspiredVersionPolicy) -> None:
        for snapshots in ALL_SNAPSHOTS:
            action = policy.get_next_action(snapshots)
            if action is not None and action.action is Action.LOAD:
                assert action.id == max(ids(snapshots, NEW, is_aspired=True)), snapshots
            elif action is not None:
                assert action.id == min(ids(snapshots, READY, is_aspired=False)), snapshots

    def test_answers_the_same_when_asked_again_in_any_order(
        self, policy: AspiredVersionPolicy
    ) -> None:
        for snapshots in ALL_SNAPSHOTS[::7]:
            action = policy.get_next_action(snapshots)
            assert policy.get_next_action(snapshots) == action
            assert policy.get_next_action(snapshots[::-1]) == action

    def test_unloads_all_that_can_be_when_nothing_is_aspired_to(
        self, policy: AspiredVersionPolicy
    ) -> None:
        for snapshots in ALL_SNAPSHOTS:
            if any(each.is_aspired for each in snapshots) or not ids(snapshots, READY):
                continue
            action = policy.get_next_action(snapshots)
            assert action is not None, snapshots
            assert action.action is Action.UNLOAD

    def test_loads_one_after_the_other_when_nothing_stands_in_the_way(
        self, policy: AspiredVersionPolicy
    ) -> None:
        for snapshots in ALL_SNAPSHOTS:
            in_the_way = {each.id for each in snapshots if not each.is_aspired}
            if in_the_way or not ids(snapshots, NEW):
                continue
            action = policy.get_next_action(snapshots)
            assert action is not None, snapshots
            assert action.action is Action.LOAD


def test_availability_policy_never_unloads_the_last_available_version_of_a_wish() -> None:
    for snapshots in ALL_SNAPSHOTS:
        action = AvailabilityPreservingPolicy().get_next_action(snapshots)
        if action is None or action.action is Action.LOAD:
            continue
        some_aspired = any(each.is_aspired for each in snapshots)
        left = ids(snapshots, READY) - {action.id}
        assert left or not some_aspired, snapshots


def test_availability_policy_keeps_at_most_one_version_that_is_not_aspired_to() -> None:
    for snapshots in ALL_SNAPSHOTS:
        leaving = ids(snapshots, READY, is_aspired=False)
        replaced = ids(snapshots, READY, is_aspired=True)
        if len(leaving) > 1 or (leaving and replaced):
            action = AvailabilityPreservingPolicy().get_next_action(snapshots)
            assert action == ServableAction(Action.UNLOAD, min(leaving)), snapshots


def test_availability_policy_rests_only_when_it_has_to_wait_or_is_done() -> None:
    for snapshots in ALL_SNAPSHOTS:
        if AvailabilityPreservingPolicy().get_next_action(snapshots) is not None:
            continue
        assert not ids(snapshots, NEW, is_aspired=True), snapshots
        kept = ids(snapshots, READY, is_aspired=False)
        assert len(kept) <= 1, snapshots
        if kept:  # for a wish of which nothing is ready
            assert any(each.is_aspired for each in snapshots), snapshots
            assert not ids(snapshots, READY, is_aspired=True), snapshots


def test_resource_policy_never_loads_beside_a_version_that_is_not_aspired_to() -> None:
    for snapshots in ALL_SNAPSHOTS:
        action = ResourcePreservingPolicy().get_next_action(snapshots)
        if action is not None and action.action is Action.LOAD:
            others = [each for each in snapshots if not each.is_aspired]
            assert all(each.state in ENDED for each in others), snapshots


def test_resource_policy_rests_only_when_it_has_to_wait_or_is_done() -> None:
    for snapshots in ALL_SNAPSHOTS:
        if ResourcePreservingPolicy().get_next_action(snapshots) is not None:
            continue
        assert not ids(snapshots, READY, is_aspired=False), snapshots
        waits = any(not each.is_aspired and each.state not in ENDED for each in snapshots)
        assert waits or not ids(snapshots, NEW, is_aspired=True), snapshots
