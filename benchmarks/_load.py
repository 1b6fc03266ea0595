"""Load on a server: h2load as a unary gRPC client, a plain socket client, and a probe that looks
at real answers meanwhile.

h2load counts HTTP 200 as success, although the grpc-status trailer may say otherwise, so every run
must also bring exactly as many bytes in DATA frames as that many right answers have.
"""

from __future__ import annotations

import re
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import grpc

from _servers import BenchmarkError, Target, unary
from _workloads import PREFIX_SIZE

PROBE_INTERVAL_SECONDS = 0.05
PROBE_TIMEOUT_SECONDS = 30.0
STUCK_FACTOR = 5.0  # a run that takes this much longer than planned is ended
STUCK_SECONDS = 30.0  # … and this much on top


class WrongAnswerError(BenchmarkError):
    """Under load a server answered something else than what is right."""


@dataclass(frozen=True)
class Load:
    connections: int
    streams: int

    @classmethod
    def parse(cls, text: str) -> Load:
        """'4x16' is four connections with 16 streams each."""
        match = re.fullmatch(r"(\d+)[x×](\d+)", text)
        if match is None or 0 in map(int, match.groups()):
            raise ValueError(f"{text!r} is no load; CONNECTIONSxSTREAMS is, such as 4x16")
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        return f"{self.connections}x{self.streams}"


@dataclass(frozen=True)
class Run:
    """What one process of the load generator found."""

    requests: int
    probes: int  # requests of the probe meanwhile
    seconds: float
    cpu_seconds: float  # of the server
    latencies_micros: list[int]  # sorted


@dataclass(frozen=True)
class Sample:
    """The figures of one or several runs."""

    requests: int
    probes: int
    requests_per_second: float
    cpu_micros: float  # of the server, per request
    p50_micros: float
    p99_micros: float
    max_micros: float

    @classmethod
    def of(cls, *runs: Run) -> Sample:
        requests = sum(run.requests for run in runs)
        probes = sum(run.probes for run in runs)
        cpu_seconds = sum(run.cpu_seconds for run in runs)
        latencies = sorted(latency for run in runs for latency in run.latencies_micros)
        return cls(
            requests=requests,
            probes=probes,
            requests_per_second=requests / sum(run.seconds for run in runs),
            cpu_micros=cpu_seconds * 1e6 / (requests + probes),
            p50_micros=percentile(latencies, 50),
            p99_micros=percentile(latencies, 99),
            max_micros=percentile(latencies, 100),
        )


def median_sample(samples: list[Sample]) -> Sample:
    """The median of each figure for itself; the counts are sums."""
    rows = [asdict(sample) for sample in samples]
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    sums = {key: sum(row[key] for row in rows) for key in ("requests", "probes")}
    return Sample(**medians | sums)


@dataclass(frozen=True)
class H2loadResult:
    done: int
    succeeded: int
    data_bytes: int
    requests_per_second: float
    latencies_micros: list[int]  # sorted


class H2load:
    """One h2load process; wait() gives what it found.

    `requests` is exact: every answer is awaited and counted. With `seconds` instead, h2load stops
    in the middle of what is in flight. `rate` is how many requests all connections together begin
    in a second, as long as there are streams left; 0 is as many as there are streams for.
    """

    def __init__(
        self,
        target: Target,
        load: Load,
        directory: Path,
        *,
        requests: int = 0,
        seconds: float = 0.0,
        rate: float = 0.0,
        headers: Sequence[str] = (),
    ) -> None:
        name = f"{target.server.pid}-{time.monotonic_ns()}"
        self._log = directory / f"{name}.log"
        self._body = directory / f"{name}.body"
        self._body.write_bytes(target.workload.body)
        amount = f"--requests={requests}" if requests else f"--duration={max(1, round(seconds))}s"
        pace = [f"--rps={rate / load.connections:.3f}"] if rate else []
        self._process = subprocess.Popen(
            [
                *("h2load", "--threads=1", f"--clients={load.connections}"),
                *(f"--max-concurrent-streams={load.streams}", amount, *pace),
                *("--header=content-type: application/grpc", "--header=te: trailers"),
                *(f"--header={header}" for header in headers),
                *(f"--data={self._body}", f"--log-file={self._log}"),
                f"http://127.0.0.1:{target.server.port}{target.workload.path}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self, timeout: float) -> H2loadResult:
        try:
            output, _ = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise WrongAnswerError(f"h2load was not done after {timeout:.0f} s") from None
        if self._process.returncode != 0:
            raise WrongAnswerError(f"h2load ended with {self._process.returncode}: {output[-500:]}")
        try:
            return parse_h2load(output, self._log)
        finally:
            self._log.unlink(missing_ok=True)
            self._body.unlink(missing_ok=True)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def parse_h2load(output: str, log: Path) -> H2loadResult:
    """What h2load printed, and column 3 of its log: microseconds until the end of the answer."""
    rate = re.search(r"^finished in [\d.]+\w+, ([\d.]+) req/s", output, re.MULTILINE)
    requests = re.search(r"^requests: .*?(\d+) done, (\d+) succeeded", output, re.MULTILINE)
    data = re.search(r"\((\d+)\) data$", output, re.MULTILINE)
    if rate is None or requests is None or data is None:
        raise WrongAnswerError(f"h2load said something unknown: {output[-500:]}")
    with log.open("rb") as lines:  # of which there may be millions
        rows = (line.split(b"\t") for line in lines)
        latencies = sorted(int(row[2]) for row in rows if len(row) >= 3 and row[1] == b"200")
    return H2loadResult(
        done=int(requests[1]),
        succeeded=int(requests[2]),
        data_bytes=int(data[1]),
        requests_per_second=float(rate[1]),
        latencies_micros=latencies,
    )


def percentile(ordered: list[int], percent: float) -> float:
    """The value that `percent` of a sorted list do not pass."""
    if not ordered:
        raise WrongAnswerError("no answer at all")
    index = max(0, -(-len(ordered) * percent // 100) - 1)  # the ceiling, from 0
    return float(ordered[int(index)])


class Probe:
    """Sends the same request every 50 ms in a thread of its own and compares each answer."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.sent = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        request = self.target.workload.request
        with self.target.server.channel() as channel:
            predict = unary(channel, self.target.workload.path)
            while not self._stop.is_set():
                try:
                    answer = predict(request, timeout=PROBE_TIMEOUT_SECONDS)
                except grpc.RpcError as error:
                    self.wrong.append(f"{error.code().name}: {error.details()}")
                else:
                    if not self.target.is_right(answer):
                        self.wrong.append(f"{len(answer)} bytes: {answer[:80]!r}")
                self.sent += 1
                self._stop.wait(PROBE_INTERVAL_SECONDS)


class Loader:
    """Runs one load on one target again and again; learns how many requests fill the time."""

    def __init__(self, target: Target, load: Load, seconds: float, directory: Path) -> None:
        self.target = target
        self.load = load
        self.seconds = seconds
        self.directory = directory
        self.rate = 0.0  # requests per second of the last run

    def warm_up(self) -> None:
        """Ever longer runs, until the rate is known; their figures are thrown away."""
        aim = 0.25 * min(1.0, self.seconds)
        requests = 4 * self.in_flight
        while (seconds := self.run(requests).seconds) < aim:
            requests = max(2 * requests, round(1.5 * aim * requests / seconds))

    def measure(self) -> Sample:
        """One run of as many requests as should fill the time."""
        return Sample.of(self.run(max(4 * self.in_flight, round(self.rate * self.seconds))))

    def measure_all(self) -> Sample:
        """Runs of up to a second until the time is over, and every request counts, the first too.

        For finding out who is held up: no warm-up can hide it.
        """
        runs = []
        requests = self.in_flight
        end = time.perf_counter() + self.seconds
        while (left := end - time.perf_counter()) > 0:
            runs.append(self.run(requests))
            requests = max(self.in_flight, min(4 * requests, round(self.rate * min(1.0, left))))
        return Sample.of(*runs)

    def run(self, requests: int) -> Run:
        """Exactly so many requests, up to as many more as make an equal share for each connection.

        Raises WrongAnswerError unless each answer is right.
        """
        requests += -requests % self.load.connections
        if self.target.server.kind.speaks_grpc:
            run = self._run_grpc(requests)
        else:
            run = self._run_socket(requests)
        self.rate = run.requests / run.seconds
        return run

    @property
    def in_flight(self) -> int:
        return self.load.connections * self.load.streams

    def _run_grpc(self, requests: int) -> Run:
        planned = requests / self.rate if self.rate else self.seconds
        before = self.target.server.cpu_seconds()
        with Probe(self.target) as probe:
            h2load = H2load(self.target, self.load, self.directory, requests=requests)
            try:
                result = h2load.wait(STUCK_SECONDS + STUCK_FACTOR * planned)
            except WrongAnswerError as error:
                raise WrongAnswerError("; ".join([str(error), *probe.wrong[:2]])) from None
        cpu_seconds = self.target.server.cpu_seconds() - before
        self._check(result, probe, requests)
        seconds = requests / result.requests_per_second
        return Run(requests, probe.sent, seconds, cpu_seconds, result.latencies_micros)

    def _check(self, result: H2loadResult, probe: Probe, requests: int) -> None:
        """Every answer is there and has the size of the right one, and the probe saw no other."""
        if probe.wrong:
            raise WrongAnswerError(f"{len(probe.wrong)} of {probe.sent} probes: {probe.wrong[0]}")
        if result.succeeded != requests or len(result.latencies_micros) != requests:
            raise WrongAnswerError(f"{result.succeeded} of {requests} requests got HTTP status 200")
        wanted = requests * (self.target.answer_size + PREFIX_SIZE)
        if result.data_bytes != wanted:
            raise WrongAnswerError(
                f"{requests} answers have {result.data_bytes} bytes of data together, "
                f"not {wanted}: some are errors or incomplete"
            )

    def _run_socket(self, requests: int) -> Run:
        server = self.target.server
        before = server.cpu_seconds()
        latencies, seconds = echo_over_socket(server.port, self.target.workload.body, requests)
        return Run(requests, 0, seconds, server.cpu_seconds() - before, latencies)


def echo_over_socket(port: int, body: bytes, requests: int) -> tuple[list[int], float]:
    """Send `body` and read it back, one after the other: sorted microseconds, and all seconds.

    The server reads, whatever happens to its answers, so sending all first does not block.
    """
    latencies = []
    received = bytearray(len(body))
    view = memoryview(received)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(STUCK_SECONDS)
        begin = time.perf_counter()
        for _ in range(requests):
            start = time.perf_counter_ns()
            client.sendall(body)
            size = 0
            while size < len(body):
                count = client.recv_into(view[size:])
                if count == 0:
                    raise WrongAnswerError("the server closed the connection")
                size += count
            latencies.append((time.perf_counter_ns() - start) // 1000)
            if received != body:
                raise WrongAnswerError("the echo differs")
        seconds = time.perf_counter() - begin
    return sorted(latencies), seconds
