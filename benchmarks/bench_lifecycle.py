"""Swaps under load, a thousand models, memory of swaps, a stuck model, renames.

    python benchmarks/bench_lifecycle.py
    python benchmarks/bench_lifecycle.py rename stuck
    python benchmarks/bench_lifecycle.py swaps --seconds=10 --rounds=1 --json=swaps.json

Each measurement has servers of its own, and prints a table; the figures aimed at come at the end.
Exit status 1 means that a server is missing or answered wrongly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import grpc

import _memory
import _rename
import _stuck
import _swaps
import _thousand
from _lifecycle import FIRST_VERSION, Settings
from _report import Finding, machine, machine_line, table, write_json
from _servers import BenchmarkError, require_tools
from _versions import Model

MEASUREMENTS: dict[str, Callable[[Settings], Finding]] = {
    "swaps": _swaps.measure,
    "thousand": _thousand.measure,
    "memory": _memory.measure,
    "stuck": _stuck.measure,
    "rename": _rename.measure,
}
MAX_SWAPS = 16383 - FIRST_VERSION  # version numbers of two bytes


def shown(finding: Finding) -> str:
    return f"### {finding.title}\n\n{table(finding.header, finding.rows, left=finding.left)}"


def shown_goals(findings: list[Finding]) -> str:
    goals = [goal for finding in findings for goal in finding.goals]
    return table(["figure", "wanted", "measured", "verdict"], goals)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = ", ".join(MEASUREMENTS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {known}; default: all")
    parser.add_argument("--seconds", type=float, default=200.0, help="of a run of swaps")
    parser.add_argument("--rounds", type=int, default=5, help="of swaps")
    parser.add_argument("--models", type=int, default=1000, help="how many a thousand are")
    parser.add_argument("--large_swaps", type=int, default=50, help="of memory")
    parser.add_argument("--stuck_seconds", type=float, default=30.0)
    parser.add_argument("--renames", type=int, default=20, help="of each kind")
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    parser.add_argument("--tfsrv_flag", action="append", default=[], help="may be repeated")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in MEASUREMENTS:
            parser.error(f"{name!r} is none of {known}")
    for name in ("seconds", "rounds", "models", "large_swaps", "stuck_seconds", "renames"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name}: at least 1")
    if arguments.seconds * arguments.rounds > MAX_SWAPS:
        parser.error(f"--seconds, --rounds: no more than {MAX_SWAPS:,} swaps")
    return arguments


def settings_of(arguments: argparse.Namespace, directory: Path) -> Settings:
    return Settings(
        directory=directory,
        small=Model.load("half_plus_two"),
        large=Model.load("large"),
        transport=arguments.transport,
        flags=arguments.tfsrv_flag,
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        models=arguments.models,
        large_swaps=arguments.large_swaps,
        stuck_seconds=arguments.stuck_seconds,
        renames=arguments.renames,
    )


def measure(name: str, arguments: argparse.Namespace) -> Finding:
    """One measurement; if there is nothing to tell, its failure."""
    print(f"{name} …", file=sys.stderr)
    with tempfile.TemporaryDirectory() as directory:
        try:
            return MEASUREMENTS[name](settings_of(arguments, Path(directory)))
        except grpc.RpcError as error:
            failure = f"{error.code().name}: {error.details()}"
        except (BenchmarkError, OSError) as error:
            failure = str(error)
    return Finding(f"{name}: nothing to tell", ["failure"], failures=[failure])


def main() -> int:
    arguments = parse_arguments()
    names = arguments.names or list(MEASUREMENTS)
    if "swaps" in names:
        require_tools("h2load")
    facts = machine()
    findings = {}
    for name in names:
        findings[name] = measure(name, arguments)
        if findings[name].rows:
            print(f"{shown(findings[name])}\n", flush=True)
    if any(finding.goals for finding in findings.values()):
        print(f"### Figures of tfsrv, {arguments.transport}\n")
        print(f"{shown_goals(list(findings.values()))}\n")
    failures = [
        f"{name}: {failure}" for name, found in findings.items() for failure in found.failures
    ]
    for failure in failures:
        print(f"FAILED {failure}\n")
    print(machine_line(facts))
    if arguments.json:
        document: dict[str, Any] = {"machine": facts, "arguments": vars(arguments)}
        found = {name: asdict(finding) for name, finding in findings.items()}
        write_json(arguments.json, document | {"findings": found})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
