"""Gives memory back to the system after a servable has gone.

The C library keeps what was freed for its next use; a model's weights may never come back
otherwise. Trimming takes milliseconds to a second, so it has a thread of its own.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

TRIM_INTERVAL_SECONDS = 1.0  # at most one trim in that time


class MemoryReleaser:
    """Trims the heap soon after each request(), at most once in an interval.

    The thread lives only while there is something to do.
    """

    def __init__(
        self,
        *,
        trim: Callable[[], None] | None = None,
        interval_seconds: float = TRIM_INTERVAL_SECONDS,
    ) -> None:
        self._trim = trim or _malloc_trim()
        self._interval_seconds = interval_seconds
        self._condition = threading.Condition()
        self._is_requested = False
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def request(self) -> None:
        """Memory was freed. Returns at once."""
        with self._condition:
            if self._is_stopped:
                return
            self._is_requested = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tfsrv-trim", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Trim no more, and wait for the thread."""
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
            self._trim()
            with self._condition:
                self._condition.wait_for(lambda: self._is_stopped, self._interval_seconds)


def _malloc_trim() -> Callable[[], None]:
    """The C library's malloc_trim(3); nothing where there is none (musl has nothing to trim)."""
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is None:
        return lambda: None
    function.argtypes = [ctypes.c_size_t]
    function.restype = ctypes.c_int

    def trim() -> None:
        function(0)  # without the GIL, as ctypes calls all functions of a CDLL

    return trim
