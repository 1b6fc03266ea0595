"""Threads for work that may take long or hang: loads and unloads.

A few slots keep many loads from fighting for the machine. A task that runs long gives its slot
to the next one, and so one that hangs delays nobody for more than a few seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

SLOW_AFTER_SECONDS = 5.0  # then a task no longer counts against the slots
MAX_THREADS = 64  # tasks at a time, slow ones and all

logger = logging.getLogger("tfsrv")


class Task(Protocol):
    def cancel(self) -> bool:
        """Take it out of the queue. False when it has begun, or was taken out before."""


class Executor(Protocol):
    """Runs tasks some time. Tests run them by hand."""

    def submit(self, run: Callable[[], None]) -> Task: ...

    def set_slots(self, slots: int) -> None: ...

    def stop(self, timeout_seconds: float) -> bool:
        """Forget what has not begun and wait for the rest. False when something still runs."""


class SlotExecutor:
    """Runs tasks in the order of submission, at most `slots` at a time, slow ones aside.

    Threads exist only while there is work. They are daemons, since a load that hangs inside a
    library can't be ended and must not keep the process from ending. They are no less nice than
    `nice`, where a thread has a niceness of its own, as on Linux, and so are threads they start.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        *,
        slow_after_seconds: float = SLOW_AFTER_SECONDS,
        max_threads: int = MAX_THREADS,
        nice: int = 0,
    ) -> None:
        self._name = name
        self._slots = max(1, slots)
        self._slow_after_seconds = slow_after_seconds
        self._max_threads = max_threads
        self._nice = nice
        self._condition = threading.Condition()
        self._queue: deque[_Task] = deque()
        self._running: dict[_Task, float] = {}  # task: when it began
        self._threads: set[threading.Thread] = set()
        self._num_waiting = 0  # threads that wait for a slot
        self._stopped = False

    def submit(self, run: Callable[[], None]) -> Task:
        """Run `run` when there is a slot. It should not raise: who would know?"""
        task = _Task(self, run)
        with self._condition:
            if self._stopped:
                raise RuntimeError(f"{self._name} is stopped")
            self._queue.append(task)
            self._provide_thread()
        return task

    def set_slots(self, slots: int) -> None:
        """Change how many run at a time; what runs goes on."""
        with self._condition:
            self._slots = max(1, slots)
            self._condition.notify_all()

    def stop(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        with self._condition:
            self._stopped = True
            self._queue.clear()
            self._condition.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def take_out(self, task: _Task) -> bool:
        with self._condition:
            try:
                self._queue.remove(task)
            except ValueError:
                return False
            return True

    def _provide_thread(self) -> None:
        """See to it that somebody waits for the queue's first task. Under the lock."""
        if not self._queue or self._num_waiting or len(self._threads) >= self._max_threads:
            return  # at the maximum, the next one to finish looks into the queue
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._threads.add(thread)
        self._num_waiting += 1  # until it says otherwise
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: the next submit or finish tries again
            logger.error("%s cannot start a thread: %s", self._name, error)
            self._threads.discard(thread)
            self._num_waiting -= 1

    def _work(self) -> None:
        if self._nice:
            _be_nice(self._nice)
        with self._condition:
            while self._queue:
                slot_after_seconds = self._slot_after_seconds()
                if slot_after_seconds > 0:
                    self._condition.wait(slot_after_seconds)
                    continue
                task = self._queue.popleft()
                self._running[task] = time.monotonic()
                self._num_waiting -= 1
                self._provide_thread()
                self._condition.release()
                try:
                    task.run()
                except BaseException:
                    logger.exception("a task of %s failed", self._name)
                finally:
                    self._condition.acquire()
                    self._num_waiting += 1
                    del self._running[task]
                    del task  # and what it holds on to
                    self._condition.notify()
            self._num_waiting -= 1
            self._threads.discard(threading.current_thread())

    def _slot_after_seconds(self) -> float:
        """How long until a slot is free if nobody finishes."""
        slow_since = time.monotonic() - self._slow_after_seconds
        fast = sorted(began for began in self._running.values() if began > slow_since)
        if len(fast) < self._slots:
            return 0.0
        return fast[len(fast) - self._slots] - slow_since


def _be_nice(nice: int) -> None:
    """Raise the calling thread's niceness to `nice`, where that is possible and allowed."""
    if sys.platform != "linux":
        return  # elsewhere it would be the whole process's
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, thread) < nice:
            os.setpriority(os.PRIO_PROCESS, thread, nice)


class _Task:
    """A function in an executor's queue."""

    def __init__(self, executor: SlotExecutor, run: Callable[[], None]) -> None:
        self._executor = executor
        self.run = run

    def cancel(self) -> bool:
        return self._executor.take_out(self)
