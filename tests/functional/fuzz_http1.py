"""Throw damaged HTTP/1.1 at its transport, with a good client beside that must notice nothing.

    python tests/functional/fuzz_http1.py --seconds 60 --seed 1

Requests right and wrong, alone and pipelined, are damaged (bits, bytes, lines repeated, exchanged,
cut, lengths and codings changed) and sent in any segments to the server of http1_server.py. The
server must neither die nor write to its stderr; the good client's calls must all succeed, in a
time that does not grow; and in the end nothing may be held and the memory must be flat. For an
address sanitizer, build with TFSRV_SANITIZE=address and start this with LD_PRELOAD=libasan.so and
ASAN_OPTIONS=detect_leaks=0. Prints the seed of a round that failed.
"""

from __future__ import annotations

import gzip
import random
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.functional.fuzzing import arguments, fuzz
from tests.functional.http1_client import HttpServerProcess, chunked, http_serving, request

PATHS = ["/t/Echo", "/t/Native", "/t/Spliced", "/t/Worker", "/t/Slow", "/t/Hold", "/t/Native?gzip"]
HANDLED = ["/h/tell", "/h/big?5000", "/h/fail?3&x", "/h/empty", "/h/hold", "/nothing", "*"]
METHODS = ["POST"] * 8 + ["GET", "HEAD", "OPTIONS", "PUT", "get"]
FIELDS = [
    "Connection: close",
    "Connection: keep-alive, x",
    "Expect: 100-continue",
    "Accept-Encoding: gzip, br;q=0",
    "Content-Encoding: gzip",
    "Content-Encoding: br",
    "Content-Length: 5",
    "Content-Length: 99999999999",
    "Transfer-Encoding: chunked",
    "Origin: http://a",
    "tfsrv-priority: low",
    "Upgrade: h2c",
    "Host: again",
    "X-Long: " + "v" * 9000,
    "X-Longer: " + "v" * 66_000,
]
WORDS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b",", b";", b"0\r\n\r\n", b"ffffffffffffffff",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0", b"HTTP/2.0",
    b"Transfer-Encoding:\x0bchunked\r\n", b"-1", b"\xff", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]  # fmt: skip
SETTINGS = {
    "max_in_flight_bytes": 64 << 20,
    "max_body_bytes": 8 << 20,
    "request_timeout_ms": 1_000,
    "head_timeout_ms": 300,
    "idle_timeout_ms": 20_000,
    "upload_timeout_ms": 300,
    "unread_timeout_ms": 300,
    "stall_timeout_ms": 200,
    "linger_timeout_ms": 100,
    "hangup_look_ms": 5,
    "tick_ms": 20,
}


def one_request(chance: random.Random) -> bytes:
    """A request, right or wrong in what it says of itself."""
    path = chance.choice(PATHS if chance.random() < 0.7 else HANDLED)
    fields = chance.sample(FIELDS, chance.choice([0, 0, 1, 1, 2, 4]))
    body = chance.randbytes(chance.choice([0, 1, 100, 20_000, 300_000]))
    if chance.random() < 0.2:
        body = gzip.compress(body * chance.choice([1, 50]))
        fields.append("Content-Encoding: gzip")
    method = chance.choice(METHODS)
    if chance.random() < 0.3:
        pieces = [body[at : at + 7000] for at in range(0, len(body), 7000)]
        head = request(
            path, b"", *fields, "Transfer-Encoding: chunked", method=method, length=False
        )
        return head + chunked(*pieces)
    data = request(path, body, *fields, method=method)
    return data.replace(b"HTTP/1.1", b"HTTP/1.0") if chance.random() < 0.1 else data


def flip_bits(data: bytes, chance: random.Random) -> bytes:
    """Most of them in heads, for there the bytes matter."""
    damaged = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 50])):
        reach = len(damaged) if chance.random() < 0.3 else min(len(damaged), 200)
        damaged[chance.randrange(reach)] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def cut(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data))
    return data[:begin] + data[begin + chance.choice([1, 2, 10, 1000]) :]


def insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) if chance.random() < 0.3 else min(len(data), 200))
    return data[:at] + chance.choice(WORDS) * chance.choice([1, 1, 2, 100]) + data[at:]


def truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def exchange_lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return b"\r\n".join(lines)


def repeat_a_line(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    i = chance.randrange(min(len(lines), 8))
    lines[i:i] = [lines[i]] * chance.choice([1, 2, 200])
    return b"\r\n".join(lines)


def leave_alone(data: bytes, chance: random.Random) -> bytes:
    return data


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [
    flip_bits, cut, insert, insert, truncate, exchange_lines, repeat_a_line, leave_alone,
]  # fmt: skip


def damaged(chance: random.Random) -> bytes:
    """Requests behind each other, some of them damaged."""
    parts = []
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        data = one_request(chance)
        while chance.random() < 0.6 and data:
            data = chance.choice(DAMAGES)(data, chance)
        parts.append(data)
    return b"".join(parts)


class GoodCalls:
    """One good connection after the other."""

    def __init__(self, server: HttpServerProcess) -> None:
        self._server = server
        self._peer = server.dial()

    def __call__(self, number: int) -> None:
        """Ask, and check the answer."""
        body = b"%d" % number * (number % 500)
        assert self._peer.ask(request(PATHS[number % 4], body)).body == body
        if number % 100 == 99:
            self._peer.close()
            self._peer = self._server.dial()

    def close(self) -> None:
        self._peer.close()


def main() -> None:
    options = arguments()
    with http_serving(**SETTINGS) as server:
        fuzz(server, damaged, GoodCalls(server), options)


if __name__ == "__main__":
    main()
