"""Throw damaged HTTP/2 at the native transport, with a good client beside that must notice nothing.

    python tests/functional/fuzz_http2.py --seconds 60 --seed 1

Conversations of a well-behaved client are recorded, damaged (bits, bytes, lengths, frames cut,
repeated, exchanged, mixed) and sent in any segments to the server of http2_server.py. The server
must neither die nor write to its stderr; the good client's calls must all succeed, in a time that
does not grow; and in the end nothing may be held and the memory must be flat. For an address
sanitizer, build with TFSRV_SANITIZE=address and start this with LD_PRELOAD=libasan.so and
ASAN_OPTIONS=detect_leaks=0. Prints the seed of a round that failed.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from h2.connection import H2Connection

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.functional.fuzzing import arguments, fuzz
from tests.functional.http2_client import (
    REQUEST_HEADERS,
    Client,
    ServerProcess,
    message,
    quiet_connection,
    serving,
)

PREFACE_BYTES = 24
CONVERSATIONS = 300  # recorded once for each run; damaged anew for each attack
PATHS = ["/t/Echo", "/t/Native", "/t/Spliced", "/t/Worker", "/t/Slow", "/t/Hold", "/t/Big"]
STREAMS = ["/s/Echo", "/s/Sink", "/s/Deaf", "/s/Count", "/s/Flood", "/s/Wait", "/s/Fail"]
BODIES = {"/t/Big": b"%d", "/s/Count": b"5 %d", "/s/Flood": b"%d", "/s/Fail": b"9 3 %d"}
SETTINGS = {
    "max_in_flight_bytes": 64 << 20,
    "max_receive_message_bytes": 8 << 20,
    "max_concurrent_streams": 50,
    "preface_timeout_ms": 300,
    "unread_timeout_ms": 300,
    "upload_timeout_ms": 5_000,
    "stall_timeout_ms": 5_000,
    "keepalive_time_ms": 200,
    "keepalive_timeout_ms": 10_000,
    "tick_ms": 20,
}


def conversation(chance: random.Random) -> bytes:
    """What a client of random habits sends."""
    http2 = quiet_connection()
    if chance.random() < 0.3:
        http2.local_settings[4] = chance.choice([0, 1, 100, 2**31 - 1])
        http2.local_settings.acknowledge()
    http2.initiate_connection()
    open_streams: list[int] = []
    for _ in range(chance.randrange(1, 12)):
        action = chance.random()
        if action < 0.6:
            request(http2, chance, open_streams)
        elif action < 0.7 and open_streams:
            stream = open_streams.pop(chance.randrange(len(open_streams)))
            http2.reset_stream(stream, chance.randrange(14))
        elif action < 0.8:
            http2.ping(chance.randbytes(8))
        elif action < 0.9:
            http2.increment_flow_control_window(chance.choice([1, 1000, 1 << 20]))
        else:
            http2.update_settings({chance.choice([3, 4, 5]): chance.randrange(16_384, 1 << 20)})
    return http2.data_to_send()


def request(http2: H2Connection, chance: random.Random, open_streams: list[int]) -> None:
    """One request, right or wrong in what it says of itself."""
    stream = http2.get_next_available_stream_id()
    path = chance.choice([*PATHS, *STREAMS])
    headers = {**REQUEST_HEADERS, ":path": path}
    body = chance.randbytes(chance.choice([0, 1, 100, 20_000]))
    if path in BODIES:
        body = BODIES[path] % chance.randrange(100_000)
    data = message(body)
    if chance.random() < 0.3:
        headers["grpc-timeout"] = chance.choice(["0n", "1m", "20m", "1S", "99999999H", "x"])
    if chance.random() < 0.3:
        headers["grpc-accept-encoding"] = "identity, gzip"
        headers["grpc-encoding"] = chance.choice(["gzip", "gzip", "identity", "br"])
        packed = bytearray(gzip.compress(body * chance.choice([1, 100])))
        if chance.random() < 0.5:
            packed[chance.randrange(len(packed))] ^= 1 << chance.randrange(8)
        data = message(bytes(packed), chance.choice([0, 1, 1, 1, 2]))
    if chance.random() < 0.2:
        del headers[chance.choice(list(headers))]
    if chance.random() < 0.1:
        headers["x-long"] = "v" * chance.choice([8_000, 17_000, 60_000])
    if chance.random() < 0.2:
        data = chance.choice([data[:-1], data + data, data[:3], b"", message(b"", 0, 2**32 - 1)])
    if path in STREAMS and chance.random() < 0.5:
        data *= chance.choice([0, 2, 30])
    http2.send_headers(stream, list(headers.items()))
    window = http2.local_flow_control_window(stream)
    for at in range(0, min(len(data), window), 16_000):
        piece = data[at : min(at + 16_000, window)]
        padding = chance.choice([None, None, 0, 200])
        with contextlib.suppress(Exception):
            http2.send_data(stream, piece, pad_length=padding)
    if chance.random() < 0.8:
        http2.end_stream(stream)
    open_streams.append(stream)


def frames_of(data: bytes) -> list[bytes]:
    """The preface and each frame."""
    frames = [data[:PREFACE_BYTES]]
    at = PREFACE_BYTES
    while at < len(data):
        end = at + 9 + int.from_bytes(data[at : at + 3], "big")
        frames.append(data[at:end])
        at = end
    return frames


def flip_bits(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 50])):
        damaged[chance.randrange(PREFACE_BYTES, len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def cut(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(PREFACE_BYTES, len(data))
    end = chance.randrange(begin, len(data) + 1)
    return data[:begin] + data[end:]


def insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(PREFACE_BYTES, len(data))
    return data[:at] + chance.randbytes(chance.choice([1, 4, 9, 100])) + data[at:]


def truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def exchange_frames(data: bytes, chance: random.Random) -> bytes:
    preface, *frames = frames_of(data)
    for _ in range(chance.randrange(1, 4)):
        i, j = chance.randrange(len(frames)), chance.randrange(len(frames))
        frames[i], frames[j] = frames[j], frames[i]
    return preface + b"".join(frames)


def repeat_frames(data: bytes, chance: random.Random) -> bytes:
    preface, *frames = frames_of(data)
    i = chance.randrange(len(frames))
    frames[i:i] = [chance.choice(frames)] * chance.choice([1, 2, 100])
    return preface + b"".join(frames)


def damage_frame(data: bytes, chance: random.Random) -> bytes:
    """Another length, type, flags, stream or payload in one well-formed frame."""
    preface, *frames = frames_of(data)
    i = chance.randrange(len(frames))
    frame = bytearray(frames[i])
    what = chance.randrange(5)
    if what == 0:
        frame[:3] = struct.pack(">I", chance.choice([0, 1, len(frame), 16_385, 2**24 - 1]))[1:]
    elif what == 1:
        frame[3] = chance.randrange(12)
    elif what == 2:
        frame[4] = chance.randrange(256)
    elif what == 3:
        frame[5:9] = struct.pack(">I", chance.choice([0, 1, 2, 3, 9, 2**31 - 1]))
    elif len(frame) > 9:
        frame[9:] = chance.randbytes(len(frame) - 9)
    frames[i] = bytes(frame)
    return preface + b"".join(frames)


def add_frames(data: bytes, chance: random.Random) -> bytes:
    """Frames that end, open or widen things, anywhere."""
    preface, *frames = frames_of(data)
    for _ in range(chance.choice([1, 3, 30])):
        stream = chance.choice([0, 1, 3, 5, 7, 2, 99])
        kind = chance.choice([1, 3, 3, 4, 6, 7, 8, 8, 9])
        payload = chance.randbytes({1: 20, 3: 4, 4: 6, 6: 8, 7: 8, 8: 4, 9: 10}[kind])
        head = struct.pack(">I", len(payload))[1:] + bytes([kind, chance.choice([0, 1, 4, 5])])
        frames.insert(chance.randrange(len(frames) + 1), head + struct.pack(">I", stream) + payload)
    return preface + b"".join(frames)


def leave_alone(data: bytes, chance: random.Random) -> bytes:
    return data


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [
    flip_bits, cut, insert, truncate, exchange_frames, repeat_frames, damage_frame, damage_frame,
    add_frames, add_frames, leave_alone,
]  # fmt: skip


def damaged(conversations: list[bytes]) -> Callable[[random.Random], bytes]:
    """One of the conversations, damaged once or twice."""

    def damage(chance: random.Random) -> bytes:
        data = chance.choice(DAMAGES)(chance.choice(conversations), chance)
        if chance.random() < 0.3 and len(data) > PREFACE_BYTES:
            with contextlib.suppress(ValueError, IndexError):
                data = chance.choice(DAMAGES)(data, chance)
        return data

    return damage


class GoodCalls:
    """One good connection after the other."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._client = Client(server.address)

    def __call__(self, number: int) -> None:
        """Ask, and check the answer."""
        body = b"%d" % number * (number % 500)
        assert self._client.call(PATHS[number % 4], body).body == body
        if number % 100 == 99:
            self._client.close()
            self._client = Client(self._server.address)

    def close(self) -> None:
        self._client.close()


def main() -> None:
    options = arguments()
    source = random.Random(options.seed)
    conversations = [conversation(source) for _ in range(CONVERSATIONS)]
    with serving(**SETTINGS) as server:
        fuzz(server, damaged(conversations), GoodCalls(server), options)


if __name__ == "__main__":
    main()
