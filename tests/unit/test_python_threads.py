"""The threads of Python servables: turns, limits, and who is dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.unit.waiting import DEADLINE_SECONDS, eventually
from tfsrv.handlers.python_threads import PythonThreads


class Work:
    """A task that waits for `gate`, if it has one."""

    def __init__(self, *, gate: threading.Event | None = None, raises: bool = False) -> None:
        self.gate = gate
        self.raises = raises
        self.wanted = True
        self.began = threading.Event()
        self.ended = threading.Event()
        self.dropped = False

    def run(self) -> None:
        self.began.set()
        if self.gate is not None:
            self.gate.wait(DEADLINE_SECONDS)
        self.ended.set()
        if self.raises:
            raise ZeroDivisionError

    def drop(self) -> None:
        self.dropped = True

    def is_wanted(self) -> bool:
        return self.wanted


Make = Callable[..., PythonThreads]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end at the latest."""
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def make(gate: threading.Event) -> Iterator[Make]:
    """Makes PythonThreads that must leave no thread."""
    before = set(threading.enumerate())
    made: list[PythonThreads] = []

    def make(**options: float) -> PythonThreads:
        made.append(PythonThreads(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    gate.set()
    for threads in made:
        assert threads.stop(DEADLINE_SECONDS)
    eventually(lambda: not set(threading.enumerate()) - before)


def started(threads: PythonThreads, key: object, gate: threading.Event, count: int) -> list[Work]:
    """So many tasks, as far as they may run at a time all of them running."""
    works = [Work(gate=gate) for _ in range(count)]
    assert all(threads.submit(key, work) for work in works)
    return works


def test_runs_what_is_submitted(make: Make) -> None:
    threads = make()
    works = [Work() for _ in range(100)]
    assert all(threads.submit(i % 3, work) for i, work in enumerate(works))
    eventually(lambda: all(work.ended.is_set() for work in works))
    assert not any(work.dropped for work in works)


def test_tasks_of_one_servable_begin_in_their_order(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=1)
    began: list[int] = []

    class Noting(Work):
        def run(self) -> None:
            began.append(id(self))
            super().run()

    works = [Noting(gate=gate) for _ in range(50)]
    assert all(threads.submit("a", work) for work in works)
    gate.set()
    eventually(lambda: len(began) == 50)
    assert began == [id(work) for work in works]


def test_one_servable_has_so_many_threads_and_no_more(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=3)
    works = started(threads, "a", gate, 5)
    eventually(lambda: sum(work.began.is_set() for work in works) == 3)
    (other,) = started(threads, "b", gate, 1)
    assert other.began.wait(DEADLINE_SECONDS)  # by then a fourth one of a would have begun
    assert sum(work.began.is_set() for work in works) == 3
    gate.set()
    eventually(lambda: all(work.ended.is_set() for work in works))


def test_one_that_hangs_keeps_no_other_one_waiting(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=2)
    started(threads, "hangs", gate, 10)
    for _ in range(20):
        good = Work()
        assert threads.submit("good", good)
        assert good.ended.wait(DEADLINE_SECONDS)


def test_servables_take_turns_when_threads_are_short(make: Make, gate: threading.Event) -> None:
    threads = make(threads=1, threads_each=1)
    order: list[str] = []

    class Noting(Work):
        def __init__(self, name: str) -> None:
            super().__init__(gate=gate)
            self.name = name

        def run(self) -> None:
            super().run()
            order.append(self.name)

    for name in ("a", "a", "a", "b", "c"):
        assert threads.submit(name, Noting(name))
    gate.set()
    eventually(lambda: len(order) == 5)
    assert order == ["a", "b", "c", "a", "a"]


def test_there_are_never_more_threads_than_allowed(make: Make, gate: threading.Event) -> None:
    threads = make(threads=4, threads_each=3)
    before = threading.active_count()
    works = [work for key in range(5) for work in started(threads, key, gate, 5)]
    eventually(lambda: sum(work.began.is_set() for work in works) == 4)
    assert threading.active_count() - before <= 4
    gate.set()
    eventually(lambda: all(work.ended.is_set() for work in works))


def test_a_full_queue_takes_no_more(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=1, waiting_each=3)
    (first,) = started(threads, "a", gate, 1)
    assert first.began.wait(DEADLINE_SECONDS)
    started(threads, "a", gate, 3)
    refused = Work()
    assert not threads.submit("a", refused)
    assert threads.submit("b", Work())
    assert not refused.dropped  # its owner knows


def test_what_nobody_waits_for_makes_room_in_a_full_queue(
    make: Make, gate: threading.Event
) -> None:
    threads = make(threads_each=1, waiting_each=3)
    (first,) = started(threads, "a", gate, 1)
    assert first.began.wait(DEADLINE_SECONDS)
    waiting = started(threads, "a", gate, 3)
    waiting[1].wanted = False
    last = Work()
    assert threads.submit("a", last)
    assert [work.dropped for work in waiting] == [False, True, False]
    gate.set()
    assert last.ended.wait(DEADLINE_SECONDS)
    assert [work.ended.is_set() for work in waiting] == [True, False, True]


def test_a_task_that_raises_hurts_no_other_one(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    threads = make(threads_each=1)
    bad, good = Work(raises=True), Work()
    assert threads.submit("a", bad)
    assert threads.submit("a", good)
    assert good.ended.wait(DEADLINE_SECONDS)
    assert "ZeroDivisionError" in caplog.text


def test_threads_end_when_there_is_nothing_to_do_and_come_back(make: Make) -> None:
    before = threading.active_count()
    threads = make(idle_seconds=0.01)
    for _ in range(3):
        work = Work()
        assert threads.submit("a", work)
        assert work.ended.wait(DEADLINE_SECONDS)
        eventually(lambda: threading.active_count() == before)


def test_stop_drops_what_waits_and_waits_for_what_runs(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=1)
    running, waiting = started(threads, "a", gate, 2)
    assert running.began.wait(DEADLINE_SECONDS)
    assert not threads.stop(0.01)
    assert waiting.dropped
    assert not threads.submit("a", Work())
    gate.set()
    assert threads.stop(DEADLINE_SECONDS)
    assert running.ended.is_set()
    assert not waiting.began.is_set()


def test_a_thread_that_cannot_be_made_is_a_refusal_unless_others_are_there(
    make: Make, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = make()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        assert not threads.submit("a", Work())
    (running,) = started(threads, "a", gate, 1)
    assert running.began.wait(DEADLINE_SECONDS)
    later = Work()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        assert threads.submit("a", later)
    gate.set()
    assert later.ended.wait(DEADLINE_SECONDS)


def test_many_submitters_and_no_task_is_lost(make: Make) -> None:
    threads = make(threads=8, threads_each=2, waiting_each=10_000, idle_seconds=0.001)
    works = [[Work() for _ in range(300)] for _ in range(6)]

    def submit(number: int) -> None:
        for i, work in enumerate(works[number]):
            assert threads.submit((number + i) % 4, work)
            if i % 50 == 0:
                time.sleep(0.002)  # so that threads end meanwhile

    submitters = [threading.Thread(target=submit, args=(number,)) for number in range(6)]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join()
    eventually(lambda: all(work.ended.is_set() for some in works for work in some))
