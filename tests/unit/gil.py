"""Whether a call lets other threads run Python meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from tests.unit.waiting import eventually


def lets_others_run(call: Callable[[], object]) -> bool:
    """Call it, beside a thread that counts whenever it has the GIL; whether that came to anything.

    Nobody is made to give the GIL away, so that only who releases it lets the other one in. The
    call should take some milliseconds at least: what is waited for has to wake up.
    """
    counted = 0
    ended = threading.Event()

    def count() -> None:
        nonlocal counted
        while not ended.is_set():
            counted += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    counting = threading.Thread(target=count)
    counting.start()
    try:
        eventually(lambda: counted > 0)
        sys.setswitchinterval(1000.0)
        before = counted
        call()
        return counted > before
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        counting.join()
