"""The process itself: under the names that Prometheus' own clients give it.

https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tfsrv.monitoring.families import STEP, Families, Family, Sample, single

_FDS_IN_A_STEP = 64


class ProcessFamilies:
    """A source; what the system does not tell has no value."""

    def __init__(self) -> None:
        self._start_time_seconds = start_time_seconds()

    def __call__(self) -> Families:
        stat = _stat()
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
            int(stat[17]) if stat else None,
        )
        yield single(
            "process_start_time_seconds",
            "gauge",
            "When the process began, in seconds since 1970.",
            self._start_time_seconds,
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


def start_time_seconds() -> float | None:
    """When the process began; None if the system does not tell."""
    stat = _stat()
    booted = [line for line in _read("/proc/stat").splitlines() if line.startswith("btime ")]
    if not stat or not booted:
        return None
    return int(booted[0].split()[1]) + int(stat[19]) / os.sysconf("SC_CLK_TCK")


def _stat() -> list[str]:
    """The fields of the process from the third on, see proc(5); its name may hold anything."""
    return _read("/proc/self/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    text = ""
    with suppress(OSError):
        text = Path(path).read_text()
    return text
