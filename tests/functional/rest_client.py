"""Asks a server over REST: one request, one connection, any bytes."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from tests.functional.http1_client import Answer, Peer
from tests.functional.launching import SECONDS, Launched
from tests.functional.messages import Array

PROTOBUF = "application/x-protobuf"
NPY = "application/x-npy"
NPZ = "application/x-npz"


class Rest:
    """A client of the REST port of a server."""

    def __init__(self, server: Launched) -> None:
        self.address = server.rest_address()

    def url(self, path: str) -> str:
        return f"http://{self.address}/v1/models/{path}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Any request. A header's name is written with underscores."""
        connection = http.client.HTTPConnection(self.address, timeout=SECONDS)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        fields = {name.lower(): value for name, value in response.getheaders()}
        if fields.get("content-encoding") == "gzip":
            data = gzip.decompress(data)
        return Answer(response.status, fields, data)

    def get(self, path: str) -> Answer:
        return self.ask("GET", f"/v1/models/{path}")

    def post(self, path: str, body: bytes | str | Any, **headers: str) -> Answer:
        """Ask a model: "m:predict". What is neither bytes nor text is sent as JSON."""
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return self.ask("POST", f"/v1/models/{path}", body, **headers)

    def value(self, path: str, body: Any, **headers: str) -> Any:
        """What a POST is answered in JSON, by strict rules."""
        answer = self.post(path, body, **headers)
        assert answer.status == 200, answer
        assert answer.headers["content-type"] == "application/json"
        return strict_json(answer.body)

    def predictions(self, path: str, body: Any, **headers: str) -> Any:
        value = self.value(path, body, **headers)
        return value["predictions"] if "predictions" in value else value["outputs"]

    def refusal(self, path: str, body: Any, **headers: str) -> tuple[int, str]:
        """Status and text of an error."""
        answer = self.post(path, body, **headers)
        assert answer.status >= 400, answer
        return answer.status, answer.error

    @contextmanager
    def dial(self) -> Iterator[Peer]:
        """A connection to send bytes on."""
        host, port = self.address.split(":")
        peer = Peer((host, int(port)))
        try:
            yield peer
        finally:
            peer.close()

    def curl(self, *arguments: str, data: bytes | None = None) -> str:
        """What curl prints."""
        command = ["curl", "--silent", "--show-error", "--max-time", str(SECONDS), *arguments]
        done = subprocess.run(command, input=data, capture_output=True, check=True)
        return done.stdout.decode()


def strict_json(data: bytes) -> Any:
    """JSON in UTF-8; NaN and infinities are none of it, though TensorFlow Serving writes them."""
    return json.loads(data.decode())


def post_bytes(path: str, body: bytes, *fields: str) -> bytes:
    """A whole request to a model."""
    head = [f"POST /v1/models/{path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, *fields, "", ""]).encode() + body


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    numpy.save(file, array)
    return file.getvalue()


def npz(*, packed: bool = False, **arrays: Array) -> bytes:
    file = io.BytesIO()
    save: Any = numpy.savez_compressed if packed else numpy.savez
    save(file, **arrays)
    return file.getvalue()


def from_npy(data: bytes) -> Array:
    array: Array = numpy.load(io.BytesIO(data))
    return array


def from_npz(data: bytes) -> dict[str, Array]:
    with numpy.load(io.BytesIO(data)) as file:
        return {name: file[name] for name in file}


@contextmanager
def meanwhile(rest: Rest, path: str, body: Any, expected: Any) -> Iterator[list[float]]:
    """Others ask all the time, and get their answers: the seconds that each took."""
    seconds: list[float] = []
    failures: list[BaseException] = []
    enough = threading.Event()

    def ask() -> None:
        try:
            while not enough.is_set():
                began = time.monotonic()
                assert rest.predictions(path, body) == expected
                seconds.append(time.monotonic() - began)
                enough.wait(0.01)
        except (AssertionError, OSError) as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seconds
    finally:
        enough.set()
        thread.join(SECONDS)
    assert not failures, failures
    assert seconds
