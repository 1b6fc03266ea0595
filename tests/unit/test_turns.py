"""Turns of the loop that handlers in Python share."""

from __future__ import annotations

import asyncio

from tfsrv._turns import Turns


async def go(turns: Turns, name: str, steps: int, log: list[str]) -> None:
    for _ in range(steps):
        turn = turns.take()
        if turn is not None:
            await turn
        log.append(name)


def test_steps_beyond_a_turn_of_the_loop_wait_for_the_next_one() -> None:
    async def test() -> None:
        turns = Turns(asyncio.get_running_loop(), steps=3)
        assert [turns.take() for _ in range(3)] == [None] * 3
        late = turns.take()
        assert late is not None
        assert not late.done()
        await late
        await asyncio.sleep(0)
        assert turns.take() is None

    asyncio.run(test())


def test_many_who_have_much_to_do_let_the_loop_turn() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns(loop, steps=2)
        log: list[str] = []
        busy = [loop.create_task(go(turns, str(i), 5, log)) for i in range(10)]
        most = 0
        while not all(task.done() for task in busy):
            before = len(log)
            await asyncio.sleep(0)
            most = max(most, len(log) - before)
        assert most == 2
        assert len(log) == 50

    asyncio.run(test())


def test_they_take_turns_in_the_order_in_which_they_ask() -> None:
    async def test() -> None:
        turns = Turns(asyncio.get_running_loop(), steps=1)
        log: list[str] = []
        await asyncio.gather(*(go(turns, name, 3, log) for name in "abc"))
        # The first one goes at once, and asks again before the others have asked.
        assert "".join(log) == "aabcabcbc"

    asyncio.run(test())


def test_who_leaves_while_he_waits_costs_no_step() -> None:
    async def test() -> None:
        turns = Turns(asyncio.get_running_loop(), steps=1)
        assert turns.take() is None
        left, stayed = turns.take(), turns.take()
        assert left is not None
        assert stayed is not None
        left.cancel()
        await asyncio.sleep(0)
        assert stayed.done()

    asyncio.run(test())
