"""A thread that tells requests that their time is over.

For futures: nobody waits for one who could look at the clock, and the workers come to a request
only when one of them is free. The thread starts with the first deadline and ends when there are
none.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time

from tfsrv._array_batches import ArrayRequest

FEWEST_KEPT = 64  # requests that are done and may stay until their deadline


class Deadlines:
    """Calls `expire` of requests at their deadlines, until they are done. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._heap: list[tuple[float, int, ArrayRequest]] = []
        self._counter = itertools.count()  # of equal deadlines the first
        self._most = FEWEST_KEPT
        self._is_running = False

    def add(self, seconds: float, request: ArrayRequest) -> None:
        """Expire a request `seconds` from now; without a thread to be had, workers alone do it."""
        entry = (time.monotonic() + seconds, next(self._counter), request)
        with self._changed:
            if len(self._heap) >= self._most:
                self._drop_done()
            heapq.heappush(self._heap, entry)
            if self._is_running:
                if self._heap[0] is entry:
                    self._changed.notify()
                return
            thread = threading.Thread(target=self._watch, name="batch_deadlines", daemon=True)
            self._is_running = True
            try:
                thread.start()
            except RuntimeError:
                self._is_running = False

    def _drop_done(self) -> None:
        self._heap = [entry for entry in self._heap if not entry[2].done]
        heapq.heapify(self._heap)
        self._most = max(FEWEST_KEPT, 2 * len(self._heap))

    def _watch(self) -> None:
        while True:
            late: list[ArrayRequest] = []
            with self._changed:
                while self._heap and not late:
                    now = time.monotonic()
                    while self._heap and (self._heap[0][2].done or self._heap[0][0] <= now):
                        late.append(heapq.heappop(self._heap)[2])
                    if not late:
                        self._changed.wait(self._heap[0][0] - now)
                if not late:
                    self._is_running = False
                    return
            for request in late:
                request.expire()
            del late, request  # and what they hold on to, while there is nothing to do
