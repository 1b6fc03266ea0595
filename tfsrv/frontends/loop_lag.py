"""How late an event loop comes to what it has to do, measured inside."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

INTERVAL_SECONDS = 0.001  # at which the loop is asked; libuv's clock knows no less


@dataclass(frozen=True)
class LagReading:
    """Since the last reading. A loop that does nothing is up to a millisecond late, too."""

    samples: int
    worst_seconds: float
    mean_seconds: float
    busy_seconds: float  # of processor time, the most between two looks: what the loop itself did


class LoopLag:
    """Asks the loop for a turn again and again, and notes how late it comes.

    For benchmarks: while it runs it costs the loop some microseconds in each millisecond.
    Belongs to the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._samples = 0
        self._worst = 0.0
        self._sum = 0.0
        self._cpu = 0.0
        self._busy = 0.0

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        """Ask no more; what was noted can be read still."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def read(self) -> LagReading:
        """What was noted since the last reading, and begin anew."""
        samples, mean = self._samples, self._sum / self._samples if self._samples else 0.0
        reading = LagReading(samples, self._worst, mean, self._busy)
        self._samples, self._worst, self._sum, self._busy = 0, 0.0, 0.0, 0.0
        return reading

    def _arm(self) -> None:
        self._cpu = time.thread_time()
        self._due = time.perf_counter() + INTERVAL_SECONDS
        self._timer = self._loop.call_later(INTERVAL_SECONDS, self._look)

    def _look(self) -> None:
        late = max(0.0, time.perf_counter() - self._due)
        self._samples += 1
        self._sum += late
        self._worst = max(self._worst, late)
        self._busy = max(self._busy, time.thread_time() - self._cpu)
        self._arm()
