"""Processor time of a client for one Predict: tfsrv.client and tensorflow-serving-api.

    python benchmarks/bench_client.py
    python benchmarks/bench_client.py --rounds=3 --clients=tfsrv,api --shapes=1x1000

Each client is a process of its own, and makes calls from numpy array to numpy array, one after the
other or 16 at once, all answers checked; the server is tfsrv with the model `identity`. What it
costs to import the client is told, too. Exit status 1 means that a client gave a wrong answer or
none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _report import machine, machine_line, number, table, verdict, write_json
from _servers import BenchmarkError, Server, server_kinds
from _workloads import ROOT, Workload, models_directory
from tfsrv._proto import message_class

WORKER = Path(__file__).with_name("client_worker.py")
NAMES = {
    "tfsrv": "tfsrv.client",
    "channel": 'tfsrv.client, transport="grpc"',
    "api": "tensorflow-serving-api",
    "futures": "tfsrv.client, predict_future, 16 at once",
    "tasks": "tfsrv.client, AsyncClient, 16 at once",
    "api_futures": "tensorflow-serving-api, future, 16 at once",
}
# With whose processor time that of each client is compared.
OTHERS = {"tfsrv": "api", "channel": "api", "futures": "api_futures", "tasks": "api_futures"}
SMALL = 10_000  # floats; a round of larger arrays has fewer calls
WARM_UP = 0.1  # of a round's calls, not counted
OF_API = 1 / 3  # aim
IMPORT_SECONDS = 0.1  # aim
IMPORT = """
import time
began = time.perf_counter()
import numpy, grpc
between = time.perf_counter()
import tfsrv.client
print(between - began, time.perf_counter() - between)
"""


class Worker:
    """A client's process."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(WORKER), kind, address],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, shape: list[int], calls: int) -> dict[str, Any]:
        """Processor time and time of so many calls. BenchmarkError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"shape": shape, "calls": calls}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _, log = self._process.communicate()
            raise BenchmarkError(f"{NAMES[self.kind]} has ended: {log[-500:]}")
        told: dict[str, Any] = json.loads(line)
        if told["wrong"]:
            raise BenchmarkError(f"{NAMES[self.kind]} got a wrong answer: {told['wrong']}")
        return told

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def workers(kinds: list[str], address: str) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        made = [Worker(kind, address) for kind in kinds]
        for worker in made:
            stack.callback(worker.close)
        yield made


def identity() -> Workload:
    """One float to the model and back."""
    request: Any = message_class("tensorflow.serving.PredictRequest")()
    request.model_spec.name = "identity"
    request.model_spec.signature_name = "float"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=1)
    request.inputs["x"].float_val.append(2.5)
    response: Any = message_class("tensorflow.serving.PredictResponse")()
    response.outputs["y"].CopyFrom(request.inputs["x"])
    response.model_spec.CopyFrom(request.model_spec)
    response.model_spec.version.value = 1
    return Workload(
        "identity",
        "identity",
        models_directory() / "models" / "identity",
        request.SerializeToString(),
        response.SerializeToString(),
        "",
        "",
    )


def measure(
    found: list[Worker], shapes: list[list[int]], rounds: int, calls: int
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """All rounds by shape and client; each round begins with another client."""
    measured: dict[str, dict[str, list[dict[str, float]]]] = {}
    for turn in range(rounds):
        for shape in shapes:
            floats = shape[0] * shape[1]
            count = calls if floats <= SMALL else max(20, calls * SMALL // floats)
            by_client = measured.setdefault(named(shape), {})
            for worker in found[turn % len(found) :] + found[: turn % len(found)]:
                worker.run(shape, max(5, int(count * WARM_UP)))
                told = worker.run(shape, count)
                by_client.setdefault(worker.kind, []).append(
                    {key: told[key] / count * 1e6 for key in ("cpu", "seconds")}
                )
    return measured


def named(shape: list[int]) -> str:
    return "×".join(f"{size:,}" for size in shape)


def ratios(by_client: dict[str, list[dict[str, float]]], kind: str) -> list[float]:
    """Of the client's processor time to tensorflow-serving-api's, round by round."""
    pairs = zip(by_client[kind], by_client.get(OTHERS.get(kind, ""), []), strict=False)
    return [own["cpu"] / other["cpu"] for own, other in pairs]


def time_table(measured: dict[str, dict[str, list[dict[str, float]]]], kinds: list[str]) -> str:
    rows = []
    for shape, by_client in measured.items():
        for kind in kinds:
            taken = ratios(by_client, kind)
            rows.append(
                [
                    shape,
                    NAMES[kind],
                    number(statistics.median(each["cpu"] for each in by_client[kind])),
                    f"1/{1 / statistics.median(taken):.1f}" if taken else "1",
                    number(statistics.median(each["seconds"] for each in by_client[kind])),
                ]
            )
    header = ["floats each way", "client", "CPU µs/call", "of the API's", "µs/call"]
    return table(header, rows, left=2)


def import_seconds(runs: int) -> tuple[float, float]:
    """Of numpy and gRPC, and of tfsrv.client on top; medians in fresh processes."""
    times = []
    for turn in range(runs + 1):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True
        )
        if turn:  # the first one fills the file cache
            times.append([float(part) for part in done.stdout.split()])
    before, own = zip(*times, strict=True)
    return statistics.median(before), statistics.median(own)


def goal_rows(
    measured: dict[str, dict[str, list[dict[str, float]]]], imports: tuple[float, float]
) -> list[list[str]]:
    rows = []
    by_client = measured.get(named([1, 1000]), {})
    if "tfsrv" in by_client and "api" in by_client:
        ratio = statistics.median(ratios(by_client, "tfsrv"))
        rows.append(
            [
                "CPU of 1×1,000 floats, of tensorflow-serving-api's",
                "≤ 1/3",
                f"1/{1 / ratio:.1f}",
                verdict(ratio <= OF_API),
            ]
        )
    rows.append(
        [
            f"import, above numpy and grpc ({imports[0]:.3f} s)",
            f"≤ {IMPORT_SECONDS:g} s",
            f"{imports[1]:.3f} s",
            verdict(imports[1] <= IMPORT_SECONDS),
        ]
    )
    return rows


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", default=",".join(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--shapes", default="1x1,1x1000,1x150528", help="rows x columns of floats")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=2000, help="of a round; fewer large ones")
    parser.add_argument("--imports", type=int, default=7, help="counted processes")
    parser.add_argument("--tfsrv_flag", action="append", default=[], help="may be repeated")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    arguments = parser.parse_args()
    arguments.clients = arguments.clients.split(",")
    arguments.shapes = [
        [int(size) for size in shape.split("x")] for shape in arguments.shapes.split(",")
    ]
    for name in arguments.clients:
        if name not in NAMES:
            parser.error(f"{name!r} is none of {', '.join(NAMES)}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    facts = machine()
    kind = server_kinds(arguments.tfsrv_flag)["native"]
    try:
        with Server(kind, identity()) as server:
            server.wait_until_ready()
            with workers(arguments.clients, f"127.0.0.1:{server.port}") as found:
                measured = measure(found, arguments.shapes, arguments.rounds, arguments.calls)
    except BenchmarkError as error:
        print(f"FAILED {error}")
        return 1
    imports = import_seconds(arguments.imports)
    print(f"### From array to array, medians of {arguments.rounds} rounds\n")
    print(time_table(measured, arguments.clients) + "\n")
    header = ["figure", "wanted", "measured", "verdict"]
    print(f"### Figures\n\n{table(header, goal_rows(measured, imports))}\n")
    print(machine_line(facts))
    if arguments.json:
        document = {"machine": facts, "arguments": vars(arguments), "import_seconds": imports}
        write_json(arguments.json, document | {"measured": measured})
    return 0


if __name__ == "__main__":
    sys.exit(main())
