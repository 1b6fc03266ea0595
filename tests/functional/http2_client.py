"""A gRPC client that does what tests tell it, however wrong, and a server to do it to."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

# A sanitizer keeps freed memory for a while: nothing can be said about its size then.
MEMORY_TELLS = "san.so" not in os.environ.get("LD_PRELOAD", "")
ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("http2_server.py")
PATIENCE_SECONDS = 30.0
TCP_NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

REQUEST_HEADERS = {
    ":method": "POST",
    ":scheme": "http",
    ":authority": "test",
    ":path": "/t/Echo",
    "te": "trailers",
    "content-type": "application/grpc",
}

Address = tuple[str, int] | str


class ServerProcess:
    """The server of http2_server.py with these settings."""

    script = SERVER

    def __init__(self, socket_path: str | None = None, **settings: Any) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self.process = subprocess.Popen(
            [
                sys.executable,
                self.script,
                json.dumps({"settings": settings, "socket_path": socket_path}),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        self.address: Address = ("127.0.0.1", self._read()["port"])
        self.socket_path = socket_path
        self.clients: list[Client] = []

    def connect(self, address: Address | None = None, **options: Any) -> Client:
        """A client, closed at the latest when the server is."""
        client = Client(address or self.address, **options)
        self.clients.append(client)
        return client

    def disconnect(self) -> None:
        """Close all clients."""
        while self.clients:
            self.clients.pop().close()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the server died ({self.process.wait()}): {self.said()}")
        return json.loads(line)

    def said(self) -> str:
        """What the server wrote to its stderr."""
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")

    def tell(self, command: str) -> None:
        """Give a command whose answer is read later, by `heard`."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def heard(self) -> Any:
        return self._read()

    def ask(self, command: str) -> Any:
        self.tell(command)
        return self._read()

    def stats(self) -> dict[str, int]:
        stats: dict[str, int] = self.ask("stats")
        return stats

    def eventually(self, condition: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        """The server's statistics once the condition holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(stats := self.stats()):
            assert time.monotonic() < deadline, f"it never came true: {stats}"
            time.sleep(0.005)
        return stats

    def holds_nothing(self) -> dict[str, int]:
        """Wait until nothing is left of what clients did."""
        names = ("in_flight_bytes", "in_flight", "held_by_workers", "connections", "answering")
        return self.eventually(lambda stats: all(stats[name] == 0 for name in names))

    def close(self) -> dict[str, int]:
        """Quit; the server must have had nothing to complain of, and nothing left."""
        try:
            self.disconnect()
            stats: dict[str, int] = self.ask("quit")
            assert self.process.wait(PATIENCE_SECONDS) == 0
        finally:
            said = self.kill()
        assert said == "", said
        assert stats["in_flight_bytes"] == stats["in_flight"] == stats["connections"] == 0
        return stats

    def kill(self) -> str:
        """End the server whatever it does, and tell what it wrote to its stderr."""
        self.disconnect()
        self.process.kill()
        self.process.communicate()
        said = self.said()
        self.errors.close()
        return said


@dataclass
class Response:
    """What came on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None  # its error code

    @property
    def code(self) -> int | None:
        """The grpc-status; trailers-only answers have it in their headers."""
        code = {**self.headers, **self.trailers}.get("grpc-status")
        return None if code is None else int(code)

    @property
    def message(self) -> str:
        """The grpc-message, decoded."""
        return urllib.parse.unquote(self.raw_message, errors="strict")

    @property
    def raw_message(self) -> str:
        return {**self.headers, **self.trailers}.get("grpc-message", "")

    @property
    def body(self) -> bytes:
        """The one message that came."""
        assert self.code == 0, (self.code, self.message, self.reset)
        assert int.from_bytes(self.data[1:5], "big") == len(self.data) - 5
        return bytes(self.data[5:])

    @property
    def messages(self) -> list[bytes]:
        """The whole messages that have come."""
        found, at = [], 0
        while len(self.data) - at >= 5:
            end = at + 5 + int.from_bytes(self.data[at + 1 : at + 5], "big")
            if end > len(self.data):
                break
            found.append(bytes(self.data[at + 5 : end]))
            at = end
        return found


def message(body: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message: flag, length and body."""
    return bytes([flag]) + (len(body) if length is None else length).to_bytes(4, "big") + body


class Client:
    """One HTTP/2 connection that takes its time, or breaks the rules, as it is told."""

    def __init__(self, address: Address, *, start: bool = True, receive_buffer: int = 0) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(address)
        if family == socket.AF_INET:
            self.socket.setsockopt(*TCP_NODELAY)
        self.http2 = quiet_connection()
        self.responses: dict[int, Response] = {}
        self.events: list[h2.events.Event] = []
        self.goaways: list[int] = []  # the last stream of each GOAWAY without an error
        self.inbound = b""  # the beginning of a frame
        self.acknowledges = True  # gives the server's window back for data that came
        if start:
            self.start()

    def start(self, **settings: int) -> None:
        """Say HTTP/2, with these settings changed (by their names in h2.settings.SettingCodes)."""
        for name, value in settings.items():
            self.http2.local_settings[h2.settings.SettingCodes[name]] = value
        self.http2.local_settings.acknowledge()  # else h2 announces its defaults
        self.http2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.raw(self.http2.data_to_send())

    def raw(self, data: bytes) -> None:
        """Send these bytes as they are."""
        self.socket.sendall(data)

    def open(self, path: str = "/t/Echo", end: bool = False, **headers: str | None) -> int:
        """A new stream; headers whose value is None are left out, `_` stands for `-`."""
        stream = self.http2.get_next_available_stream_id()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if "method" in given:
            given[":method"] = given.pop("method")
        fields = {**REQUEST_HEADERS, ":path": path, **given}
        self.http2.send_headers(
            stream, [(name, value) for name, value in fields.items() if value is not None], end
        )
        self.responses[stream] = Response()
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, end: bool = True, frame_bytes: int = 1 << 20) -> None:
        """Send data in frames as large as is allowed, waiting for the server's windows."""
        at = 0
        while at < len(data):
            window = self.http2.local_flow_control_window(stream)
            size = min(window, self.http2.max_outbound_frame_size, frame_bytes, len(data) - at)
            if size <= 0:
                self.receive()
                continue
            self.http2.send_data(stream, data[at : at + size])
            at += size
            self.flush()
        if end:
            self.http2.end_stream(stream)
            self.flush()

    def begin(self, path: str = "/t/Echo", body: bytes = b"", **headers: str | None) -> int:
        """Send a whole request."""
        stream = self.open(path, False, **headers)
        self.send(stream, message(body))
        return stream

    def call(self, path: str = "/t/Echo", body: bytes = b"", **headers: str | None) -> Response:
        """Send a whole request and wait for its answer."""
        return self.wait(self.begin(path, body, **headers))

    def wait(self, stream: int) -> Response:
        """Read until the stream has ended."""
        response = self.responses[stream]
        while not response.ended:
            self.receive()
        return response

    def wait_messages(self, stream: int, number: int) -> list[bytes]:
        """Read until so many messages have come on the stream, which has not ended."""
        response = self.responses[stream]
        while len(response.messages) < number:
            assert not response.ended, response
            self.receive()
        return response.messages

    def end(self, stream: int) -> Response:
        """Say that no more requests come, and wait for the end of the answers."""
        self.http2.end_stream(stream)
        self.flush()
        return self.wait(stream)

    def expect(self, requests: int) -> list[int]:
        """Take it that so many requests are sent, as `recorded`; the test does that with raw()."""
        self.http2.initiate_connection()
        streams = list(range(1, 2 * requests, 2))
        for stream in streams:
            self.http2.send_headers(stream, [(":method", "POST")], end_stream=True)
            self.responses[stream] = Response()
        self.http2.data_to_send()
        return streams

    def reset(self, stream: int) -> None:
        self.http2.reset_stream(stream, 8)
        self.flush()

    def receive(self) -> None:
        """Take what the server sends next; EOFError when it has gone."""
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        self.take(data)

    def poll(self) -> None:
        """Take what is there already."""
        while select.select([self.socket], [], [], 0)[0]:
            self.receive()

    def take(self, data: bytes) -> None:
        """Note what these bytes say."""
        for event in self.http2.receive_data(self._without_goaways(data)):
            self.events.append(event)
            stream = getattr(event, "stream_id", None)
            response = self.responses.get(stream) if stream else None
            if isinstance(event, h2.events.DataReceived):
                if response is not None:
                    response.data += event.data
                if self.acknowledges and event.flow_controlled_length:
                    self.http2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
            if response is None:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                response.headers = {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, h2.events.TrailersReceived):
                response.trailers = {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, h2.events.StreamEnded):
                response.ended = True
            elif isinstance(event, h2.events.StreamReset):
                response.reset = int(event.error_code)
                response.ended = True
        with contextlib.suppress(ConnectionError):
            self.flush()

    def _without_goaways(self, data: bytes) -> bytes:
        """Whole frames but friendly GOAWAYs, after which h2 would take no answers any more."""
        data = self.inbound + data
        passed = []
        at = 0
        while len(data) - at >= 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            if data[at + 3] == 7 and data[at + 13 : at + 17] == b"\0\0\0\0":
                self.goaways.append(int.from_bytes(data[at + 9 : at + 13], "big"))
            else:
                passed.append(data[at:end])
            at = end
        self.inbound = data[at:]
        return b"".join(passed)

    def wait_goaway(self) -> None:
        """Read until the server asks us to go."""
        while not self.goaways:
            self.receive()

    def got(self, kind: type[h2.events.Event]) -> Any:
        """The first event of this kind, read until there is one."""
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    return event
            self.receive()

    def wait_closed(self) -> None:
        """Read until the server closes the connection."""
        with contextlib.suppress(EOFError):
            while True:
                self.receive()

    def close(self) -> None:
        self.socket.close()


def quiet_connection() -> h2.connection.H2Connection:
    """An h2 connection that lets its user send what no client should."""
    return h2.connection.H2Connection(
        h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )


def recorded(*requests: tuple[str, bytes], settings: bool = True) -> bytes:
    """What a client sends for these requests (path and DATA), preface and all."""
    http2 = quiet_connection()
    if settings:
        http2.initiate_connection()
    for i, (path, data) in enumerate(requests):
        stream = 2 * i + 1
        http2.send_headers(stream, list({**REQUEST_HEADERS, ":path": path}.items()))
        http2.send_data(stream, data, end_stream=True)
    return http2.data_to_send()


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[ServerProcess]:
    """A server of its own."""
    server = ServerProcess(**settings)
    try:
        yield server
    except BaseException:
        print(server.kill())
        raise
    server.close()
