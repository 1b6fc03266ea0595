"""Requests per second, CPU per request and latency of tfsrv and of plain servers beside it.

    python benchmarks/bench_server.py
    python benchmarks/bench_server.py --workloads=half_plus_two --loads=4x16 --servers=native,echo
    python benchmarks/bench_server.py --rounds=3 --seconds=1 --json=result.json

Starts the servers as processes, then goes round and round: each load on each server, one after the
other, so that a noisy minute of the machine hits all of them. Printed are the medians over the
rounds; the ratio is taken within each round. Every answer is checked (see _load.py). Exit status 1
means that a server is missing or answered wrongly.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _load import Load, Loader, Sample, median_sample
from _report import machine, machine_line, number, table, verdict, write_json
from _servers import BenchmarkError, Server, ServerKind, require_tools, server_kinds
from _workloads import Workload, load_workload

BASELINE = "echo"  # what the ratios are against
SOCKET = "socket"  # bare sockets know one request at a time only
LOADS = {
    "half_plus_two": ["1x1", "4x16", "64x1", "64x4"],
    "four_inputs": ["4x16"],
    "string_identity": ["4x16"],
    "identity_image": ["1x1"],
}
SERVERS = ["native", "batching", "grpcio", BASELINE, "plain"]


@dataclass(frozen=True)
class Goal:
    """What the native server should reach: times cheaper than the echo, and absolute aims."""

    times_cheaper: float
    cpu_micros: float | None = None
    requests_per_second: float | None = None
    p50_micros: float | None = None
    times_socket: float | None = None  # CPU of the bare socket echo


GOALS = {
    ("half_plus_two", "4x16"): Goal(12, cpu_micros=12, requests_per_second=80_000),
    ("half_plus_two", "64x1"): Goal(7, cpu_micros=28),
    ("half_plus_two", "1x1"): Goal(6, p50_micros=120),
    ("four_inputs", "4x16"): Goal(6),
    ("string_identity", "4x16"): Goal(6),
    ("identity_image", "1x1"): Goal(3, times_socket=2.5),
}


@dataclass
class Bench:
    """The samples of one workload, by load and server."""

    workload: Workload
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def fail(self, server: str, load: str, error: Exception) -> None:
        text = f"{self.workload.name}, {load}, {server}: {error}"
        print(f"FAILED {text}", file=sys.stderr)
        self.failures.append(text)
        self.samples.pop((load, server), None)

    def ratio(self, load: str, server: str, to: str) -> float | None:
        """Median over the rounds of this server's CPU divided by the other's."""
        mine, other = self.samples.get((load, server)), self.samples.get((load, to))
        if not mine or not other:
            return None
        pairs = zip(mine, other, strict=False)
        return statistics.median(a.cpu_micros / b.cpu_micros for a, b in pairs)


def run_workload(
    workload: Workload, loads: list[str], kinds: dict[str, ServerKind], rounds: int, seconds: float
) -> Bench:
    bench = Bench(workload)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = {
            name: stack.enter_context(Server(kind, workload)) for name, kind in kinds.items()
        }
        targets = {}
        for name, server in started.items():
            try:
                targets[name] = server.wait_until_ready()
            except BenchmarkError as error:
                bench.fail(name, "start", error)
        loaders = {}
        for load in loads:
            for name, target in targets.items():
                if name == SOCKET and load != "1x1":
                    continue
                loaders[load, name] = Loader(target, Load.parse(load), seconds, directory)
        for key, loader in list(loaders.items()):
            try:
                loader.warm_up()
            except (BenchmarkError, OSError) as error:
                bench.fail(key[1], key[0], error)
                del loaders[key]
        run_rounds(bench, loaders, rounds)
    return bench


def run_rounds(bench: Bench, loaders: dict[tuple[str, str], Loader], rounds: int) -> None:
    for turn in range(rounds):
        for load in dict.fromkeys(load for load, _ in loaders):
            names = [name for other, name in loaders if other == load]
            shift = turn % len(names)  # nobody is always the first
            for name in names[shift:] + names[:shift]:
                try:
                    sample = loaders[load, name].measure()
                except (BenchmarkError, OSError) as error:
                    bench.fail(name, load, error)
                    del loaders[load, name]
                    continue
                bench.samples.setdefault((load, name), []).append(sample)
        print(f"{bench.workload.name}: round {turn + 1} of {rounds} done", file=sys.stderr)


def figures_table(bench: Bench, kinds: dict[str, ServerKind]) -> str:
    rows = []
    for (load, name), samples in sorted(
        bench.samples.items(), key=lambda item: order(item[0], kinds)
    ):
        sample = median_sample(samples)
        ratio = bench.ratio(load, name, BASELINE)
        rows.append(
            [
                load.replace("x", "×"),
                kinds[name].name,
                number(sample.requests_per_second),
                number(sample.cpu_micros),
                "" if ratio is None else shown_ratio(ratio),
                number(sample.p50_micros),
                number(sample.p99_micros),
            ]
        )
    header = ["load", "server", "requests/s", "CPU µs/request", "of the echo", "p50 µs", "p99 µs"]
    return table(header, rows, left=2)


def order(key: tuple[str, str], kinds: dict[str, ServerKind]) -> tuple[int, int, int]:
    load = Load.parse(key[0])
    return load.connections, load.streams, list(kinds).index(key[1])


def shown_ratio(ratio: float) -> str:
    return f"1/{1 / ratio:.1f}" if ratio < 1 else f"{ratio:.1f}×"


def goal_rows(bench: Bench) -> list[list[str]]:
    """One row for each figure that is asked of the native server and was measured."""
    rows = []
    for (workload, load), goal in GOALS.items():
        samples = bench.samples.get((load, "native"))
        if workload != bench.workload.name or not samples:
            continue
        sample = median_sample(samples)
        where = f"{workload}, {load.replace('x', '×')}"
        ratio = bench.ratio(load, "native", BASELINE)
        if ratio is not None:
            wanted = f"≤ 1/{goal.times_cheaper:g}"
            judged = verdict(ratio <= 1 / goal.times_cheaper)
            rows.append([where, "CPU against the echo", wanted, shown_ratio(ratio), judged])
        aims = [
            ("CPU µs/request", goal.cpu_micros, sample.cpu_micros),
            ("p50 µs", goal.p50_micros, sample.p50_micros),
            ("CPU against a socket echo", goal.times_socket, bench.ratio(load, "native", SOCKET)),
        ]
        for what, aim, value in aims:
            if aim is not None and value is not None:
                rows.append([where, what, f"≤ {aim:g}", number(value), verdict(value <= aim)])
        if (rate := goal.requests_per_second) is not None:
            reached = sample.requests_per_second
            rows.append(
                [where, "requests/s", f"≥ {rate:,.0f}", number(reached), verdict(reached >= rate)]
            )
    return rows


def document(
    facts: dict[str, Any], benches: list[Bench], arguments: argparse.Namespace
) -> dict[str, Any]:
    return {
        "machine": facts,
        "arguments": vars(arguments),
        "workloads": {
            bench.workload.name: {
                "request_bytes": len(bench.workload.request),
                "response_bytes": len(bench.workload.response),
                "failures": bench.failures,
                "results": [
                    {
                        "load": load,
                        "server": name,
                        "median": asdict(median_sample(samples)),
                        "cpu_of_echo": bench.ratio(load, name, BASELINE),
                        "cpu_of_socket": bench.ratio(load, name, SOCKET),
                        "rounds": [asdict(sample) for sample in samples],
                    }
                    for (load, name), samples in bench.samples.items()
                ],
            }
            for bench in benches
        },
    }


def parse_arguments() -> argparse.Namespace:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    names = ", ".join(LOADS)
    kinds = ", ".join(server_kinds())
    parser.add_argument("--workloads", default=",".join(LOADS), help=f"of {names}")
    parser.add_argument("--servers", default=",".join(SERVERS), help=f"of {kinds}")
    parser.add_argument("--loads", default="", help="such as 1x1,4x16; default: by workload")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one run")
    parser.add_argument("--tfsrv_flag", action="append", default=[], help="may be repeated")
    parser.add_argument("--json", metavar="FILE", help="all samples")
    arguments = parser.parse_args()
    for name in arguments.workloads.split(","):
        if name not in LOADS:
            parser.error(f"--workloads: {name!r} is none of {names}")
    for name in arguments.servers.split(","):
        if name not in server_kinds():
            parser.error(f"--servers: {name!r} is none of {kinds}")
    for load in filter(None, arguments.loads.split(",")):
        try:
            Load.parse(load)
        except ValueError as error:
            parser.error(f"--loads: {error}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    require_tools("h2load")
    facts = machine()
    available = server_kinds(arguments.tfsrv_flag)
    benches = []
    for name in arguments.workloads.split(","):
        kinds = {kind: available[kind] for kind in arguments.servers.split(",")}
        if name == "identity_image":
            kinds[SOCKET] = available[SOCKET]
        loads = arguments.loads.split(",") if arguments.loads else LOADS[name]
        bench = run_workload(load_workload(name), loads, kinds, arguments.rounds, arguments.seconds)
        benches.append(bench)
        workload = bench.workload
        sizes = f"{len(workload.request):,} bytes in, {len(workload.response):,} out"
        print(f"### {name}: {sizes}\n\n{figures_table(bench, kinds)}\n", flush=True)
    goals = [row for bench in benches for row in goal_rows(bench)]
    if goals:
        header = ["where", "figure", "wanted", "measured", "verdict"]
        print(f"### Figures of the native server\n\n{table(header, goals, left=2)}\n")
    failures = [failure for bench in benches for failure in bench.failures]
    for failure in failures:
        print(f"FAILED {failure}\n")
    print(machine_line(facts))
    if arguments.json:
        write_json(arguments.json, document(facts, benches, arguments))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
