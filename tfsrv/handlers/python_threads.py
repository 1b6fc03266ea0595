"""Threads on which servables written in Python run.

They are apart from the workers, which never take the GIL. Each version of a servable has a queue
of its own and gets a few threads at a time, so that one that hangs keeps no other one from its
work. How many it gets depends on what it does: see PythonThreads and thread_use.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable
from typing import Protocol

from tfsrv.handlers.thread_use import Habit, Run

logger = logging.getLogger("tfsrv")

LOOK_SECONDS = 0.05  # between looks at what only time changes, while something is held back by it
TELL_SECONDS = 60.0  # between two logs of the same want of threads


class Task(Protocol):
    """A request's turn: one of run() and drop() is called, once, unless it was withdrawn."""

    def run(self) -> None:
        """Do the work. Does not raise."""

    def drop(self) -> None:
        """Nobody will do the work: let go of what it holds."""


class PythonThreads:
    """Runs tasks, those of one servable in their order, and all servables in turn.

    The GIL lets one thread compute at a time, and a thread that wants it waits for all that have
    asked before; the loop that answers everybody is one of them. So of a version two tasks run at
    a time, and more, up to `threads_each`, only as far as they wait instead: for a disk, for
    another server. Versions of one name have twice as many together: where an old version hangs,
    the next one finds threads.

    `threads` tasks run at a time. One that runs longer than `slow_seconds` does not count any
    more, so that what hangs does not stop everybody; but there are never more than `most_threads`.

    Threads are made when there is work, and end when there was none for `idle_seconds`. They are
    daemons, since code that hangs can't be ended and must not keep the process from ending.
    """

    def __init__(
        self,
        *,
        threads: int = 64,
        most_threads: int = 256,
        threads_each: int = 8,
        waiting_each: int = 1000,
        slow_seconds: float = 5.0,
        idle_seconds: float = 10.0,
    ) -> None:
        self._max_threads = threads
        self._most_threads = most_threads
        self._threads_each = threads_each
        self._waiting_each = waiting_each
        self._slow_seconds = slow_seconds
        self._idle_seconds = idle_seconds
        self._condition = threading.Condition()
        self._servables: dict[tuple[str, Hashable], _Servable] = {}  # those with work
        self._ready: deque[_Servable] = deque()  # those of which one more task may run
        self._held_back: dict[_Servable, None] = {}  # those with a task that may not run yet
        self._runs: dict[Run, None] = {}  # what runs, the oldest first
        self._running: Counter[str] = Counter()  # of these, by name
        self._habits: dict[str, Habit] = {}  # by name, of all models that ever had work
        self._threads: set[threading.Thread] = set()
        self._num_idle = 0  # threads that have no task, those included that have just been made
        self._is_watched = False  # a thread looks after what only time changes
        self._told_full = -TELL_SECONDS  # when it was told that there can be no more threads
        self._stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether nothing is taken any more."""
        return self._stopped

    def submit(self, name: str, version: Hashable, task: Task) -> bool:
        """Run `task` when it is its turn: of that name, and of what is loaded as one version of it.

        False, as well as any exception, says that it is the caller's still: there is no room.
        """
        with self._condition:
            if self._stopped:
                return False
            servable = self._servables.setdefault((name, version), _Servable(name, version))
            self._habits.setdefault(name, Habit())
            try:
                return self._add(servable, task)
            except BaseException:
                servable.waiting.pop(task, None)
                raise
            finally:
                self._forget_if_done(servable)

    def withdraw(self, name: str, version: Hashable, task: Task) -> bool:
        """Take back a task that waits. False: it runs, or has been run or dropped."""
        with self._condition:
            servable = self._servables.get((name, version))
            if servable is None or task not in servable.waiting:
                return False
            del servable.waiting[task]
            if not servable.waiting:
                self._held_back.pop(servable, None)
                self._forget_if_done(servable)
            return True

    def stop(self, timeout_seconds: float) -> bool:
        """Drop what waits, and wait for what runs. False when something still runs."""
        deadline = time.monotonic() + timeout_seconds
        with self._condition:
            self._stopped = True
            dropped = [task for each in self._servables.values() for task in each.waiting]
            for servable in self._servables.values():
                servable.waiting.clear()
            self._held_back.clear()
            self._condition.notify_all()
            threads = list(self._threads)
        for task in dropped:
            task.drop()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _add(self, servable: _Servable, task: Task) -> bool:
        if len(servable.waiting) >= self._waiting_each:
            return False
        servable.waiting[task] = None
        if servable not in self._held_back:
            self._note(servable)
        self._provide_thread()
        if not self._threads:  # there is none, and none can be
            del servable.waiting[task]
            return False
        return True

    # Whose turn it is.

    def _note(self, servable: _Servable) -> None:
        """Something about the servable has changed: is it ready now, or held back?"""
        if not servable.waiting or servable.is_ready:
            return
        if self._may_run(servable, time.monotonic()):
            servable.is_ready = True
            self._held_back.pop(servable, None)
            self._ready.append(servable)
            self._condition.notify()
        else:
            self._held_back[servable] = None

    def _may_run(self, servable: _Servable, now: float) -> bool:
        """Whether one more of its tasks may run, as far as its own limits say."""
        if self._is_at_most(servable):
            return False
        threads = self._habits[servable.name].threads
        if len(servable.runs) < threads:
            return True
        running = self._num_counted(now)
        return sum(not run.waits(now, running) for run in servable.runs) < threads

    def _is_at_most(self, servable: _Servable) -> bool:
        """Whether only the end of a task can make room for another one of it."""
        return (
            len(servable.runs) >= self._threads_each
            or self._running[servable.name] >= 2 * self._threads_each
        )

    def _num_counted(self, now: float) -> int:
        """How many tasks run, without the slow ones."""
        slow = 0
        for run in self._runs:  # the oldest first
            if now - run.began < self._slow_seconds:
                break
            slow += 1
        return len(self._runs) - slow

    def _has_room(self, now: float) -> bool:
        """Whether one more task may run, as far as the limit for all says."""
        return len(self._runs) < self._max_threads or self._num_counted(now) < self._max_threads

    def _time_will_tell(self) -> bool:
        """Whether something waits that may run later without that anything else happens."""
        if any(not self._is_at_most(servable) for servable in self._held_back):
            return True
        return bool(self._ready) and not self._has_room(time.monotonic())

    def _look_again(self, servables: Iterable[_Servable]) -> None:
        for servable in list(servables):
            self._note(servable)
        self._provide_thread()

    # Threads.

    def _provide_thread(self) -> None:
        """Start a thread if it could do something, at least watch what waits for its time."""
        wanted = len(self._ready) if self._has_room(time.monotonic()) else 0
        if not self._is_watched and self._time_will_tell():
            wanted = max(wanted, 1)
            self._condition.notify()  # one that is idle
        if wanted <= self._num_idle:
            return
        if len(self._threads) >= self._most_threads:
            self._tell_full()
            return
        thread = threading.Thread(target=self._work, name="tfsrv-python", daemon=True)
        self._threads.add(thread)
        self._num_idle += 1
        try:
            thread.start()
        except BaseException as error:
            # Even if it has begun: it does nothing when it is not among the threads.
            self._threads.discard(thread)
            self._num_idle -= 1
            if not isinstance(error, Exception):
                raise
            logger.error("Cannot start a thread for servables written in Python: %s", error)

    def _tell_full(self) -> None:
        now = time.monotonic()
        if now - self._told_full < TELL_SECONDS:
            return
        self._told_full = now
        most = ", ".join(f"{name} ({count})" for name, count in self._running.most_common(5))
        logger.error(
            "All %d threads for servables written in Python are busy, most with requests for %s:"
            " others have to wait",
            self._most_threads,
            most,
        )

    def _work(self) -> None:
        clock = time.pthread_getcpuclockid(threading.get_ident())
        with self._condition:
            if threading.current_thread() not in self._threads:
                return
            while (servable := self._next()) is not None:
                if servable.waiting and not self._is_at_most(servable):
                    self._run_one(servable, clock)
                else:  # its tasks were withdrawn, or others of its name came first
                    self._note(servable)
                self._forget_if_done(servable)
            self._num_idle -= 1
            self._threads.discard(threading.current_thread())

    def _next(self) -> _Servable | None:
        """The servable whose turn it is; None: the thread is not needed any more."""
        deadline = time.monotonic() + self._idle_seconds
        while True:
            now = time.monotonic()
            if self._ready and (self._has_room(now) or self._stopped):
                servable = self._ready.popleft()
                servable.is_ready = False
                return servable
            watches = not self._is_watched and self._time_will_tell()
            if self._stopped or (now >= deadline and not watches):
                return None
            if not watches:
                self._condition.wait(deadline - now)
                continue
            self._is_watched = True
            self._condition.wait(LOOK_SECONDS)
            self._is_watched = False
            self._look_again(self._held_back)

    def _run_one(self, servable: _Servable, clock: int) -> None:
        """The turn of the task that has waited longest. Lets the condition go meanwhile."""
        run = Run(clock)
        servable.runs.add(run)
        self._runs[run] = None
        self._running[servable.name] += 1
        self._num_idle -= 1
        task, _ = servable.waiting.popitem(last=False)
        self._look_again([servable])
        self._condition.release()
        try:
            task.run()
        except BaseException:
            logger.exception("a task of a servable failed")
        finally:
            del task  # and what it holds on to
            self._condition.acquire()
        now = time.monotonic()
        self._habits[servable.name].learn(
            run.cpu_seconds(), now - run.began, self._num_counted(now), self._threads_each
        )
        servable.runs.discard(run)
        del self._runs[run]
        self._running[servable.name] -= 1
        if not self._running[servable.name]:
            del self._running[servable.name]
        self._num_idle += 1
        self._look_again([servable, *self._held_back_of(servable.name)])

    def _held_back_of(self, name: str) -> list[_Servable]:
        return [servable for servable in self._held_back if servable.name == name]

    def _forget_if_done(self, servable: _Servable) -> None:
        if not servable.waiting and not servable.runs and not servable.is_ready:
            self._held_back.pop(servable, None)
            self._servables.pop((servable.name, servable.version), None)


class _Servable:
    """The tasks of one version of a servable."""

    def __init__(self, name: str, version: Hashable) -> None:
        self.name = name
        self.version = version
        self.waiting: OrderedDict[Task, None] = OrderedDict()
        self.runs: set[Run] = set()
        self.is_ready = False  # it is among those that are ready
