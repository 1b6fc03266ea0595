"""What the fuzzers of the transports have in common: attackers, and a good client beside them."""

from __future__ import annotations

import argparse
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Protocol

from tests.functional.http2_client import MEMORY_TELLS, ServerProcess

MAX_GROWTH_BYTES = 32 << 20
GOOD_CALL_SECONDS = 20.0


class GoodCalls(Protocol):
    """Calls of a client that does nothing wrong."""

    def __call__(self, number: int) -> None:
        """Ask once more, and fail when the answer is wrong."""

    def close(self) -> None: ...


def arguments() -> argparse.Namespace:
    """How long, with which seed, by how many: from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--attackers", type=int, default=8)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    return options


def attack(server: ServerProcess, chance: random.Random, data: bytes) -> None:
    """Send `data` on a connection of its own, in any segments, and end it in any way."""
    with socket.socket() as connection:
        connection.settimeout(1.0)
        if chance.random() < 0.3:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if chance.random() < 0.3:  # leave by a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert isinstance(server.address, tuple)
        with contextlib.suppress(TimeoutError):  # its backlog is full
            connection.connect(server.address)
        with contextlib.suppress(OSError):
            cuts = sorted(chance.choices(range(len(data) + 1), k=chance.choice([0, 0, 1, 5])))
            for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                connection.sendall(data[begin:end])
            ending = chance.random()
            if ending < 0.3:
                connection.shutdown(socket.SHUT_WR)
            if ending < 0.6:
                connection.settimeout(chance.choice([0.001, 0.005, 0.02]))
                while connection.recv(chance.choice([1, 1000, 1 << 16])):
                    pass


class _GoodClient(threading.Thread):
    """Calls all the time, and fails when an answer is wrong or late."""

    def __init__(self, good: GoodCalls) -> None:
        super().__init__()
        self._good = good
        self.stop = threading.Event()
        self.calls = 0
        self.slowest_seconds = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                begun = time.monotonic()
                self._good(self.calls)
                seconds = time.monotonic() - begun
                assert seconds < GOOD_CALL_SECONDS, f"a call took {seconds} s"
                self.slowest_seconds = max(self.slowest_seconds, seconds)
                self.calls += 1
            self._good.close()
        except BaseException as error:  # told by fuzz()
            self.error = error


def fuzz(
    server: ServerProcess,
    damaged: Callable[[random.Random], bytes],
    good_calls: GoodCalls,
    options: argparse.Namespace,
) -> None:
    """Attack with what `damaged` gives for so long, and check."""
    rounds = [0] * options.attackers
    failures: list[str] = []

    def attack_on(number: int) -> None:
        while time.monotonic() < until and server.process.poll() is None:
            round_seed = f"{options.seed}-{number}-{rounds[number]}"
            chance = random.Random(round_seed)
            try:
                attack(server, chance, damaged(chance))
            except ConnectionRefusedError:
                failures.append(round_seed)
                return
            rounds[number] += 1

    until = time.monotonic() + options.seconds
    good = _GoodClient(good_calls)
    good.start()
    threads = [threading.Thread(target=attack_on, args=(i,)) for i in range(options.attackers)]
    for thread in threads:
        thread.start()
    time.sleep(options.seconds / 4)  # by then buffers and pools have their size
    rss_at_first = server.stats()["rss"]
    for thread in threads:
        thread.join()
    good.stop.set()
    good.join()
    if good.error is not None:
        raise good.error
    assert not failures, f"the server was away in {failures}"
    stats = server.holds_nothing()
    print(
        f"{sum(rounds)} attacks, {good.calls} good calls, slowest {good.slowest_seconds:.3f} s; "
        f"RSS {rss_at_first >> 20} -> {stats['rss'] >> 20} MiB, at most "
        f"{stats['peak_rss'] >> 20} MiB",
        flush=True,
    )
    assert not MEMORY_TELLS or stats["rss"] - rss_at_first < MAX_GROWTH_BYTES
