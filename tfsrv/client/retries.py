"""When a call is repeated: only if the server was UNAVAILABLE, and only within its time-out.

UNAVAILABLE means that no server could be reached, that it was full, or that the connection was
lost. In the last case the call may have been carried out: set `retries=0` for signatures that
change something with each run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

FIRST_DELAY = 0.05  # seconds
LONGEST_DELAY = 2.0


def delays(retries: int, draw: Callable[[], float] = random.random) -> Iterator[float]:
    """The seconds before each repetition: twice as long each time, and between half and all of it.

    Many clients that were refused at once do not all come back at once.
    """
    for number in range(retries):
        yield min(FIRST_DELAY * 2.0**number, LONGEST_DELAY) * (0.5 + draw() / 2)


class Deadline:
    """What is left of a call's time. A time-out of None never ends."""

    def __init__(self, timeout: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = None if timeout is None else clock() + timeout

    def left(self) -> float | None:
        """Seconds, 0 at least; None for ever."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def allows(self, delay: float) -> bool:
        """Whether there is time for something after a wait of `delay` seconds."""
        left = self.left()
        return left is None or left > delay


def seconds(timeout: float) -> float | None:
    """A time-out as gRPC wants it: None for ever. ValueError for what is none."""
    if not timeout >= 0:
        raise ValueError(f"a time-out of {timeout} seconds")
    return None if timeout == float("inf") else timeout
