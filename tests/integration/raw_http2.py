"""HTTP/2 servers made of frames, for clients that must bear anything."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM, END_HEADERS, PADDED, PRIORITY, ACK = 1, 4, 8, 32, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Frame = tuple[int, int, int, bytes]
"""Kind, flags, stream, content."""


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    size = len(content)
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + content


def message(content: bytes) -> bytes:
    """A message of gRPC's."""
    return struct.pack(">BI", 0, len(content)) + content


def fields(**values: str | bytes) -> bytes:
    """A header block: `grpc_status="0"`; "status" is HTTP's."""
    import hpack  # comes with h2

    names = {"status": ":status"}
    return bytes(
        hpack.Encoder().encode(
            [(names.get(name, name.replace("_", "-")), value) for name, value in values.items()],
            huffman=True,
        )
    )


def answer(stream: int, content: bytes, **trailers: str | bytes) -> bytes:
    """All frames of an answer."""
    return (
        frame(HEADERS, END_HEADERS, stream, fields(status="200", content_type="application/grpc"))
        + frame(DATA, 0, stream, message(content))
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, fields(grpc_status="0", **trailers))
    )


class Peer:
    """The server's end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._file = connection.makefile("rb")
        self.seen: list[Frame] = []

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def read_preface(self) -> None:
        assert self._file.read(len(PREFACE)) == PREFACE

    def read_frame(self) -> Frame:
        """The next one. EOFError when the client has left."""
        head = self._file.read(9)
        if len(head) < 9:
            raise EOFError
        high, low, kind, flags, stream = struct.unpack(">BHBBI", head)
        self.seen.append((kind, flags, stream, self._file.read(high << 16 | low)))
        return self.seen[-1]

    def read_request(self) -> tuple[int, bytes]:
        """The stream and the message of the next request."""
        content = b""
        while True:
            kind, flags, stream, part = self.read_frame()
            if kind == DATA:
                content += part
                if flags & END_STREAM:
                    return stream, content[5:]

    def read_until(self, kind: int) -> Frame:
        while True:
            found = self.read_frame()
            if found[0] == kind:
                return found

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)


Script = Callable[[Peer], Any]


@contextmanager
def scripted(*scripts: Script, path: Path | None = None) -> Iterator[str]:
    """A server that follows a script for each connection, the last one for all further ones.

    Gives its address. A script that fails fails the test.
    """
    listener = socket.socket(socket.AF_UNIX) if path else socket.socket()
    listener.bind(str(path) if path else ("127.0.0.1", 0))
    listener.listen()
    failures: list[BaseException] = []
    peers: list[Peer] = []
    threads: list[threading.Thread] = []

    def follow(script: Script, peer: Peer) -> None:
        try:
            peer.read_preface()
            script(peer)
        except (EOFError, ConnectionError):
            pass  # the client has left
        except BaseException as error:
            failures.append(error)
        finally:
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            peers.append(Peer(connection))
            script = scripts[min(len(peers), len(scripts)) - 1]
            threads.append(threading.Thread(target=follow, args=(script, peers[-1])))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"unix:{path}" if path else f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for peer in peers:
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for peer in peers:
            peer.close()
    if failures:
        raise failures[0]
