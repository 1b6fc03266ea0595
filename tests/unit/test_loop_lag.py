"""How late a loop is, measured inside."""

from __future__ import annotations

import asyncio
import time

from tfsrv.frontends.loop_lag import LagReading, LoopLag


def test_notes_what_held_the_loop_up_once() -> None:
    async def test() -> None:
        lag = LoopLag(asyncio.get_running_loop())
        lag.start()
        lag.start()  # one is enough
        await asyncio.sleep(0.01)
        time.sleep(0.05)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0.01)
        reading = lag.read()
        assert reading.worst_seconds >= 0.045
        assert reading.samples >= 1
        assert 0 < reading.mean_seconds <= reading.worst_seconds
        lag.stop()
        lag.stop()

    asyncio.run(test())


def test_begins_anew_when_it_was_read() -> None:
    async def test() -> None:
        lag = LoopLag(asyncio.get_running_loop())
        lag.start()
        await asyncio.sleep(0.01)
        lag.stop()
        assert lag.read().samples >= 1
        reading = lag.read()
        assert reading == LagReading(0, 0.0, 0.0, 0.0)

    asyncio.run(test())
