"""What the batch scheduler and its queue cost by themselves, against Python's usual means.

    python benchmarks/bench_scheduler.py
    python benchmarks/bench_scheduler.py --tasks=50000 --rounds=3      # a few seconds
    python benchmarks/bench_scheduler.py --json=scheduler.json

Scheduler: one thread pushes tasks of a row in bursts and tells the workers after each burst; the
workers form batches and run nothing. The asyncio side does the same work: coroutines put a future
each into an asyncio.Queue and await it, a consumer gathers what is there and sets the results. It
waits for no timer, and no task is made for a request, so this is a lean one of its kind.

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
from pathlib import Path
from queue import SimpleQueue
from typing import Any

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


async def asyncio_load(tasks: int) -> tuple[int, int]:
    """The same with asyncio: processor time in nanoseconds, and batches."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
    batches = 0

    async def consume() -> None:
        nonlocal batches
        while True:
            batch = [await waiting.get()]
            while len(batch) < MAX_ROWS and not waiting.empty():
                batch.append(waiting.get_nowait())
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


def asyncio_us(tasks: int) -> tuple[float, float]:
    """Processor time of a task in microseconds, and tasks in a batch."""
    used, batches = asyncio.run(asyncio_load(tasks))
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
    found: dict[str, list[Any]] = {"scheduler": [], "asyncio": [], "queue": [], "simple_queue": []}
    for _ in range(rounds):
        found["scheduler"].append(scheduler_us(TASKS_FACTOR * tasks))
        found["asyncio"].append(asyncio_us(tasks))
        found["queue"].append(queue_millions(TASKS_FACTOR * tasks))
        found["simple_queue"].append(simple_queue_millions(tasks))
    return found


def print_report(found: dict[str, list[Any]]) -> None:
    ours, asyncios = (
        [statistics.median(column) for column in zip(*found[name], strict=True)]
        for name in ("scheduler", "asyncio")
    )
    # Within each round, so that a slow minute hits both sides.
    cpu_ratio = statistics.median(
        theirs[0] / own[0] for own, theirs in zip(found["scheduler"], found["asyncio"], strict=True)
    )
    queue_ratio = statistics.median(
        own / theirs for own, theirs in zip(found["queue"], found["simple_queue"], strict=True)
    )
    queue, simple = (statistics.median(found[name]) for name in ("queue", "simple_queue"))
    print(
        table(
            ["scheduler alone", "CPU µs/task", "tasks/batch"],
            [
                ["tfsrv", number(ours[0]), number(ours[1])],
                ["asyncio loop", number(asyncios[0]), number(asyncios[1])],
            ],
        )
    )
    print()
    print(
        table(
            [f"queue alone, {PRODUCERS}+{CONSUMERS} threads", "million items/s"],
            [["tfsrv, native threads", number(queue)], ["SimpleQueue, Python's", number(simple)]],
        )
    )
    print()
    print(
        table(
            ["figure", "wanted", "measured", "verdict"],
            [
                [
                    "CPU of a task",
                    f"≤ {CPU_US} µs (aim)",
                    f"{number(ours[0])} µs",
                    verdict(ours[0] <= CPU_US),
                ],
                [
                    "asyncio's CPU",
                    f"≥ {CPU_RATIO}×",
                    f"{number(cpu_ratio)}×",
                    verdict(cpu_ratio >= CPU_RATIO),
                ],
                [
                    "queue",
                    f"≥ {QUEUE_RATIO}× SimpleQueue",
                    f"{number(queue_ratio)}×",
                    verdict(queue_ratio >= QUEUE_RATIO),
                ],
                [
                    "queue",
                    f"{QUEUE_MILLIONS} M items/s (aim)",
                    number(queue),
                    verdict(queue >= QUEUE_MILLIONS),
                ],
            ],
        )
    )


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
