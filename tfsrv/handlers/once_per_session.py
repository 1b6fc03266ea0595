"""What is made of a servable once, and kept as long as the servable."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from tfsrv._servable import NativeServable
from tfsrv.handlers.call_threads import CallThreads

T = TypeVar("T")


class OncePerSession(Generic[T]):
    """Something made of what a SavedModel declares, which does not change. For one loop.

    Making it takes a while for one with thousands of signatures, so that it is done off the loop.
    Of servables that are Python objects it is made anew each time: their attributes may be
    properties that take long, and change.
    """

    def __init__(self, make: Callable[[object], T], threads: CallThreads) -> None:
        """`make` is called with a servable, in one of `threads`; it may raise ServingError."""
        self._make = make
        self._threads = threads
        self._making = asyncio.Lock()  # what many ask for at once is made once
        self._kept: weakref.WeakKeyDictionary[NativeServable, T] = weakref.WeakKeyDictionary()

    async def of(self, servable: object) -> T:
        """What was made of `servable`. The caller keeps it alive meanwhile."""
        if not isinstance(servable, NativeServable):
            return await self._threads.run(lambda: self._make(servable))
        kept = self._kept.get(servable)
        if kept is not None:
            return kept
        async with self._making:
            kept = self._kept.get(servable)
            if kept is None:
                kept = await self._threads.run(lambda: self._make(servable))
                self._kept[servable] = kept
        return kept
