"""Stands in for the HTTP server and its models, until there is one: the handlers are the real ones.

Python's http.server in threads, a loop in another, a core and models that are made up. Whoever
needs an address of it uses `rest_stand_in`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tfsrv import _counters
from tfsrv._proto import parse_text
from tfsrv._serving_map import ServingMap
from tfsrv.config import ModelConfig
from tfsrv.core.servable import ManagerState, ServableId, ServableState
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import (
    HttpHandler,
    HttpRequest,
    HttpResponse,
    error_response,
    json_response,
)
from tfsrv.frontends.overview import Overview
from tfsrv.frontends.rest_page import Page
from tfsrv.frontends.signatures import ServedSignatures
from tfsrv.model_listing import ModelListing, SetBy

VECTOR = "tensor_shape { dim { size: -1 } }"
PREDICT = 'method_name: "tensorflow/serving/predict"'


def tensor(alias: str, dtype: str = "DT_FLOAT", shape: str = VECTOR) -> str:
    return f'{{ key: "{alias}" value {{ name: "{alias}:0" dtype: {dtype} {shape} }} }}'


def signature_def(inputs: str, outputs: str, method: str = PREDICT) -> Any:
    text = f"inputs {inputs} outputs {outputs} {method}"
    return parse_text("tensorflow.SignatureDef", text, "signature")


class Declares:
    """A servable that says which signatures it has."""

    def __init__(self, **signature_defs: Any) -> None:
        self.signature_defs = signature_defs


class Core:
    """A core that was told which models there are; it is its own monitor."""

    def __init__(self) -> None:
        self.map = ServingMap()
        self.listings: dict[str, ModelListing] = {}
        self.servables: dict[str, dict[int, object]] = {}

    @property
    def monitor(self) -> Core:
        return self

    def add(
        self,
        name: str,
        versions: Mapping[int, object | ServingError] = {},
        *,
        labels: Mapping[str, int] = {},
        error: ServingError | None = None,
        is_pending: bool = False,
    ) -> None:
        """Have a model: its versions are servables, or why they are none."""
        states = tuple(_state(name, number, versions[number]) for number in sorted(versions)[::-1])
        self.listings[name] = ModelListing(
            ModelConfig(name, f"/models/{name}"), SetBy.FLAGS, is_pending, states, labels, error
        )
        self.servables[name] = {
            number: it for number, it in versions.items() if not isinstance(it, ServingError)
        }
        self.map.publish({key: value for key, value in self.servables.items() if value})

    def list_models(self) -> list[ModelListing]:
        return [self.listings[name] for name in sorted(self.listings)]

    def is_any_pending(self) -> bool:
        return any(listing.is_pending for listing in self.listings.values())

    def all_states(self) -> dict[str, dict[int, ServableState]]:
        return {name: self.versions(name) for name in self.listings}

    def versions(self, name: str) -> dict[int, ServableState]:
        listing = self.listings.get(name)
        return {state.id.version: state for state in listing.states} if listing else {}


def _state(name: str, number: int, it: object) -> ServableState:
    if isinstance(it, ServingError):
        return ServableState(ServableId(name, number), ManagerState.END, it)
    return ServableState(ServableId(name, number), ManagerState.AVAILABLE)


class Predict:
    """x / 2 + 2 of whatever is asked, counted as a request."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        began = time.monotonic_ns()
        name, place = _asked(request.path)
        versions = self._core.servables.get(name)
        if not versions:
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: Latest({name})")
        version = int(place) if place.isdigit() else max(versions)
        try:
            body = json.loads(request.body)
            rows, answer = (
                ("instances", "predictions") if "instances" in body else ("inputs", "outputs")
            )
            value: object = {answer: half_plus_two(body[rows])}
            code = Code.OK
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            value = {"error": f"JSON Parse error: {error} in {request.body[:100].decode()}"}
            code = Code.INVALID_ARGUMENT
        took = time.monotonic_ns() - began
        signature = (
            body.get("signature_name", "serving_default") if code is Code.OK else "serving_default"
        )
        _counters.add_request(name, version, signature, "Predict", code, took, took // 3, took // 2)
        return json_response(value, status=200 if code is Code.OK else 400, pretty=True)


def _asked(path: str) -> tuple[str, str]:
    segments = path.rpartition(":")[0].split("/")[3:]
    return unquote(segments[0]), segments[2] if len(segments) > 2 else ""


def half_plus_two(value: Any) -> Any:
    if isinstance(value, list):
        return [half_plus_two(each) for each in value]
    if isinstance(value, dict) and set(value) != {"b64"}:
        return half_plus_two(next(iter(value.values())))
    return value / 2 + 2 if isinstance(value, float | int) else value


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, routes: Mapping[str, HttpHandler], predict: HttpHandler) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.routes = routes
        self.predict = predict
        self.loop = asyncio.new_event_loop()

    def answer(self, request: HttpRequest) -> HttpResponse:
        handler = self.routes.get(request.path)
        if request.path.startswith("/v1/models/") and request.method == "POST":
            handler = self.predict
        if handler is None:
            return json_response({"error": f"Not found: {request.path}"}, status=404)
        try:
            return asyncio.run_coroutine_threadsafe(_awaited(handler, request), self.loop).result()
        except ServingError as error:
            return error_response(error)


async def _awaited(handler: HttpHandler, request: HttpRequest) -> HttpResponse:
    return await handler(request)


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

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def rest_stand_in(core: Core) -> Iterator[str]:
    """The address, HOST:PORT, of a server of these models."""
    served = ServedSignatures(core.map)
    routes: dict[str, HttpHandler] = {
        "/": Page(),
        "/tfsrv/overview": Overview(core, served, lambda: ()),
    }
    server = _Server(routes, Predict(core))
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
