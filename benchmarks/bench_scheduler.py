"""What the batch scheduler and its queue cost by themselves, against Python's usual means.

    python benchmarks/bench_scheduler.py
    python benchmarks/bench_scheduler.py --tasks=50000 --rounds=3      # a few seconds
    python benchmarks/bench_scheduler.py --json=scheduler.json

Scheduler: one thread pushes tasks of a row in bursts and tells the workers after each burst; the
workers form batches and run nothing. The asyncio side does the same work: coroutines put a future
each into an asyncio.Queue and await it, a consumer gathers what is there and sets the results. The
usual one waits for each further request with wait_for, for what is left of a timeout, as MLServer's
AdaptiveBatcher (mlserver/batching/adaptive.py) does; the lean one takes what is there and knows no
timeout. Neither makes a task for a request.

Queue: two native threads push and two pop numbers; Python threads do so with queue.SimpleQueue.

Printed are medians of interleaved rounds. The processor time is that of the whole process.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from _report import machine, machine_line, number, table, verdict, write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfsrv._batching_stress import load
from tfsrv._queue_stress import flow
from tfsrv._workers import WorkerPool

BURST = 16  # tasks between two kicks: what a read of the loop brings
WINDOW = CLIENTS = 256  # tasks that are pushed and not done, at most
MAX_ROWS = 64  # of a batch
TASKS_FACTOR = 10  # the native side gets so many times the tasks, or it would be over too soon
QUEUE_CAPACITY = 4096
CPU_US = 0.6  # aim, of a task
CPU_RATIO = 20  # asyncio against ours
QUEUE_RATIO = 1.2  # ours against SimpleQueue
QUEUE_MILLIONS = 10  # aim, items a second
PRODUCERS = CONSUMERS = 2
TIMEOUT_SECONDS = 0.5  # of the usual asyncio loop; it never ends here

Waiting: TypeAlias = "asyncio.Queue[asyncio.Future[None]]"
Gather: TypeAlias = Callable[[Waiting], Awaitable[list[asyncio.Future[None]]]]


def scheduler_us(tasks: int) -> tuple[float, float]:
    """Processor time of a task in microseconds, and tasks in a batch."""
    workers = WorkerPool()
    workers.start()
    try:
        found = load(workers, tasks, burst=BURST, window=WINDOW, max_rows=MAX_ROWS)
    finally:
        workers.stop()
    if found["done"] != tasks:
        sys.exit(f"FAILED: {found['done']} of {tasks} tasks were done")
    return found["cpu_ns"] / tasks / 1e3, tasks / found["batches"]


async def take_what_is_there(waiting: Waiting) -> list[asyncio.Future[None]]:
    """A batch: whoever waits."""
    batch = [await waiting.get()]
    while len(batch) < MAX_ROWS and not waiting.empty():
        batch.append(waiting.get_nowait())
    return batch


async def wait_for_more(waiting: Waiting) -> list[asyncio.Future[None]]:
    """A batch: whoever comes before it is full or a timeout ends."""
    batch = [await waiting.get()]
    end = time.monotonic() + TIMEOUT_SECONDS
    try:
        while len(batch) < MAX_ROWS:
            batch.append(await asyncio.wait_for(waiting.get(), end - time.monotonic()))
    except asyncio.TimeoutError:
        pass
    return batch


async def asyncio_load(tasks: int, gather: Gather) -> tuple[int, int]:
    """The same with asyncio: processor time in nanoseconds, and batches."""
    loop = asyncio.get_running_loop()
    waiting: Waiting = asyncio.Queue()
    batches = 0

    async def consume() -> None:
        nonlocal batches
        while True:
            batch = await gather(waiting)
            batches += 1
            for future in batch:
                future.set_result(None)

    async def ask(times: int) -> None:
        for _ in range(times):
            future = loop.create_future()
            waiting.put_nowait(future)
            await future

    begun = time.process_time_ns()
    consumer = asyncio.create_task(consume())
    await asyncio.gather(*(ask(tasks // CLIENTS) for _ in range(CLIENTS)))
    used = time.process_time_ns() - begun
    consumer.cancel()
    return used, batches


def asyncio_us(tasks: int, gather: Gather) -> tuple[float, float]:
    """Processor time of a task in microseconds, and tasks in a batch."""
    used, batches = asyncio.run(asyncio_load(tasks, gather))
    return used / tasks / 1e3, tasks / batches


def queue_millions(items: int) -> float:
    """Millions of items a second through ours, with native threads."""
    found = flow(PRODUCERS, CONSUMERS, items, QUEUE_CAPACITY)
    if found["popped"] != PRODUCERS * items:
        sys.exit(f"FAILED: {found['popped']} of {PRODUCERS * items} items came out")
    return found["popped"] / found["nanoseconds"] * 1e3


def simple_queue_millions(items: int) -> float:
    """Millions of items a second through queue.SimpleQueue, with Python's threads."""
    queue: SimpleQueue[int] = SimpleQueue()
    gate = threading.Barrier(PRODUCERS + CONSUMERS + 1)

    def produce() -> None:
        gate.wait()
        for item in range(items):
            queue.put(item)

    def consume() -> None:
        gate.wait()
        for _ in range(items * PRODUCERS // CONSUMERS):
            queue.get()

    threads = [threading.Thread(target=produce) for _ in range(PRODUCERS)]
    threads += [threading.Thread(target=consume) for _ in range(CONSUMERS)]
    for thread in threads:
        thread.start()
    gate.wait()
    begun = time.perf_counter_ns()
    for thread in threads:
        thread.join()
    return PRODUCERS * items / (time.perf_counter_ns() - begun) * 1e3


def measure(tasks: int, rounds: int) -> dict[str, list[Any]]:
    """Every round's figures."""
    found: dict[str, list[Any]] = {
        name: [] for name in ("scheduler", "usual", "lean", "queue", "simple_queue")
    }
    for _ in range(rounds):
        found["scheduler"].append(scheduler_us(TASKS_FACTOR * tasks))
        found["usual"].append(asyncio_us(tasks, wait_for_more))
        found["lean"].append(asyncio_us(tasks, take_what_is_there))
        found["queue"].append(queue_millions(TASKS_FACTOR * tasks))
        found["simple_queue"].append(simple_queue_millions(tasks))
    return found


def ratio(found: dict[str, list[Any]], above: str, below: str) -> float:
    """The median of the rounds' own ratios, so that a slow minute hits both sides."""

    def figure(measured: Any) -> float:
        return float(measured[0] if isinstance(measured, tuple) else measured)

    pairs = zip(found[above], found[below], strict=True)
    return statistics.median(figure(one) / figure(other) for one, other in pairs)


def print_report(found: dict[str, list[Any]]) -> None:
    names = {"scheduler": "tfsrv", "usual": "asyncio, usual", "lean": "asyncio, lean"}
    medians = {
        name: [statistics.median(column) for column in zip(*found[name], strict=True)]
        for name in names
    }
    rows = [[names[name], *map(number, medians[name])] for name in names]
    print(table(["scheduler alone", "CPU µs/task", "tasks/batch"], rows))
    own, other = (statistics.median(found[name]) for name in ("queue", "simple_queue"))
    rows = [["tfsrv, native threads", number(own)], ["SimpleQueue, Python's", number(other)]]
    header = [f"queue alone, {PRODUCERS}+{CONSUMERS} threads", "million items/s"]
    print(f"\n{table(header, rows)}\n")
    cpu_us = medians["scheduler"][0]
    goals = [["CPU of a task", f"≤ {CPU_US} µs (aim)", f"{number(cpu_us)} µs", cpu_us <= CPU_US]]
    for name in ("usual", "lean"):
        times = ratio(found, name, "scheduler")
        wanted = f"≥ {CPU_RATIO}× ours"
        goals.append([f"CPU of {names[name]}", wanted, f"{number(times)}×", times >= CPU_RATIO])
    times = ratio(found, "queue", "simple_queue")
    wanted = f"≥ {QUEUE_RATIO}× SimpleQueue"
    goals.append(["queue", wanted, f"{number(times)}×", times >= QUEUE_RATIO])
    wanted = f"≥ {QUEUE_MILLIONS} M items/s (aim)"
    goals.append(["queue", wanted, number(own), own >= QUEUE_MILLIONS])
    rows = [[figure, wanted, measured, verdict(met)] for figure, wanted, measured, met in goals]
    print(table(["figure", "wanted", "measured", "verdict"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100_000, help="of a round on the slow side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write every round to this file")
    options = parser.parse_args()
    tasks = max(1, options.tasks // CLIENTS) * CLIENTS
    facts = machine()
    found = measure(tasks, options.rounds)
    print_report(found)
    print(f"\n{machine_line(facts)}")
    if options.json:
        write_json(options.json, {"machine": facts, "rounds": found})


if __name__ == "__main__":
    main()
