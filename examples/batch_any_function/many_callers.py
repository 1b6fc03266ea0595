"""A function on numpy arrays behind an asyncio program with many callers, batched and not.

    python examples/batch_any_function/many_callers.py
    python examples/batch_any_function/many_callers.py --callers=64 --seconds=5

The function is a small neural network: it takes rows, and many rows take little longer than one,
because the weights are read from memory once for all of them. Each of the 256 callers of this
program is a coroutine that sends one row, waits for the answer, checks it and sends the next. First
every row is run by itself, in as many threads as there are processors; then all rows go through a
BatchingSession, with as many:

    with BatchingSession(network) as session:
        answer = await session.run_async(row)

That is all there is to it: no size and no time-out is chosen. Rows that arrive while the threads
are busy wait together and run together. Needs nothing but tfsrv and numpy.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

# One processor for each thread of ours: numpy's own threads would get into each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy
from numpy.typing import NDArray

from tfsrv.batching import BatchingSession

Rows = NDArray[numpy.float32]

FEATURES = 512
HIDDEN = 4096
TOLERANCE = 0.5  # answers are hundreds


class Network:
    """Two layers with random weights: rows of FEATURES numbers in, one number for each row out."""

    def __init__(self) -> None:
        random = numpy.random.default_rng(0)
        self.first = random.standard_normal((FEATURES, HIDDEN), numpy.float32)
        self.second = random.standard_normal((HIDDEN, 1), numpy.float32)

    def __call__(self, rows: Rows) -> Rows:
        hidden = numpy.maximum(rows @ self.first, 0)
        answer: Rows = hidden @ self.second
        return answer


async def answers_per_second(
    ask: Callable[[Rows], Awaitable[Rows]], network: Network, callers: int, seconds: float
) -> float:
    """How many rows are answered a second when so many callers ask one after the other."""
    random = numpy.random.default_rng(1)
    rows = random.standard_normal((callers, 1, FEATURES), numpy.float32)
    expected = network(rows[:, 0])
    until = time.monotonic() + seconds
    answered = 0

    async def caller(number: int) -> None:
        nonlocal answered
        while time.monotonic() < until:
            answer = await ask(rows[number])
            # Not bit for bit: a product of more rows may add its terms in another order.
            assert abs(answer[0, 0] - expected[number, 0]) < TOLERANCE
            answered += 1

    begun = time.monotonic()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    return answered / (time.monotonic() - begun)


async def compare(callers: int, seconds: float) -> None:
    network = Network()

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:

        async def alone(rows: Rows) -> Rows:
            return await loop.run_in_executor(threads, network, rows)

        without = await answers_per_second(alone, network, callers, seconds)
    with BatchingSession(network) as session:
        batched = await answers_per_second(session.run_async, network, callers, seconds)
    counts = session.describe()
    print(f"each by itself: {without:,.0f} answers a second")
    print(f"in batches:     {batched:,.0f} answers a second, {batched / without:.1f} times as many")
    print(f"a batch had {counts['rows'] / counts['batches']:.1f} rows on average")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A batched function against one that is not.")
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each of the two")
    options = parser.parse_args(arguments)
    asyncio.run(compare(options.callers, options.seconds))


if __name__ == "__main__":
    main()
