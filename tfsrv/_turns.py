"""Turns, so that thousands of calls that Python answers hold up nobody else on their loop.

A handler may go on at once as long as few steps were taken since the loop last looked at its
sockets. Then it waits, behind those that wait already.
"""

from __future__ import annotations

import asyncio
from collections import deque

STEPS = 16  # of all handlers together in one turn of the loop: requests, and messages of streams


class Turns:
    """Steps that may be taken, in the order in which they are asked for. For one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, steps: int = STEPS) -> None:
        self._loop = loop
        self._steps = steps
        self._taken = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> asyncio.Future[None] | None:
        """Take a step: None if that may be now, else what to await before it."""
        if self._taken < self._steps and not self._waiting:
            self._count()
            return None
        turn = self._loop.create_future()
        self._waiting.append(turn)
        return turn

    def _count(self) -> None:
        if self._taken == 0:
            self._loop.call_soon(self._begin)
        self._taken += 1

    def _begin(self) -> None:
        """The loop has turned."""
        self._taken = 0
        while self._waiting and self._taken < self._steps:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled by whoever has left
                turn.set_result(None)
                self._count()
