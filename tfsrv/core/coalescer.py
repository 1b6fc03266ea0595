"""One action for many requests, not too often."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("tfsrv")


class Coalescer:
    """Does something soon after each request(), at most once in an interval.

    The thread lives only while there is something to do.
    """

    def __init__(self, name: str, action: Callable[[], object], interval_seconds: float) -> None:
        """`name` is the thread's."""
        self._name = name
        self._action = action
        self._interval_seconds = interval_seconds
        self._condition = threading.Condition()
        self._is_requested = False
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def request(self) -> None:
        """Have it done after this. Returns at once."""
        with self._condition:
            if self._is_stopped:
                return
            self._is_requested = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Do it no more, and wait for the thread."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._is_stopped or not self._is_requested:
                    self._thread = None
                    return
                self._is_requested = False
            try:
                self._action()
            except Exception:
                logger.exception("%s failed", self._name)
            with self._condition:
                self._condition.wait_for(lambda: self._is_stopped, self._interval_seconds)
