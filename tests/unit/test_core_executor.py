"""The executor: few tasks at a time, and none that waits for a slow one for long."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.unit.waiting import eventually
from tfsrv.core.executor import SlotExecutor

LONG = 30.0  # seconds; nothing here takes that long if it works


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What tasks of a test wait for; open at its end at the latest."""
    gate = threading.Event()
    yield gate
    gate.set()


def executor_threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def task_that_waits(gate: threading.Event) -> tuple[Callable[[], None], threading.Event]:
    begun = threading.Event()

    def run() -> None:
        begun.set()
        gate.wait(LONG)

    return run, begun


def test_runs_every_task_once_in_order() -> None:
    executor = SlotExecutor("test-order", 1)
    ran: list[int] = []
    done = threading.Event()
    for number in range(100):
        executor.submit(lambda number=number: ran.append(number))  # type: ignore[misc]
    executor.submit(done.set)
    assert done.wait(LONG)
    assert ran == list(range(100))
    assert executor.stop(LONG)


def test_runs_no_more_than_its_slots_at_a_time(gate: threading.Event) -> None:
    executor = SlotExecutor("test-slots", 2)
    tasks = [task_that_waits(gate) for _ in range(3)]
    for run, _ in tasks:
        executor.submit(run)
    assert tasks[0][1].wait(LONG)
    assert tasks[1][1].wait(LONG)
    assert not tasks[2][1].wait(0.05)
    gate.set()
    assert tasks[2][1].wait(LONG)
    assert executor.stop(LONG)


def test_slow_task_gives_its_slot_to_the_next(gate: threading.Event) -> None:
    executor = SlotExecutor("test-slow", 1, slow_after_seconds=0.01)
    run, begun = task_that_waits(gate)
    done = threading.Event()
    executor.submit(run)
    executor.submit(done.set)
    assert begun.wait(LONG)
    assert done.wait(LONG)
    gate.set()
    assert executor.stop(LONG)


def test_slow_tasks_are_limited_by_the_threads(gate: threading.Event) -> None:
    executor = SlotExecutor("test-threads", 1, slow_after_seconds=0.0, max_threads=2)
    tasks = [task_that_waits(gate) for _ in range(3)]
    for run, _ in tasks:
        executor.submit(run)
    assert tasks[1][1].wait(LONG)
    assert not tasks[2][1].wait(0.05)
    gate.set()
    assert tasks[2][1].wait(LONG)
    assert executor.stop(LONG)


def test_more_slots_take_effect_at_once(gate: threading.Event) -> None:
    executor = SlotExecutor("test-more", 1)
    tasks = [task_that_waits(gate) for _ in range(2)]
    for run, _ in tasks:
        executor.submit(run)
    assert tasks[0][1].wait(LONG)
    executor.set_slots(2)
    assert tasks[1][1].wait(LONG)
    gate.set()
    assert executor.stop(LONG)


def test_cancelled_task_does_not_run(gate: threading.Event) -> None:
    executor = SlotExecutor("test-cancel", 1)
    run, begun = task_that_waits(gate)
    first = executor.submit(run)
    ran: list[int] = []
    second = executor.submit(lambda: ran.append(2))
    assert begun.wait(LONG)
    assert second.cancel()
    assert not second.cancel()
    assert not first.cancel()  # it runs
    gate.set()
    assert executor.stop(LONG)
    assert ran == []


def test_task_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    executor = SlotExecutor("test-raise", 1)
    done = threading.Event()

    def fail() -> None:
        raise RuntimeError("oops")

    executor.submit(fail)
    executor.submit(done.set)
    assert done.wait(LONG)
    assert "a task of test-raise failed" in caplog.text
    assert executor.stop(LONG)


def test_idle_executor_has_no_thread() -> None:
    executor = SlotExecutor("test-idle", 4)
    done = threading.Event()
    executor.submit(done.set)
    assert done.wait(LONG)
    eventually(lambda: not executor_threads("test-idle"))
    again = threading.Event()
    executor.submit(again.set)
    assert again.wait(LONG)


def test_stop_forgets_what_waits_and_tells_of_what_hangs(gate: threading.Event) -> None:
    executor = SlotExecutor("test-stop", 1)
    run, begun = task_that_waits(gate)
    ran: list[int] = []
    executor.submit(run)
    executor.submit(lambda: ran.append(2))
    assert begun.wait(LONG)
    assert not executor.stop(0.01)
    gate.set()
    assert executor.stop(LONG)
    assert ran == []
    with pytest.raises(RuntimeError, match="test-stop is stopped"):
        executor.submit(run)


@pytest.mark.skipif(sys.platform != "linux", reason="threads share their process's niceness")
def test_threads_are_as_nice_as_told_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def niceness_of_a_task(executor: SlotExecutor) -> int:
        found: list[int] = []
        done = threading.Event()

        def look() -> None:
            found.append(own_niceness())
            done.set()

        executor.submit(look)
        assert done.wait(LONG)
        assert executor.stop(LONG)
        return found[0]

    def own_niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    mine = own_niceness()
    assert niceness_of_a_task(SlotExecutor("test-nice", 1, nice=mine + 3)) == mine + 3
    assert niceness_of_a_task(SlotExecutor("test-plain", 1)) == mine
    assert niceness_of_a_task(SlotExecutor("test-not-nicer", 1, nice=mine - 3)) == mine
    assert own_niceness() == mine

    def refuse(which: int, who: int, priority: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    assert niceness_of_a_task(SlotExecutor("test-refused", 1, nice=mine + 3)) == mine


def test_many_submitters_and_slots_run_everything() -> None:
    executor = SlotExecutor("test-stress", 3, slow_after_seconds=0.001)
    lock = threading.Lock()
    counts: dict[int, int] = {}

    def count(number: int) -> None:
        with lock:
            counts[number] = counts.get(number, 0) + 1

    def submit(start: int) -> None:
        for number in range(start, start + 500):
            executor.submit(lambda number=number: count(number))  # type: ignore[misc]

    submitters = [threading.Thread(target=submit, args=(k * 500,)) for k in range(4)]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join()
    eventually(lambda: len(counts) == 2000)
    assert set(counts.values()) == {1}
    assert executor.stop(LONG)
