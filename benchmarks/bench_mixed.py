"""Slow models and quick ones in one server: throughput, and who waits for whom.

    python benchmarks/bench_mixed.py
    python benchmarks/bench_mixed.py --rounds=1 --seconds=3 --long_seconds=10
    python benchmarks/bench_mixed.py --layout=signatures --json=mixed.json

1. A model of about 20 ms at 16 streams, against threads which call TF_SessionRun directly on as
   many cores (direct_runs.py), in turns.
2. half_plus_two alone, and beside that.
3. Two runs of 30 s at once, and half_plus_two and the 20 ms model beside them; a third such request
   with a deadline of 1 s; then one with that deadline alone, and whether its run stops.

The three models are served by name (`--model_config_file`). A server which cannot yet serve
several gets one model with three signatures, and the report says so. Exit status 1 means that the
server is missing or answered wrongly.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from _load import H2load, Load, Loader, Sample, WrongAnswerError
from _report import machine, machine_line, number, table, verdict, write_json
from _servers import (
    BenchmarkError,
    Server,
    ServerKind,
    Target,
    config_file_command,
    config_text,
    require_tools,
    server_kinds,
    unary,
)
from _workloads import PREDICT, PREFIX_SIZE, Workload, load_workload

QUICK, SLOW, LONG = "half_plus_two", "slow", "spinner"
SLOW_LOAD = Load(1, 16)
THROUGHPUT = 0.95  # aim: of the threads' that call TensorFlow directly
P99_MICROS = 10_000.0  # aim: of half_plus_two beside slow models
REQUESTED_SECONDS = 30.0  # what make_models.py wrote into the request for a long run
DEADLINE_SECONDS = 1.0
DEADLINE_SLACK_SECONDS = 0.2  # an answer this much after the deadline is in time
IDLE_SHARE = 0.1  # of one core: less is "the run has stopped"
DEADLINE_EXCEEDED = 4  # gRPC status code
GIVE_UP_SECONDS = 120.0


@dataclass
class Findings:
    """Everything that was measured; the tables and the JSON come from here."""

    layout: str = ""
    direct: list[dict[str, float]] = field(default_factory=list)
    slow: list[Sample] = field(default_factory=list)
    rows: list[tuple[str, str, Sample]] = field(default_factory=list)  # model, beside what, figures
    slow_beside_quick: float = 0.0  # its requests per second meanwhile
    long_seconds: list[float] = field(default_factory=list)  # each of the two long runs
    deadline_beside: tuple[float, int] | None = None  # seconds, status
    deadline_alone: tuple[float, int] | None = None
    cores_after_deadline: float | None = None  # the server's CPU use in the second after
    failures: list[str] = field(default_factory=list)

    def row(self, model: str, beside: str) -> Sample | None:
        found = [sample for name, what, sample in self.rows if (name, what) == (model, beside)]
        return found[0] if found else None


def several_models(
    workloads: list[Workload], directory: Path, flags: list[str], transport: str
) -> ServerKind:
    """tfsrv with each workload's model under its own name."""
    path = directory / "models.config"
    path.write_text(config_text({each.model: each.model_base_path for each in workloads}))
    command = config_file_command(transport, path, flags)
    return ServerKind(f"tfsrv, {transport}", command)


@contextmanager
def started(
    layout: str, directory: Path, flags: list[str], transport: str
) -> Iterator[tuple[str, dict[str, Target]]]:
    """The running server's layout and targets by name; 'auto' tries models, then signatures."""
    if layout in ("auto", "models"):
        workloads = [load_workload(name) for name in (QUICK, SLOW, LONG)]
        kind = several_models(workloads, directory, flags, transport)
        with Server(kind, workloads[0]) as server:
            try:
                targets = make_targets(server, workloads)
            except BenchmarkError as error:
                if layout == "models":
                    raise
                print(f"no several models: {error}\ntrying signatures", file=sys.stderr)
            else:
                yield "models", targets
                return
    workloads = [load_workload(f"mixed.{name}") for name in (QUICK, SLOW, LONG)]
    kind = server_kinds(flags)["native" if transport == "native" else "grpcio"]
    with Server(kind, workloads[0]) as server:
        yield "signatures", make_targets(server, workloads)


def make_targets(server: Server, workloads: list[Workload]) -> dict[str, Target]:
    """`workloads`: quick, slow, long. The long one is not tried: that would take 30 s."""
    quick = server.wait_until_ready()
    deadline = time.perf_counter() + GIVE_UP_SECONDS  # a later model may still be loading
    slow = server.target(workloads[1], deadline)
    long = Target(server, workloads[2], len(workloads[2].response))
    return {QUICK: quick, SLOW: slow, LONG: long}


def direct_runs(workload: Workload, threads: int, seconds: float) -> dict[str, float]:
    """What direct_runs.py says of the same model."""
    command = [
        *(sys.executable, str(Path(__file__).with_name("direct_runs.py"))),
        *(str(workload.model_base_path / "1"), workload.input_tensor, workload.output_tensor),
        *(f"--threads={threads}", f"--seconds={seconds}"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds + GIVE_UP_SECONDS
    )
    if done.returncode != 0:
        raise WrongAnswerError(f"direct_runs.py failed: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare_throughput(
    target: Target, findings: Findings, directory: Path, arguments: argparse.Namespace
) -> None:
    loader = Loader(target, SLOW_LOAD, arguments.seconds, directory)
    loader.warm_up()
    cores = len(os.sched_getaffinity(0))
    for turn in range(arguments.rounds):
        findings.direct.append(direct_runs(target.workload, cores, arguments.seconds))
        findings.slow.append(loader.measure())
        print(f"throughput: round {turn + 1} of {arguments.rounds} done", file=sys.stderr)


def measure_quick(
    target: Target, load: Load, beside: str, findings: Findings, directory: Path, seconds: float
) -> None:
    sample = Loader(target, load, seconds, directory).measure_all()
    name = target.workload.name.removeprefix("mixed.")
    findings.rows.append((f"{name}, {load.name}", beside, sample))


def measure_beside_slow(
    quick: Target, slow: Target, findings: Findings, directory: Path, seconds: float
) -> None:
    """half_plus_two while the 20 ms model is under load; how fast that one still is."""
    background = H2load(slow, SLOW_LOAD, directory, seconds=seconds + 2)
    try:
        measure_quick(quick, Load(1, 1), "slow, 1x16", findings, directory, seconds)
    except BaseException:
        background.kill()
        raise
    result = background.wait(GIVE_UP_SECONDS)
    findings.slow_beside_quick = result.requests_per_second
    wanted = result.succeeded * (slow.answer_size + PREFIX_SIZE)
    tolerance = SLOW_LOAD.streams * (slow.answer_size + PREFIX_SIZE)  # cut off at the end
    if abs(result.data_bytes - wanted) > tolerance:
        findings.failures.append(
            f"{SLOW} beside {QUICK}: {result.data_bytes} bytes of data, not {wanted}"
        )


def measure_beside_long(
    targets: dict[str, Target], findings: Findings, directory: Path, arguments: argparse.Namespace
) -> None:
    """Two long runs at once; the other models, and a request with a deadline, beside them."""
    long = with_seconds(targets[LONG], arguments.long_seconds)
    beside = f"2 runs of {arguments.long_seconds:g} s"
    with long.server.channel() as channel:
        predict = unary(channel)
        begin = time.perf_counter()
        timeout = arguments.long_seconds + GIVE_UP_SECONDS
        calls = [predict.future(long.workload.request, timeout=timeout) for _ in range(2)]
        ended = [0.0, 0.0]
        for index, call in enumerate(calls):
            call.add_done_callback(note_end(ended, index))
        time.sleep(0.5)  # both have begun, and a server had time to notice that they are slow
        for name in (QUICK, SLOW):
            measure_quick(targets[name], Load(1, 1), beside, findings, directory, arguments.seconds)
        findings.deadline_beside = ask_with_deadline(long)
        if any(call.done() for call in calls):
            findings.failures.append(
                "a long run ended before what is beside it was measured: either that was "
                "held up, or --long_seconds is too short"
            )
        for index, call in enumerate(calls):
            try:
                answer = call.result()
            except grpc.RpcError as error:
                findings.failures.append(f"long run: {error.code().name}: {error.details()}")
                continue
            findings.long_seconds.append(ended[index] - begin)
            if not long.is_right(answer):
                findings.failures.append(f"long run: wrong answer {answer[:80]!r}")


def note_end(ended: list[float], index: int) -> Any:
    def note(_: Any) -> None:
        ended[index] = time.perf_counter()

    return note


def with_seconds(target: Target, seconds: float) -> Target:
    """The same request, with another number of seconds as its only float."""
    old, new = (struct.pack("<f", value) for value in (REQUESTED_SECONDS, seconds))
    request, response = target.workload.request, target.workload.response
    if request.count(old) != 1 or response.count(old) != 1:
        raise AssertionError("the request for a long run is not what it was")
    workload = replace(
        target.workload, request=request.replace(old, new), response=response.replace(old, new)
    )
    return replace(target, workload=workload)


def ask_with_deadline(target: Target) -> tuple[float, int]:
    """Send `grpc-timeout: 1S` by nghttp, which itself keeps no deadline: seconds, and grpc-status.

    A gRPC client would say DEADLINE_EXCEEDED by itself, whatever the server does.
    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(target.workload.body)
        body.flush()
        command = [
            *("nghttp", "--verbose", f"--timeout={GIVE_UP_SECONDS:.0f}"),
            *(f"--data={body.name}", "--header=:method: POST"),
            *("--header=content-type: application/grpc", "--header=te: trailers"),
            f"--header=grpc-timeout: {DEADLINE_SECONDS:.0f}S",
            f"http://127.0.0.1:{target.server.port}{PREDICT}",
        ]
        done = subprocess.run(command, capture_output=True, check=False)
    text = re.sub(r"\x1b\[[\d;]*m", "", done.stdout.decode(errors="replace"))
    match = re.search(r"\[ *([\d.]+)\] recv \(stream_id=\d+\) grpc-status: (\d+)", text)
    if match is None:
        raise WrongAnswerError(f"no grpc-status after a deadline: {text[-500:]}")
    return float(match[1]), int(match[2])


def measure_deadline_alone(target: Target, findings: Findings) -> None:
    findings.deadline_alone = ask_with_deadline(target)
    before = target.server.cpu_seconds()
    time.sleep(1.0)
    findings.cores_after_deadline = target.server.cpu_seconds() - before


def throughput_ratio(findings: Findings) -> float:
    """Served runs per second (the probe's too) against direct ones, round by round."""
    return statistics.median(
        served_rate(sample) / direct["runs_per_second"]
        for sample, direct in zip(findings.slow, findings.direct, strict=True)
    )


def served_rate(sample: Sample) -> float:
    return sample.requests_per_second * (1 + sample.probes / sample.requests)


def tables(findings: Findings) -> str:
    parts = []
    if findings.slow:
        rows = [
            [
                number(direct["runs_per_second"]),
                number(direct["median_run_seconds"] * 1e3),
                number(served_rate(sample)),
                f"{served_rate(sample) / direct['runs_per_second']:.1%}",
                number(sample.p50_micros / 1e3),
                number(sample.p99_micros / 1e3),
            ]
            for direct, sample in zip(findings.direct, findings.slow, strict=True)
        ]
        header = ["direct runs/s", "ms each", "served/s", "of direct", "p50 ms", "p99 ms"]
        parts.append(f"### slow (20 ms), 1x16, each round\n\n{table(header, rows, left=0)}")
    if findings.rows:
        rows = [
            [
                model,
                beside,
                number(sample.requests_per_second),
                number(sample.p50_micros / 1e3),
                number(sample.p99_micros / 1e3),
                number(sample.max_micros / 1e3),
            ]
            for model, beside, sample in findings.rows
        ]
        header = ["model", "beside", "requests/s", "p50 ms", "p99 ms", "most ms"]
        parts.append(f"### Side by side\n\n{table(header, rows, left=2)}")
    return "\n\n".join(parts)


def goal_rows(findings: Findings, long_seconds: float) -> list[list[str]]:
    rows = []
    if findings.slow:
        ratio = throughput_ratio(findings)
        wanted, reached = f"≥ {THROUGHPUT:.0%}", verdict(ratio >= THROUGHPUT)
        rows.append(["throughput of slow against direct runs", wanted, f"{ratio:.1%}", reached])
    for beside in ("slow, 1x16", f"2 runs of {long_seconds:g} s"):
        sample = findings.row(f"{QUICK}, 1x1", beside)
        if sample is not None:
            shown, reached = (
                number(sample.p99_micros / 1e3),
                verdict(sample.p99_micros <= P99_MICROS),
            )
            rows.append(
                [f"p99 of half_plus_two beside {beside}", "≤ 10 ms", f"{shown} ms", reached]
            )
    deadlines = {
        "beside two such runs": findings.deadline_beside,
        "alone": findings.deadline_alone,
    }
    for where, answer in deadlines.items():
        if answer is not None:
            seconds, status = answer
            on_time = abs(seconds - DEADLINE_SECONDS) <= DEADLINE_SLACK_SECONDS
            reached = verdict(on_time and status == DEADLINE_EXCEEDED)
            shown = f"status {status} after {seconds:.3f} s"
            rows.append(
                [f"1 s deadline of a long run, {where}", "status 4 after 1 s", shown, reached]
            )
    if findings.cores_after_deadline is not None:
        busy = findings.cores_after_deadline
        what = "CPU in the second after that"
        rows.append([what, "idle", f"{busy:.2f} cores", verdict(busy <= IDLE_SHARE)])
    return rows


def measure(findings: Findings, directory: Path, arguments: argparse.Namespace) -> None:
    flags, transport = arguments.tfsrv_flag, arguments.transport
    with started(arguments.layout, directory, flags, transport) as (layout, targets):
        findings.layout = layout
        quick, slow = targets[QUICK], targets[SLOW]
        compare_throughput(slow, findings, directory, arguments)
        for target in (quick, slow):
            measure_quick(target, Load(1, 1), "nothing", findings, directory, arguments.seconds)
        measure_beside_slow(quick, slow, findings, directory, arguments.seconds)
        print("two long runs", file=sys.stderr)
        measure_beside_long(targets, findings, directory, arguments)
        measure_deadline_alone(targets[LONG], findings)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layout", choices=("auto", "models", "signatures"), default="auto")
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one run")
    parser.add_argument("--long_seconds", type=float, default=30.0)
    parser.add_argument("--tfsrv_flag", action="append", default=[], help="may be repeated")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    require_tools("h2load", "nghttp")
    facts = machine()
    findings = Findings()
    with tempfile.TemporaryDirectory() as directory:
        try:
            measure(findings, Path(directory), arguments)
        except (BenchmarkError, OSError) as error:
            findings.failures.append(str(error))
    if findings.layout == "signatures":
        print("Three signatures of one model: several models were not served or not asked for.\n")
    if shown := tables(findings):
        print(f"{shown}\n")
    if goals := goal_rows(findings, arguments.long_seconds):
        header = ["figure", "wanted", "measured", "verdict"]
        print(f"### Figures of tfsrv, {arguments.transport}\n\n{table(header, goals)}\n")
    for failure in findings.failures:
        print(f"FAILED {failure}\n")
    print(machine_line(facts))
    if arguments.json:
        document = {"machine": facts, "arguments": vars(arguments), **asdict(findings)}
        write_json(arguments.json, document)
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
