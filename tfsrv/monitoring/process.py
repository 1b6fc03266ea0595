"""The process itself: under the names that Prometheus' own clients give it.

https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from tfsrv.monitoring.families import STEP, Families, Family, Sample, single

_FDS_IN_A_STEP = 64


def process_families() -> Families:
    """A source; what the system does not tell has no value."""
    after_name = _read("/proc/self/stat").rpartition(")")[2].split()  # from field 3 on, see proc(5)
    pages = _read("/proc/self/statm").split()
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    yield single(
        "process_cpu_seconds_total",
        "counter",
        "CPU time that the process took, of user and system.",
        time.process_time(),
    )
    yield single(
        "process_virtual_memory_bytes",
        "gauge",
        "Memory that the process has mapped.",
        int(pages[0]) * page_bytes if pages else None,
    )
    yield single(
        "process_resident_memory_bytes",
        "gauge",
        "Memory that the process has in use.",
        int(pages[1]) * page_bytes if pages else None,
    )
    yield Family("process_open_fds", "gauge", "Open file descriptors.", (), _open_fds())
    yield single(
        "process_max_fds",
        "gauge",
        "File descriptors that may be open.",
        _limit(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    )
    yield single(
        "process_threads",
        "gauge",
        "Threads of the process.",
        int(after_name[17]) if after_name else None,
    )
    yield single(
        "process_start_time_seconds",
        "gauge",
        "When the process began, in seconds since 1970.",
        start_time_seconds(),
    )


def _open_fds() -> Iterator[Sample | None]:
    """Since 6.2 Linux tells their number; before, they have to be counted."""
    try:
        count = os.stat("/proc/self/fd").st_size
        if count == 0:
            with os.scandir("/proc/self/fd") as entries:
                for _ in entries:
                    count += 1
                    if count % _FDS_IN_A_STEP == 0:
                        yield STEP
            count -= 1  # the directory's own
    except OSError:  # no /proc, or no descriptor left to look into it
        return
    yield (), count


def _limit(limit: int) -> int | float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


@lru_cache(maxsize=1)
def start_time_seconds() -> float | None:
    """When the process began; None if the system does not tell."""
    after_name = _read("/proc/self/stat").rpartition(")")[2].split()
    booted = [line for line in _read("/proc/stat").splitlines() if line.startswith("btime ")]
    if not after_name or not booted:
        return None
    return int(booted[0].split()[1]) + int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def _read(path: str) -> str:
    text = ""
    with suppress(OSError):
        text = Path(path).read_text()
    return text
