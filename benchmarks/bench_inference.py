"""What Classify and Regress cost above the graph that they run.

    python benchmarks/bench_inference.py
    python benchmarks/bench_inference.py --rounds=3 --seconds=1 --loads=4x16

One small tf.Example in each request. The server's CPU per request under load, and the CPU of the
same graph run alone, in a loop without a server, in turns. Every answer is checked (see _load.py).
Exit status 1 means that the server is missing or answered wrongly.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from _load import Load, Loader, Sample, median_sample
from _report import machine, machine_line, number, table, verdict
from _servers import BenchmarkError, Server, require_tools, server_kinds
from _workloads import ROOT, load_workload

WORKLOADS = ("classify", "regress")
SERVERS = ("native", "batching")
MOST_ABOVE_MICROS = 20.0  # at 4×16, with the native server
RUNS = 20_000

# Loads the model, runs it RUNS times in one thread, and prints the CPU microseconds of a run.
ALONE = """
import sys
from tfsrv._run import run_repeatedly
from tfsrv._session import SavedModelSession
session = SavedModelSession.load(sys.argv[1])
request = open(sys.argv[2], "rb").read()
times = int(sys.argv[3])
run_repeatedly(session, request, times // 10)
print(run_repeatedly(session, request, times) / times * 1e6)
"""


def graph_micros(name: str) -> float:
    """CPU of one run of the workload's graph, in a process of its own."""
    workload = load_workload(name)
    folder = workload.model_base_path / "1"
    request = workload.model_base_path.parents[1] / "requests" / f"{name}.predict.request"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), str(request), str(RUNS)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return float(done.stdout)


def measure(
    name: str, loads: list[str], rounds: int, seconds: float
) -> tuple[list[float], dict[tuple[str, str], list[Sample]]]:
    """The graph's own CPU, and samples by load and server, of each round."""
    workload = load_workload(name)
    kinds = server_kinds()
    alone: list[float] = []
    samples: dict[tuple[str, str], list[Sample]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        loaders = {}
        for server_name in SERVERS:
            server = stack.enter_context(Server(kinds[server_name], workload))
            target = server.wait_until_ready()
            for load in loads:
                loader = Loader(target, Load.parse(load), seconds, directory)
                loader.warm_up()
                loaders[load, server_name] = loader
        for turn in range(rounds):
            alone.append(graph_micros(name))
            for key, loader in loaders.items():
                samples.setdefault(key, []).append(loader.measure())
            print(f"{name}: round {turn + 1} of {rounds} done", file=sys.stderr)
    return alone, samples


def rows_of(
    name: str, alone: list[float], samples: dict[tuple[str, str], list[Sample]]
) -> list[list[str]]:
    rows = []
    graph = statistics.median(alone)
    for (load, server), found in samples.items():
        sample = median_sample(found)
        above = statistics.median(
            each.cpu_micros - own for each, own in zip(found, alone, strict=True)
        )
        is_asked = load == "4x16" and server == "native"
        rows.append(
            [
                f"{name}, {load.replace('x', '×')}",
                server_kinds()[server].name,
                number(sample.requests_per_second),
                number(sample.cpu_micros),
                number(graph),
                number(above),
                verdict(above <= MOST_ABOVE_MICROS) if is_asked else "",
                number(sample.p50_micros),
                number(sample.p99_micros),
            ]
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loads", default="1x1,4x16,64x1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one run")
    arguments = parser.parse_args()
    require_tools("h2load")
    facts = machine()
    rows = []
    status = 0
    for name in WORKLOADS:
        try:
            alone, samples = measure(
                name, arguments.loads.split(","), arguments.rounds, arguments.seconds
            )
        except BenchmarkError as error:
            print(f"FAILED {name}: {error}\n")
            status = 1
            continue
        rows += rows_of(name, alone, samples)
    header = ["load", "server", "requests/s", "CPU µs/request", "graph alone µs", "above it µs"]
    header += [f"≤ {MOST_ABOVE_MICROS:g}", "p50 µs", "p99 µs"]
    print(f"{table(header, rows, left=2)}\n\n{machine_line(facts)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
