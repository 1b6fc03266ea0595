"""The control thread of a BasicManager: wakes for each round, and ends in order."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from tfsrv.core.event_bus import EventBus
from tfsrv.core.executor import Executor, SlotExecutor
from tfsrv.core.loader_harness import BEFORE_READY
from tfsrv.core.manager import BasicManager, LoadRetryOptions, Publisher
from tfsrv.core.reservations import Tracker
from tfsrv.core.servable import ServableState

LAST_RESORT_SECONDS = 2.0  # for requests to end after they were cancelled at a stop
LONGEST_WAIT_SECONDS = 3600.0
AFTER_FAILURE_SECONDS = 1.0
LAST_LOADS_SECONDS = 0.5  # for loads to end when nothing else is left at a stop

logger = logging.getLogger("tfsrv")


class ControlThread:
    """A BasicManager, the executors for its loads and unloads, and the thread of its rounds.

    `take_round` is what a round does, end_round() at its end included. Thread-safety: any thread
    may call wake(), set_num_load_threads(), start() and stop(); all else is for the thread that
    takes the rounds. Without start(), whoever calls `take_round` is that thread.
    """

    def __init__(
        self,
        publisher: Publisher,
        event_bus: EventBus[ServableState],
        take_round: Callable[[], None],
        *,
        retry: LoadRetryOptions | None = None,
        num_load_threads: int = 0,
        num_unload_threads: int = 0,
        load_thread_niceness: int = 0,
        tracker: Tracker | None = None,
        load_executor: Executor | None = None,
        unload_executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_memory_freed: Callable[[], None] = lambda: None,
    ) -> None:
        """0 threads are half of the processors, and two at least."""
        self._take_round = take_round
        self._load_executor = load_executor or SlotExecutor(
            "tfsrv-load", _num_threads(num_load_threads), nice=load_thread_niceness
        )
        self._unload_executor = unload_executor or SlotExecutor(
            "tfsrv-unload", _num_threads(num_unload_threads)
        )
        self._wake = threading.Event()
        self.basic_manager = BasicManager(
            publisher,
            event_bus,
            self._load_executor,
            self._unload_executor,
            self._wake.set,
            retry=retry,
            tracker=tracker,
            clock=clock,
            on_memory_freed=on_memory_freed,
        )
        self._stopping = threading.Event()
        self._cancel_servables = threading.Event()
        self._empty = threading.Event()  # stopping, and nothing is left
        self._only_loads = threading.Event()  # stopping, and all that is left are loads, or nothing
        self._finish = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether rounds should unload whatever there is."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """There is something for a round."""
        self._wake.set()

    def set_num_load_threads(self, num_load_threads: int) -> None:
        self._load_executor.set_slots(_num_threads(num_load_threads))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tfsrv-manager", daemon=True)
        self._thread.start()

    def begin_stop(self) -> None:
        """Let the rounds from now on unload everything."""
        self._stopping.set()
        self._wake.set()

    def stop(self, timeout_seconds: float) -> bool:
        """Wait until everything is unloaded, and end all threads.

        Requests get `timeout_seconds` to let go of what they use, then they are cancelled. Loads
        can't be, and are not waited for. Returns False if something is left behind.
        """
        self.begin_stop()
        if self._thread is not None:
            if not self._only_loads.wait(timeout_seconds):
                self._cancel_servables.set()
                self._wake.set()
                self._only_loads.wait(LAST_RESORT_SECONDS)
            self._empty.wait(LAST_LOADS_SECONDS)
        self._finish.set()
        self.basic_manager.give_up()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(LAST_RESORT_SECONDS)
        ended = self._unload_executor.stop(LAST_RESORT_SECONDS)
        ended = self._load_executor.stop(0.1) and ended  # only a load that hangs is left there
        left = [
            f"{harness.id} ({harness.state.value})"
            for harness in self.basic_manager.all_harnesses()
        ]
        if left:
            logger.error("stopped, but these did not end: %s", ", ".join(left))
        return ended and not left

    def end_round(self) -> None:
        """What every round does last."""
        if self._cancel_servables.is_set():
            self.basic_manager.cancel_servables()
        if not self.is_stopping:
            return
        if self.basic_manager.is_empty:
            self._empty.set()
        if all(harness.state in BEFORE_READY for harness in self.basic_manager.all_harnesses()):
            self._only_loads.set()

    def _run(self) -> None:
        while not self._finish.is_set():
            due_seconds = self.basic_manager.next_due_seconds()
            # There is a longest time that can be waited for.
            self._wake.wait(None if due_seconds is None else min(due_seconds, LONGEST_WAIT_SECONDS))
            self._wake.clear()
            try:
                self._take_round()
            except Exception:
                logger.exception("the manager failed at a step")
                self._finish.wait(AFTER_FAILURE_SECONDS)
                self._wake.set()  # what was left undone is tried again


def _num_threads(configured: int) -> int:
    # Two at least: one that hangs must not delay the others.
    return configured if configured > 0 else max(2, (os.cpu_count() or 1) // 2)
