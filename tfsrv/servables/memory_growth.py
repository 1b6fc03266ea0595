"""How much memory a load has taken: by how much the process has grown meanwhile.

What other threads do at the same time is in the figure too, so it is only taken of loads that
ran alone, and is no more than a better estimate.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATM = Path("/proc/self/statm")  # proc(5): pages; the second is resident, the third shared

_lock = threading.Lock()
_running: set[MemoryGrowth] = set()


class MemoryGrowth:
    """The result of measuring one load."""

    bytes: int | None = None  # None: another load ran at the same time, or nobody knows
    ran_alone = True


@contextmanager
def memory_growth() -> Iterator[MemoryGrowth]:
    """Measure what the body takes."""
    growth = MemoryGrowth()
    with _lock:
        _running.add(growth)
        if len(_running) > 1:
            for each in _running:
                each.ran_alone = False
    before = _private_bytes()
    try:
        yield growth
    finally:
        after = _private_bytes()
        with _lock:
            _running.discard(growth)
        if growth.ran_alone and before is not None and after is not None:
            growth.bytes = max(0, after - before)


def _private_bytes() -> int | None:
    """Resident memory that is not of files."""
    try:
        pages = _STATM.read_text().split()
    except OSError:
        return None
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")
