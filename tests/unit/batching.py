"""Batch queues for the tests of the scheduler: stepped by hand, or served by a pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tfsrv._batching_probe import BatchProbe
from tfsrv._workers import WorkerPool

MS = 1_000_000
S = 1_000 * MS
START = 1_000 * S  # when stepped tests begin
AT_ONCE, NOT_BEFORE_A_PUSH, AS_LOW = 0, -1, -2  # when a queue is to be looked at again

Part = tuple[int, int, int]  # task, first row, rows


class Formed(NamedTuple):
    """What a look at the queue gave."""

    parts: list[Part] | None
    padding: int
    refused: list[tuple[int, str]]
    due_ns: int

    @property
    def tasks(self) -> list[int] | None:
        """The tasks of the batch; None: there is none."""
        return None if self.parts is None else [task for task, _, _ in self.parts]


@contextmanager
def stepped(**settings: Any) -> Iterator[BatchProbe]:
    """A queue that no worker looks at. The tuner's choices are the settings'."""
    queue = BatchProbe(WorkerPool(2), **settings)
    queue.choose(settings.get("max_rows", 8), settings.get("wait_ns", 0))
    try:
        yield queue
    finally:
        queue.close()


def form(queue: BatchProbe, now_ns: int = START) -> Formed:
    """What a worker that looks at the queue at that time gets."""
    return Formed(*queue.form(now_ns))


def form_all(queue: BatchProbe, now_ns: int = START) -> list[list[Part]]:
    """The batches that can be formed at that time; all of them end."""
    batches = []
    while (batch := form(queue, now_ns).parts) is not None:
        batches.append(batch)
        queue.end(now_ns)
    return batches


def push_all(queue: BatchProbe, *rows: int, now_ns: int = START, **task: Any) -> None:
    """Push a task for each number of rows; all are taken."""
    for count in rows:
        assert queue.push(count, now_ns, **task) == "pushed"


@contextmanager
def pool(cores: int = 2) -> Iterator[WorkerPool]:
    """Threads, one more than `cores`. All queues are closed before the end."""
    workers = WorkerPool(cores)
    workers.start()
    try:
        yield workers
    finally:
        assert workers.stop()


@contextmanager
def served(workers: WorkerPool, **settings: Any) -> Iterator[BatchProbe]:
    """A queue of the pool, closed at the end."""
    queue = BatchProbe(workers, **settings)
    try:
        yield queue
    finally:
        queue.close()
