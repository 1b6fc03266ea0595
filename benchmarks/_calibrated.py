"""A callable of known cost, batched without a parameter and with fixed ones.

    python benchmarks/_calibrated.py                    # about 3 minutes for each kind
    python benchmarks/_calibrated.py --kind=sleep --seconds=0.5 --rounds=1

A run takes 2 ms and 0.05 ms a row more: by sleeping, or by computing with numpy, both without the
GIL. 256 clients, coroutines or threads, have one request of one row open at any time. Asked are a
BatchingSession that chooses everything itself, and one for each fixed pair of size and time-out:
its batches wait until they are full or the time-out is over. All of them have the same threads, and
run in turns. The ratio is that of the medians of throughput: no parameter against the best pair.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from _report import machine, machine_line, number, table, verdict
from tfsrv.batching import BatchingParameters, BatchingSession, BatchScheduler

Array = NDArray[Any]

RUN_SECONDS = 2e-3
ROW_SECONDS = 0.05e-3
CLIENTS = 256
THREADS = 2
GOAL = 0.9
SIZES = (8, 16, 32, 64, 128, 256)
TIMEOUTS_MS = (0.5, 1.0, 2.0, 5.0, 10.0)


def sleeping(inputs: Array) -> Array:
    """Waits as for a device that does one thing after the other for each caller."""
    time.sleep(RUN_SECONDS + ROW_SECONDS * len(inputs))
    return inputs + 1


class Computing:
    """Computes for as long as it should, in operations that let go of the GIL."""

    def __init__(self) -> None:
        self._block = numpy.ones(100_000, numpy.float32)
        steps = [self._step_seconds() for _ in range(200)]
        self._steps_a_second = 1 / statistics.median(steps)

    def _step_seconds(self) -> float:
        begun = time.perf_counter()
        self._step(self._block.copy())
        return time.perf_counter() - begun

    @staticmethod
    def _step(block: Array) -> None:
        numpy.sqrt(block, out=block)

    def __call__(self, inputs: Array) -> Array:
        block = self._block.copy()
        seconds = RUN_SECONDS + ROW_SECONDS * len(inputs)
        for _ in range(max(1, round(seconds * self._steps_a_second))):
            self._step(block)
        return inputs + 1


@dataclass(frozen=True)
class Choice:
    """What a session is told; None: nothing."""

    size: int | None = None
    timeout_ms: float = 0.0

    def parameters(self) -> BatchingParameters:
        if self.size is None:
            return BatchingParameters()
        return BatchingParameters(
            max_batch_size=self.size,
            batch_timeout_micros=round(self.timeout_ms * 1000),
            max_enqueued_batches=1000,
        )

    def __str__(self) -> str:
        return "no parameter" if self.size is None else f"{self.size} rows, {self.timeout_ms} ms"


def sweep() -> list[Choice]:
    return [Choice(), *(Choice(size, timeout) for size in SIZES for timeout in TIMEOUTS_MS)]


class Clients:
    """Counts answers; the first `warm_seconds` are the session's to learn."""

    def __init__(self, seconds: float, warm_seconds: float) -> None:
        now = time.monotonic()
        self.begun = now + warm_seconds
        self.until = self.begun + seconds
        self.answered = 0

    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    def count(self) -> None:
        if self.begun <= time.monotonic() < self.until:
            self.answered += 1

    def throughput(self) -> float:
        return self.answered / (self.until - self.begun)


def ask_with_coroutines(session: BatchingSession[Array, Array], clients: Clients) -> None:
    row = numpy.zeros(1)

    async def client() -> None:
        while clients.goes_on():
            await session.run_async(row)
            clients.count()

    async def all_clients() -> None:
        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    asyncio.run(all_clients())


def ask_with_threads(session: BatchingSession[Array, Array], clients: Clients) -> None:
    row = numpy.zeros(1)

    def client() -> None:
        while clients.goes_on():
            session.run(row)
            clients.count()  # under the GIL; one lost in millions does not matter

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


ASKING = {"coroutines": ask_with_coroutines, "threads": ask_with_threads}


def measure(
    function: Callable[[Array], Array],
    choices: Sequence[Choice],
    clients: str,
    *,
    seconds: float,
    warm_seconds: float,
    rounds: int,
) -> dict[Choice, float]:
    """Median throughput of each, in answers a second."""
    samples: dict[Choice, list[float]] = {choice: [] for choice in choices}
    for _ in range(rounds):
        for choice in choices:
            with (
                BatchScheduler(THREADS) as scheduler,
                BatchingSession(function, scheduler, choice.parameters()) as session,
            ):
                counting = Clients(seconds, warm_seconds)
                ASKING[clients](session, counting)
            samples[choice].append(counting.throughput())
    return {choice: statistics.median(each) for choice, each in samples.items()}


def ratio_to_best(throughput: dict[Choice, float]) -> float:
    """Of the session that chooses itself to the best fixed pair."""
    best = max(each for choice, each in throughput.items() if choice.size is not None)
    return throughput[Choice()] / best


def report(throughput: dict[Choice, float]) -> str:
    best = max(each for choice, each in throughput.items() if choice.size is not None)
    by_speed = sorted(throughput.items(), key=lambda item: -item[1])
    rows = [[str(choice), number(each), f"{each / best:.2f}"] for choice, each in by_speed]
    return table(["batches", "answers/s", "of the best pair"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Batching without a parameter and with fixed ones."
    )
    parser.add_argument("--kind", choices=["sleep", "compute", "both"], default="both")
    parser.add_argument("--clients", choices=sorted(ASKING), default="coroutines")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warm_seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    print(machine_line(machine()))
    functions: dict[str, Callable[[Array], Array]] = {}
    if options.kind != "compute":
        functions["sleep"] = sleeping
    if options.kind != "sleep":
        functions["compute"] = Computing()
    for kind, function in functions.items():
        throughput = measure(
            function,
            sweep(),
            options.clients,
            seconds=options.seconds,
            warm_seconds=options.warm_seconds,
            rounds=options.rounds,
        )
        ratio = ratio_to_best(throughput)
        print(f"\n## {kind}, {CLIENTS} {options.clients}\n\n{report(throughput)}\n")
        print(f"no parameter against the best pair: {ratio:.2f} ({verdict(ratio >= GOAL)})")


if __name__ == "__main__":
    main()
