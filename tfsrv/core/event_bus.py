"""Who wants to know what happens hears it here, in order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

E = TypeVar("E")

logger = logging.getLogger("tfsrv")


class EventBus(Generic[E]):
    """Hands each event to all subscribers, in the order in which they subscribed.

    Callbacks run on the publisher's thread and hold it up, so they must be quick; one for an
    asyncio loop passes the event on with `loop.call_soon_threadsafe`. Whoever publishes from
    one thread has its events seen in order by everybody.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: tuple[Callable[[E], object], ...] = ()  # replaced as a whole

    def subscribe(self, callback: Callable[[E], object]) -> Callable[[], None]:
        """Call `callback` with every event from now on; the function returned ends that."""
        with self._lock:
            self._callbacks = (*self._callbacks, callback)

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks = tuple(each for each in self._callbacks if each is not callback)

        return unsubscribe

    def publish(self, event: E) -> None:
        for callback in self._callbacks:
            try:
                callback(event)
            except Exception:
                # A subscriber's fault must not stop models from coming and going.
                logger.exception("a subscriber failed on %s", event)
