"""tfsrv, which says on SIGUSR1 how late its loop has been since the last time.

    python benchmarks/lag_server.py FLAGS...

Prints a line of JSON: a LagReading of tfsrv.frontends.loop_lag.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import asdict

import uvloop

from tfsrv import cli
from tfsrv.frontends.loop_lag import LoopLag

make_loop = uvloop.new_event_loop


def watched_loop() -> asyncio.AbstractEventLoop:
    """A loop of the server that watches itself."""
    loop = make_loop()
    lag = LoopLag(loop)

    def tell() -> None:
        print(json.dumps(asdict(lag.read())), flush=True)

    loop.add_signal_handler(signal.SIGUSR1, tell)
    lag.start()
    return loop


if __name__ == "__main__":
    uvloop.new_event_loop = watched_loop  # type: ignore[assignment]  # what tfsrv.server asks for its loop
    sys.exit(cli.main())
