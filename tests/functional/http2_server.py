"""The native gRPC transport over methods without a model: a process that tests can look into.

    python http2_server.py '{"settings": {"max_concurrent_streams": 10}, "socket_path": "/tmp/s"}'

It prints one line of JSON when it listens, and one for each command that it reads from stdin:
`stats`, `release` (all /t/Hold), `drain SECONDS` and `quit`. At the end of stdin it quits, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvloop

from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._echo import EchoMethod
from tfsrv._memory import trim
from tfsrv._python_method import PythonMethod
from tfsrv._streaming_method import StreamingMethod, of_one_request
from tfsrv._workers import WorkerPool
from tfsrv.errors import Code, ServingError
from tfsrv.frontends._http2 import Http2Server
from tfsrv.frontends.settings import GrpcSettings

QUIT_SECONDS = 1.0


class Methods:
    """Echoes, answers of any size, errors, and requests that are held."""

    def __init__(self, workers: WorkerPool) -> None:
        self.echoes = {
            "/t/Native": EchoMethod("Native"),
            "/t/Spliced": EchoMethod("Spliced", spliced=True),
            "/t/Worker": EchoMethod("Worker", workers),
            "/t/Slow": EchoMethod("Slow", workers, 0.05, spliced=True),
        }
        self.table = {
            **self.echoes,
            "/t/Echo": PythonMethod("Echo", self.echo),
            "/t/Big": PythonMethod("Big", self.big),
            "/t/Fail": PythonMethod("Fail", self.fail),
            "/t/Hold": PythonMethod("Hold", self.hold),
            "/t/Turns": PythonMethod("Turns", self.turns),
            "/s/Echo": StreamingMethod("Echo", self.stream_echo),
            "/s/Sink": StreamingMethod("Sink", self.sink),
            "/s/Deaf": StreamingMethod("Deaf", self.deaf),
            "/s/Count": StreamingMethod("Count", of_one_request(self.count)),
            "/s/Flood": StreamingMethod("Flood", of_one_request(self.flood)),
            "/s/Wait": StreamingMethod("Wait", of_one_request(self.wait)),
            "/s/Fail": StreamingMethod("Fail", of_one_request(self.stream_fail)),
            "/s/Stubborn": StreamingMethod("Stubborn", self.stubborn),
        }
        self.release = asyncio.Event()
        self.started = 0
        self.cancelled = 0
        self.read = 0  # messages, by streaming handlers
        self.written = 0

    async def echo(self, request: bytes) -> bytes:
        return request

    async def big(self, request: bytes) -> bytes:
        if not request.isdigit() or len(request) > 8:
            raise ServingError(Code.INVALID_ARGUMENT, "not a size")
        return b"\xa5" * int(request)

    async def fail(self, request: bytes) -> bytes:
        code, _, message = request.decode().partition(" ")
        raise ServingError(int(code), message)

    async def hold(self, request: bytes) -> bytes:
        self.started += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request

    async def turns(self, request: bytes) -> bytes:
        """Release all; for "NUMBER": how many messages are read in a turn, until so many are."""
        (number,) = numbers(request, 1)
        self.release.set()
        most, end = 0, self.read + number
        while self.read < end:
            before = self.read
            await asyncio.sleep(0)
            most = max(most, self.read - before)
        return b"%d" % most

    async def stream_echo(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        with self.running():
            async for request in requests:
                self.read += 1
                yield request

    async def sink(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """How many messages and bytes came, at the end."""
        size = count = 0
        async for request in requests:
            size += len(request)
            count += 1
            self.read += 1
        yield b"%d %d" % (count, size)

    async def deaf(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """Reads nothing until it is released; then all, like sink."""
        with self.running():
            await self.release.wait()
            async for answer in self.sink(requests):
                yield answer

    async def count(self, request: bytes) -> AsyncGenerator[bytes]:
        """For "NUMBER SIZE": so many messages of that size."""
        number, size = numbers(request, 2)
        for i in range(number):
            self.written += 1
            yield b"%0*d" % (size, i)

    async def flood(self, request: bytes) -> AsyncGenerator[bytes]:
        """Messages of the size that is asked for, for ever."""
        (size,) = numbers(request, 1)
        with self.running():
            while True:
                self.written += 1
                yield b"f" * size

    async def wait(self, request: bytes) -> AsyncGenerator[bytes]:
        """One message at once, and one when it is released."""
        with self.running():
            yield request
            await self.release.wait()
            yield request

    async def stream_fail(self, request: bytes) -> AsyncGenerator[bytes]:
        """For "CODE NUMBER MESSAGE": the error after so many messages."""
        code, number = numbers(request, 2)
        for _ in range(number):
            yield request
        raise ServingError(code, b" ".join(request.split(b" ")[2:]).decode("utf-8", "replace"))

    async def stubborn(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """Answers on, whatever happens to it."""
        with self.running():
            async for request in requests:
                yield request
            for _ in range(1000):
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    yield b"on"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count a handler that begins, and one that is cancelled or closed before its end."""
        self.started += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


def numbers(request: bytes, count: int) -> list[int]:
    """The numbers that a request begins with."""
    words = request.split(b" ")[:count]
    if len(words) < count or not all(word.isdigit() and len(word) < 8 for word in words):
        raise ServingError(Code.INVALID_ARGUMENT, "not numbers")
    return [int(word) for word in words]


class Server:
    """One Http2Server, its ports and what can be asked of it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.calls = CallLoop(self.loop)
        self.workers = WorkerPool(2)
        self.workers.start()
        self.methods = Methods(self.workers)
        self.http2 = Http2Server(
            self.calls, self.loop, self.methods.table, GrpcSettings(**settings)
        )
        self.listeners: list[asyncio.AbstractServer] = []

    async def listen(self, socket_path: str | None) -> dict[str, Any]:
        connection: Any = self.http2.connection
        tcp = await self.loop.create_server(connection, "127.0.0.1", 0)
        self.listeners.append(tcp)
        if socket_path:
            self.listeners.append(await self.loop.create_unix_server(connection, socket_path))
        return {"port": tcp.sockets[0].getsockname()[1]}

    def stats(self) -> dict[str, int]:
        return {
            "in_flight_bytes": in_flight_bytes(),
            "in_flight": self.calls.in_flight,
            "held_by_workers": self.calls.held_by_workers,
            "connections": self.http2.open_connections,
            "answering": self.http2.answering_streams,
            "read": self.methods.read,
            "written": self.methods.written,
            "started": self.methods.started,
            "cancelled": self.methods.cancelled,
            **memory(),
        }

    async def drain(self, seconds: float) -> bool:
        for listener in self.listeners:
            listener.close()
        return await self.http2.drain(seconds)

    async def close(self) -> dict[str, int]:
        await self.drain(QUIT_SECONDS)
        self.http2.close()
        while self.calls.held_by_workers:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        stats = self.stats()
        self.calls.close()
        for echo in self.methods.echoes.values():
            echo.close()
        assert self.workers.stop()
        return stats


def memory() -> dict[str, int]:
    """What the process holds now, without what waits to be reused, and the most that it held."""
    gc.collect()
    for _ in range(2):  # a server does that every few seconds: see housekeeping.py
        trim()
    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rss": int(status["VmRSS"].split()[0]) * 1024,
        "peak_rss": int(status["VmHWM"].split()[0]) * 1024,
    }


async def serve(server: Server, commands: asyncio.StreamReader) -> None:
    while line := (await commands.readline()).decode().split():
        if line[0] == "quit":
            break
        answer: object = None
        if line[0] == "stats":
            answer = server.stats()
        elif line[0] == "release":
            server.methods.release.set()
        elif line[0] == "drain":
            answer = await server.drain(float(line[1]))
        say(answer)


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    settings = options["settings"]
    set_max_in_flight_bytes(settings.get("max_in_flight_bytes", 2**62))
    server = Server(settings)
    say(await server.listen(options.get("socket_path")))
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    await serve(server, commands)
    say(await server.close())


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main())
