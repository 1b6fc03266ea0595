"""What state every version is in, for whoever asks.

The monitor remembers the last state of versions that have ended, too: a failed load shows its
error nowhere else. Of each servable it remembers so many, and of all together; the ones that ended
first are forgotten. TensorFlow Serving remembers all, and its answers grow with each new version
(tensorflow/serving issue 1488).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from tfsrv.core.event_bus import EventBus
from tfsrv.core.servable import ManagerState, ServableId, ServableState

MAX_ENDED_VERSIONS = 100  # of one servable
MAX_ENDED = 10_000  # of all


class ServableStateMonitor:
    """Listens to the states on an event bus. Any thread may ask."""

    def __init__(self, event_bus: EventBus[ServableState]) -> None:
        self._changed = threading.Condition()
        self._states: dict[str, dict[int, ServableState]] = {}
        self._ended: dict[ServableId, None] = {}  # in the order of their ends
        self._num_ended: Counter[str] = Counter()
        self._unsubscribe = event_bus.subscribe(self._hear)

    def close(self) -> None:
        """Hear no more; what was heard stays."""
        self._unsubscribe()

    def state(self, id: ServableId) -> ServableState | None:
        with self._changed:
            return self._states.get(id.name, {}).get(id.version)

    def names(self) -> list[str]:
        """The servables of which any version is remembered."""
        with self._changed:
            return list(self._states)

    def versions(self, name: str) -> dict[int, ServableState]:
        """The versions of one servable, highest first. Empty when there never was one."""
        with self._changed:
            return dict(sorted(self._states.get(name, {}).items(), reverse=True))

    def all_states(self) -> dict[str, dict[int, ServableState]]:
        """The versions of every servable, highest first."""
        with self._changed:
            return {
                name: dict(sorted(versions.items(), reverse=True))
                for name, versions in self._states.items()
            }

    def wait_until_available_or_failed(
        self, names: Collection[str], timeout_seconds: float | None
    ) -> dict[str, ServableState | None]:
        """Wait until each servable has a version available, or nothing left that could become so.

        Returns for each name the state of its highest available version, else that of its
        highest failed one; None for a name on which the time was too short.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._changed:
            while True:
                found = {name: outcome(self._states.get(name, {})) for name in names}
                left = None if deadline is None else deadline - time.monotonic()
                if None not in found.values() or (left is not None and left <= 0):
                    return found
                self._changed.wait(left)

    def _hear(self, state: ServableState) -> None:
        with self._changed:
            self._states.setdefault(state.id.name, {})[state.id.version] = state
            if state.id in self._ended:
                del self._ended[state.id]
                self._num_ended[state.id.name] -= 1
            if state.manager_state is ManagerState.END:
                self._ended[state.id] = None
                self._num_ended[state.id.name] += 1
                self._forget(state.id.name)
            self._changed.notify_all()

    def _forget(self, name: str) -> None:
        """Keep within bounds after one more version of a servable has ended."""
        if self._num_ended[name] > MAX_ENDED_VERSIONS:
            self._drop(next(id for id in self._ended if id.name == name))
        elif len(self._ended) > MAX_ENDED:
            self._drop(next(iter(self._ended)))

    def _drop(self, id: ServableId) -> None:
        del self._ended[id]
        self._num_ended[id.name] -= 1
        versions = self._states[id.name]
        del versions[id.version]
        if not versions:
            del self._states[id.name]
            del self._num_ended[id.name]


def outcome(versions: Mapping[int, ServableState]) -> ServableState | None:
    """What became of a servable: its highest available version, or its highest one if all have
    ended; None while that is open."""
    available = _highest(versions, {ManagerState.AVAILABLE})
    if available is not None:
        return available
    if any(state.manager_state is not ManagerState.END for state in versions.values()):
        return None
    return _highest(versions, {ManagerState.END})


def _highest(
    versions: Mapping[int, ServableState], states: Iterable[ManagerState]
) -> ServableState | None:
    found = [version for version, state in versions.items() if state.manager_state in states]
    return versions[max(found)] if found else None
