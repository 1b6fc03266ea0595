"""Policies: pure functions from a snapshot to the next action."""

from __future__ import annotations

import pytest

from tfsrv.core.aspired_version_policy import (
    Action,
    AspiredServableStateSnapshot,
    AvailabilityPreservingPolicy,
    ServableAction,
)
from tfsrv.core.loader_harness import State
from tfsrv.core.servable import ServableId

Wanted = dict[int, State]


def next_action(aspired: Wanted, others: Wanted) -> tuple[Action, int] | None:
    snapshots = [
        AspiredServableStateSnapshot(ServableId("a", version), state, is_aspired)
        for versions, is_aspired in ((aspired, True), (others, False))
        for version, state in versions.items()
    ]
    action: ServableAction | None = AvailabilityPreservingPolicy().get_next_action(snapshots)
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
    assert next_action(aspired, others) == expected
