"""Batching for any callable, with many at once and with whatever they ask for."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as shapes
from numpy.typing import NDArray

from tests.unit.waiting import DEADLINE_SECONDS, eventually
from tfsrv.batching import (
    BatchFuture,
    BatchingParameters,
    BatchingSession,
    BatchScheduler,
    Code,
    ServingError,
)

Array = NDArray[Any]
ASKED = 400  # requests of each who asks


class BadRowError(Exception):
    pass


class Account:
    """What became of each request; several threads write into it."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.wrong: list[Any] = []

    def has(self, outcomes: int) -> bool:
        """Whether there are so many at least."""
        return len(self.outcomes) >= outcomes

    def answered(self, number: int, answer: Array) -> None:
        if answer.tolist() != [number * 2] * len(answer):
            self.wrong.append((number, answer))
        self.outcomes.append("answered")

    def failed(self, number: int, error: BaseException) -> None:
        if isinstance(error, BadRowError):
            if number % 50:
                self.wrong.append((number, error))
            self.outcomes.append("bad")
        elif isinstance(error, ServingError) and error.code is Code.DEADLINE_EXCEEDED:
            self.outcomes.append("late")
        elif isinstance(error, ServingError) and error.code is Code.UNAVAILABLE:
            self.outcomes.append("full")
        elif isinstance(error, (CancelledError, asyncio.CancelledError)):
            self.outcomes.append("cancelled")
        else:
            self.wrong.append((number, error))


def doubled(inputs: Array) -> Array:
    if (inputs % 50 == 0).any():
        raise BadRowError(inputs.tolist())
    return inputs * 2


def inputs_of(number: int, chance: random.Random) -> Array:
    dtype = chance.choice(["i4", "i8"])
    return numpy.full(chance.randint(1, 3), number, dtype)


def ask_in_thread(session: BatchingSession[Array, Array], seed: int, account: Account) -> None:
    chance = random.Random(seed)
    for number in range(1, ASKED + 1):
        try:
            timeout = chance.choice([None, None, 0.001, 30.0])
            account.answered(number, session.run(inputs_of(number, chance), timeout=timeout))
        except Exception as error:
            account.failed(number, error)


def submit_in_thread(session: BatchingSession[Array, Array], seed: int, account: Account) -> None:
    chance = random.Random(seed)
    futures: list[tuple[int, BatchFuture[Array]]] = []
    for number in range(1, ASKED + 1):
        try:
            timeout = chance.choice([None, 0.002])
            priority: Any = chance.choice(["normal", "low"])
            inputs = inputs_of(number, chance)
            futures.append((number, session.submit(inputs, timeout=timeout, priority=priority)))
        except Exception as error:
            account.failed(number, error)
        if futures and chance.random() < 0.3:
            chance.choice(futures)[1].cancel()
    for number, future in futures:
        try:
            account.answered(number, future.result(DEADLINE_SECONDS))
        except (Exception, CancelledError) as error:
            account.failed(number, error)


def ask_in_loop(session: BatchingSession[Array, Array], seed: int, account: Account) -> None:
    chance = random.Random(seed)

    async def ask(number: int) -> None:
        try:
            timeout = chance.choice([None, 0.002])
            answer = await session.run_async(inputs_of(number, chance), timeout=timeout)
            account.answered(number, answer)
        except (Exception, asyncio.CancelledError) as error:
            account.failed(number, error)

    async def ask_all() -> None:
        for first in range(1, ASKED + 1, 20):
            tasks = [asyncio.create_task(ask(number)) for number in range(first, first + 20)]
            await asyncio.sleep(0)
            for task in tasks:
                if chance.random() < 0.2:
                    task.cancel()
            await asyncio.gather(*tasks)

    asyncio.run(ask_all())


@pytest.mark.parametrize("timeout_micros", [0, 300])
def test_each_request_is_accounted_for_exactly_once(timeout_micros: int) -> None:
    account = Account()
    parameters = BatchingParameters(
        max_batch_size=16, batch_timeout_micros=timeout_micros, allowed_batch_sizes=(4, 16)
    )
    with (
        BatchScheduler(3) as scheduler,
        BatchingSession(doubled, scheduler, parameters) as session,
    ):
        asking = [ask_in_thread] * 4 + [submit_in_thread] * 2 + [ask_in_loop] * 2
        threads = [
            threading.Thread(target=each, args=(session, seed, account), daemon=True)
            for seed, each in enumerate(asking)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * DEADLINE_SECONDS)
            assert not thread.is_alive()
        assert session.close(timeout=DEADLINE_SECONDS)
        counts = session.describe()
    assert account.wrong == []
    assert len(account.outcomes) == len(asking) * ASKED
    outcomes = Counter(account.outcomes)
    for outcome in ("answered", "bad", "late", "cancelled"):
        assert outcomes[outcome] > 0, outcomes
    assert counts["refused_full"] == outcomes["full"]
    assert counts["waiting_rows"] == counts["running"] == 0
    run_or_refused = sum(
        counts[name] for name in ("requests", "refused_full", "refused_late", "refused_unwanted")
    )
    # A task that was cancelled before its first step has not asked.
    assert outcomes.total() - outcomes["cancelled"] <= run_or_refused <= outcomes.total()


def test_more_callers_than_an_inbox_holds_are_all_served() -> None:
    # Who finds the inbox full empties it into the lists, while workers look whether it is empty.
    callers, times = 700, 20

    async def caller(session: BatchingSession[Array, Array], number: int) -> None:
        for _ in range(times):
            answer = await session.run_async(numpy.full(1, number))
            assert answer.tolist() == [number * 3]

    async def all_callers() -> None:
        parameters = BatchingParameters(max_batch_size=64, max_enqueued_batches=1000)
        with BatchingSession[Array, Array](lambda rows: rows * 3, parameters=parameters) as session:
            await asyncio.gather(*(caller(session, number) for number in range(callers)))
            eventually(lambda: session.describe()["rows"] == callers * times)

    asyncio.run(all_callers())


def test_a_queue_that_is_closed_under_load_answers_everybody() -> None:
    for seed in range(20):
        account = Account()
        session = BatchingSession(doubled, parameters=BatchingParameters(max_batch_size=4))
        threads = [
            threading.Thread(target=each, args=(session, seed, account), daemon=True)
            for each in (ask_in_thread, ask_in_thread, submit_in_thread, ask_in_loop)
        ]
        for thread in threads:
            thread.start()
        eventually(partial(account.has, 10 * seed))
        assert session.close(timeout=DEADLINE_SECONDS)
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive()
        assert account.wrong == []
        assert len(account.outcomes) == len(threads) * ASKED


# --- the same as without batching


def computed(inputs: Any) -> Any:
    """Of each row something that depends on nothing else, in the form of the inputs."""
    if isinstance(inputs, dict):
        return {name: computed(array) for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(computed(array) for array in inputs)
    with numpy.errstate(all="ignore"):
        return numpy.asarray(inputs + inputs) if inputs.dtype.kind != "U" else inputs.copy()


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


dtypes = st.sampled_from(["<f4", ">f4", "<f8", "<i2", "|u1", "<c8", "|b1", "<U3"]).map(numpy.dtype)
inner_shapes = st.sampled_from([(), (1,), (2,), (0,), (2, 3)])


@st.composite
def arrays(draw: st.DrawFn, rows: int) -> Array:
    shape = draw(st.just((rows, *draw(inner_shapes))) | st.sampled_from([(), (rows + 1,)]))
    dtype = draw(dtypes)
    if dtype.kind == "U":
        return draw(shapes.arrays(dtype, shape, elements=st.text("ab", max_size=3)))
    return draw(shapes.arrays(dtype, shape))


@st.composite
def requests(draw: st.DrawFn) -> Any:
    rows = draw(st.integers(0, 5))
    form = draw(st.sampled_from(["array", "dict", "tuple"]))
    if form == "array":
        return draw(arrays(rows))
    if form == "tuple":
        return tuple(draw(arrays(rows)) for _ in range(draw(st.integers(1, 2))))
    return {name: draw(arrays(rows)) for name in draw(st.permutations(["a", "b"]))}


@st.composite
def parameters(draw: st.DrawFn) -> BatchingParameters:
    size = draw(st.integers(6, 12))
    splits = draw(st.booleans())
    executed = draw(st.integers(1, size)) if splits else size
    return BatchingParameters(
        max_batch_size=size,
        max_execution_batch_size=executed if splits else 0,
        enable_large_batch_splitting=splits,
        allowed_batch_sizes=draw(
            st.sampled_from([(), (executed,), tuple({1, executed})]).map(sorted).map(tuple)
        ),
        batch_timeout_micros=draw(st.sampled_from([0, 500])),
        max_concurrent_runs=draw(st.integers(0, 2)),
        max_enqueued_batches=1000,
    )


@settings(deadline=None, max_examples=150)
@given(parameters(), st.lists(requests(), min_size=1, max_size=12))
def test_each_answer_is_the_one_without_batching(
    chosen: BatchingParameters, asked: list[Any]
) -> None:
    gate = threading.Event()

    def function(inputs: Any) -> Any:
        assert gate.wait(DEADLINE_SECONDS)
        return computed(inputs)

    with BatchScheduler(2) as scheduler, BatchingSession(function, scheduler, chosen) as session:
        futures = [session.submit(inputs) for inputs in asked]
        gate.set()
        for inputs, future in zip(asked, futures, strict=True):
            assert same(future.result(DEADLINE_SECONDS), computed(inputs)), inputs
