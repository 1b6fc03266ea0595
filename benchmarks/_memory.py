"""Resident memory over many swaps of a model with 50 MB of variables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from _client import AVAILABLE, END, Client, connected
from _lifecycle import (
    FIRST_VERSION,
    MEGABYTE,
    MODEL,
    Settings,
    checked,
    megabytes,
    settled_memory,
    single_model,
    wait_until,
)
from _report import Finding
from _servers import Server
from _versions import VersionDirectories

GROWTH_MEGABYTES = 60.0  # aim
ROWS = 10


@dataclass(frozen=True)
class Memory:
    """Resident bytes."""

    start: int
    after_swaps: list[int]
    peak: int
    end: int


def measure(settings: Settings) -> Finding:
    """Each new version is loaded and asked once, then the old one goes, then the next comes."""
    versions = VersionDirectories(settings.large, settings.directory / "large")
    versions.add(FIRST_VERSION)
    wrong: list[str] = []
    with single_model(settings, versions, FIRST_VERSION) as server, connected(server) as client:
        server.wait_until_ready()
        start = settled_memory(server)
        forget_peak(server)
        after_swaps = []
        for version in range(FIRST_VERSION + 1, FIRST_VERSION + 1 + settings.large_swaps):
            swap(version, client, versions, wrong)
            after_swaps.append(server.memory_bytes()["VmRSS"])
        peak = peak_bytes(server)
        memory = Memory(start, after_swaps, peak, settled_memory(server))
    finding = finding_of(settings, memory)
    finding.fail(wrong)
    return finding


def swap(version: int, client: Client, versions: VersionDirectories, wrong: list[str]) -> None:
    """Load `version`, ask it once, and wait until the one before is unloaded."""
    versions.add(version)
    wait_until(
        lambda: client.states(MODEL).get(version) == AVAILABLE, f"version {version} available"
    )
    answer = checked(client, versions.history, wrong)
    if answer is not None and answer.version != version:
        wrong.append(f"version {answer.version} answered when {version} was available")
    wait_until(
        lambda: client.states(MODEL).get(version - 1, END) == END, f"version {version - 1} unloaded"
    )
    versions.remove(version - 1)


def finding_of(settings: Settings, memory: Memory) -> Finding:
    finding = Finding(
        f"memory: a model with {variables_megabytes(settings):.0f} MB of variables, swapped "
        f"{settings.large_swaps} times",
        ["after swap", "RSS MB"],
        left=0,
    )
    step = max(1, settings.large_swaps // ROWS)
    finding.rows = [
        [str(turn), megabytes(resident)]
        for turn, resident in enumerate([memory.start, *memory.after_swaps])
        if turn % step == 0
    ]
    growth, most = ((value - memory.start) / MEGABYTE for value in (memory.end, memory.peak))
    finding.judge(
        f"resident memory at the end against the start ({megabytes(memory.start)} MB)",
        f"≤ {GROWTH_MEGABYTES:+.0f} MB",
        f"{growth:+.1f} MB",
        growth <= GROWTH_MEGABYTES,
    )
    finding.note("the most meanwhile", f"{most:+.1f} MB")
    finding.details = asdict(memory)
    return finding


def variables_megabytes(settings: Settings) -> float:
    data = settings.large.sources[0].glob("variables/*.data-*")
    return sum(path.stat().st_size for path in data) / MEGABYTE


def forget_peak(server: Server) -> None:
    """Let VmHWM begin anew (proc_pid_clear_refs(5))."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")


def peak_bytes(server: Server) -> int:
    """The most resident memory since it was forgotten."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
