"""Threads on which servables written in Python run.

They are apart from the workers, which never take the GIL. Each servable gets a few of them at a
time and a queue of its own, so that one that hangs keeps no other one from its work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Hashable
from typing import Protocol

logger = logging.getLogger("tfsrv")


class Task(Protocol):
    """A request's turn. Exactly one of run() and drop() is called, once, and does not raise."""

    def run(self) -> None:
        """Do the work."""

    def drop(self) -> None:
        """Nobody will do the work: let go of what it holds."""

    def is_wanted(self) -> bool:
        """Whether anybody waits for it still."""


class PythonThreads:
    """Runs tasks, those of one servable in their order, and all servables in turn.

    Threads are made when there is work, and end when there was none for `idle_seconds`. They are
    daemons, since code that hangs can't be ended and must not keep the process from ending.
    """

    def __init__(
        self,
        *,
        threads: int = 64,
        threads_each: int = 8,
        waiting_each: int = 1000,
        idle_seconds: float = 10.0,
    ) -> None:
        self._max_threads = threads
        self._threads_each = threads_each
        self._waiting_each = waiting_each
        self._idle_seconds = idle_seconds
        self._condition = threading.Condition()
        self._servables: dict[Hashable, _Servable] = {}  # those with work
        self._ready: deque[_Servable] = deque()  # those of which one more task may run
        self._threads: set[threading.Thread] = set()
        self._num_idle = 0  # threads that have no task, those included that have just been made
        self._stopped = False

    def submit(self, key: Hashable, task: Task) -> bool:
        """Run `task` when it is the turn of the servable `key`. False: there is no room for it."""
        with self._condition:
            if self._stopped:
                return False
            servable = self._servables.setdefault(key, _Servable(key))
            if len(servable.waiting) >= self._waiting_each:
                _sweep(servable)
                if len(servable.waiting) >= self._waiting_each:
                    return False
            servable.waiting.append(task)
            self._note_ready(servable)
            if not self._provide_thread():
                servable.waiting.pop()
                return False
        return True

    def stop(self, timeout_seconds: float) -> bool:
        """Drop what waits, and wait for what runs. False when something still runs."""
        deadline = time.monotonic() + timeout_seconds
        with self._condition:
            self._stopped = True
            dropped = [task for each in self._servables.values() for task in each.waiting]
            for servable in self._servables.values():
                servable.waiting.clear()
            self._condition.notify_all()
            threads = list(self._threads)
        for task in dropped:
            task.drop()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _note_ready(self, servable: _Servable) -> None:
        if servable.waiting and not servable.is_ready and servable.running < self._threads_each:
            servable.is_ready = True
            self._ready.append(servable)
            self._condition.notify()

    def _provide_thread(self) -> bool:
        """Start a thread if one could do something. False if there is none, and none can be."""
        if len(self._ready) <= self._num_idle or len(self._threads) >= self._max_threads:
            return True
        thread = threading.Thread(target=self._work, name="tfsrv-python", daemon=True)
        self._threads.add(thread)
        self._num_idle += 1
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.discard(thread)
            self._num_idle -= 1
            logger.error("Cannot start a thread for servables written in Python: %s", error)
            return bool(self._threads)
        return True

    def _work(self) -> None:
        with self._condition:
            while (servable := self._next()) is not None:
                if not servable.waiting:  # they were swept, or dropped
                    self._forget_if_done(servable)
                    continue
                task = servable.waiting.popleft()
                servable.running += 1
                self._num_idle -= 1
                self._note_ready(servable)
                self._provide_thread()
                self._condition.release()
                try:
                    task.run()
                except BaseException:
                    logger.exception("a task of a servable failed")
                finally:
                    del task  # and what it holds on to
                    self._condition.acquire()
                servable.running -= 1
                self._num_idle += 1
                self._note_ready(servable)
                self._forget_if_done(servable)
            self._num_idle -= 1
            self._threads.discard(threading.current_thread())

    def _next(self) -> _Servable | None:
        """The servable whose turn it is; None: the thread is not needed any more."""
        deadline = time.monotonic() + self._idle_seconds
        while not self._ready:
            left = deadline - time.monotonic()
            if self._stopped or left <= 0:
                return None
            self._condition.wait(left)
        servable = self._ready.popleft()
        servable.is_ready = False
        return servable

    def _forget_if_done(self, servable: _Servable) -> None:
        if not servable.waiting and not servable.running and not servable.is_ready:
            self._servables.pop(servable.key, None)


class _Servable:
    """The tasks of one servable."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.waiting: deque[Task] = deque()
        self.running = 0
        self.is_ready = False  # it is among those that are ready


def _sweep(servable: _Servable) -> None:
    """Drop the tasks that nobody waits for."""
    tasks = list(servable.waiting)
    servable.waiting.clear()
    for task in tasks:
        if task.is_wanted():
            servable.waiting.append(task)
        else:
            task.drop()
