"""Time from process start to the first right answer, and memory while serving half_plus_two.

    python benchmarks/bench_start.py
    python benchmarks/bench_start.py --runs=9 --requests=0
    python benchmarks/bench_start.py --servers=native --requests=1000000 --json=start.json

One start that is not counted warms the file cache. Then `--requests` are sent to one server in
tenths, each answer checked as in bench_server.py, with a look at its memory after each tenth. Exit
status 1 means that a server is missing or answered wrongly.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from _load import Load, Loader
from _report import machine, machine_line, number, table, verdict, write_json
from _servers import BenchmarkError, Server, ServerKind, require_tools, server_kinds
from _workloads import Workload, load_workload

MEGABYTE = 1e6
SLICES = 10
START_SECONDS = 0.8  # aim
RSS_MEGABYTES = 400  # aim
# What may come after the first tenth and still be called flat: pages of code touched for the
# first time and the allocator's slack, but not 5 bytes per request of a million.
GROWTH_MEGABYTES = 5
GRPC_SERVERS = ("native", "grpcio", "echo", "plain")


def measure_start(kind: ServerKind, workload: Workload, runs: int) -> dict[str, Any]:
    """Seconds of each counted start, and memory right after it."""
    ports, answers, memory = [], [], []
    for turn in range(runs + 1):
        with Server(kind, workload) as server:
            server.wait_until_ready()
            if turn > 0:
                ports.append(server.port_open_seconds)
                answers.append(server.ready_seconds)
                memory.append(server.memory_bytes()["VmRSS"])
    return {"port_seconds": ports, "answer_seconds": answers, "rss_bytes": memory}


def measure_memory(
    kind: ServerKind, workload: Workload, load: Load, requests: int
) -> list[dict[str, int]]:
    """Memory after 0, 1, … 10 tenths of the requests."""
    with tempfile.TemporaryDirectory() as directory, Server(kind, workload) as server:
        loader = Loader(server.wait_until_ready(), load, 1.0, Path(directory))
        found = [{"requests": 0, **server.memory_bytes()}]
        share = max(load.connections, requests // SLICES)
        for turn in range(1, SLICES + 1):
            loader.run(share)
            found.append({"requests": turn * share, **server.memory_bytes()})
    return found


def start_table(starts: dict[str, dict[str, Any]], kinds: dict[str, ServerKind]) -> str:
    rows = []
    for name, found in starts.items():
        seconds = found["answer_seconds"]
        rows.append(
            [
                kinds[name].name,
                number(statistics.median(found["port_seconds"])),
                number(statistics.median(seconds)),
                number(min(seconds)),
                number(max(seconds)),
                number(statistics.median(found["rss_bytes"]) / MEGABYTE),
            ]
        )
    return table(["server", "port open s", "first answer s", "least", "most", "RSS MB"], rows)


def memory_table(found: list[dict[str, int]]) -> str:
    rows = [
        [f"{row['requests']:,}"]
        + [f"{row[key] / MEGABYTE:.1f}" for key in ("VmRSS", "RssAnon", "RssFile")]
        for row in found
    ]
    return table(["requests", "RSS MB", "anonymous", "of files"], rows, left=0)


def goal_rows(
    starts: dict[str, dict[str, Any]], memory: dict[str, list[dict[str, int]]]
) -> list[list[str]]:
    rows = []
    if "native" in starts:
        seconds = statistics.median(starts["native"]["answer_seconds"])
        reached = verdict(seconds <= START_SECONDS)
        wanted = f"≤ {START_SECONDS:g} s"
        rows.append(["start to first right answer", wanted, f"{seconds:.2f} s", reached])
    if "native" in memory:
        found = memory["native"]
        most = max(row["VmRSS"] for row in found) / MEGABYTE
        reached = verdict(most <= RSS_MEGABYTES)
        rows.append(["resident memory", f"≤ {RSS_MEGABYTES} MB", f"{most:.0f} MB", reached])
        growth = (found[-1]["VmRSS"] - found[1]["VmRSS"]) / MEGABYTE
        what = f"growth from {found[1]['requests']:,} to {found[-1]['requests']:,} requests"
        reached = verdict(growth <= GROWTH_MEGABYTES)
        rows.append([what, f"≤ {GROWTH_MEGABYTES} MB", f"{growth:.1f} MB", reached])
    return rows


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = ", ".join(GRPC_SERVERS)
    parser.add_argument("--servers", default="native,grpcio", help=f"of {known}")
    parser.add_argument("--memory_servers", default="native", help="which get the requests")
    parser.add_argument("--runs", type=int, default=5, help="counted starts of each")
    parser.add_argument("--requests", type=int, default=1_000_000, help="0: starts only")
    parser.add_argument("--load", default="4x16", help="connections x streams")
    parser.add_argument("--tfsrv_flag", action="append", default=[], help="may be repeated")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    arguments = parser.parse_args()
    for name in filter(None, [*arguments.servers.split(","), *arguments.memory_servers.split(",")]):
        if name not in GRPC_SERVERS:
            parser.error(f"{name!r} is none of {known}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    require_tools("h2load")
    facts = machine()
    kinds = server_kinds(arguments.tfsrv_flag)
    workload = load_workload("half_plus_two")
    starts: dict[str, dict[str, Any]] = {}
    memory: dict[str, list[dict[str, int]]] = {}
    failures = []
    for name in filter(None, arguments.servers.split(",")):
        try:
            starts[name] = measure_start(kinds[name], workload, arguments.runs)
        except (BenchmarkError, OSError) as error:
            failures.append(str(error))
    for name in filter(None, arguments.memory_servers.split(",") if arguments.requests else []):
        try:
            load = Load.parse(arguments.load)
            memory[name] = measure_memory(kinds[name], workload, load, arguments.requests)
        except (BenchmarkError, OSError) as error:
            failures.append(str(error))
    if starts:
        print(f"### Start, {arguments.runs} runs, medians\n\n{start_table(starts, kinds)}\n")
    for name, found in memory.items():
        print(f"### Memory of {kinds[name].name}, {arguments.load}\n\n{memory_table(found)}\n")
    if goals := goal_rows(starts, memory):
        header = ["figure", "wanted", "measured", "verdict"]
        print(f"### Figures of the native server\n\n{table(header, goals)}\n")
    for failure in failures:
        print(f"FAILED {failure}\n")
    print(machine_line(facts))
    if arguments.json:
        document = {"machine": facts, "arguments": vars(arguments), "failures": failures}
        write_json(arguments.json, document | {"starts": starts, "memory": memory})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
