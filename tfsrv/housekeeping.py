"""What a server does every few seconds, whatever else it does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

INTERVAL_SECONDS = 5.0

logger = logging.getLogger("tfsrv")


class Housekeeping:
    """Calls some jobs again and again, in a thread of its own: they may take their time.

    A job that raises is logged once and not called again; the others are.
    """

    def __init__(
        self, jobs: Sequence[Callable[[], object]], interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self._jobs = list(jobs)
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; the first time comes after one interval."""
        self._thread = threading.Thread(target=self._run, name="tfsrv-housekeeping", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Call nothing more; False if a job has not returned in that time."""
        self._stopping.set()
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_seconds):
            for job in tuple(self._jobs):
                try:
                    job()
                except Exception:
                    logger.exception("housekeeping")
                    self._jobs.remove(job)
