"""An HTTP/1.1 client that sends what tests tell it, however wrong, and a server to send it to."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.functional.http2_client import PATIENCE_SECONDS, ServerProcess


@dataclass
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of an error in JSON, which is the whole body."""
        assert self.headers["content-type"] == "application/json"
        ((key, text),) = self.json().items()
        assert key == "error"
        return str(text)


class HttpServerProcess(ServerProcess):
    """The server of http1_server.py with these settings."""

    script = Path(__file__).with_name("http1_server.py")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.peers: list[Peer] = []

    def dial(self, *, receive_bytes: int = 0) -> Peer:
        """A connection, closed at the latest when the server is."""
        peer = Peer(self.address, receive_bytes)
        self.peers.append(peer)
        return peer

    def disconnect(self) -> None:
        while self.peers:
            self.peers.pop().close()


@contextlib.contextmanager
def http_serving(**settings: Any) -> Iterator[HttpServerProcess]:
    """A server that must have nothing to complain of, and nothing left at the end."""
    server = HttpServerProcess(**settings)
    try:
        yield server
        server.close()
    finally:
        if server.process.poll() is None:
            server.kill()


class Peer:
    """One connection, byte by byte."""

    def __init__(self, address: Any, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(PATIENCE_SECONDS)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def send(self, *parts: bytes) -> Peer:
        self.socket.sendall(b"".join(parts))
        return self

    def ask(self, data: bytes, *, head_only: bool = False) -> Answer:
        return self.send(data).answer(head_only=head_only)

    def more(self) -> bool:
        """Receive; False at the end."""
        data = self.socket.recv(1 << 20)
        self.received += data
        return bool(data)

    def until(self, end: bytes) -> bytes:
        """Take what comes up to and with `end`."""
        while end not in self.received:
            assert self.more(), f"closed after {self.received[:200]!r}"
        taken, _, self.received = self.received.partition(end)
        return taken + end

    def at_least(self, size: int) -> bytes:
        """What has come, once it is so much."""
        while len(self.received) < size:
            assert self.more(), f"closed after {self.received[:200]!r}"
        return self.received

    def interim(self) -> int:
        """The status of an interim answer."""
        return int(self.until(b"\r\n\r\n").split(b" ", 2)[1])

    def answer(self, *, head_only: bool = False) -> Answer:
        """The next final answer, read as strictly as it ought to be written."""
        assert self.until(b" ") == b"HTTP/1.1 "
        if self.at_least(3).startswith(b"102"):
            self.until(b"\r\n\r\n")  # are you still there?
            return self.answer(head_only=head_only)
        self.received = b"HTTP/1.1 " + self.received
        line, *fields = self.until(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
        version, status, reason = line.split(" ", 2)
        assert version == "HTTP/1.1"
        assert reason
        headers: dict[str, str] = {}
        for field in fields:
            name, colon, value = field.partition(": ")
            assert colon
            assert name.lower() not in headers, name
            headers[name.lower()] = value
        size = int(headers.get("content-length", "0"))
        if head_only:
            return Answer(int(status), headers, b"")
        parts = [self.received]
        while sum(map(len, parts)) < size:
            parts.append(self.socket.recv(1 << 20))
            assert parts[-1], "closed inside an answer"
        whole = b"".join(parts)
        self.received = whole[size:]
        return Answer(int(status), headers, whole[:size])

    def is_closed(self) -> bool:
        """Whether the server says no more, and closes or has closed."""
        with contextlib.suppress(ConnectionResetError):
            while self.more():
                pass
        return not self.received

    def shut(self) -> Peer:
        """Send no more."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Leave by a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


def request(
    path: str = "/t/Native",
    body: bytes = b"",
    *fields: str,
    method: str = "POST",
    length: bool = True,
) -> bytes:
    """A whole request with these fields besides Host and Content-Length."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", *fields]
    if length and (body or method == "POST"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    return request(path, b"", *fields, method=method)


def chunked(*pieces: bytes) -> bytes:
    """A chunked body."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
