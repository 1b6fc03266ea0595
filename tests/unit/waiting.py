"""Waiting for what other threads do, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_SECONDS = 30.0


def eventually(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds; fail when it does not in a long time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)
