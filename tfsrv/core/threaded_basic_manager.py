"""A BasicManager that any thread may use, for managers that decide by themselves what is loaded."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from tfsrv.core.control_thread import ControlThread
from tfsrv.core.event_bus import EventBus
from tfsrv.core.loader_harness import BEFORE_READY, State
from tfsrv.core.manager import LoadRetryOptions, Publisher
from tfsrv.core.servable import ServableState

NO_RETRIES = LoadRetryOptions(max_num_load_retries=0)

logger = logging.getLogger("tfsrv")


class ThreadedBasicManager:
    """Runs what it is given on the control thread of its BasicManager, which begins at once.

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
        the serving map shows it. 0 threads are half of the processors, two at least.
        """
        self._on_change = on_change
        self._calls: deque[Callable[[], None]] = deque()
        self._control = ControlThread(
            publisher,
            event_bus,
            self._take_round,
            retry=retry,
            num_load_threads=num_load_threads,
            num_unload_threads=num_unload_threads,
            on_memory_freed=on_memory_freed,
        )
        self.basic_manager = self._control.basic_manager
        self._control.start()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run `call` on the control thread; never, if that has ended."""
        self._calls.append(call)
        self._control.wake()

    def stop(self, timeout_seconds: float) -> bool:
        """Unload everything and end all threads, as ControlThread.stop says."""
        return self._control.stop(timeout_seconds)

    def _take_round(self) -> None:
        changed = self.basic_manager.take_in()
        while self._calls:
            _run_logged(self._calls.popleft())
        for name in changed:
            _run_logged(partial(self._on_change, name))
        if self._control.is_stopping:
            self._end_everything()
        self.basic_manager.push_out()
        self._control.end_round()

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


def _run_logged(call: Callable[[], None]) -> None:
    """A fault in one call must not end the care for others."""
    try:
        call()
    except Exception:
        logger.exception("the manager failed at a call")
