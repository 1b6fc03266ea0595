"""How tasks use the threads that they run on: whether they compute, or wait.

More threads for tasks that wait get more of them done. More threads for tasks that compute in
Python get nothing done sooner, since one at a time has the GIL, and let all others wait for it
longer, the loop that answers every request among them.
"""

from __future__ import annotations

import time

BEGIN_WITH = 2  # tasks at a time, until they are seen to wait
WAITING_SECONDS = 0.1  # one that has waited for so long does not count while it waits on
TELLING_SECONDS = 0.02  # of tasks that have ended, to tell by what they did


class Run:
    """A task that runs, on a thread whose processor time `clock` tells."""

    def __init__(self, clock: int) -> None:
        self._clock = clock
        self.began = self._looked = time.monotonic()
        self._began_cpu = self._looked_cpu = time.clock_gettime(clock)
        self._waits = False

    def waits(self, now: float, running: int) -> bool:
        """Whether it waits now, by what it has done since the last look, while so many ran."""
        if now - self._looked >= WAITING_SECONDS:
            cpu = time.clock_gettime(self._clock)
            self._waits = has_waited(cpu - self._looked_cpu, now - self._looked, running)
            self._looked, self._looked_cpu = now, cpu
        return self._waits

    def cpu_seconds(self) -> float:
        """Processor time that it has used by now."""
        return time.clock_gettime(self._clock) - self._began_cpu


class Habit:
    """What is known of the tasks of one servable, by those that have ended."""

    def __init__(self) -> None:
        self.threads = BEGIN_WITH  # how many it makes use of
        self._cpu_seconds = 0.0  # of those that were not judged yet
        self._seconds = 0.0

    def learn(self, cpu_seconds: float, seconds: float, running: int, most: int) -> None:
        """A task has ended that took so long, while `running` ran: one thread more, or less."""
        self._cpu_seconds += cpu_seconds
        self._seconds += seconds
        if self._seconds < TELLING_SECONDS:
            return
        step = 1 if has_waited(self._cpu_seconds, self._seconds, running) else -1
        self.threads = max(BEGIN_WITH, min(self.threads + step, most))
        self._cpu_seconds = self._seconds = 0.0


def has_waited(cpu_seconds: float, seconds: float, running: int) -> bool:
    """Whether a thread has mostly waited, and for something else than the GIL.

    One that computes waits, too: for the others. If `running` of them, each doing as this one did,
    took more than a fifth of a processor together, it is one that computes: all of one if there is
    a processor for whoever has the GIL, and less on a busy machine.
    """
    return cpu_seconds * 5 * max(1, running) < seconds
