"""Threads for the rare calls that take a while or may hang, such as by importing a plug-in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from tfsrv.errors import Code, ServingError

T = TypeVar("T")

MAX_THREADS = 32  # of all calls together


class CallThreads:
    """Runs functions, each in a thread of its own. For one loop.

    Not asyncio.to_thread, whose few threads all share: if those hang, the server cannot stop.
    These are daemons.
    """

    def __init__(self, max_threads: int = MAX_THREADS) -> None:
        self._max_threads = max_threads
        self._num_threads = 0

    async def run(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises. RESOURCE_EXHAUSTED when too many are under way."""
        if self._num_threads >= self._max_threads:
            raise ServingError(Code.RESOURCE_EXHAUSTED, "Too many calls of this kind hang.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            self._num_threads -= 1
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, failure = None, None
            try:
                result = function()
            except ServingError as error:
                failure = error
            except BaseException as error:
                failure = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            try:
                loop.call_soon_threadsafe(done, result, failure)
            except RuntimeError:  # the loop has ended meanwhile
                return

        self._num_threads += 1
        threading.Thread(target=work, name="tfsrv-call", daemon=True).start()
        return await future
