"""One swap of versions per second under load, against the same load without swaps.

h2load sends requests at half of what the server can do. Beside it a client looks at what single
answers say (History in _versions.py), and the bytes of all answers are counted as in _load.py.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType

from _client import Client, connected
from _lifecycle import (
    FIRST_VERSION,
    Settings,
    ask_until,
    checked,
    megabytes,
    settled_memory,
    single_model,
)
from _load import (
    STUCK_FACTOR,
    STUCK_SECONDS,
    H2load,
    H2loadResult,
    Load,
    Loader,
    Run,
    Sample,
    median_sample,
)
from _report import Finding, number
from _servers import BenchmarkError, Server, Target
from _versions import VersionDirectories
from _workloads import PREFIX_SIZE

LOAD = Load(4, 16)
CAPACITY_RUNS = 3
CAPACITY_SECONDS = 2.0  # of one of these
SHARE = 0.5  # of the capacity
INTERVAL_SECONDS = 1.0  # from one swap to the next
LOOK_SECONDS = 0.01  # from one look at an answer to the next
SWAP_LOOK_SECONDS = 0.005  # the same, until a new version answers
TIMES_P99 = 2.0  # aim


@dataclass
class Round:
    """One run of the load."""

    sample: Sample
    failed: int  # requests of h2load
    looks: list[float]  # seconds of each request of the client that looks at answers
    wrong: list[str]  # what it saw
    swaps: list[float]  # seconds from the rename to the first answer


class Ticker:
    """Takes a step every so many seconds, in a thread with a connection of its own.

    A step that takes longer moves those that follow. A step that raises BenchmarkError or OSError
    is the last: see `error`.
    """

    def __init__(self, server: Server, interval: float, step: Callable[[Client], object]) -> None:
        self.error = ""
        self._server = server
        self._interval = interval
        self._step = step
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Ticker:
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
        due = time.perf_counter()
        with connected(self._server) as client:
            while not self._stop.wait(max(0.0, due - time.perf_counter())):
                try:
                    self._step(client)
                except (BenchmarkError, OSError) as error:
                    self.error = str(error)
                    return
                due = max(due + self._interval, time.perf_counter())


class Rounds:
    """Runs the same load again and again, with and without swaps."""

    def __init__(
        self, target: Target, versions: VersionDirectories, rate: float, settings: Settings
    ) -> None:
        """`rate` is in requests per second."""
        self._target = target
        self._versions = versions
        self._settings = settings
        self._rate = rate
        self._version = FIRST_VERSION

    def run(self, *, swapping: bool) -> Round:
        server = self._target.server
        looks: list[float] = []
        swaps: list[float] = []
        wrong: list[str] = []

        def look(client: Client) -> None:
            begin = time.perf_counter()
            checked(client, self._versions.history, wrong)
            looks.append(time.perf_counter() - begin)

        def swap(client: Client) -> None:
            swaps.append(self._swap(client, wrong))

        with ExitStack() as stack:
            tickers = [stack.enter_context(Ticker(server, LOOK_SECONDS, look))]
            if swapping:
                tickers.append(stack.enter_context(Ticker(server, INTERVAL_SECONDS, swap)))
            before = server.cpu_seconds()
            requests, result = self._load()
            cpu_seconds = server.cpu_seconds() - before
        wrong += [ticker.error for ticker in tickers if ticker.error]
        seconds = requests / result.requests_per_second
        run = Run(requests, len(looks), seconds, cpu_seconds, result.latencies_micros)
        failed = failed_requests(result, requests, self._target.answer_size + PREFIX_SIZE)
        return Round(Sample.of(run), failed, looks, wrong, swaps)

    def _load(self) -> tuple[int, H2loadResult]:
        seconds = self._settings.seconds
        requests = round(self._rate * seconds)
        requests += -requests % LOAD.connections
        h2load = H2load(
            self._target, LOAD, self._settings.directory, requests=requests, rate=self._rate
        )
        return requests, h2load.wait(STUCK_SECONDS + STUCK_FACTOR * seconds)

    def _swap(self, client: Client, wrong: list[str]) -> float:
        """Write elsewhere, rename into place, remove the old one after the new one serves."""
        old, self._version = self._version, self._version + 1
        self._versions.write(self._version)
        placed = self._versions.place(self._version)
        history = self._versions.history
        answered = ask_until(self._version, client, history, wrong, SWAP_LOOK_SECONDS)
        self._versions.remove(old)
        return answered - placed


def failed_requests(result: H2loadResult, requests: int, size: int) -> int:
    """How many of `requests` were not answered with `size` bytes of data each."""
    unanswered = requests - min(result.succeeded, len(result.latencies_micros))
    missing = -(-abs(requests * size - result.data_bytes) // size)  # of an error, all bytes are
    return max(unanswered, missing)


def measure(settings: Settings) -> Finding:
    versions = VersionDirectories(settings.small, settings.directory / "swaps")
    versions.add(FIRST_VERSION)
    with single_model(settings, versions, FIRST_VERSION) as server:
        target = server.wait_until_ready()
        capacity = measure_capacity(target, settings)
        before = server.memory_bytes()["VmRSS"]
        rounds = Rounds(target, versions, SHARE * capacity, settings)
        quiet, swapped = run_rounds(rounds, settings.rounds)
        after = settled_memory(server)
    finding = Finding(
        f"swaps: {settings.seconds:g} s at {number(SHARE * capacity)} requests/s, half of "
        f"{number(capacity)}; {LOAD.name}",
        [
            *("swaps", "median ms", "most ms", "requests/s", "CPU µs"),
            *("p50 µs", "p99 µs", "most ms", "failed", "looked at", "wrong"),
        ],
    )
    for without, beside in zip(quiet, swapped, strict=True):
        finding.rows += [row_of(without), row_of(beside)]
    judge(finding, quiet, swapped, settings)
    finding.note("resident memory, before and after", f"{megabytes(before)}, {megabytes(after)} MB")
    finding.details = {
        "capacity": capacity,
        "memory_bytes": [before, after],
        "quiet": [asdict(each) for each in quiet],
        "swapped": [asdict(each) for each in swapped],
    }
    return finding


def measure_capacity(target: Target, settings: Settings) -> float:
    """Requests per second in a closed loop."""
    seconds = min(CAPACITY_SECONDS, settings.seconds)
    loader = Loader(target, LOAD, seconds, settings.directory)
    loader.warm_up()
    return median_sample([loader.measure() for _ in range(CAPACITY_RUNS)]).requests_per_second


def run_rounds(rounds: Rounds, count: int) -> tuple[list[Round], list[Round]]:
    """As many without swaps as with, in turns; nobody is always the first."""
    found: dict[bool, list[Round]] = {False: [], True: []}
    for turn in range(count):
        for swapping in (False, True) if turn % 2 == 0 else (True, False):
            found[swapping].append(rounds.run(swapping=swapping))
        print(f"swaps: round {turn + 1} of {count} done", file=sys.stderr)
    return found[False], found[True]


def row_of(found: Round) -> list[str]:
    sample = found.sample
    swaps = ["none", "", ""]
    if found.swaps:
        median, most = statistics.median(found.swaps), max(found.swaps)
        swaps = [str(len(found.swaps)), number(median * 1e3), number(most * 1e3)]
    return [
        *swaps,
        number(sample.requests_per_second),
        number(sample.cpu_micros),
        number(sample.p50_micros),
        number(sample.p99_micros),
        number(sample.max_micros / 1e3),
        str(found.failed),
        f"{len(found.looks):,}",
        str(len(found.wrong)),
    ]


def judge(finding: Finding, quiet: list[Round], swapped: list[Round], settings: Settings) -> None:
    rounds = [*quiet, *swapped]
    failed = sum(each.failed for each in rounds)
    requests = sum(each.sample.requests for each in rounds)
    finding.judge("failed requests", "0", f"{failed:,} of {requests:,}", failed == 0)
    wrong = [complaint for each in rounds for complaint in each.wrong]
    looked = sum(len(each.looks) for each in rounds)
    finding.judge(
        "answers from a version that was not available, or wrong",
        "0",
        f"{len(wrong):,} of {looked:,}",
        not wrong,
    )
    without, beside = (
        statistics.median(each.sample.p99_micros for each in kind) for kind in (quiet, swapped)
    )
    finding.judge(
        f"p99 with swaps ({number(beside)} µs) against without ({number(without)} µs), medians",
        f"≤ {TIMES_P99:g}×",
        f"{beside / without:.2f}×",
        beside <= TIMES_P99 * without,
    )
    planned = int(settings.seconds / INTERVAL_SECONDS)
    least = min(len(each.swaps) for each in swapped)
    finding.judge(
        f"swaps in {settings.seconds:g} s, the least of a round",
        f"≥ {planned - 1}",  # the last may have been cut off
        str(least),
        least >= planned - 1,
    )
    if failed:
        finding.fail([f"swaps: {failed:,} requests were not answered rightly"])
    finding.fail(wrong)
