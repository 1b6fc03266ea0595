"""Stands in for the HTTP server and for predict, until they are there: the handlers are real.

Python's http.server in threads, a loop in another, models that are made up.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from tests.functional.launching import SECONDS
from tests.known_models import KnownModels
from tfsrv import _counters
from tfsrv.errors import HTTP_STATUS, Code, ServingError
from tfsrv.frontends.http_messages import (
    HttpHandler,
    HttpRequest,
    HttpResponse,
    error_response,
    json_response,
)
from tfsrv.frontends.openapi import OpenApi
from tfsrv.frontends.overview import BatchedSession, Overview
from tfsrv.frontends.rest_page import Page
from tfsrv.frontends.signatures import ServedSignatures


class Predict:
    """x / 2 + 2 of a vector of numbers, counted as a request."""

    def __init__(self, models: KnownModels) -> None:
        self._models = models

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        began = time.monotonic_ns()
        name, place = _asked(request.path)
        versions = self._models.available(name)
        if not versions:
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: Latest({name})")
        version = int(place) if place.isdigit() else max(versions)
        signature, code = "serving_default", Code.OK
        try:
            signature, answer = half_plus_two(request.body)
        except (ValueError, KeyError) as error:
            code = Code.INVALID_ARGUMENT
            answer = {"error": f"JSON Parse error: {error} in {request.body[:100]!r}"}
        took = time.monotonic_ns() - began
        _counters.add_request(name, version, signature, "Predict", code, took, took // 3, took // 2)
        return json_response(answer, status=HTTP_STATUS[code], pretty=True)


def _asked(path: str) -> tuple[str, str]:
    segments = path.rpartition(":")[0].split("/")[3:]
    return unquote(segments[0]), segments[2] if len(segments) > 2 else ""


def half_plus_two(body: bytes) -> tuple[str, dict[str, object]]:
    """The signature that is asked, and the answer. Raises ValueError or KeyError."""
    request = json.loads(body)
    if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
        raise ValueError("expecting one of 'inputs' and 'instances'")
    signature = request.get("signature_name", "serving_default")
    if signature not in ("serving_default", "zeros"):
        raise ValueError(f"no signature {signature!r}")
    asked = "instances" if "instances" in request else "inputs"
    answer = {"instances": "predictions", "inputs": "outputs"}[asked]
    values = request[asked]
    if isinstance(values, dict) and asked == "inputs":
        values = values["x"]
    if not isinstance(values, list) or (asked == "instances" and not values):
        raise ValueError("expecting a list")
    if all(isinstance(value, dict) and set(value) == {"x"} for value in values):
        values = [value["x"] for value in values]
    if not all(isinstance(value, int | float) and value is not bool(value) for value in values):
        raise ValueError("expecting numbers")
    return signature, {answer: [value / 2 + 2 for value in values]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, routes: Mapping[str, HttpHandler], predict: HttpHandler) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.routes = routes
        self.predict = predict
        self.loop = asyncio.new_event_loop()
        self.tasks: list[asyncio.Task[None]] = []

    def answer(self, request: HttpRequest) -> HttpResponse:
        handler = self.routes.get(request.path)
        if request.path.startswith("/v1/models/"):
            handler = self.predict
        if handler and request.method != ("POST" if handler is self.predict else "GET"):
            allowed = "POST" if handler is self.predict else "GET, HEAD"
            return HttpResponse(
                405, b'{"error":"Method not allowed"}', headers=(("Allow", allowed),)
            )
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
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {key.lower(): value for key, value in self.headers.items()}
        response = self.server.answer(HttpRequest(self.command, path, query, headers, body))
        self.send_response(response.status)
        for key, value in response.headers:
            self.send_header(key, value)
        if response.content_type:
            self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_QUERY = do_GET

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
        "/": Page(),
        "/tfsrv/overview": Overview(models, served, lambda: sessions, is_draining=is_draining),
        "/openapi.json": OpenApi(models, served),
    }
    server = _Server(routes, Predict(models))
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
