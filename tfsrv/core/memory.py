"""Gives memory back to the system after a servable has gone.

The C library keeps what was freed for its next use; a model's weights may never come back
otherwise. Trimming takes milliseconds to a second, so it has a thread of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from tfsrv.core.coalescer import Coalescer

TRIM_INTERVAL_SECONDS = 1.0  # at most one trim in that time


class MemoryReleaser(Coalescer):
    """Trims the heap soon after each request(), at most once in an interval."""

    def __init__(
        self,
        *,
        trim: Callable[[], None] | None = None,
        interval_seconds: float = TRIM_INTERVAL_SECONDS,
    ) -> None:
        super().__init__("tfsrv-trim", trim or _malloc_trim(), interval_seconds)


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
