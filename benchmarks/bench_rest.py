"""What a REST request costs: tfsrv, beside the least that a server in Python needs.

    python benchmarks/bench_rest.py
    python benchmarks/bench_rest.py --workloads=tiny --loads=64 --rounds=3 --seconds=1

`tiny` is three numbers in and out over keep-alive connections; `image` is 1×150,528 floats of
eight significant digits in, and as many out. Each load goes to each server in turns; printed are
medians over the rounds, of the server's CPU per request. The first answer is compared in full, and
all others have to have as many bytes. Exit status 1: a server is missing or answered wrongly.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from _load import percentile
from _report import machine, machine_line, number, table, verdict
from _servers import (
    HERE,
    READY_SECONDS,
    BenchmarkError,
    Server,
    ServerKind,
    free_port,
    require_tools,
)
from _workloads import Workload, load_workload

LOADS = {"tiny": [1, 16, 64], "image": [1, 4]}
MODELS = {"tiny": "half_plus_two", "image": "identity_image"}
SERVERS = ("tfsrv", "tfsrv, batching", "echo", "plain")
PIXELS = 150_528
ASKED_MICROS = {("tiny", 64): 35.0, ("image", 1): 10_000.0}  # of tfsrv


@dataclass(frozen=True)
class Sample:
    requests_per_second: float
    cpu_micros: float  # of the server, per request
    p50_micros: float
    p99_micros: float


def body_of(workload: str) -> bytes:
    if workload == "tiny":
        return b'{"instances": [1.0, 2.0, 5.0]}'
    values = np.random.default_rng(6).uniform(0, 1, PIXELS)
    texts = ", ".join(f"{value:.8g}" for value in values)
    return f'{{"instances": [[{texts}]]}}'.encode()


def kinds_of(names: list[str]) -> dict[str, ServerKind]:
    """Servers by name. `port` of a command is the one of REST."""

    def tfsrv(*flags: str) -> ServerKind:
        def command(workload: Workload, port: int) -> list[str]:
            return [
                *(sys.executable, "-m", "tfsrv", f"--port={free_port()}"),
                *(f"--rest_api_port={port}", "--bind_address=127.0.0.1"),
                f"--model_name={workload.model}",
                f"--model_base_path={workload.model_base_path}",
                *flags,
            ]

        return ServerKind("tfsrv", command)

    def python(*, with_model: bool) -> ServerKind:
        def command(workload: Workload, port: int) -> list[str]:
            model = [f"--model_base_path={workload.model_base_path}"] if with_model else []
            return [sys.executable, str(HERE / "http_echo_server.py"), f"--port={port}", *model]

        return ServerKind("python", command, echoes=not with_model)

    every = {
        "tfsrv": tfsrv(),
        "tfsrv, batching": tfsrv("--enable_batching"),
        "echo": python(with_model=False),
        "plain": python(with_model=True),
    }
    return {name: every[name] for name in names}


class Target:
    """A server that has answered rightly once, and what h2load needs to ask it."""

    def __init__(self, server: Server, body: bytes, directory: Path) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.port}/v1/models/{server.workload.model}:predict"
        self.body = body
        self.file = directory / f"{server.port}.json"
        self.file.write_bytes(body)
        self.rate = 0.0
        self.answer = self._first_answer()

    def _first_answer(self) -> bytes:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                answer = self.ask()
                break
            except (OSError, urllib.error.URLError) as error:
                if time.monotonic() > deadline or not self.server.is_running():
                    raise BenchmarkError(f"{self.server.kind.name}: {error}") from None
                time.sleep(0.05)
        if not self._is_right(answer):
            raise BenchmarkError(f"{self.server.kind.name} gave a wrong answer: {answer[:80]!r}")
        return answer

    def ask(self) -> bytes:
        with urllib.request.urlopen(self.url, self.body, timeout=READY_SECONDS) as response:
            said: bytes = response.read()
            return said

    def _is_right(self, answer: bytes) -> bool:
        if self.server.kind.echoes:
            return answer == self.body
        asked = np.array(json.loads(self.body)["instances"], np.float32)
        said = np.array(json.loads(answer)["predictions"], np.float32)
        half_plus_two = self.server.workload.model == "half_plus_two"
        return np.array_equal(said, asked / 2 + 2 if half_plus_two else asked)

    def run(self, connections: int, requests: int) -> Sample:
        """Exactly so many requests, each answered as the first one was."""
        requests += -requests % connections
        log = self.file.with_suffix(".log")
        before = self.server.cpu_seconds()
        done = subprocess.run(
            [
                *("h2load", "--h1", "--threads=1", f"--clients={connections}"),
                *(f"--requests={requests}", f"--data={self.file}", f"--log-file={log}"),
                *("--header=content-type: application/json", self.url),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        cpu_seconds = self.server.cpu_seconds() - before
        rate = re.search(r"^finished in [\d.]+\w+, ([\d.]+) req/s", done.stdout, re.MULTILINE)
        good = re.search(r"^status codes: (\d+) 2xx", done.stdout, re.MULTILINE)
        data = re.search(r"\((\d+)\) data$", done.stdout, re.MULTILINE)
        if not rate or not good or not data:
            raise BenchmarkError(f"h2load: {done.stdout[-500:]} {done.stderr[-500:]}")
        if int(good[1]) != requests or int(data[1]) != requests * len(self.answer):
            raise BenchmarkError(
                f"{self.server.kind.name}: {good[1]} of {requests} answered, {data[1]} bytes"
            )
        with log.open("rb") as lines:
            latencies = sorted(int(line.split(b"\t")[2]) for line in lines)
        log.unlink()
        self.rate = float(rate[1])
        return Sample(
            self.rate,
            cpu_seconds * 1e6 / requests,
            percentile(latencies, 50),
            percentile(latencies, 99),
        )


def measure(
    name: str, loads: list[int], servers: list[str], rounds: int, seconds: float
) -> dict[tuple[int, str], list[Sample]]:
    samples: dict[tuple[int, str], list[Sample]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workload = load_workload(MODELS[name])
        body = body_of(name)
        targets = {
            server: Target(stack.enter_context(Server(kind, workload)), body, directory)
            for server, kind in kinds_of(servers).items()
        }
        rates = {}
        for load in loads:
            for server, target in targets.items():
                requests = 4 * load
                while target.run(load, requests).requests_per_second * 0.25 > requests:
                    requests *= 4
                rates[load, server] = target.rate
        for turn in range(rounds):
            for load in loads:
                names = list(targets)
                shift = turn % len(names)  # nobody is always the first
                for server in names[shift:] + names[:shift]:
                    requests = max(load, round(rates[load, server] * seconds))
                    sample = targets[server].run(load, requests)
                    samples.setdefault((load, server), []).append(sample)
            print(f"{name}: round {turn + 1} of {rounds} done", file=sys.stderr)
    return samples


def rows_of(name: str, samples: dict[tuple[int, str], list[Sample]]) -> list[list[str]]:
    rows = []
    for (load, server), found in samples.items():
        cpu = statistics.median(sample.cpu_micros for sample in found)
        base = samples.get((load, "echo"))
        ratio = ""
        if base:
            pairs = zip(found, base, strict=True)
            ratio = f"{statistics.median(a.cpu_micros / b.cpu_micros for a, b in pairs):.2f}×"
        asked = ASKED_MICROS.get((name, load)) if server == "tfsrv" else None
        rows.append(
            [
                f"{name}, {load} connections",
                server,
                number(statistics.median(sample.requests_per_second for sample in found)),
                number(cpu),
                ratio,
                number(statistics.median(sample.p50_micros for sample in found)),
                number(statistics.median(sample.p99_micros for sample in found)),
                "" if asked is None else f"≤ {asked:,.0f}: {verdict(cpu <= asked)}",
            ]
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", default=",".join(LOADS))
    parser.add_argument("--loads", default="", help="connections, such as 1,64")
    parser.add_argument("--servers", default=";".join(SERVERS), help="with ; between them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one run")
    arguments = parser.parse_args()
    require_tools("h2load")
    facts = machine()
    rows = []
    status = 0
    for name in arguments.workloads.split(","):
        loads = [int(load) for load in arguments.loads.split(",") if load] or LOADS[name]
        try:
            samples = measure(
                name, loads, arguments.servers.split(";"), arguments.rounds, arguments.seconds
            )
        except BenchmarkError as error:
            print(f"FAILED {name}: {error}\n")
            status = 1
            continue
        rows += rows_of(name, samples)
    header = ["load", "server", "requests/s", "CPU µs/request", "of the echo", "p50 µs", "p99 µs"]
    print(f"{table([*header, 'asked'], rows, left=2)}\n\n{machine_line(facts)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
