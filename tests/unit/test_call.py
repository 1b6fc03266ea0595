"""Calls from Python: what comes back, when, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.unit.waiting import DEADLINE_SECONDS
from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._python_method import PythonMethod
from tfsrv._turns import STEPS
from tfsrv.errors import Code, ServingError

Test = Callable[[CallLoop], Awaitable[None]]


@pytest.fixture(autouse=True)
def budget() -> Iterator[None]:
    """Whatever a test does, no byte may be counted as in flight after it."""
    assert in_flight_bytes() == 0
    yield
    set_max_in_flight_bytes(2**63 - 1)
    assert in_flight_bytes() == 0


def run(test: Test) -> None:
    """Run `test` with a CallLoop, and check that every call of it has ended."""

    async def main() -> None:
        calls = CallLoop(asyncio.get_running_loop())
        await test(calls)
        await eventually(lambda: calls.held_by_workers == 0)
        assert calls.in_flight == 0
        calls.close()

    asyncio.run(main())


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.001)


async def echo(request: bytes) -> bytes:
    return request


class Held:
    """A handler that holds its request until it is released or cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, request: bytes) -> bytes:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request


@pytest.mark.parametrize("request_bytes", [b"", b"a", b"\0" * 5, b"x" * 3_000_000])
def test_answers_with_what_the_handler_returns(request_bytes: bytes) -> None:
    async def test(calls: CallLoop) -> None:
        assert await calls.invoke(PythonMethod("m", echo), request_bytes) == request_bytes

    run(test)


def test_raises_the_error_that_the_handler_raises() -> None:
    async def fail(request: bytes) -> bytes:
        raise ServingError(Code.NOT_FOUND, "no such thing: ä")

    async def test(calls: CallLoop) -> None:
        with pytest.raises(ServingError, match="no such thing: ä") as caught:
            await calls.invoke(PythonMethod("m", fail), b"")
        assert caught.value.code == Code.NOT_FOUND

    run(test)


@pytest.mark.parametrize("answer", [None, "text", object()])
def test_an_answer_that_is_not_bytes_is_an_internal_error(answer: object) -> None:
    async def wrong(request: bytes) -> bytes:
        return answer  # type: ignore[return-value]

    async def test(calls: CallLoop) -> None:
        with pytest.raises(ServingError) as caught:
            await calls.invoke(PythonMethod("m", wrong), b"")
        assert caught.value.code == Code.INTERNAL

    run(test)


def test_of_many_calls_few_begin_in_a_turn_of_the_loop() -> None:
    begun = 0

    async def begin(request: bytes) -> bytes:
        nonlocal begun
        begun += 1
        return request

    async def test(calls: CallLoop) -> None:
        method = PythonMethod("m", begin)
        pending = asyncio.gather(*(calls.invoke(method, b"") for _ in range(10 * STEPS)))
        most = 0
        while not pending.done():
            before = begun
            await asyncio.sleep(0)
            most = max(most, begun - before)
        assert await pending == [b""] * 10 * STEPS
        assert most == STEPS

    run(test)


def test_an_unexpected_exception_is_an_internal_error_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(request: bytes) -> bytes:
        raise ZeroDivisionError("by zero")

    async def test(calls: CallLoop) -> None:
        with pytest.raises(ServingError, match="ZeroDivisionError: by zero") as caught:
            await calls.invoke(PythonMethod("m", fail), b"")
        assert caught.value.code == Code.INTERNAL

    run(test)
    assert "by zero" in caplog.text


def test_a_handler_that_is_no_coroutine_function_is_an_internal_error() -> None:
    def plain(request: bytes) -> bytes:
        return request

    async def test(calls: CallLoop) -> None:
        with pytest.raises(ServingError) as caught:
            await calls.invoke(PythonMethod("m", plain), b"")  # type: ignore[arg-type]
        assert caught.value.code == Code.INTERNAL

    run(test)


def test_a_local_only_method_answers_callers_on_this_machine_and_refuses_all_others() -> None:
    asked: list[bytes] = []

    async def note(request: bytes) -> bytes:
        asked.append(request)
        return request

    async def test(calls: CallLoop) -> None:
        method = PythonMethod("Secret", note, local_only=True)
        assert await calls.invoke(method, b"local", local=True) == b"local"
        for origin in ({"local": False}, {}):  # and those of whom nobody says where they are
            with pytest.raises(ServingError) as caught:
                await calls.invoke(method, b"foreign", **origin)
            assert caught.value.code == Code.PERMISSION_DENIED
            assert caught.value.message == ("Secret is only answered on loopback and unix sockets")
        # A call that is used again does not remember where the last one came from.
        assert await calls.invoke(PythonMethod("m", echo), b"a", local=True) == b"a"
        with pytest.raises(ServingError):
            await calls.invoke(method, b"foreign")
        assert asked == [b"local"]

    run(test)


def test_a_method_is_for_everybody_unless_it_says_otherwise() -> None:
    async def test(calls: CallLoop) -> None:
        method = PythonMethod("m", echo)
        assert not method.local_only
        assert await calls.invoke(method, b"a", local=False) == b"a"

    run(test)


def test_answers_at_the_deadline_and_cancels_the_handler() -> None:
    async def test(calls: CallLoop) -> None:
        held = Held()
        begun = time.monotonic()
        with pytest.raises(ServingError, match="Deadline Exceeded") as caught:
            await calls.invoke(PythonMethod("m", held), b"", 0.05)
        assert time.monotonic() - begun >= 0.05
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        await asyncio.wait_for(held.cancelled.wait(), DEADLINE_SECONDS)

    run(test)


@pytest.mark.parametrize("timeout_seconds", [0.0, -1.0, -1e300])
def test_a_request_that_has_expired_never_runs(timeout_seconds: float) -> None:
    async def test(calls: CallLoop) -> None:
        held = Held()
        with pytest.raises(ServingError) as caught:
            await calls.invoke(PythonMethod("m", held), b"", timeout_seconds)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert not held.started.is_set()

    run(test)


@pytest.mark.parametrize("timeout_seconds", [None, 3600.0, 1e300])
def test_a_deadline_that_is_far_away_does_nothing(timeout_seconds: float | None) -> None:
    async def test(calls: CallLoop) -> None:
        assert await calls.invoke(PythonMethod("m", echo), b"a", timeout_seconds) == b"a"

    run(test)


def test_deadlines_come_in_their_order_whatever_the_order_of_the_calls() -> None:
    async def test(calls: CallLoop) -> None:
        method = PythonMethod("m", Held())
        order: list[int] = []

        async def call(milliseconds: int) -> None:
            with pytest.raises(ServingError):
                await calls.invoke(method, b"", milliseconds / 1000)
            order.append(milliseconds)

        delays = [40, 160, 0, 120, 80]
        await asyncio.gather(*(call(delay) for delay in delays))
        assert order == sorted(delays)

    run(test)


def test_a_deadline_does_not_wait_for_a_handler_that_ignores_its_cancellation() -> None:
    async def test(calls: CallLoop) -> None:
        release = asyncio.Event()

        async def stubborn(request: bytes) -> bytes:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return b"late"

        with pytest.raises(ServingError) as caught:
            await calls.invoke(PythonMethod("m", stubborn), b"", 0.02)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert calls.in_flight == 0
        assert calls.held_by_workers == 1
        release.set()

    run(test)


def test_cancelling_the_caller_cancels_the_handler() -> None:
    async def test(calls: CallLoop) -> None:
        held = Held()
        caller = asyncio.ensure_future(calls.invoke(PythonMethod("m", held), b"a"))
        await asyncio.wait_for(held.started.wait(), DEADLINE_SECONDS)
        assert calls.in_flight == 1
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert calls.in_flight == 0
        await asyncio.wait_for(held.cancelled.wait(), DEADLINE_SECONDS)

    run(test)


def test_a_caller_that_is_cancelled_with_its_answer_already_there_leaves_nothing() -> None:
    async def test(calls: CallLoop) -> None:
        held = Held()
        caller = asyncio.ensure_future(calls.invoke(PythonMethod("m", held), b"a"))
        await asyncio.wait_for(held.started.wait(), DEADLINE_SECONDS)
        held.release.set()
        await eventually(lambda: calls.held_by_workers == 0 or caller.done())
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)

    run(test)


def test_a_handler_that_cancels_itself_answers_cancelled() -> None:
    async def cancel(request: bytes) -> bytes:
        raise asyncio.CancelledError

    async def test(calls: CallLoop) -> None:
        with pytest.raises(ServingError) as caught:
            await calls.invoke(PythonMethod("m", cancel), b"")
        assert caught.value.code == Code.CANCELLED

    run(test)


def test_in_flight_counts_the_calls_that_wait() -> None:
    async def test(calls: CallLoop) -> None:
        held = Held()
        method = PythonMethod("m", held)
        callers = [asyncio.ensure_future(calls.invoke(method, b"%d" % i)) for i in range(100)]
        await eventually(lambda: calls.in_flight == 100)
        assert calls.held_by_workers == 100
        held.release.set()
        assert await asyncio.gather(*callers) == [b"%d" % i for i in range(100)]
        assert calls.in_flight == 0

    run(test)


def test_request_and_answer_count_against_the_budget_until_they_are_gone() -> None:
    seen: list[int] = []

    async def test(calls: CallLoop) -> None:
        set_max_in_flight_bytes(1000)
        method = PythonMethod("m", echo)
        assert await calls.invoke(method, b"x" * 500) == b"x" * 500
        seen.append(in_flight_bytes())
        for size in (501, 1001):  # the answer is too much, and the request
            with pytest.raises(ServingError) as caught:
                await calls.invoke(method, b"x" * size)
            assert caught.value.code == Code.RESOURCE_EXHAUSTED

    run(test)
    assert seen == [0]


def test_close_is_final_and_may_be_repeated() -> None:
    async def main() -> None:
        calls = CallLoop(asyncio.get_running_loop())
        await calls.invoke(PythonMethod("m", echo), b"a", 100.0)
        calls.close()
        calls.close()

    asyncio.run(main())


def test_a_handler_that_outlives_its_loops_calls_does_no_harm() -> None:
    async def main() -> None:
        calls = CallLoop(asyncio.get_running_loop())
        held = Held()
        caller = asyncio.ensure_future(calls.invoke(PythonMethod("m", held), b"a"))
        await asyncio.wait_for(held.started.wait(), DEADLINE_SECONDS)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        calls.close()
        del calls
        gc.collect()
        held.release.set()
        await asyncio.wait_for(held.cancelled.wait(), DEADLINE_SECONDS)

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_works_with_eager_tasks() -> None:
    async def test(calls: CallLoop) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        assert await calls.invoke(PythonMethod("m", echo), b"a") == b"a"

    run(test)


def test_a_thousand_calls_leave_no_objects() -> None:
    async def test(calls: CallLoop) -> None:
        method = PythonMethod("m", echo)

        async def many() -> int:
            for _ in range(300):
                await calls.invoke(method, b"a", 10.0)
            gc.collect()
            return len(gc.get_objects())

        await many()
        before = await many()
        assert await many() - before < 100

    run(test)
