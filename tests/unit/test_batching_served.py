"""Batch queues that workers serve: when they look, at which queue, and that they forget nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.unit.batching import S, pool, served
from tests.unit.waiting import eventually
from tfsrv._batching_probe import BatchProbe, ProbeShare
from tfsrv._batching_stress import stress

NEVER_NS = 3600 * S  # a timeout that no test waits for


def add(queue: BatchProbe, *rows: int, **task: Any) -> None:
    """Push tasks that arrive now, and tell no worker."""
    for count in rows:
        assert queue.push(count, **task) == "pushed"


def push(queue: BatchProbe, *rows: int, **task: Any) -> None:
    """Push tasks that arrive now, and kick once."""
    add(queue, *rows, **task)
    queue.kick()


def tasks(queue: BatchProbe) -> list[list[int]]:
    return [[task for task, _, _ in batch] for batch in queue.batches]


def rests(seconds: float = 0.5) -> Callable[[], bool]:
    """Whether the process uses less than 10 % of a processor."""

    def condition() -> bool:
        begun = time.process_time()
        time.sleep(seconds)
        return time.process_time() - begun < 0.1 * seconds

    return condition


# ---- nothing waits without a reason ------------------------------------------------------------


def test_an_idle_worker_takes_what_is_there_at_once() -> None:
    with pool() as workers, served(workers) as queue:
        for number in range(300):
            push(queue, 1)
            eventually(lambda number=number: queue.rows_done == number + 1)  # type: ignore[misc]
        assert tasks(queue) == [[number] for number in range(300)]


def test_tasks_gather_only_while_the_queues_workers_are_busy() -> None:
    with pool() as workers, served(workers, max_runs=1) as queue:
        queue.hold()
        push(queue, 1)
        eventually(lambda: queue.running == 1)
        for _ in range(5):
            push(queue, 1)
        assert queue.waiting_rows == 5
        queue.let_go()
        eventually(lambda: queue.rows_done == 6)
        assert tasks(queue) == [[0], [1, 2, 3, 4, 5]]


def test_the_next_batch_forms_while_one_runs() -> None:
    with pool() as workers, served(workers) as queue:
        queue.hold()
        push(queue, 1)
        eventually(lambda: queue.running == 1)
        push(queue, 1)
        eventually(lambda: queue.running == 2)


def test_everything_is_counted_down_to_nothing() -> None:
    with pool() as workers, served(workers) as queue:
        for _ in range(100):
            push(queue, 3, 2, 1)
        eventually(lambda: queue.rows_done == 600)
        eventually(lambda: queue.running_rows == 0 and queue.listed is None)
        assert (queue.waiting_rows, queue.waiting_normal) == (0, 0)
        assert queue.accounts == [(3, 3, 0), (2, 2, 0), (1, 1, 0)] * 100


# ---- timers --------------------------------------------------------------------------------------


def test_a_timeout_ends_without_another_push() -> None:
    with pool() as workers, served(workers, wait_ns=20_000_000) as queue:
        for number in range(5):
            push(queue, 1)
            eventually(lambda number=number: queue.rows_done == number + 1)  # type: ignore[misc]


def test_a_short_timeout_does_not_wait_for_a_long_one_of_another_queue() -> None:
    with (
        pool() as workers,
        served(workers, wait_ns=NEVER_NS) as patient,
        served(workers, wait_ns=NEVER_NS // 2) as less_patient,
        served(workers, wait_ns=5_000_000) as queue,
    ):
        push(patient, 1)
        push(less_patient, 1)
        for number in range(10):
            push(queue, 1)
            eventually(lambda number=number: queue.rows_done == number + 1)  # type: ignore[misc]
        assert patient.rows_done == less_patient.rows_done == 0


def test_a_full_batch_does_not_wait_for_its_timeout() -> None:
    with pool() as workers, served(workers, wait_ns=NEVER_NS, max_rows=4) as queue:
        push(queue, 1)
        push(queue, 2)
        eventually(lambda: queue.listed is not None)
        push(queue, 1)
        eventually(lambda: queue.rows_done == 4)
        assert tasks(queue) == [[0, 1, 2]]


def test_a_task_alone_does_not_wait_for_a_timeout() -> None:
    with pool() as workers, served(workers, wait_ns=NEVER_NS) as queue:
        push(queue, 1)
        push(queue, 1, kind=2, alone=True)
        eventually(lambda: queue.rows_done == 1)
        assert tasks(queue) == [[1]]
        push(queue, 1, kind=2, alone=True)
        eventually(lambda: queue.rows_done == 2)
        assert queue.waiting_rows == 1


def test_a_queue_that_waits_burns_no_processor_time() -> None:
    with pool() as workers, served(workers, wait_ns=NEVER_NS, max_rows=4) as queue:
        push(queue, 3)
        eventually(rests())


def test_kinds_that_are_full_only_together_wait_without_burning_processor_time() -> None:
    with pool() as workers, served(workers, wait_ns=NEVER_NS, max_rows=4) as queue:
        push(queue, 3, kind=1)
        push(queue, 3, kind=2)
        eventually(rests())
        assert queue.rows_done == 0
        push(queue, 1, kind=1)
        eventually(lambda: queue.rows_done == 4)
        eventually(rests())


def test_a_queue_that_waits_can_be_freed() -> None:
    with pool() as workers:
        for _ in range(50):
            with served(workers, wait_ns=NEVER_NS) as queue:
                push(queue, 1)
            assert (queue.freed, queue.rows_done) == (1, 0)


# ---- priorities ----------------------------------------------------------------------------------


def test_low_tasks_are_not_forgotten_when_a_worker_becomes_free() -> None:
    with pool(cores=1) as workers, served(workers) as busy, served(workers) as queue:
        for number in range(20):
            busy.hold()
            push(busy, 1)
            eventually(lambda number=number: busy.begun == number + 1)  # type: ignore[misc]
            push(queue, 1, low=True)
            busy.let_go()
            eventually(lambda number=number: queue.rows_done == number + 1)  # type: ignore[misc]


def test_a_normal_task_behind_low_ones_is_not_forgotten() -> None:
    with (
        pool(cores=1) as workers,
        served(workers, size=5000, run_seconds=0.001) as busy,
        served(workers, size=5000) as queue,
    ):
        for number in range(300):
            push(busy, 1)
            push(queue, 1, low=True)
            push(queue, 1)
            eventually(lambda number=number: queue.rows_done == 2 * number + 2)  # type: ignore[misc]


def is_listed_for_later(queue: BatchProbe, *, low: bool) -> bool:
    listed = queue.listed  # once: a worker may be having a look
    return listed is not None and listed[0] > 0 and listed[1] == low


def test_low_tasks_that_wait_for_their_timeout_stay_low() -> None:
    with pool() as workers, served(workers, wait_ns=NEVER_NS, max_rows=4) as queue:
        push(queue, 3, kind=1, low=True)
        assert is_listed_for_later(queue, low=True)
        push(queue, 3, kind=2, low=True)  # full together, so a worker looks
        eventually(lambda: is_listed_for_later(queue, low=True))
        push(queue, 1, kind=3)
        eventually(lambda: is_listed_for_later(queue, low=False))


# ---- in the caller's thread ----------------------------------------------------------------------


def test_serve_runs_in_the_callers_thread() -> None:
    with pool() as workers, served(workers, max_rows=2) as queue:
        add(queue, 1, 1, 1, 1, 1)
        queue.serve()
        assert (queue.rows_done, queue.in_place, queue.begun) == (5, 3, 3)


def test_what_serve_has_no_time_for_goes_to_the_workers() -> None:
    with pool() as workers, served(workers) as queue:
        add(queue, 1)
        queue.serve(seconds=-1)
        eventually(lambda: queue.rows_done == 1)
        assert queue.in_place == 0


def test_what_takes_long_goes_to_the_workers() -> None:
    with pool() as workers, served(workers, run_seconds=0.02) as queue:
        for number in range(20):
            push(queue, 1)
            eventually(lambda number=number: queue.rows_done == number + 1)  # type: ignore[misc]
        eventually(lambda: queue.running_rows == 0 and queue.listed is None)
        add(queue, 1)
        queue.serve(longest_seconds=0.001)
        eventually(lambda: queue.rows_done == 21)
        assert queue.in_place == 0


def test_low_tasks_are_not_served_in_the_callers_thread() -> None:
    with pool() as workers, served(workers) as queue:
        add(queue, 1, low=True)
        queue.serve()
        eventually(lambda: queue.rows_done == 1)
        assert queue.in_place == 0


def test_serve_leaves_everything_to_workers_that_have_the_queue() -> None:
    with pool() as workers, served(workers, max_runs=1) as queue:
        queue.hold()
        push(queue, 1)
        eventually(lambda: queue.running == 1)
        add(queue, 1)
        queue.serve()
        queue.let_go()
        eventually(lambda: queue.rows_done == 2)
        assert queue.in_place == 0


def test_serve_waits_for_no_timeout() -> None:
    with pool() as workers, served(workers, wait_ns=20_000_000) as queue:
        add(queue, 1)
        queue.serve()
        eventually(lambda: queue.rows_done == 1)
        assert queue.in_place == 0


def test_a_task_that_a_full_queue_brought_into_order_is_not_forgotten() -> None:
    """Who finds the queue full empties the inbox, maybe while somebody is about to let go of it."""
    with pool() as workers, served(workers, max_waiting_rows=1) as queue:
        add(queue, 1)
        queue.hold()
        serving = threading.Thread(target=queue.serve)
        serving.start()
        eventually(lambda: queue.running == 1)
        push(queue, 1)
        assert queue.push(1) == "full"
        queue.let_go()
        serving.join()
        eventually(lambda: queue.rows_done == 2)


# ---- several queues ------------------------------------------------------------------------------


def test_models_with_long_and_short_batches_get_equal_shares_of_time() -> None:
    shares = [ProbeShare() for _ in range(3)]
    seconds = (0.008, 0.001, 0.002)
    with pool(cores=1) as workers, ExitStack() as stack:
        queues = [
            stack.enter_context(
                served(workers, size=4000, max_rows=1, run_seconds=run_seconds, share=share)
            )
            for run_seconds, share in zip(seconds, shares, strict=True)
        ]
        for queue in queues:
            add(queue, *[1] * 4000)
        for queue in queues:
            queue.kick()
        eventually(lambda: sum(queue.busy_seconds for queue in queues) > 1)
        busy = [queue.busy_seconds for queue in queues]
    # One batch each in turn would be 8 to 1.
    assert max(busy) < 2 * min(busy)


def test_a_model_has_no_more_workers_than_its_share_may_have() -> None:
    share = ProbeShare(limit=1)
    with (
        pool(cores=3) as workers,
        served(workers, max_rows=1, run_seconds=0.005, share=share) as first,
        served(workers, max_rows=1, run_seconds=0.005, share=share) as second,
    ):
        begun = time.monotonic()
        push(first, *[1] * 20)
        push(second, *[1] * 20)
        eventually(lambda: first.rows_done == second.rows_done == 20)
        elapsed = time.monotonic() - begun
        # Never two at a time, so both together were busy no longer than it took.
        assert first.busy_seconds + second.busy_seconds <= elapsed


def test_a_queue_has_no_more_workers_than_its_setting_says_from_the_first_batch_on() -> None:
    for _ in range(10):
        with (
            pool(cores=3) as workers,
            served(workers, max_rows=1, run_seconds=0.002, max_runs=1) as queue,
        ):
            push(queue, *[1] * 8)
            eventually(lambda queue=queue: queue.rows_done == 8)  # type: ignore[misc]
            assert queue.most_running == 1


def test_a_batch_that_hangs_delays_no_other_queue() -> None:
    with pool() as workers, served(workers, max_rows=1) as stuck, served(workers) as queue:
        stuck.hold()
        push(stuck, *[1] * 5)
        eventually(lambda: stuck.running >= 1)
        for number in range(50):
            push(queue, 1)
            eventually(lambda number=number: queue.rows_done == number + 1)  # type: ignore[misc]
        assert stuck.rows_done == 0


def test_a_queue_may_be_freed_right_after_its_last_task() -> None:
    with pool() as workers:
        for _ in range(300):
            with served(workers, size=1) as queue:
                push(queue, 1)
                deadline = time.monotonic() + 30
                while queue.rows_done < 1:
                    assert time.monotonic() < deadline
            assert queue.freed == 1


def test_a_queue_that_is_freed_does_not_run_what_waits() -> None:
    with pool() as workers:
        with served(workers, max_rows=1, run_seconds=0.001) as queue:
            push(queue, *[1] * 1000)
            eventually(lambda: queue.rows_done > 0)
        assert queue.rows_done < 1000


# ---- stress --------------------------------------------------------------------------------------

MIXES = {
    "a bit of everything": {},
    "waits": {"wait_ns": 200_000, "max_rows": 16},
    "allowed sizes": {"allowed": [2, 8, 16], "max_rows": 16, "low_percent": 40},
    "no splitting": {"splits": False},
    "an inbox that overflows": {"producers": 4, "max_waiting_rows": 100_000, "max_runs": 1},
    "tiny limits": {"max_waiting_rows": 6, "max_rows": 6},
    "many kinds": {"kinds": 200},
    "all low": {"low_percent": 100},
    "one producer serves": {"serving": 1},
    "abandoned": {"abandoned_percent": 100, "deadline_percent": 80},
}


@pytest.mark.parametrize("mix", list(MIXES.values()), ids=list(MIXES))
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_every_row_runs_or_is_refused_once_under_stress(mix: dict[str, int], closed: bool) -> None:
    with pool(cores=3) as workers:
        found = stress(workers, tasks=3000, closed=closed, **mix)  # type: ignore[arg-type]
    wrong = ("lost", "repeated", "refused_twice", "stuck", "other")
    assert [found[name] for name in wrong] == [0, 0, 0, 0, 0], found
    left = ("waiting_rows", "waiting_normal", "running_rows")
    assert [found[name] for name in left] == [0, 0, 0], found
    assert found["ran"] > 0
