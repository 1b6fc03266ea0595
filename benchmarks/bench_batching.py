"""Batching: throughput against fixed sizes and waits, overload, and the parts by themselves.

    python benchmarks/bench_batching.py
    python benchmarks/bench_batching.py sweep overload --rounds=5

What whole requests cost with batching is in bench_server.py, whose server `batching` has it on.
Each measurement prints a table; the figures aimed at come at the end. Exit status 1 means that a
server is missing or answered wrongly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import _batched_model
from _batched_model import Settings
from _report import Finding, machine, machine_line, table, write_json
from _servers import BenchmarkError, require_tools

MEASUREMENTS: dict[str, Callable[[Settings], Finding]] = {
    "sweep": _batched_model.measure_sweep,
    "overload": _batched_model.measure_overload,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = ", ".join(MEASUREMENTS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {known}; default: all")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="all figures")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in MEASUREMENTS:
            parser.error(f"{name!r} is none of {known}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    require_tools("h2load")
    facts = machine()
    findings: list[Finding] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(Path(directory), arguments.seconds, arguments.rounds)
        for name in arguments.names or MEASUREMENTS:
            try:
                finding = MEASUREMENTS[name](settings)
            except BenchmarkError as error:
                print(f"FAILED {name}: {error}", file=sys.stderr)
                failures.append(f"{name}: {error}")
                continue
            findings.append(finding)
            print(f"### {finding.title}\n")
            print(table(finding.header, finding.rows, left=finding.left) + "\n")
    goals = [goal for finding in findings for goal in finding.goals]
    print(f"### Figures\n\n{table(['figure', 'wanted', 'measured', 'verdict'], goals)}\n")
    print(machine_line(facts))
    if arguments.json:
        details = {finding.title: finding.details for finding in findings}
        write_json(arguments.json, {"machine": facts, "details": details, "goals": goals})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
