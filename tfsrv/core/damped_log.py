"""A log line for a problem that is found again and again, without filling the log."""

from __future__ import annotations

import logging


class DampedLog:
    """Logs a problem the first time, then at every doubling, and once when it is over.

    Problems are told apart by a key (say, a model's name) and their text. For one thread.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._times: dict[str, dict[str, int]] = {}  # key, text: how often it was seen

    def problem(self, key: str, text: str, error: BaseException | None = None) -> None:
        """Something is wrong. Where `error` came from is logged the first time."""
        times = self._times.setdefault(key, {})
        seen = times[text] = times.get(text, 0) + 1
        if seen == 1:
            self._logger.error("%s", text, exc_info=error)
        elif seen & (seen - 1) == 0:
            self._logger.error("%s (seen %d times)", text, seen)

    def note(self, key: str, text: str) -> None:
        """Something odd that does no harm: logged once as long as the key has no recovery."""
        times = self._times.setdefault(key, {})
        if text not in times:
            times[text] = 1
            self._logger.warning("%s", text)

    def recovered(self, key: str, text: str) -> None:
        """The key has no problem now. Logs `text` if it had one."""
        if self._times.pop(key, None):
            self._logger.info("%s", text)
