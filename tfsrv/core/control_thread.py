"""A thread for a BasicManager, for managers that decide by themselves what is loaded."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from tfsrv.core.event_bus import EventBus
from tfsrv.core.executor import SlotExecutor
from tfsrv.core.loader_harness import BEFORE_READY, State
from tfsrv.core.manager import BasicManager, LoadRetryOptions, Publisher
from tfsrv.core.servable import ServableState

LAST_RESORT_SECONDS = 2.0  # for requests to end after they were cancelled at a stop

NO_RETRIES = LoadRetryOptions(max_num_load_retries=0)

logger = logging.getLogger("tfsrv")


class ControlThread:
    """The control thread of a BasicManager, and the executors for its loads and unloads.

    Thread-safety: any thread may call call_soon() and stop(). What is passed to call_soon(), and
    `on_change`, run on the control thread: only they may touch `basic_manager`. They must not
    block, nor raise; what they raise is logged.
    """

    def __init__(
        self,
        publisher: Publisher,
        event_bus: EventBus[ServableState],
        on_change: Callable[[str], None],
        *,
        retry: LoadRetryOptions,
        num_load_threads: int = 0,
        num_unload_threads: int = 0,
        on_memory_freed: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called with the name of each servable whose versions have moved, when
        the serving map shows it. 0 threads are half of the processors.
        """
        self._on_change = on_change
        self._wake = threading.Event()
        self._load_executor = SlotExecutor("tfsrv-load", _num_threads(num_load_threads))
        self._unload_executor = SlotExecutor("tfsrv-unload", _num_threads(num_unload_threads))
        self.basic_manager = BasicManager(
            publisher,
            event_bus,
            self._load_executor,
            self._unload_executor,
            self._wake.set,
            retry=retry,
            on_memory_freed=on_memory_freed,
        )
        self._calls: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._cancel_servables = threading.Event()
        self._empty = threading.Event()  # stopping, and nothing is left
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tfsrv-manager", daemon=True)
        self._thread.start()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run `call` on the control thread; never, if that has ended."""
        self._calls.append(call)
        self._wake.set()

    def stop(self, timeout_seconds: float) -> bool:
        """Unload everything and end all threads.

        Requests get `timeout_seconds` to let go of what they use, then they are cancelled.
        Returns False if something hangs all the same; it is left behind.
        """
        self._stopping.set()
        self._wake.set()
        if not self._empty.wait(timeout_seconds):
            self._cancel_servables.set()
            self._wake.set()
            self._empty.wait(LAST_RESORT_SECONDS)
        self._finish.set()
        self.basic_manager.give_up()
        self._wake.set()
        self._thread.join(LAST_RESORT_SECONDS)
        ended = self._unload_executor.stop(LAST_RESORT_SECONDS)
        ended = self._load_executor.stop(0.1) and ended  # only a load that hangs is left there
        left = self._left()
        if left:
            logger.error("stopped, but these did not end: %s", ", ".join(left))
        return ended and not left

    def _run(self) -> None:
        while not self._finish.is_set():
            self._wake.wait(self.basic_manager.next_due_seconds())
            self._wake.clear()
            try:
                self._round()
            except Exception:
                logger.exception("the manager failed at a step")

    def _round(self) -> None:
        changed = self.basic_manager.take_in()
        while self._calls:
            _run_logged(self._calls.popleft())
        for name in changed:
            _run_logged(partial(self._on_change, name))
        if self._stopping.is_set():
            self._end_everything()
        self.basic_manager.push_out()
        if self._cancel_servables.is_set():
            self.basic_manager.cancel_servables()

    def _end_everything(self) -> None:
        """Bring every version nearer to its end."""
        for name in self.basic_manager.names:
            for harness in list(self.basic_manager.harnesses(name).values()):
                if harness.state in BEFORE_READY:
                    self.basic_manager.cancel_load(harness)
                elif harness.state is State.READY:
                    self.basic_manager.unload(harness)
                if harness.ended:
                    self.basic_manager.forget(harness)
        if not self.basic_manager.names:
            self._empty.set()

    def _left(self) -> list[str]:
        return [
            f"{harness.id} ({harness.state.value})"
            for name in self.basic_manager.names
            for harness in self.basic_manager.harnesses(name).values()
        ]


def _run_logged(call: Callable[[], None]) -> None:
    """A fault in one call must not end the care for others."""
    try:
        call()
    except Exception:
        logger.exception("the manager failed at a call")


def _num_threads(configured: int) -> int:
    return configured if configured > 0 else max(1, (os.cpu_count() or 1) // 2)
