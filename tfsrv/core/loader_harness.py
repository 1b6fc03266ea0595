"""One version under a manager: its loader, its state, and which moves are legal.

The states and their names are those of TensorFlow Serving's core/loader_harness.h.
"""

from __future__ import annotations

from enum import Enum

from tfsrv.core.loader import Loader
from tfsrv.core.resources import ResourceAllocation
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.errors import Code, ServingError


class State(Enum):
    NEW = "new"
    LOAD_REQUESTED = "load-requested"
    LOAD_APPROVED = "load-approved"  # waits for a thread
    LOADING = "loading"  # from the first try to the end of the last one
    READY = "ready"
    UNLOAD_REQUESTED = "unload-requested"
    QUIESCING = "quiescing"  # requests still hold it
    QUIESCED = "quiesced"
    UNLOADING = "unloading"
    DISABLED = "disabled"  # unloaded: the good end
    ERROR = "error"  # the bad end


MOVES: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.LOAD_REQUESTED, State.ERROR}),
    State.LOAD_REQUESTED: frozenset({State.LOAD_APPROVED, State.ERROR}),
    State.LOAD_APPROVED: frozenset({State.LOADING, State.ERROR}),
    # straight to unloading when it was cancelled and loaded all the same
    State.LOADING: frozenset({State.READY, State.UNLOADING, State.ERROR}),
    State.READY: frozenset({State.UNLOAD_REQUESTED}),
    State.UNLOAD_REQUESTED: frozenset({State.QUIESCING}),
    State.QUIESCING: frozenset({State.QUIESCED}),
    State.QUIESCED: frozenset({State.UNLOADING}),
    State.UNLOADING: frozenset({State.DISABLED, State.ERROR}),
    State.DISABLED: frozenset(),
    State.ERROR: frozenset(),
}

ENDED = frozenset({State.DISABLED, State.ERROR})
BEFORE_READY = frozenset({State.NEW, State.LOAD_REQUESTED, State.LOAD_APPROVED, State.LOADING})


class LoaderHarness:
    """A loader and where it stands. Belongs to its manager's thread, which makes all moves.

    The thread that loads reads `cancelled`, and sets `servable` and `was_loaded` before it
    reports.
    """

    def __init__(self, version: ServableData[Loader]) -> None:
        self.id: ServableId = version.id
        self.version = version
        self.is_aspired = True
        self.cancelled = False  # no longer wanted before it was ready; never taken back
        self.was_loaded = False
        self.servable: object = None  # the loader's, while it is loaded
        self.lacking: ResourceAllocation | None = None  # failed for want of so much room
        self.predecessor: LoaderHarness | None = None  # while it is to take that one's place
        self.is_out_of_sight = False  # another harness may stand for its version
        self.num_tries = 0
        self.load_began_at = 0.0  # of the first try, on the manager's clock
        self._state = State.NEW
        self._error: ServingError | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def error(self) -> ServingError | None:
        """Why it is in State.ERROR."""
        return self._error

    @property
    def loader(self) -> Loader:
        return self.version.data

    @property
    def origin(self) -> object:
        """What its loader loads; None if there is no loader."""
        return None if self.version.error is not None else self.version.data.origin

    @property
    def ended(self) -> bool:
        return self._state in ENDED

    def move(self, state: State) -> None:
        """Go to `state`; for State.ERROR use fail()."""
        if state is State.ERROR:
            raise ValueError("fail() says why")
        self._move(state)

    def fail(self, error: ServingError) -> None:
        """Go to State.ERROR because of `error`."""
        self._move(State.ERROR)
        self._error = error

    def _move(self, state: State) -> None:
        if state not in MOVES[self._state]:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"Servable: {self.id} cannot go from state {self._state.value} to {state.value}",
            )
        self._state = state
