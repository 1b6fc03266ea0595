"""Pages about models that are made up, for states that real ones are seldom in. Nothing can be run.

The handlers are real; the server is Python's http.server in threads, with a loop in another.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.functional.launching import SECONDS
from tests.known_models import KnownModels
from tfsrv.errors import ServingError
from tfsrv.frontends.http_messages import (
    HttpHandler,
    HttpRequest,
    HttpResponse,
    error_response,
    json_response,
)
from tfsrv.frontends.overview import BatchedSession, Overview
from tfsrv.frontends.rest_page import Page
from tfsrv.frontends.signatures import ServedSignatures


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, routes: Mapping[str, HttpHandler]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.routes = routes
        self.loop = asyncio.new_event_loop()
        self.tasks: list[asyncio.Task[None]] = []

    def answer(self, request: HttpRequest) -> HttpResponse:
        handler = self.routes.get(request.path)
        if handler is None:
            return json_response({"error": f"Not found: {request.path}"}, status=404)
        try:
            return self._awaited(handler, request).result(SECONDS)
        except ServingError as error:
            return error_response(error)

    def _awaited(self, handler: HttpHandler, request: HttpRequest) -> Future[HttpResponse]:
        """What a handler answers; the coroutine is made in the loop, which may have ended."""
        future: Future[HttpResponse] = Future()

        async def run() -> None:
            try:
                future.set_result(await handler(request))
            except Exception as error:
                future.set_exception(error)

        def begin() -> None:
            self.tasks.append(self.loop.create_task(run()))

        self.loop.call_soon_threadsafe(begin)
        return future


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        response = self.server.answer(HttpRequest(self.command, path, query))
        self.send_response(response.status)
        for key, value in response.headers:
            self.send_header(key, value)
        if response.content_type:
            self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def rest_stand_in(
    models: KnownModels,
    sessions: Sequence[BatchedSession] = (),
    is_draining: Callable[[], bool] = lambda: False,
) -> Iterator[str]:
    """The address, HOST:PORT, of a server of these models; `sessions` have batched requests."""
    served = ServedSignatures(models.map)
    routes: dict[str, HttpHandler] = {
        "/": Page(has_metrics=False),
        "/tfsrv/overview": Overview(models, served, lambda: sessions, is_draining=is_draining),
    }
    server = _Server(routes)
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True),
        threading.Thread(target=server.loop.run_forever, daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        server.loop.call_soon_threadsafe(server.loop.stop)
        for thread in threads:
            thread.join()
        server.loop.close()
