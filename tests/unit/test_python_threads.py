"""The threads of Python servables: turns, limits, and who is dropped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.unit.waiting import DEADLINE_SECONDS, eventually
from tfsrv.handlers.python_threads import LOOK_SECONDS, PythonThreads
from tfsrv.handlers.thread_use import BEGIN_WITH, Habit, Run, has_waited


class Work:
    """A task that waits for `gate`, if it has one."""

    def __init__(self, *, gate: threading.Event | None = None, raises: bool = False) -> None:
        self.gate = gate
        self.raises = raises
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


def started(
    threads: PythonThreads, name: str, gate: threading.Event, count: int, *, version: int = 1
) -> list[Work]:
    """So many tasks, as far as they may run at a time all of them running."""
    works = [Work(gate=gate) for _ in range(count)]
    assert all(threads.submit(name, version, work) for work in works)
    return works


def running(works: Iterable[Work]) -> int:
    return sum(work.began.is_set() and not work.ended.is_set() for work in works)


def settled(works: Iterable[Work], count: int) -> bool:
    """So many of them come to run, and no more in the time in which one more would have."""
    eventually(lambda: running(works) == count)
    time.sleep(6 * LOOK_SECONDS)
    return running(works) == count


def test_runs_what_is_submitted(make: Make) -> None:
    threads = make()
    works = [Work() for _ in range(100)]
    assert all(threads.submit(f"m{i % 3}", 1, work) for i, work in enumerate(works))
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
    assert all(threads.submit("a", 1, work) for work in works)
    gate.set()
    eventually(lambda: len(began) == 50)
    assert began == [id(work) for work in works]


def test_one_version_has_so_many_threads_and_no_more(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=3)
    works = started(threads, "a", gate, 5)
    assert settled(works, 3)
    gate.set()
    eventually(lambda: all(work.ended.is_set() for work in works))


def test_versions_of_one_name_have_twice_as_many_together(
    make: Make, gate: threading.Event
) -> None:
    threads = make(threads_each=3)
    works = [
        work for version in range(5) for work in started(threads, "a", gate, 4, version=version)
    ]
    assert settled(works, 6)
    (other,) = started(threads, "b", gate, 1)
    assert other.began.wait(DEADLINE_SECONDS)
    gate.set()
    eventually(lambda: all(work.ended.is_set() for work in works))


def test_a_servable_that_computes_has_two_threads(
    make: Make, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "waits", lambda *_: False)
    works = started(make(), "a", gate, 6)
    assert settled(works, BEGIN_WITH)
    gate.set()
    eventually(lambda: all(work.ended.is_set() for work in works))


def test_who_computes_is_told_from_who_waits_by_the_processor_time_of_the_thread() -> None:
    run = Run(time.pthread_getcpuclockid(threading.get_ident()))
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    assert run.cpu_seconds() >= 0.05
    assert not run.waits(run.began + 0.2, 2)
    assert run.waits(run.began + 0.4, 2)  # has done nothing since the last look


@pytest.mark.parametrize(
    ("cpu_seconds", "seconds", "running", "waited"),
    [
        (1, 1, 1, False),  # alone
        (1, 2, 2, False),  # takes turns with another one
        (1, 8, 8, False),
        (1, 16, 8, False),  # which have half a processor only
        (0.001, 1, 8, True),
        (0.05, 1, 2, True),
        (0.05, 1, 8, False),  # more threads than that are of no use
    ],
)
def test_who_waits_for_the_gil_alone_does_not_count_as_waiting(
    cpu_seconds: float, seconds: float, running: int, waited: bool
) -> None:
    assert has_waited(cpu_seconds, seconds, running) is waited


def test_many_short_tasks_tell_as_much_as_a_long_one() -> None:
    habit = Habit()
    for _ in range(100):
        habit.learn(0.00001, 0.001, 2, 6)
    assert habit.threads == 6
    for _ in range(100):
        habit.learn(0.001, 0.002, 2, 6)
    assert habit.threads == BEGIN_WITH


class Napping(Work):
    """Waits a moment."""

    began_at = ended_at = 0.0

    def run(self) -> None:
        self.began_at = time.monotonic()
        self.began.set()
        time.sleep(0.02)
        self.ended_at = time.monotonic()
        self.ended.set()


class ThenWaiting(Work):
    """Computes first, and waits for the gate then."""

    def run(self) -> None:
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            sum(range(100))
        super().run()


def test_a_task_that_waits_after_it_has_computed_makes_room(
    make: Make, gate: threading.Event
) -> None:
    threads = make(threads_each=5)
    works = [ThenWaiting(gate=gate) for _ in range(5)]
    assert all(threads.submit("a", 1, work) for work in works)
    eventually(lambda: running(works) == 5)
    gate.set()
    eventually(lambda: all(work.ended.is_set() for work in works))


def test_a_servable_whose_tasks_wait_gets_more_threads_and_keeps_them(make: Make) -> None:
    threads = make(threads_each=6)
    works: list[Napping] = []
    most = 0

    def enough() -> bool:
        nonlocal most
        while sum(not work.ended.is_set() for work in works) < 20:
            works.append(Napping())
            assert threads.submit("a", 1, works[-1])
        most = max(most, running(works))
        return most == 6

    eventually(enough)
    eventually(lambda: all(work.ended.is_set() for work in works))

    def burst_runs_at_once() -> bool:
        """After a pause; who has to begin with two again does not come to six in one burst."""
        burst = [Napping() for _ in range(6)]
        assert all(threads.submit("a", 2, work) for work in burst)
        eventually(lambda: all(work.ended.is_set() for work in burst))
        return max(work.began_at for work in burst) < min(work.ended_at for work in burst)

    eventually(burst_runs_at_once)


def test_what_hangs_does_not_count_after_a_while(make: Make, gate: threading.Event) -> None:
    threads = make(threads=4, threads_each=2, slow_seconds=0.2)
    hung = [work for key in "abcd" for work in started(threads, key, gate, 2)]
    eventually(lambda: running(hung) >= 4)
    good = Work()
    assert threads.submit("good", 1, good)
    assert good.ended.wait(DEADLINE_SECONDS)
    eventually(lambda: running(hung) == 8)


def test_there_is_a_most_of_threads_and_the_log_tells_who_has_them(
    make: Make, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    threads = make(threads=2, most_threads=5, threads_each=4, slow_seconds=0.0)
    before = threading.active_count()
    works = started(threads, "hangs", gate, 4)
    eventually(lambda: running(works) == 4)
    works += [work for key in "bcd" for work in started(threads, key, gate, 1)]
    assert settled(works, 5)
    assert threading.active_count() - before == 5
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "All 5 threads for servables written in Python are busy, most with requests for hangs (4)"
    )
    gate.set()
    eventually(lambda: all(work.ended.is_set() for work in works))


def test_one_that_hangs_keeps_no_other_one_waiting(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=2)
    started(threads, "hangs", gate, 10)
    for _ in range(20):
        good = Work()
        assert threads.submit("good", 1, good)
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
        assert threads.submit(name, 1, Noting(name))
    gate.set()
    eventually(lambda: len(order) == 5)
    assert order == ["a", "b", "c", "a", "a"]


def test_never_more_tasks_run_than_allowed(make: Make, gate: threading.Event) -> None:
    threads = make(threads=4, threads_each=3)
    works = [work for key in "abcde" for work in started(threads, key, gate, 5)]
    assert settled(works, 4)
    gate.set()
    eventually(lambda: all(work.ended.is_set() for work in works))


def test_a_full_queue_takes_no_more(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=1, waiting_each=3)
    (first,) = started(threads, "a", gate, 1)
    assert first.began.wait(DEADLINE_SECONDS)
    started(threads, "a", gate, 3)
    refused = Work()
    assert not threads.submit("a", 1, refused)
    assert threads.submit("b", 1, Work())
    assert not refused.dropped  # its owner knows


def test_what_is_withdrawn_does_not_run_and_makes_room(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=1, waiting_each=3)
    (first,) = started(threads, "a", gate, 1)
    assert first.began.wait(DEADLINE_SECONDS)
    waiting = started(threads, "a", gate, 3)
    assert threads.withdraw("a", 1, waiting[1])
    assert not threads.withdraw("a", 1, waiting[1])
    assert not threads.withdraw("a", 1, first)  # it runs
    assert not threads.withdraw("a", 2, waiting[0])
    last = Work()
    assert threads.submit("a", 1, last)
    gate.set()
    assert last.ended.wait(DEADLINE_SECONDS)
    assert not any(work.dropped for work in waiting)
    assert [work.ended.is_set() for work in waiting] == [True, False, True]
    eventually(lambda: not threads.withdraw("a", 1, last))


def test_all_that_wait_may_be_withdrawn(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=1)
    (first,) = started(threads, "a", gate, 1)
    assert first.began.wait(DEADLINE_SECONDS)
    for _ in range(3):
        assert all(threads.withdraw("a", 1, work) for work in started(threads, "a", gate, 3))
    gate.set()
    last = Work()
    assert threads.submit("a", 1, last)
    assert last.ended.wait(DEADLINE_SECONDS)


def test_a_task_that_raises_hurts_no_other_one(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    threads = make(threads_each=1)
    bad, good = Work(raises=True), Work()
    assert threads.submit("a", 1, bad)
    assert threads.submit("a", 1, good)
    assert good.ended.wait(DEADLINE_SECONDS)
    assert "ZeroDivisionError" in caplog.text


def test_threads_end_when_there_is_nothing_to_do_and_come_back(make: Make) -> None:
    before = threading.active_count()
    threads = make(idle_seconds=0.01)
    for _ in range(3):
        work = Work()
        assert threads.submit("a", 1, work)
        assert work.ended.wait(DEADLINE_SECONDS)
        eventually(lambda: threading.active_count() == before)


def test_stop_drops_what_waits_and_waits_for_what_runs(make: Make, gate: threading.Event) -> None:
    threads = make(threads_each=1)
    running, waiting = started(threads, "a", gate, 2)
    assert running.began.wait(DEADLINE_SECONDS)
    assert not threads.is_stopped
    assert not threads.stop(0.01)
    assert threads.is_stopped
    assert waiting.dropped
    assert not threads.submit("a", 1, Work())
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
        assert not threads.submit("a", 1, Work())
    (running,) = started(threads, "a", gate, 1)
    assert running.began.wait(DEADLINE_SECONDS)
    later = Work()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        assert threads.submit("a", 1, later)
    gate.set()
    assert later.ended.wait(DEADLINE_SECONDS)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
def test_a_task_that_was_refused_never_runs(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise error

    def begin_and_fail(thread: threading.Thread) -> None:
        start(thread)
        raise error

    threads = make()
    start = threading.Thread.start
    refused = []
    for failing in (fail, begin_and_fail):
        refused.append(Work())
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", failing)
            with contextlib.suppress(KeyboardInterrupt):
                assert not threads.submit("a", 1, refused[-1])
    works = [Work() for _ in range(10)]
    for work in works:
        assert threads.submit("a", 1, work)
        assert work.ended.wait(DEADLINE_SECONDS)
    assert not any(work.began.is_set() or work.dropped for work in refused)


def test_many_submitters_and_no_task_is_lost(make: Make) -> None:
    threads = make(threads=8, threads_each=2, waiting_each=10_000, idle_seconds=0.001)
    works = [[Work() for _ in range(300)] for _ in range(6)]

    def submit(number: int) -> None:
        for i, work in enumerate(works[number]):
            assert threads.submit("m", (number + i) % 4, work)
            if i % 50 == 0:
                time.sleep(0.002)  # so that threads end meanwhile

    submitters = [threading.Thread(target=submit, args=(number,)) for number in range(6)]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join()
    eventually(lambda: all(work.ended.is_set() for some in works for work in some))
