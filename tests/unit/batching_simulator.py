"""Clients, a queue and workers on a stepped clock: what a batch tuner does to them.

    simulation = Simulation(tuner, Affine(2 * MS, 50 * US), workers=2)
    simulation.closed_loop(clients=256)
    simulation.run(10 * S)
    simulation.rows_per_second()

Nothing sleeps and nothing is left to chance: the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

US = 1_000
MS = 1_000_000
S = 1_000_000_000

CALLER, POOL = 0, 1


class Choices(Protocol):
    """What a scheduler reads and tells: a BatchTuner, or Fixed."""

    @property
    def rows_limit(self) -> int: ...
    @property
    def rows_enough(self) -> int: ...
    @property
    def wait_ns(self) -> int: ...
    @property
    def concurrency(self) -> int: ...
    def arrived(self, rows: int) -> None: ...
    def began(self, now: int, rows: int, running: int) -> None: ...
    def ended(
        self, now: int, rows: int, run_ns: int, arm: int, running: int, rows_waiting: int
    ) -> None: ...
    def latency(self, ns: int) -> None: ...
    def choose_arm(self) -> int: ...
    def rows_now(self, rows_waiting: int) -> int: ...


@dataclass
class Fixed:
    """A (size, wait) pair as a user sets it by hand."""

    rows_limit: int
    wait_ns: int = 0
    concurrency: int = 1

    @property
    def rows_enough(self) -> int:
        return self.rows_limit if self.wait_ns else 1

    def arrived(self, rows: int) -> None: ...
    def began(self, now: int, rows: int, running: int) -> None: ...
    def ended(
        self, now: int, rows: int, run_ns: int, arm: int, running: int, rows_waiting: int
    ) -> None: ...
    def latency(self, ns: int) -> None: ...
    def choose_arm(self) -> int:
        return CALLER

    def rows_now(self, rows_waiting: int) -> int:
        return self.rows_limit


# ------------------------------------------------------------------------------------- models

# The time of a run, from its rows, the arm and how many runs are active with it.
Cost = Callable[[int, int, int], float]


def affine(fixed_ns: float, row_ns: float) -> Cost:
    """A GPU, or a callable that waits: runs at once do not slow each other down."""
    return lambda rows, arm, running: fixed_ns + row_ns * rows


def contended(cost: Cost) -> Cost:
    """All runs share one processor."""
    return lambda rows, arm, running: cost(rows, arm, running) * running


def padded(cost: Cost, sizes: tuple[int, ...]) -> Cost:
    """Runs are filled up to the next of some sizes."""

    def padded_cost(rows: int, arm: int, running: int) -> float:
        return cost(min((size for size in sizes if size >= rows), default=rows), arm, running)

    return padded_cost


@dataclass
class Noise:
    """Times spread around the cost; a few are `outlier` times as long."""

    spread: float = 0.05
    outliers: float = 0.0
    outlier: float = 10.0


# ------------------------------------------------------------------------------------- the world


@dataclass
class Simulation:
    tuner: Choices
    cost: Cost
    workers: int = 1
    noise: Noise = field(default_factory=Noise)
    seed: int = 1
    turnaround_ns: int = 100 * US  # from an answer to the client's next request

    def __post_init__(self) -> None:
        self.now = 0
        self.random = random.Random(self.seed)
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.serial = 0
        self.waiting: deque[tuple[int, bool]] = deque()  # when it came, does its client come again
        self.running = 0
        self.open_until: int | None = None  # when the wait of the open batch is over
        self.arms: list[int] = []
        self.forget()

    def forget(self) -> None:
        """Begin to count."""
        self.counted_since = self.now
        self.latencies: list[int] = []
        self.batches: list[int] = []

    # -- load

    def closed_loop(self, clients: int) -> None:
        """Clients that send their next request when they have the answer to the last one."""
        for _ in range(clients):
            self.at(self.now + self.random.randrange(MS), lambda: self.arrive(comes_again=True))

    def open_loop(self, rows_per_second: float, until: int) -> None:
        """Requests of one row, as a Poisson process."""

        def next_one() -> None:
            self.arrive(comes_again=False)
            schedule()

        def schedule() -> None:
            at = self.now + int(self.random.expovariate(rows_per_second) * S)
            if at < until:
                self.at(at, next_one)

        schedule()

    # -- what happens

    def at(self, when: int, action: Callable[[], None]) -> None:
        self.serial += 1
        heapq.heappush(self.events, (when, self.serial, action))

    def run(self, duration_ns: int) -> None:
        until = self.now + duration_ns
        while self.events and self.events[0][0] <= until:
            self.now, _, action = heapq.heappop(self.events)
            action()
        self.now = until

    def arrive(self, *, comes_again: bool) -> None:
        self.waiting.append((self.now, comes_again))
        self.tuner.arrived(1)
        self.form()

    def form(self) -> None:
        """What a scheduler does when a request comes, a worker is free, or a wait is over."""
        tuner = self.tuner
        while self.waiting and self.running < min(self.workers, tuner.concurrency):
            is_enough = len(self.waiting) >= min(tuner.rows_enough, tuner.rows_limit)
            if not is_enough and tuner.wait_ns > 0:
                if self.open_until is None:
                    self.open_until = self.now + tuner.wait_ns
                    self.at(self.open_until, self.form)
                if self.now < self.open_until:
                    return
            self.begin(min(len(self.waiting), tuner.rows_now(len(self.waiting))))

    def begin(self, rows: int) -> None:
        self.open_until = None
        batch = [self.waiting.popleft() for _ in range(rows)]
        self.running += 1
        self.tuner.began(self.now, rows, self.running)
        arm = self.tuner.choose_arm()
        self.arms.append(arm)
        run_ns = max(1, int(self.cost(rows, arm, self.running) * self.factor()))
        self.at(self.now + run_ns, lambda: self.end(batch, run_ns, arm))

    def factor(self) -> float:
        if self.noise.outliers and self.random.random() < self.noise.outliers:
            return self.noise.outlier
        return self.random.lognormvariate(0, self.noise.spread) if self.noise.spread else 1.0

    def end(self, batch: list[tuple[int, bool]], run_ns: int, arm: int) -> None:
        self.running -= 1
        self.batches.append(len(batch))
        self.tuner.ended(self.now, len(batch), run_ns, arm, self.running, len(self.waiting))
        for came, comes_again in batch:
            self.latencies.append(self.now - came)
            self.tuner.latency(self.now - came)
            if comes_again:
                back = self.now + int(self.turnaround_ns * self.random.uniform(0.2, 1.0))
                self.at(back, lambda: self.arrive(comes_again=True))
        self.form()

    # -- what came out

    def rows_per_second(self) -> float:
        return len(self.latencies) * S / (self.now - self.counted_since)

    def p99_ns(self) -> int:
        return sorted(self.latencies)[int(0.99 * len(self.latencies))]

    def mean_rows(self) -> float:
        return sum(self.batches) / len(self.batches)


@dataclass
class SharedCores(Simulation):
    """Runs share some cores: with more runs than cores all of them go on more slowly."""

    cores: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.work: list[tuple[float, int, Callable[[int], None]]] = []  # ends at that much work
        self.done = 0.0  # work that each run since the begin would have got
        self.worked_until = 0
        self.plan = 0

    def speed(self) -> float:
        return min(1.0, self.cores / len(self.work)) if self.work else 1.0

    def advance(self) -> None:
        self.done += (self.now - self.worked_until) * self.speed()
        self.worked_until = self.now

    def begin(self, rows: int) -> None:
        self.open_until = None
        batch = [self.waiting.popleft() for _ in range(rows)]
        self.running += 1
        self.tuner.began(self.now, rows, self.running)
        arm = self.tuner.choose_arm()
        self.arms.append(arm)
        began = self.now
        self.advance()
        self.serial += 1
        work = self.done + self.cost(rows, arm, 1) * self.factor()
        heapq.heappush(
            self.work, (work, self.serial, lambda now: self.end(batch, max(now - began, 1), arm))
        )
        self.plan_end()

    def plan_end(self) -> None:
        """The next run ends when its work is done, unless another one begins before."""
        self.plan += 1
        plan = self.plan
        if not self.work:
            return

        def end_first() -> None:
            if plan != self.plan:
                return
            self.advance()
            _, _, end = heapq.heappop(self.work)
            self.plan_end()
            end(self.now)

        left = (self.work[0][0] - self.done) / self.speed()
        self.at(self.now + max(int(left), 1), end_first)


def best_fixed(
    make: Callable[[Choices], Simulation],
    sizes: tuple[int, ...],
    waits_ns: tuple[int, ...],
    *,
    target_ns: int = 0,
    concurrency: int = 1,
) -> float:
    """The most rows per second that any fixed pair gives (of those that keep the target)."""
    best = 0.0
    for size in sizes:
        for wait_ns in waits_ns:
            simulation = make(Fixed(size, wait_ns, concurrency))
            simulation.run(S // 2)
            simulation.forget()
            simulation.run(S)
            if not target_ns or simulation.p99_ns() <= target_ns:
                best = max(best, simulation.rows_per_second())
    return best
