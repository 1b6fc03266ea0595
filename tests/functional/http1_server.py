"""The HTTP/1.1 transport over methods without a model: a process that tests can look into.

    python http1_server.py '{"settings": {"head_timeout_ms": 100}}'

It prints one line of JSON when it listens, and one for each command that it reads from stdin:
`stats`, `release` (all that is held), `lag` (of the loop since the last time), `drain SECONDS` and
`quit`. At the end of stdin it quits, too. POST /t/... are methods of http2_server.py, natively;
/h/... are answered by Python, and so is everything else.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Any

import uvloop

from tests.functional.http2_server import Methods, memory, say
from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._method import Method
from tfsrv._workers import WorkerPool
from tfsrv.errors import Code, ServingError
from tfsrv.frontends._http1 import Http1Server
from tfsrv.frontends._http1_routes import PathRoutes
from tfsrv.frontends.http_messages import HttpRequest, HttpResponse, json_response
from tfsrv.frontends.loop_lag import LoopLag
from tfsrv.frontends.settings import HttpSettings

QUIT_SECONDS = 1.0


class Handler:
    """Tells what it was asked, answers of any size, errors, and requests that are held."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        _, _, what = request.path.partition("/h/")
        if what == "tell":
            return json_response(
                {
                    "method": request.method,
                    "path": request.path,
                    "query": request.query,
                    "headers": dict(request.headers),
                    "body": request.body.decode("latin-1"),
                    "local": request.is_local,
                    "too_long": request.is_too_long,
                }
            )
        if what == "big":
            return HttpResponse(body=b"x" * number(request.query), content_type="text/plain")
        if what == "fail":
            code, _, message = request.query.partition("&")
            raise ServingError(number(code), message)
        if what == "crash":
            raise RuntimeError("this handler is broken")
        if what == "split":
            return HttpResponse(headers=(("X-Split", "a\r\nInjected: b"),))
        if what == "empty":
            return HttpResponse(status=204, content_type="")
        if what == "hold":
            return HttpResponse(body=await self._methods.hold(request.body))
        raise ServingError(Code.NOT_FOUND, f"Not found: {request.path}")


def number(text: str) -> int:
    """Raises ServingError: it may have been damaged on its way."""
    if not (text.isdecimal() and len(text) < 7):
        raise ServingError(Code.INVALID_ARGUMENT, f"No number: {text}")
    return int(text)


class Server:
    """One Http1Server, its port and what can be asked of it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.calls = CallLoop(self.loop)
        self.workers = WorkerPool(2)
        self.workers.start()
        self.methods = Methods(self.workers)
        table: dict[str, Method] = self.methods.table
        routes = PathRoutes({path: m for path, m in table.items() if path.startswith("/t/")})
        self.lag = LoopLag(self.loop)
        self.http1 = Http1Server(
            self.calls, self.loop, routes, Handler(self.methods), HttpSettings(**settings)
        )
        self.listener: asyncio.Server | None = None

    async def listen(self) -> dict[str, Any]:
        connection: Any = self.http1.connection
        self.listener = await self.loop.create_server(connection, "127.0.0.1", 0, backlog=1024)
        return {"port": self.listener.sockets[0].getsockname()[1]}

    def stats(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "in_flight_bytes": in_flight_bytes(),
            "in_flight": self.calls.in_flight,
            "held_by_workers": self.calls.held_by_workers,
            "connections": self.http1.open_connections,
            "answering": 0,
            "started": self.methods.started,
            "cancelled": self.methods.cancelled,
            "cpu_micros": int((usage.ru_utime + usage.ru_stime) * 1e6),
            **memory(),
        }

    async def drain(self, seconds: float) -> bool:
        if self.listener is not None:
            self.listener.close()
        return await self.http1.drain(seconds)

    async def close(self) -> dict[str, Any]:
        self.lag.stop()
        await self.drain(QUIT_SECONDS)
        self.http1.close()
        while self.calls.held_by_workers:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        stats = self.stats()
        self.calls.close()
        for echo in self.methods.echoes.values():
            echo.close()
        assert self.workers.stop()
        return stats


async def serve(server: Server, commands: asyncio.StreamReader) -> None:
    while line := (await commands.readline()).decode().split():
        if line[0] == "quit":
            break
        answer: object = None
        if line[0] == "stats":
            answer = server.stats()
        elif line[0] == "release":
            server.methods.release.set()
        elif line[0] == "lag":
            server.lag.start()
            reading = server.lag.read()
            answer = [reading.worst_seconds, reading.busy_seconds]
        elif line[0] == "drain":
            answer = await server.drain(float(line[1]))
        say(answer)


async def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])["settings"]
    set_max_in_flight_bytes(settings.get("max_in_flight_bytes", 2**62))
    server = Server(settings)
    say(await server.listen())
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    await serve(server, commands)
    say(await server.close())


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main())
