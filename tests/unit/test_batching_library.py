"""Batching for any callable: what shares a batch, and who gets which answer."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray

from tests.conftest import ROOT
from tests.unit.waiting import DEADLINE_SECONDS, eventually
from tfsrv._deadlines import FEWEST_KEPT, Deadlines
from tfsrv.batching import (
    BatchFuture,
    BatchingParameters,
    BatchingSession,
    BatchScheduler,
    Code,
    ServingError,
    WrongParameterError,
)

Array = NDArray[Any]


def doubled(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {f"2{name}": array * 2 for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(array * 2 for array in inputs)
    return inputs * 2


class Puppet:
    """A callable that notes what it gets, and waits with each run until it is let go."""

    def __init__(self, function: Callable[[Any], Any] = doubled) -> None:
        self.function = function
        self.batches: list[Any] = []
        self.running = 0
        self.most_running = 0
        self._let_go = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __call__(self, inputs: Any) -> Any:
        with self._lock:
            self.batches.append(inputs)
            self.running += 1
            self.most_running = max(self.running, self.most_running)
        assert self._let_go.acquire(timeout=DEADLINE_SECONDS)
        with self._lock:
            self.running -= 1
        return self.function(inputs)

    def let_go(self, runs: int = 1000) -> None:
        self._let_go.release(runs)


@contextmanager
def busy(
    function: Callable[[Any], Any] = doubled, threads: int = 1, **parameters: Any
) -> Iterator[tuple[BatchingSession[Any, Any], Puppet]]:
    """A session all of whose threads are in a run: what is submitted now waits together.

    `batches` has what is run later.
    """
    puppet = Puppet(function)
    with BatchScheduler(threads) as scheduler:
        session = BatchingSession(puppet, scheduler, BatchingParameters(**parameters))
        first = []
        for _ in range(threads):
            first.append(session.submit(scalar()))
            eventually(lambda: puppet.running == len(first))
        puppet.batches.clear()
        try:
            yield session, puppet
        finally:
            puppet.let_go()
            assert all(future.result(DEADLINE_SECONDS) == 2 for future in first)
            session.close()


def scalar() -> Array:
    """It runs alone, whatever the parameters are."""
    return numpy.array(1.0)


def rows(*values: float) -> Array:
    return numpy.array(values)


def answers(futures: list[BatchFuture[Any]]) -> list[Any]:
    return [future.result(DEADLINE_SECONDS) for future in futures]


# --- forming


def test_an_idle_thread_takes_a_request_at_once() -> None:
    with BatchingSession(doubled) as session:
        assert session.run(rows(1, 2)).tolist() == [2, 4]
        eventually(lambda: session.describe()["sizes"] == {2: 1})


def test_requests_that_wait_share_a_batch_and_get_their_own_rows() -> None:
    with busy() as (session, puppet):
        futures = [session.submit(rows(1)), session.submit(rows(2, 3)), session.submit(rows(4))]
        puppet.let_go()
        assert [answer.tolist() for answer in answers(futures)] == [[2], [4, 6], [8]]
        assert [batch.tolist() for batch in puppet.batches] == [[1, 2, 3, 4]]


def test_answers_have_the_form_of_what_the_callable_returns() -> None:
    inputs = rows(1, 2)
    cases: list[tuple[Callable[[Any], Any], Any]] = [
        (lambda x: {"a": x, "b": x + 1}, {"a": [1, 2], "b": [2, 3]}),
        (lambda x: (x, x + 1), ([1, 2], [2, 3])),
        (lambda x: [x, x + 1], [[1, 2], [2, 3]]),
        (lambda x: x.tolist(), [1, 2]),
    ]
    for function, expected in cases:
        with BatchingSession[Any, Any](function) as session:
            answer = session.run(inputs)
        if isinstance(answer, dict):
            assert {name: array.tolist() for name, array in answer.items()} == expected
        elif isinstance(answer, (tuple, list)):
            assert type(answer) is type(expected)
            assert [array.tolist() for array in answer] == list(expected)
        else:
            assert answer.tolist() == expected


def test_dicts_share_a_batch_whatever_the_order_of_their_names() -> None:
    with busy(lambda inputs: inputs["b"] - inputs["a"]) as (session, puppet):
        puppet.function = lambda inputs: (
            inputs["b"] - inputs["a"] if isinstance(inputs, dict) else inputs * 2
        )
        futures = [
            session.submit({"a": rows(1), "b": rows(5)}),
            session.submit({"b": rows(7), "a": rows(2)}),
        ]
        puppet.let_go()
        assert [answer.tolist() for answer in answers(futures)] == [[4], [5]]
        assert len(puppet.batches) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (rows(1), numpy.array([1], "f4")),
        (rows(1), numpy.array([1.0], ">f8")),
        (rows(1), numpy.array([[1.0]])),
        (numpy.array([[1.0, 2.0]]), numpy.array([[1.0]])),
        (rows(1), {"x": rows(1)}),
        (rows(1), (rows(1),)),
        ({"x": rows(1)}, {"y": rows(1)}),
        ((rows(1),), (rows(1), rows(1))),
    ],
)
def test_requests_of_different_kinds_share_no_batch(one: Any, other: Any) -> None:
    with busy() as (session, puppet):
        futures = [session.submit(each) for each in (one, other, one, other)]
        puppet.let_go()
        told = answers(futures)
        assert len(puppet.batches) == 2
    with BatchingSession[Any, Any](doubled) as alone:
        for given, answer in zip((one, other, one, other), told, strict=True):
            assert_same(answer, alone.run(given))


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = tuple(one.values()), tuple(other.values())
    if isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for each, its in zip(one, other, strict=True):
            assert_same(each, its)
        return
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    "inputs",
    [
        numpy.array(3.0),
        numpy.zeros((0, 2)),
        (rows(1, 2), rows(1)),
        (rows(1), numpy.array(1.0)),
        {"a": numpy.zeros((0, 2)), "b": rows(1)},
    ],
)
def test_requests_whose_rows_mean_nothing_run_alone_and_as_they_are(inputs: Any) -> None:
    with busy(allowed_batch_sizes=(4,), max_batch_size=4) as (session, puppet):
        futures = [session.submit(inputs), session.submit(inputs)]
        puppet.let_go()
        for answer in answers(futures):
            assert_same(answer, doubled(inputs))
        assert len(puppet.batches) == 2
        for batch in puppet.batches:
            assert_same(batch, inputs)


def test_inner_dims_may_be_zero() -> None:
    with busy() as (session, puppet):
        futures = [session.submit(numpy.zeros((size, 0))) for size in (1, 2)]
        puppet.let_go()
        assert [answer.shape for answer in answers(futures)] == [(1, 0), (2, 0)]
        assert len(puppet.batches) == 1


def test_strings_objects_and_structures_are_batched() -> None:
    structure = numpy.dtype([("a", ">i4"), ("b", "S3")])
    for array in (
        numpy.array([b"ab", b"c"]),
        numpy.array([["x"], ["yz"]]),
        numpy.array([b"a", None], object),
        numpy.array([(1, b"x"), (2, b"y")], structure),
        numpy.array(["2026-01-01", "NaT"], "M8[D]"),
    ):
        with busy(lambda inputs: inputs) as (session, puppet):
            puppet.function = lambda inputs: inputs if inputs.ndim else inputs * 2
            futures = [session.submit(array), session.submit(array[::-1])]
            puppet.let_go()
            one, other = answers(futures)
            assert one.dtype == array.dtype
            assert one.tolist() == array.tolist()
            assert other.tolist() == array[::-1].tolist()
            assert len(puppet.batches) == 1


def test_no_inputs_are_refused() -> None:
    with BatchingSession[Any, Any](doubled) as session:
        nothings: list[Any] = [{}, ()]
        for nothing in nothings:
            with pytest.raises(ServingError, match="at least one input") as caught:
                session.run(nothing)
            assert caught.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(TypeError, match="names of inputs are str"):
            session.run({1: rows(1)})
        with pytest.raises(ValueError, match="inhomogeneous"):
            session.run([[1, 2], [3]])


# --- parameters


def test_a_request_that_does_not_fit_closes_the_batch() -> None:
    with busy(max_batch_size=4) as (session, puppet):
        futures = [session.submit(numpy.full(size, size)) for size in (3, 2, 1, 4)]
        puppet.let_go()
        assert [answer.tolist() for answer in answers(futures)] == [[6] * 3, [4] * 2, [2], [8] * 4]
        assert [batch.tolist() for batch in puppet.batches] == [[3] * 3, [2, 2, 1], [4] * 4]


def test_a_request_with_too_many_rows_is_refused() -> None:
    parameters = BatchingParameters(max_batch_size=4)
    with BatchingSession(doubled, parameters=parameters) as session:
        with pytest.raises(ServingError) as caught:
            session.run(rows(1, 2, 3, 4, 5))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert caught.value.message == "Task size 5 is larger than maximum input batch size 4"


def test_a_full_queue_refuses_and_takes_again_what_was_cancelled() -> None:
    with busy(max_batch_size=2, max_enqueued_batches=2) as (session, puppet):
        futures = [session.submit(rows(1, 2)) for _ in range(2)]
        with pytest.raises(ServingError) as caught:
            session.submit(rows(1))
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.message == (
            "The batch scheduling queue to which this task was submitted is full; currently 2"
            " batches enqueued and max_enqueued_batches is 2"
        )
        assert session.describe()["refused_full"] == 1
        assert futures[0].cancel()
        later: list[BatchFuture[Any]] = []

        def is_taken() -> bool:
            try:
                later.append(session.submit(rows(5)))
            except ServingError:
                return False
            return True

        eventually(is_taken)
        puppet.let_go()
        assert answers([futures[1], *later])[-1].tolist() == [10]


def test_a_full_queue_that_splits_tells_its_room() -> None:
    parameters: dict[str, Any] = {
        "max_batch_size": 4,
        "max_execution_batch_size": 2,
        "max_enqueued_batches": 2,
    }
    with busy(enable_large_batch_splitting=True, **parameters) as (session, _):
        session.submit(rows(1, 2, 3))
        with pytest.raises(ServingError) as caught:
            session.submit(rows(1, 2))
        assert caught.value.message == (
            "The batch scheduling queue to which this task was submitted is full; task size is 2"
            " but scheduling capacity is only 1 (num_enqueued_batches=2, max_enqueued_batches=2,"
            " open_batch_size=1, max_execution_batch_size=2)"
        )


def test_a_batch_waits_for_more_rows_with_a_timeout() -> None:
    parameters = BatchingParameters(max_batch_size=2, batch_timeout_micros=3_600_000_000)
    sizes = []

    def function(inputs: Array) -> Array:
        sizes.append(len(inputs))
        return inputs

    with BatchingSession(function, parameters=parameters) as session:
        full = [session.submit(rows(1)), session.submit(rows(2))]
        assert [answer.tolist() for answer in answers(full)] == [[1], [2]]
        waiting = session.submit(rows(3))
        assert not waiting.done()
        assert session.close()  # nobody can join it any more
        assert waiting.result(0).tolist() == [3]
    assert sizes == [2, 1]


def test_batches_are_padded_to_an_allowed_size_with_the_last_requests_first_row() -> None:
    with busy(max_batch_size=8, allowed_batch_sizes=(4, 8)) as (session, puppet):
        futures = [session.submit(rows(1)), session.submit(rows(2, 3))]
        puppet.let_go()
        assert [answer.tolist() for answer in answers(futures)] == [[2], [4, 6]]
        assert [batch.tolist() for batch in puppet.batches] == [[1, 2, 3, 2]]
        eventually(lambda: session.describe()["padding_rows"] == 1)


def test_inner_dims_are_padded_with_the_arrays_own_first_element() -> None:
    with busy(max_batch_size=4, allowed_batch_sizes=(4,), pad_variable_length_inputs=True) as (
        session,
        puppet,
    ):
        futures = [
            session.submit(numpy.array([[[1, 2, 3]]])),
            session.submit(numpy.array([[[4], [5]], [[6], [7]]])),
        ]
        puppet.let_go()
        one, other = answers(futures)
        assert one.tolist() == [[[2, 4, 6], [2, 2, 2]]]
        assert other.tolist() == [[[8, 8, 8], [10, 8, 8]], [[12, 8, 8], [14, 8, 8]]]
        assert puppet.batches[0][3].tolist() == [[4, 4, 4], [5, 4, 4]]


@pytest.mark.parametrize("array", [numpy.zeros((1, 0)), numpy.zeros((1,) * 7)])
def test_what_cannot_be_padded_runs_alone(array: Array) -> None:
    with busy(pad_variable_length_inputs=True) as (session, puppet):
        futures = [session.submit(array), session.submit(array)]
        puppet.let_go()
        assert [answer.shape for answer in answers(futures)] == [array.shape] * 2
        assert len(puppet.batches) == 2


SPLITTING: dict[str, Any] = {
    "max_batch_size": 8,
    "max_execution_batch_size": 3,
    "enable_large_batch_splitting": True,
}


def test_large_requests_are_split_and_put_together() -> None:
    with busy(**SPLITTING) as (session, puppet):
        futures = [session.submit(rows(1, 2)), session.submit({"x": numpy.arange(7)})]
        futures.append(session.submit(rows(3, 4)))
        puppet.let_go()
        one, other, third = answers(futures)
        assert one.tolist() == [2, 4]
        assert other["2x"].tolist() == [0, 2, 4, 6, 8, 10, 12]
        assert third.tolist() == [6, 8]
        sizes = [len(batch["x"] if isinstance(batch, dict) else batch) for batch in puppet.batches]
        assert sorted(sizes) == [1, 1, 3, 3, 3]


def test_one_bad_part_fails_a_split_request_alone() -> None:
    def function(inputs: Array) -> Array:
        if inputs.ndim and 5 in inputs:
            raise ValueError("five")
        return inputs * 2

    with busy(function, **SPLITTING) as (session, puppet):
        futures = [session.submit(numpy.arange(8)), session.submit(numpy.arange(2))]
        puppet.let_go()
        with pytest.raises(ValueError, match="five"):
            futures[0].result(DEADLINE_SECONDS)
        assert futures[1].result(DEADLINE_SECONDS).tolist() == [0, 2]


def test_parts_of_different_shapes_cannot_be_put_together() -> None:
    with busy(
        lambda x: x.reshape(x.size, -1).repeat(len(x), 1) if x.ndim else x * 2, **SPLITTING
    ) as (
        session,
        puppet,
    ):
        future = session.submit(numpy.arange(4))
        puppet.let_go()
        with pytest.raises(ServingError, match="outputs of different shapes") as caught:
            future.result(DEADLINE_SECONDS)
        assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("limit", [0, 1])
def test_as_many_batches_run_at_a_time_as_are_allowed(limit: int) -> None:
    puppet = Puppet()
    parameters = BatchingParameters(max_concurrent_runs=limit, max_batch_size=1)
    with BatchScheduler(3) as scheduler, BatchingSession(puppet, scheduler, parameters) as session:
        futures = [session.submit(rows(1)) for _ in range(10)]
        eventually(lambda: puppet.running == (limit or 3))
        puppet.let_go()
        answers(futures)
        assert puppet.most_running == (limit or 3)


def test_one_run_at_a_time_stays_one_however_long_it_takes() -> None:
    # A run of more than a second is taken to wait for something, and others of its model may run.
    puppet = Puppet()
    parameters = BatchingParameters(max_concurrent_runs=1, max_batch_size=1)
    with BatchScheduler(2) as scheduler, BatchingSession(puppet, scheduler, parameters) as session:
        futures = [session.submit(rows(1)) for _ in range(3)]
        time.sleep(1.3)
        puppet.let_go()
        answers(futures)
        assert puppet.most_running == 1


@pytest.mark.parametrize("threads", [0, 65])
def test_wrong_numbers_of_threads_are_refused(threads: int) -> None:
    with pytest.raises(WrongParameterError, match="num_batch_threads"):
        BatchScheduler(threads)


# --- outputs


@pytest.mark.parametrize(
    "function", [lambda x: x.sum(), lambda x: numpy.zeros(7), lambda x: {"y": x, "n": x.size}]
)
def test_outputs_with_other_rows_are_divided_by_running_alone(
    function: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    with busy() as (session, puppet):
        puppet.function = lambda x: function(x) if x.ndim else x * 2
        futures = [session.submit(rows(1)), session.submit(rows(2, 3))]
        puppet.let_go()
        for answer, alone in zip(answers(futures), (rows(1), rows(2, 3)), strict=True):
            expected = function(alone)
            assert type(answer) is type(expected)
            assert repr(answer) == repr(expected)
        assert [len(batch) for batch in puppet.batches] == [3, 1, 2]
        assert repr(session.run(rows(4, 5))) == repr(function(rows(4, 5)))
        assert len(puppet.batches) == 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "requests will run alone" in caplog.text


def test_a_padded_request_by_itself_runs_again_without_padding() -> None:
    sizes = []

    def function(inputs: Array) -> Any:
        sizes.append(len(inputs))
        return inputs.sum()

    parameters = BatchingParameters(max_batch_size=4, allowed_batch_sizes=(4,))
    with BatchingSession(function, parameters=parameters) as session:
        assert session.run(rows(1, 2)) == 3
        assert session.run(rows(1, 2)) == 3
    assert sizes == [4, 2, 2]


def test_callable_and_callers_see_nothing_of_each_others_memory() -> None:
    kept: list[Array] = []

    def function(inputs: Array) -> Array:
        inputs += 1  # its own
        kept.append(inputs)
        return inputs

    given = rows(1, 2)
    with BatchingSession(function) as session:
        one = session.run(given)
        other = session.run(scalar())
        assert given.tolist() == [1, 2]
        kept[0][:] = 7  # an output buffer that is used again
        assert one.tolist() == [2, 3]
        assert one.base is None
        assert one.flags.writeable
        assert other.tolist() == 2


# --- errors


class OddError(Exception):
    pass


def test_only_those_that_fail_by_themselves_get_an_exception() -> None:
    raised: list[BaseException] = []

    def function(inputs: Array) -> Array:
        if inputs.ndim and (inputs < 0).any():
            raised.append(OddError(inputs.tolist()))
            raise raised[-1]
        return inputs * 2

    with busy(function) as (session, puppet):
        futures = [session.submit(rows(value)) for value in (1, 2, -3, 4, 5, 6, -7, 8)]
        puppet.let_go()
        for future, value in zip(futures, (1, 2, -3, 4, 5, 6, -7, 8), strict=True):
            if value > 0:
                assert future.result(DEADLINE_SECONDS).tolist() == [2 * value]
                continue
            error = future.exception(DEADLINE_SECONDS)
            assert error in raised
            assert error.args == ([value],)
        eventually(lambda: session.describe()["run_apart"] == 1)


def test_a_callable_that_always_fails_is_not_run_more_often_than_by_each() -> None:
    def function(inputs: Array) -> Array:
        if inputs.ndim:
            raise OddError
        return inputs * 2

    with busy(function) as (session, puppet):
        futures = [session.submit(rows(1)) for _ in range(16)]
        puppet.let_go()
        for future in futures:
            assert isinstance(future.exception(DEADLINE_SECONDS), OddError)
        assert len(puppet.batches) == 1 + 2 + 16


@pytest.mark.parametrize(
    "error",
    [ServingError(Code.UNAVAILABLE, "later"), SystemExit(3), KeyboardInterrupt()],
    ids=["unavailable", "exit", "interrupt"],
)
def test_what_is_nobodys_fault_is_told_to_all_at_once(error: BaseException) -> None:
    def function(inputs: Array) -> Array:
        if inputs.ndim:
            raise error
        return inputs * 2

    with busy(function) as (session, puppet):
        futures = [session.submit(rows(1)) for _ in range(3)]
        puppet.let_go()
        assert [future.exception(DEADLINE_SECONDS) for future in futures] == [error] * 3
        assert len(puppet.batches) == 1


def test_each_way_to_ask_raises_what_the_callable_raised() -> None:
    error = StopIteration("odd")

    def function(inputs: Array) -> Array:
        raise error

    with BatchingSession(function) as session:
        with pytest.raises(StopIteration) as caught:
            session.run(rows(1))
        assert caught.value is error
        assert session.submit(rows(1)).exception(DEADLINE_SECONDS) is error
        with pytest.raises(RuntimeError, match="StopIteration"):  # coroutines may raise none
            asyncio.run(session.run_async(rows(1)))


def test_outputs_that_are_no_arrays_are_an_error_of_the_request() -> None:
    with (
        BatchingSession[Any, Any](lambda x: [[1, 2], [3]]) as session,
        pytest.raises(ValueError, match="inhomogeneous"),
    ):
        session.run(rows(1))


# --- deadlines and priorities


def is_late(error: BaseException | None) -> bool:
    return (
        isinstance(error, ServingError)
        and error.code is Code.DEADLINE_EXCEEDED
        and error.message == "Deadline Exceeded"
    )


def test_a_request_that_waits_too_long_is_told_and_never_runs() -> None:
    with busy() as (session, puppet):
        future = session.submit(rows(1), timeout=0.02)
        assert is_late(future.exception(DEADLINE_SECONDS))  # though all threads are busy
        with pytest.raises(ServingError) as caught:
            session.run(rows(2), timeout=0.02)
        assert is_late(caught.value)
        with pytest.raises(ServingError) as caught:
            asyncio.run(session.run_async(rows(3), timeout=0.02))
        assert is_late(caught.value)
        puppet.let_go()
        assert session.run(rows(4)).tolist() == [8]
        assert [batch.tolist() for batch in puppet.batches] == [[4]]


def test_a_request_that_runs_too_long_is_told_in_time() -> None:
    puppet = Puppet()
    with BatchingSession(puppet) as session:
        future = session.submit(rows(1), timeout=0.02)
        assert is_late(future.exception(DEADLINE_SECONDS))
        with pytest.raises(ServingError):
            session.run(rows(1), timeout=0.02)
        puppet.let_go()


@pytest.mark.parametrize("timeout", [0, -1, -1e300])
def test_no_time_at_all_is_too_short(timeout: float) -> None:
    with BatchingSession(doubled) as session, pytest.raises(ServingError) as caught:
        session.run(rows(1), timeout=timeout)
    assert is_late(caught.value)


def test_a_very_long_time_is_none() -> None:
    with BatchingSession(doubled) as session:
        for timeout in (1e8, 1e300, float("inf")):
            assert session.run(rows(1), timeout=timeout).tolist() == [2]
            assert answers([session.submit(rows(1), timeout=timeout)])[0].tolist() == [2]
        with pytest.raises(ValueError, match="no number"):
            session.run(rows(1), timeout=float("nan"))


def test_a_request_that_cannot_be_in_time_is_refused_at_once() -> None:
    puppet = Puppet()
    parameters = BatchingParameters(max_batch_size=1)
    with BatchScheduler(1) as scheduler, BatchingSession(puppet, scheduler, parameters) as session:
        slow = session.submit(rows(1))
        time.sleep(0.3)  # what a run takes, as far as the session will know
        puppet.let_go(1)
        answers([slow])
        eventually(lambda: session.describe()["batches"] == 1)
        running = session.submit(rows(2))
        eventually(lambda: puppet.running == 1)
        with pytest.raises(ServingError) as caught:
            session.submit(rows(3), timeout=0.1)
        assert is_late(caught.value)
        assert session.describe()["refused_late"] == 1
        puppet.let_go()
        answers([running])


def test_the_earliest_deadline_comes_first() -> None:
    with busy(max_batch_size=1) as (session, puppet):
        futures = [session.submit(rows(timeout), timeout=timeout) for timeout in (90, 30, 60)]
        puppet.let_go()
        answers(futures)
        assert [batch.tolist() for batch in puppet.batches] == [[30], [60], [90]]


def test_low_requests_run_when_nothing_else_waits() -> None:
    with busy() as (session, puppet):
        futures = [session.submit(rows(1), priority="low"), session.submit(rows(2))]
        puppet.let_go()
        answers(futures)
        assert [batch.tolist() for batch in puppet.batches] == [[2], [1]]
        with pytest.raises(ValueError, match="priority should be"):
            session.submit(rows(1), priority="high")  # type: ignore[arg-type]


# --- leaving


def test_a_cancelled_future_never_runs() -> None:
    with busy() as (session, puppet):
        gone, stays = session.submit(rows(1)), session.submit(rows(2))
        assert not gone.running()
        assert gone.cancel()
        assert gone.cancel()
        assert gone.cancelled()
        done, _ = concurrent.futures.wait([gone, stays], 0)
        assert done == {gone}
        puppet.let_go()
        assert answers([stays])[0].tolist() == [4]
        assert [batch.tolist() for batch in puppet.batches] == [[2]]


def test_what_runs_cannot_be_cancelled() -> None:
    puppet = Puppet()
    with BatchingSession(puppet) as session:
        future = session.submit(rows(1))
        eventually(future.running)
        assert not future.cancel()
        puppet.let_go()
        assert answers([future])[0].tolist() == [2]
        assert not future.running()
        assert not future.cancel()


def test_cancelling_a_task_takes_its_request_back() -> None:
    async def leave(session: BatchingSession[Any, Any]) -> None:
        task = asyncio.create_task(session.run_async(rows(1)))
        stays = asyncio.create_task(session.run_async(rows(2)))
        await asyncio.sleep(0)  # both have asked
        assert session.describe()["waiting_rows"] == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        puppet.let_go()
        assert (await stays).tolist() == [4]

    with busy() as (session, puppet):
        asyncio.run(leave(session))
        assert [batch.tolist() for batch in puppet.batches] == [[2]]
        eventually(lambda: session.describe()["refused_unwanted"] == 1)


def test_answers_for_a_loop_that_is_gone_are_dropped() -> None:
    async def ask(session: BatchingSession[Any, Any]) -> None:
        loop = asyncio.get_running_loop()
        session._queue.ask(rows(1), -1.0, False, loop, loop.create_future())
        session._queue.kick()

    with busy() as (session, puppet):
        asyncio.run(ask(session))
        puppet.let_go()
        assert session.run(rows(2)).tolist() == [4]


def test_many_loops_and_threads_share_batches() -> None:
    def run_loop(number: int) -> None:
        async def ask() -> list[Array]:
            asked = [session.run_async(rows(number, each)) for each in range(20)]
            return list(await asyncio.gather(*asked))

        got[number] = [answer.tolist() for answer in asyncio.run(ask())]

    got: dict[int, list[list[float]]] = {}
    with busy() as (session, puppet):
        threads = [threading.Thread(target=run_loop, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: session.describe()["waiting_rows"] == 160)
        puppet.let_go()
        for thread in threads:
            thread.join()
        assert got == {
            number: [[2 * number, 2 * each] for each in range(20)] for number in range(4)
        }
        assert len(puppet.batches) == 1


# --- sessions side by side


def test_a_callable_that_hangs_delays_no_other_session() -> None:
    hangs = Puppet()
    with BatchScheduler(2) as scheduler:
        stuck = BatchingSession(hangs, scheduler, BatchingParameters(max_batch_size=1))
        stuck_futures = [stuck.submit(rows(1)) for _ in range(9)]
        eventually(lambda: hangs.running == 2)
        with BatchingSession(doubled, scheduler) as session:
            assert session.run(rows(1), timeout=DEADLINE_SECONDS).tolist() == [2]
        assert hangs.running == 2
        hangs.let_go()
        answers(stuck_futures)
        stuck.close()


def test_a_session_with_few_requests_does_not_wait_for_those_with_many() -> None:
    order: list[str] = []

    def first(inputs: Array) -> Any:
        order.append("many")
        return puppet(inputs)

    def other(inputs: Array) -> Any:
        order.append("few")
        return inputs

    puppet = Puppet()
    parameters = BatchingParameters(max_batch_size=1)
    with BatchScheduler(1) as scheduler:
        many = [BatchingSession(first, scheduler, parameters) for _ in range(2)]
        few = BatchingSession(other, scheduler, parameters)
        futures = [session.submit(rows(1)) for session in many]
        eventually(lambda: puppet.running == 2)  # the threads are busy
        futures += [session.submit(rows(1)) for session in many for _ in range(5)]
        futures.append(few.submit(rows(1)))
        puppet.let_go(1)
        eventually(lambda: len(order) > 2)
        assert order[2] == "few"
        puppet.let_go()
        answers(futures)


# --- the end


def is_closed(session: BatchingSession[Any, Any]) -> bool:
    with pytest.raises(ServingError) as caught:
        session.submit(rows(1))
    return caught.value.code is Code.UNAVAILABLE


def test_close_refuses_what_comes_and_waits_for_what_came() -> None:
    with busy() as (session, puppet):
        future = session.submit(rows(1))
        assert not session.close(timeout=0.01)
        assert is_closed(session)
        assert not future.done()
        puppet.let_go()
        assert session.close()
        assert future.result(0).tolist() == [2]
        assert session.close()
        assert session.describe()["batches"] == 2


def test_a_session_may_be_closed_while_it_looks_at_a_request() -> None:
    """As another thread does while numpy makes an array of something."""

    class Closing:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            session.close()
            return rows(1)

    session = BatchingSession(doubled)
    with pytest.raises(ServingError, match="closed"):
        session.run(Closing())


def test_close_can_cancel_what_waits() -> None:
    error: list[BaseException] = []

    def wait_for_answer() -> None:
        try:
            session.run(rows(1))
        except BaseException as caught:
            error.append(caught)

    with busy() as (session, _):
        future = session.submit(rows(1))
        thread = threading.Thread(target=wait_for_answer)
        thread.start()
        eventually(lambda: session.describe()["waiting_rows"] == 2)
        assert not session.close(cancel=True, timeout=0.01)
        thread.join()
        assert isinstance(error[0], ServingError)
        assert error[0].code is Code.CANCELLED
        assert future.cancelled()


def test_a_scheduler_closes_its_sessions() -> None:
    scheduler = BatchScheduler(1)
    sessions = [BatchingSession(doubled, scheduler) for _ in range(2)]
    assert [each["name"] for each in scheduler.describe()["sessions"]] == ["doubled"] * 2
    assert sessions[0].run(rows(1)).tolist() == [2]
    assert scheduler.close()
    assert all(map(is_closed, sessions))
    with pytest.raises(ServingError, match="scheduler is closed"):
        BatchingSession(doubled, scheduler)
    assert scheduler.close()
    assert scheduler.describe() == {"threads": 0, "running": 0, "sessions": []}


def test_a_scheduler_that_gives_up_on_a_run_leaves_nobody_waiting() -> None:
    puppet = Puppet()
    scheduler = BatchScheduler(1)
    session = BatchingSession(puppet, scheduler, BatchingParameters(max_batch_size=1))
    runs = session.submit(rows(1))
    eventually(lambda: puppet.running == 1)
    waits = session.submit(rows(2))
    assert not scheduler.close(timeout=0.01)
    assert waits.cancelled()
    assert not runs.done()
    puppet.let_go()
    assert answers([runs])[0].tolist() == [2]
    assert session.close()
    assert scheduler.close()


def test_a_callable_cannot_wait_for_its_own_end() -> None:
    def function(inputs: Array) -> Array:
        session.close()
        return inputs

    session = BatchingSession(function)
    with pytest.raises(RuntimeError, match="its own end"):
        session.run(rows(1))
    assert session.close()


# --- references


def forgotten(reference: weakref.ref[Any]) -> bool:
    gc.collect()
    return reference() is None


class Owned(numpy.ndarray[Any, Any]):
    """An array that can be watched by a weak reference, and is no plain one."""


def watched(*values: float) -> tuple[Array, weakref.ref[Any]]:
    memory = numpy.array(values).view(Owned)
    return numpy.asarray(memory), weakref.ref(memory)


def test_nothing_is_kept_of_a_request_that_was_answered() -> None:
    def function(inputs: Array) -> Array:
        if inputs[0] < 0:
            raise OddError
        return inputs

    with BatchingSession(function) as session:
        for value in (1.0, -1.0):
            array, reference = watched(value)
            future = session.submit(array, timeout=1000)
            assert (future.exception(DEADLINE_SECONDS) is None) == (value > 0)
            del array
            eventually(partial(forgotten, reference))
            told = weakref.ref(future)
            del future
            eventually(partial(forgotten, told))


def test_nothing_is_kept_of_a_request_that_was_cancelled_or_expired() -> None:
    with busy() as (session, _):
        array, reference = watched(1)
        future = session.submit(array)
        assert future.cancel()
        del array
        assert forgotten(reference)
        array, reference = watched(1)
        late = session.submit(array, timeout=0.01)
        assert is_late(late.exception(DEADLINE_SECONDS))
        del array
        eventually(lambda: forgotten(reference))


def test_nothing_is_kept_of_a_request_that_was_refused() -> None:
    with busy(max_batch_size=2) as (session, _):
        array, reference = watched(1, 2, 3)
        with pytest.raises(ServingError):
            session.submit(array)
        del array
        assert forgotten(reference)


def used(model: Any, is_closed: bool) -> Any:
    model.session.run(rows(1))
    if is_closed:
        model.session.close()
    return model


@pytest.mark.parametrize("is_closed_first", [True, False])
def test_a_session_and_its_callable_can_be_forgotten(is_closed_first: bool) -> None:
    class Model:
        def __init__(self, scheduler: BatchScheduler | None) -> None:
            self.session = BatchingSession(self.run, scheduler)

        def run(self, inputs: Array) -> Array:
            return inputs

    with BatchScheduler(1) as scheduler:
        for shared in (scheduler, None):
            reference = weakref.ref(used(Model(shared), is_closed_first))
            eventually(partial(forgotten, reference))


def test_what_was_submitted_outlives_the_session_and_its_scheduler() -> None:
    puppet = Puppet()
    future = BatchingSession(puppet).submit(rows(1))
    gc.collect()
    puppet.let_go()
    assert answers([future])[0].tolist() == [2]


def test_little_is_kept_of_requests_whose_deadline_is_far() -> None:
    with BatchingSession(doubled) as session:
        for _ in range(1000):
            session.submit(rows(1), timeout=1e6).result(DEADLINE_SECONDS)
        assert len(session._scheduler._deadlines._heap) <= 2 * FEWEST_KEPT


def test_deadlines_are_kept_in_order_and_their_thread_ends() -> None:
    told: list[int] = []

    class Request:
        done = False

        def __init__(self, number: int) -> None:
            self.number = number

        def expire(self) -> None:
            told.append(self.number)

    deadlines = Deadlines()
    requests: Any = [Request(number) for number in range(4)]
    requests[1].done = True
    for seconds, number in ((1000, 0), (0.001, 1), (0.03, 2), (0.01, 3)):
        deadlines.add(seconds, requests[number])
    eventually(lambda: told[-1:] == [2])
    assert [number for number in told if number != 1] == [3, 2]
    requests[0].done = True
    deadlines.add(0.001, requests[3])
    eventually(lambda: not deadlines._is_running)
    deadlines.add(0.001, requests[3])
    eventually(lambda: told.count(3) == 3)


def test_each_request_takes_and_gives_back_one_reference() -> None:
    array = rows(1)
    with BatchingSession(doubled) as session:
        before = sys.getrefcount(array)
        for _ in range(100):
            session.run(array)
            session.submit(array).result(DEADLINE_SECONDS)
        eventually(lambda: sys.getrefcount(array) == before)


# --- processes


def in_a_process(source: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_SECONDS * 2,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_no_server_and_no_tensorflow_is_imported() -> None:
    loaded = in_a_process("import sys, tfsrv.batching; print(*sys.modules)").split()
    assert "numpy" in loaded
    for package in ("tensorflow", "grpc", "google", "uvloop", "tfsrv._tf", "tfsrv.server"):
        assert package not in loaded


def test_a_callable_that_hangs_does_not_keep_the_process() -> None:
    assert (
        in_a_process(
            "import threading, numpy, tfsrv.batching as batching\n"
            "batching.EXIT_SECONDS = 0.1\n"
            "entered = threading.Event()\n"
            "def hang(x): entered.set(); threading.Event().wait()\n"
            "session = batching.BatchingSession(hang)\n"
            "future = session.submit(numpy.zeros(1))\n"
            "assert entered.wait(30)\n"
            "print('end')"
        )
        == "end\n"
    )


@pytest.mark.skipif("TSAN_OPTIONS" in os.environ, reason="it allows no threads after a fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_is_told_to_make_its_own() -> None:
    with BatchingSession(doubled) as session:
        session.run(rows(1))
        child = os.fork()
        if child == 0:  # no assertion, and no return into pytest
            try:
                session.run(rows(1))
            except ServingError as error:
                with BatchingSession(doubled) as own:
                    fine = own.run(rows(1)).tolist() == [2]
                os._exit(0 if "forked" in error.message and session.close() and fine else 1)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert session.run(rows(1)).tolist() == [2]


def test_a_coroutine_function_is_refused() -> None:
    async def later(rows: Any) -> Any:
        return rows

    with pytest.raises(TypeError, match="not a coroutine"):
        BatchingSession(later)
