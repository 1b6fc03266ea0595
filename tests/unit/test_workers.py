"""Worker threads: every item runs once, and nobody waits for somebody else's long runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.unit.waiting import eventually
from tfsrv._workers import WorkerPool
from tfsrv._workers_probe import ProbeQueue, stress

CORES = 2
BASE_THREADS = CORES + 1


@contextmanager
def pool(
    cores: int = CORES, queue_capacity: int = 4096, spare_idle_seconds: float = 5.0
) -> Iterator[WorkerPool]:
    workers = WorkerPool(cores, queue_capacity, spare_idle_seconds)
    workers.start()
    try:
        yield workers
    finally:
        assert workers.stop()
        assert workers.threads == 0


@contextmanager
def queues(workers: WorkerPool, count: int) -> Iterator[list[ProbeQueue]]:
    made = [ProbeQueue(workers) for _ in range(count)]
    try:
        yield made
    finally:
        for queue in made:
            queue.close()


def test_runs_each_item_once() -> None:
    with pool() as workers, queues(workers, 1) as (queue,):
        for _ in range(500):
            assert queue.push()
        eventually(lambda: queue.done == 500)
        assert queue.times == [1] * 500


@pytest.mark.parametrize("queue_count", [1, 2, 8])
def test_loses_and_repeats_nothing_under_stress(queue_count: int) -> None:
    with pool(cores=3, queue_capacity=64) as workers:
        account = stress(workers, queue_count, 20_000 // queue_count)
    assert (account["lost"], account["repeated"]) == (0, 0)


def test_an_item_that_is_pushed_into_an_idle_pool_is_never_overlooked() -> None:
    with pool() as workers, queues(workers, 3) as probes:
        for i in range(600):
            probe = probes[i % 3]
            done = probe.done
            assert probe.push()
            eventually(lambda probe=probe, done=done: probe.done > done)  # type: ignore[misc]


def test_one_queue_never_holds_the_last_worker() -> None:
    with pool() as workers, queues(workers, 2) as (greedy, other):
        for _ in range(20):
            assert greedy.push(0.005)
        assert other.push()
        eventually(lambda: other.done == 1)
        eventually(lambda: greedy.done == 20)
        assert greedy.most_running <= CORES


def test_uses_all_cores_for_one_queue() -> None:
    with pool() as workers, queues(workers, 1) as (queue,):
        for _ in range(CORES):
            assert queue.push(None)
        eventually(lambda: queue.running == CORES)


def test_runs_that_do_not_end_delay_no_other_queue() -> None:
    with pool() as workers, queues(workers, 3) as (first, second, other):
        assert first.push(None)
        assert second.push(None)
        assert first.push(None)
        eventually(lambda: first.running == 2 and second.running == 1)
        for _ in range(20):
            done = other.done
            assert other.push()
            eventually(lambda done=done: other.done > done)  # type: ignore[misc]
        assert (first.done, second.done) == (0, 0)
        assert other.longest_wait_seconds < 2


def test_two_long_runs_leave_a_worker_free_for_others_at_once() -> None:
    with pool() as workers, queues(workers, 2) as (long, other):
        assert long.push(None)
        assert long.push(None)
        eventually(lambda: long.running == 2)
        assert other.push()
        eventually(lambda: other.done == 1)


def test_a_stuck_queue_gets_further_workers_in_time() -> None:
    with pool() as workers, queues(workers, 1) as (queue,):
        for _ in range(4):
            assert queue.push(None)
        assert queue.push()
        eventually(lambda: queue.done == 1)
        assert queue.running == 4


def test_spares_come_for_long_runs_and_go_after_them() -> None:
    with pool(spare_idle_seconds=0.05) as workers, queues(workers, 8) as probes:
        for probe in probes:
            assert probe.push(None)
        eventually(lambda: all(probe.running == 1 for probe in probes))
        assert workers.threads >= len(probes)
        for probe in probes:
            probe.let_go()
        eventually(lambda: workers.threads == BASE_THREADS)
        assert probes[0].push()
        eventually(lambda: probes[0].done == 2)


def test_there_are_at_most_64_spares() -> None:
    with pool() as workers, queues(workers, 80) as probes:
        for probe in probes:
            assert probe.push(None)
        eventually(lambda: sum(probe.running for probe in probes) == BASE_THREADS + 64)
        assert workers.threads == BASE_THREADS + 64
        for probe in probes:
            probe.let_go()
        eventually(lambda: all(probe.done == 1 for probe in probes))


def test_a_full_queue_refuses_and_takes_again_later() -> None:
    with pool(queue_capacity=4) as workers, queues(workers, 1) as (queue,):
        taken = 0
        while queue.push(None):
            taken += 1
        assert 4 <= taken <= 4 + BASE_THREADS + 64
        queue.let_go()
        eventually(lambda: queue.done == taken)
        assert queue.push()
        eventually(lambda: queue.done == taken + 1)


def test_stop_waits_for_what_runs_but_not_for_ever() -> None:
    workers = WorkerPool(CORES)
    workers.start()
    queue = ProbeQueue(workers)
    assert queue.push(None)
    eventually(lambda: queue.running == 1)
    begun = time.monotonic()
    assert not workers.stop(0.2)
    assert 0.2 <= time.monotonic() - begun < 20
    queue.close()
    assert workers.stop()
    assert queue.done == 1


def test_stop_runs_nothing_more_and_leaves_what_waits() -> None:
    workers = WorkerPool(CORES)
    workers.start()
    assert workers.stop()
    queue = ProbeQueue(workers)
    assert queue.push()
    queue.close()
    assert queue.done == 0


def test_starts_again_after_a_stop() -> None:
    workers = WorkerPool(CORES)
    for _ in range(3):
        workers.start()
        with queues(workers, 1) as (queue,):
            assert queue.push()
            eventually(lambda queue=queue: queue.done == 1)  # type: ignore[misc]
        assert workers.stop()


def test_start_and_stop_may_be_repeated() -> None:
    workers = WorkerPool(CORES)
    assert workers.stop()
    workers.start()
    workers.start()
    assert workers.threads == BASE_THREADS
    assert workers.stop()
    assert workers.stop()


def rests(seconds: float = 1.0) -> Callable[[], bool]:
    """Whether the process uses less than 5 % of a processor."""

    def condition() -> bool:
        begun = time.process_time()
        time.sleep(seconds)
        return time.process_time() - begun < 0.05 * seconds

    return condition


def test_idle_threads_burn_no_processor_time() -> None:
    with pool() as workers, queues(workers, 2) as probes:
        for probe in probes:
            assert probe.push(0.06)  # long enough to start a spare
        eventually(lambda: all(probe.done == 1 for probe in probes))
        eventually(rests())


def test_a_watched_long_run_burns_no_processor_time() -> None:
    with pool() as workers, queues(workers, 1) as (queue,):
        assert queue.push(None)
        eventually(lambda: queue.running == 1)
        eventually(rests())


FAST, SLOW, VERY_SLOW = 0.0001, 0.0005, 0.002


def test_a_queue_may_run_in_place_after_some_fast_runs() -> None:
    with pool() as workers, queues(workers, 1) as (queue,):
        assert not queue.may_run_in_place
        for _ in range(3):
            queue.note(FAST, False)
        assert not queue.may_run_in_place
        queue.note(FAST, False)
        assert queue.may_run_in_place


def test_a_slow_run_on_a_worker_starts_the_count_again() -> None:
    with pool() as workers, queues(workers, 1) as (queue,):
        for run_seconds in (FAST, FAST, FAST, SLOW, FAST, FAST, FAST):
            queue.note(run_seconds, False)
            assert not queue.may_run_in_place


def test_one_very_slow_run_in_place_sends_a_queue_back_for_longer() -> None:
    with pool() as workers, queues(workers, 1) as (queue,):
        for _ in range(4):
            queue.note(FAST, False)
        queue.note(VERY_SLOW, True)
        for _ in range(15):
            queue.note(FAST, False)
            assert not queue.may_run_in_place
        queue.note(FAST, False)
        assert queue.may_run_in_place


def test_nothing_runs_in_place_while_something_of_the_queue_waits_or_runs() -> None:
    with pool() as workers, queues(workers, 1) as (queue,):
        for _ in range(4):
            queue.note(FAST, False)
        assert queue.push(None)
        assert not queue.may_run_in_place
        eventually(lambda: queue.running == 1)
        assert not queue.may_run_in_place
        queue.let_go()
        eventually(lambda: queue.may_run_in_place)
