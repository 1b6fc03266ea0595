"""What the benchmarks print: the machine, Markdown tables, JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from _workloads import ROOT, tensorflow_version


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code, and the code's commit."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tensorflow": tensorflow_version(),
        "h2load": output_of("h2load", "--version").removeprefix("h2load "),
        "commit": commit(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def machine_line(facts: dict[str, Any]) -> str:
    return (
        f"{facts['cpu']}, {facts['cores']} cores, load average {facts['load_average']} before, "
        f"Linux {facts['kernel']}, Python {facts['python']}, {facts['tensorflow']}, "
        f"{facts['h2load']}, commit {facts['commit']}, {facts['time']}"
    )


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    short = output_of("git", "rev-parse", "--short", "HEAD") or "unknown"
    return f"{short} with changes" if output_of("git", "status", "--porcelain") else short


def output_of(*command: str) -> str:
    """What a command prints; nothing if it fails or does not exist."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, readable as it is; all but the first `left` columns stand right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if index < left else "-" * (width - 1) + ":"
        for index, width in enumerate(widths)
    ]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def number(value: float) -> str:
    """Three digits that matter: 1.83, 12.4, 163, 12,345."""
    if abs(value) < 10:
        return f"{value:.2f}"
    if abs(value) < 100:
        return f"{value:.1f}"
    return f"{value:,.0f}"


def verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"


def write_json(path: str, document: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(document, indent=1) + "\n")


@dataclass
class Finding:
    """A table, figures aimed at, wrong answers, and numbers for JSON."""

    title: str
    header: list[str]
    left: int = 1  # columns
    rows: list[list[str]] = field(default_factory=list)
    goals: list[list[str]] = field(default_factory=list)  # figure, wanted, measured, verdict
    failures: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def judge(self, figure: str, wanted: str, measured: str, reached: bool) -> None:
        self.goals.append([figure, wanted, measured, verdict(reached)])

    def note(self, figure: str, measured: str) -> None:
        """A figure that nothing is asked of."""
        self.goals.append([figure, "", measured, ""])

    def fail(self, failures: Sequence[str]) -> None:
        """Wrong answers; the first few are told."""
        self.failures += failures[:3]
        if len(failures) > 3:
            self.failures.append(f"… and {len(failures) - 3} more like these")
