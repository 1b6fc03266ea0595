"""The harness: every legal move is possible, and every other one is refused."""

from __future__ import annotations

import pytest

from tests.unit.puppets import PuppetLoader, data, permanent
from tfsrv.core.loader_harness import MOVES, LoaderHarness, State
from tfsrv.core.servable import ServableId
from tfsrv.errors import Code, ServingError

# A way to each state that makes legal moves only.
WAYS: dict[State, tuple[State, ...]] = {
    State.NEW: (),
    State.LOAD_REQUESTED: (State.LOAD_REQUESTED,),
    State.LOAD_APPROVED: (State.LOAD_REQUESTED, State.LOAD_APPROVED),
}
for _before, _after in [
    (State.LOAD_APPROVED, State.LOADING),
    (State.LOADING, State.READY),
    (State.READY, State.UNLOAD_REQUESTED),
    (State.UNLOAD_REQUESTED, State.QUIESCING),
    (State.QUIESCING, State.QUIESCED),
    (State.QUIESCED, State.UNLOADING),
    (State.UNLOADING, State.DISABLED),
    (State.LOADING, State.ERROR),
]:
    WAYS[_after] = (*WAYS[_before], _after)


def harness_in(state: State) -> LoaderHarness:
    harness = LoaderHarness(data(PuppetLoader(ServableId("a", 1))))
    for step in WAYS[state]:
        go(harness, step)
    return harness


def go(harness: LoaderHarness, state: State) -> None:
    if state is State.ERROR:
        harness.fail(permanent())
    else:
        harness.move(state)


@pytest.mark.parametrize("target", State)
@pytest.mark.parametrize("state", State)
def test_moves_are_those_of_the_table(state: State, target: State) -> None:
    harness = harness_in(state)
    if target in MOVES[state]:
        go(harness, target)
        assert harness.state is target
    else:
        with pytest.raises(ServingError, match="cannot go from state") as caught:
            go(harness, target)
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert harness.state is state


def test_error_state_wants_a_reason() -> None:
    with pytest.raises(ValueError, match="says why"):
        harness_in(State.LOADING).move(State.ERROR)


def test_ended_states_lead_nowhere() -> None:
    assert {state for state in State if not MOVES[state]} == {State.DISABLED, State.ERROR}
