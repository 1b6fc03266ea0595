"""Threads for rare calls: results, errors, and calls that hang."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from tests.unit.waiting import DEADLINE_SECONDS
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.call_threads import CallThreads


def test_gives_what_the_function_returns() -> None:
    assert asyncio.run(CallThreads().run(lambda: 3)) == 3


def test_raises_what_the_function_raises() -> None:
    def fail() -> None:
        raise ServingError(Code.NOT_FOUND, "missing")

    with pytest.raises(ServingError, match="missing"):
        asyncio.run(CallThreads().run(fail))


def test_function_that_wants_to_end_the_process_only_fails() -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(ServingError, match="SystemExit: 3") as caught:
        asyncio.run(CallThreads().run(leave))
    assert caught.value.code is Code.INTERNAL


def test_too_many_that_hang_are_refused_until_one_ends() -> None:
    gate = threading.Event()

    async def main() -> None:
        threads = CallThreads(max_threads=1)
        hanging = asyncio.ensure_future(threads.run(gate.wait))
        await asyncio.sleep(0)
        with pytest.raises(ServingError, match="Too many") as caught:
            await threads.run(lambda: None)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        gate.set()
        assert await hanging
        assert await threads.run(lambda: 5) == 5

    asyncio.run(main())


def test_caller_may_leave_before_the_end() -> None:
    gate = threading.Event()

    async def main() -> None:
        threads = CallThreads(max_threads=1)
        leaving = asyncio.ensure_future(threads.run(gate.wait))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gate.set()
        deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(ServingError):  # it has not ended yet
                assert await threads.run(lambda: 5) == 5
                return
            await asyncio.sleep(0.001)
        pytest.fail("its thread does not end")

    asyncio.run(main())
