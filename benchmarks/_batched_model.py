"""A model that gains by batches, served: against fixed sizes and waits, and under overload."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc

from _load import H2load, Load, Loader, WrongAnswerError, percentile
from _report import Finding, number
from _servers import Server, ServerKind, Target, tfsrv_command, unary
from _workloads import PREFIX_SIZE, load_workload

MODEL = "calibrated"
CLIENTS = Load(8, 32)
SIZES = (16, 32, 64, 128, 256)
TIMEOUTS_MICROS = (500, 2000, 5000, 10000)
OVERLOAD = 3.0  # times the capacity
DEADLINE_MS = 50
OVERLOAD_STREAMS = 512  # of each connection: more than the capacity answers within the deadline
PROBE_SECONDS = 0.02
LEARN_SECONDS = 5.0  # of load for every server, before anything is measured


@dataclass(frozen=True)
class Settings:
    """How long to measure, and where files go."""

    directory: Path
    seconds: float = 3.0
    rounds: int = 3


def server(settings: Settings, name: str, parameters: str = "") -> Server:
    """A server with batching, not yet started; with BatchingParameters in text form or none."""
    flags = ["--enable_batching"]
    if parameters:
        file = settings.directory / f"{name}.txt"
        file.write_text(parameters)
        flags.append(f"--batching_parameters_file={file}")
    kind = ServerKind(name, tfsrv_command("native", flags))
    return Server(kind, load_workload(MODEL))


def pairs() -> Iterator[tuple[str, str]]:
    """Every fixed size and wait: a name, and the parameters that say so."""
    for size in SIZES:
        for timeout in TIMEOUTS_MICROS:
            yield (
                f"{size} rows, {timeout / 1000:g} ms",
                f"max_batch_size {{ value: {size} }} batch_timeout_micros {{ value: {timeout} }}"
                " max_enqueued_batches { value: 1000 }",
            )


def measure_sweep(settings: Settings) -> Finding:
    """Requests per second of 256 clients, without parameters and with every fixed pair."""
    finding = Finding(
        "Model with 2 ms + 0.05 ms per row, 256 clients: no parameters against fixed ones",
        ["parameters", "requests/s", "of the best", "p50 ms", "p99 ms"],
    )
    with ExitStack() as stack:
        servers = {"none": stack.enter_context(server(settings, "none"))}
        for name, parameters in pairs():
            servers[name] = stack.enter_context(
                server(settings, name.replace(" ", "_"), parameters)
            )
        loaders = {}
        for name, started in servers.items():
            target = started.wait_until_ready()
            loaders[name] = Loader(target, CLIENTS, settings.seconds, settings.directory)
            loaders[name].warm_up()
            loaders[name].run(round(loaders[name].rate * LEARN_SECONDS))
        samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in loaders}
        for turn in range(settings.rounds):
            for name, loader in loaders.items():
                sample = loader.measure()
                samples[name].append(
                    (sample.requests_per_second, sample.p50_micros, sample.p99_micros)
                )
            print(f"sweep: round {turn + 1} of {settings.rounds} done", file=sys.stderr)
    medians = {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for name, rows in samples.items()
    }
    best = max(rate for name, (rate, _, _) in medians.items() if name != "none")
    for name, (rate, p50, p99) in sorted(medians.items(), key=lambda item: -item[1][0]):
        finding.rows.append(
            [name, number(rate), f"{rate / best:.2f}", number(p50 / 1000), number(p99 / 1000)]
        )
    ratio = medians["none"][0] / best
    finding.judge(
        "model, no parameters, of the best fixed pair", "≥ 0.90", f"{ratio:.2f}", ratio >= 0.9
    )
    finding.details = {
        "requests_per_second": {name: rate for name, (rate, _, _) in medians.items()}
    }
    return finding


def measure_overload(settings: Settings) -> Finding:
    """Right answers per second at three times the capacity, all with a deadline."""
    finding = Finding(
        f"Overload: {OVERLOAD:g} times the capacity, deadlines of {DEADLINE_MS} ms",
        [
            "round",
            "capacity /s",
            "asked /s",
            "right answers /s",
            "of capacity",
            "p99 ms of those",
            "memory MB",
        ],
    )
    shares = []
    p99s = []
    with server(settings, "overload") as started:
        target = started.wait_until_ready()
        loader = Loader(target, CLIENTS, settings.seconds, settings.directory)
        loader.warm_up()
        loader.run(round(loader.rate * LEARN_SECONDS))
        for turn in range(settings.rounds):
            capacity = loader.measure().requests_per_second
            before = started.memory_bytes()["VmRSS"]
            overload(target, OVERLOAD * capacity, 1.0, settings)  # it learns what is late
            good, asked, latencies = overload(
                target, OVERLOAD * capacity, settings.seconds, settings
            )
            after = started.memory_bytes()["VmRSS"]
            shares.append(good / capacity)
            p99s.append(percentile(latencies, 99) / 1000)
            finding.rows.append(
                [
                    str(turn + 1),
                    number(capacity),
                    number(asked),
                    number(good),
                    f"{shares[-1]:.2f}",
                    number(p99s[-1]),
                    f"{(after - before) / 1e6:+.0f}",
                ]
            )
    share = statistics.median(shares)
    p99 = statistics.median(p99s)
    finding.judge("overload, right answers of capacity", "≥ 0.90", f"{share:.2f}", share >= 0.9)
    finding.judge(
        "overload, p99 of right answers, ms", f"≤ {DEADLINE_MS}", number(p99), p99 <= DEADLINE_MS
    )
    return finding


def overload(
    target: Target, rate: float, seconds: float, settings: Settings
) -> tuple[float, float, list[int]]:
    """Right answers per second, requests per second, and microseconds of some right answers.

    Whatever is refused has no data, so the bytes of data tell how many were answered. A probe sends
    the same request with the same deadline now and then; its answers' times stand for all.
    """
    h2load = H2load(
        target,
        Load(CLIENTS.connections, OVERLOAD_STREAMS),
        settings.directory,
        seconds=seconds,
        rate=rate,
        headers=[f"grpc-timeout: {DEADLINE_MS}m"],
    )
    latencies = []
    end = time.perf_counter() + max(1, round(seconds))
    with target.server.channel() as channel:
        predict = unary(channel)
        while time.perf_counter() < end:
            begun = time.perf_counter()
            try:
                answer = predict(target.workload.request, timeout=DEADLINE_MS / 1000)
            except grpc.RpcError:
                answer = None
            if answer is not None and not target.is_right(answer):
                h2load.kill()
                raise WrongAnswerError(f"{len(answer)} bytes: {answer[:80]!r}")
            if answer is not None:
                latencies.append(round((time.perf_counter() - begun) * 1e6))
            time.sleep(PROBE_SECONDS)
    result = h2load.wait(seconds + 60)
    size = target.answer_size + PREFIX_SIZE
    if result.data_bytes % size:
        raise WrongAnswerError(f"{result.data_bytes} bytes of data are no number of right answers")
    return (
        result.data_bytes / size / max(1, round(seconds)),
        result.requests_per_second,
        sorted(latencies),
    )
