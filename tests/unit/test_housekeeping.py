"""What a server does every few seconds."""

from __future__ import annotations

import threading

import pytest

from tests.unit.waiting import eventually
from tfsrv.housekeeping import Housekeeping


def test_calls_its_jobs_again_and_again_until_it_is_stopped() -> None:
    calls: list[str] = []
    keeping = Housekeeping([lambda: calls.append("a"), lambda: calls.append("b")], 0.001)
    keeping.start()
    eventually(lambda: len(calls) >= 6)
    assert keeping.stop(10.0)
    assert calls[:4] == ["a", "b", "a", "b"]
    assert not any(thread.name == "tfsrv-housekeeping" for thread in threading.enumerate())


def test_a_job_that_raises_is_logged_once_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    keeping = Housekeeping([fail, lambda: calls.append("good")], 0.001)
    keeping.start()
    eventually(lambda: len(calls) >= 5)
    assert keeping.stop(10.0)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


def test_stops_though_it_was_never_started() -> None:
    assert Housekeeping([]).stop(0.0)


def test_says_when_a_job_does_not_return() -> None:
    let_go = threading.Event()
    entered = threading.Event()

    def hang() -> None:
        entered.set()
        let_go.wait(60.0)

    keeping = Housekeeping([hang], 0.001)
    keeping.start()
    assert entered.wait(60.0)
    assert not keeping.stop(0.01)
    let_go.set()
    assert keeping.stop(60.0)
