"""Room for loads: who has got some, who waits for some, and who is told that there is none."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from enum import Enum
from typing import Generic, Protocol, TypeVar

from tfsrv.core.resources import ResourceAllocation

Key = TypeVar("Key", bound=Hashable)


class Tracker(Protocol):
    """What is needed of ResourceTracker."""

    def could_fit(self, allocation: ResourceAllocation) -> bool: ...

    def reserve(self, key: Hashable, allocation: ResourceAllocation) -> bool: ...

    def correct(self, key: Hashable, allocation: ResourceAllocation) -> None: ...

    def release(self, key: Hashable) -> None: ...


class Answer(Enum):
    GRANTED = "granted"
    WAITS = "waits"  # until others have released something
    REFUSED = "refused"  # nothing is on its way that could make room


class Reservations(Generic[Key]):
    """Reservations with a tracker, and a queue of those for which there is no room yet.

    Without a tracker everything is granted. For one thread.
    """

    def __init__(self, tracker: Tracker | None) -> None:
        self._tracker = tracker
        self._waiting: deque[tuple[Key, ResourceAllocation]] = deque()

    @property
    def are_limited(self) -> bool:
        return self._tracker is not None

    def ask(self, key: Key, allocation: ResourceAllocation, *, others_are_busy: bool) -> Answer:
        """Reserve `allocation`, or wait for it if others, who are busy, may give something back."""
        if self._tracker is None or self._tracker.reserve(key, allocation):
            return Answer.GRANTED
        if not others_are_busy or not self._tracker.could_fit(allocation):
            return Answer.REFUSED
        self._waiting.append((key, allocation))
        return Answer.WAITS

    def would_fit(self, key: Key, allocation: ResourceAllocation) -> bool:
        """Whether there is room now. `key` has none yet."""
        if self._tracker is None:
            return True
        fits = self._tracker.reserve(key, allocation)
        self._tracker.release(key)
        return fits

    def correct(self, key: Key, allocation: ResourceAllocation) -> None:
        """Replace what was reserved by what is really used."""
        if self._tracker is not None:
            self._tracker.correct(key, allocation)

    def release(self, key: Key) -> None:
        """Give everything back, or wait no more. Does nothing for a key that has nothing."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] is not key)
        if self._tracker is not None:
            self._tracker.release(key)

    def take_waiting(self) -> Iterator[tuple[Key, ResourceAllocation]]:
        """All that wait, first come first: each has to ask again."""
        waiting, self._waiting = self._waiting, deque()
        return iter(waiting)
