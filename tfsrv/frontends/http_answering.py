"""Requests that Python answers: their bodies unpacked, their answers packed, their errors told."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from tfsrv import _gzip
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import (
    HttpHandler,
    HttpRequest,
    HttpResponse,
    error_response,
)
from tfsrv.frontends.settings import HttpSettings

GZIP_FROM = 1024  # bytes; smaller answers do not get smaller
_NO_BODY = (204, 304)  # RFC 9110, 15.3.5 and 15.4.5

logger = logging.getLogger("tfsrv")


class Asked(NamedTuple):
    """A request's head, as the transport keeps it until the body is there."""

    method: str
    path: str
    query: str
    fields: bytes  # header fields, each line ending in CR LF
    gzipped: bool
    accepts_gzip: bool
    is_local: bool


class Answered(NamedTuple):
    """An answer: its status, its header fields as lines, and its body."""

    status: int
    fields: bytes
    body: bytes


class HttpAnswering:
    """Runs an HttpHandler for the transport."""

    def __init__(self, handler: HttpHandler, settings: HttpSettings) -> None:
        self._handler = handler
        self._most_bytes = settings.max_handled_bytes
        self._seconds = max(settings.request_timeout_ms, 0) / 1000 or None

    async def answer(self, asked: Asked, body: bytes | None) -> Answered:
        """The handler's answer, or the error that it raised. Never raises, unless cancelled.

        `body` is None if it is longer than a handler is given.
        """
        try:
            response = await asyncio.wait_for(self._response(asked, body), self._seconds)
        except asyncio.TimeoutError:
            response = error_response(ServingError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        except ServingError as error:
            response = error_response(error)
        except Exception as error:
            logger.exception("%s %s failed", asked.method, asked.path)
            text = f"{type(error).__name__}: {error}"
            response = error_response(ServingError(Code.INTERNAL, text))
        try:
            return await _packed(response, asked.accepts_gzip)
        except ValueError as error:  # of a header that would be two
            logger.exception("%s %s failed", asked.method, asked.path)
            text = f"{type(error).__name__}: {error}"
            return await _packed(error_response(ServingError(Code.INTERNAL, text)), False)

    async def _response(self, asked: Asked, body: bytes | None) -> HttpResponse:
        if asked.gzipped and body is not None:
            body = await asyncio.to_thread(self._unpacked, body)
        request = HttpRequest(
            method="GET" if asked.method == "HEAD" else asked.method,
            path=asked.path,
            query=asked.query,
            headers=headers(asked.fields),
            body=body or b"",
            is_local=asked.is_local,
            is_too_long=body is None,
        )
        return await self._handler(request)

    def _unpacked(self, body: bytes) -> bytes | None:
        """None if it becomes too long: a few bytes may stand for gigabytes, charged to nobody."""
        try:
            return _gzip.inflate(body, self._most_bytes)
        except ValueError:
            raise ServingError(Code.INVALID_ARGUMENT, "The body is not a valid gzip") from None
        except (OverflowError, MemoryError):
            return None


def headers(fields: bytes) -> dict[str, str]:
    """Header fields by name in lower case; what comes several times is joined (RFC 9110, 5.3)."""
    found: dict[str, str] = {}
    for line in fields.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            name, value = name.lower(), value.strip(" \t")
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def _packed(response: HttpResponse, accepts_gzip: bool) -> Answered:
    """The answer as it is sent, compressed if that is wanted and worth it."""
    body = response.body
    lines = list(response.headers)
    if response.content_type:
        lines.insert(0, ("Content-Type", response.content_type))
    names = {name.lower() for name, _ in lines}
    if len(body) > GZIP_FROM and "content-encoding" not in names:
        if "vary" not in names:
            lines.append(("Vary", "Accept-Encoding"))
        if accepts_gzip:
            body = await asyncio.to_thread(_gzip.deflate, body)
            lines.append(("Content-Encoding", "gzip"))
    if has_no_body(response.status):
        body = b""
    if response.status == 503 and "retry-after" not in names:
        lines.append(("Retry-After", "1"))
    return Answered(response.status, b"".join(_line(name, value) for name, value in lines), body)


def has_no_body(status: int) -> bool:
    """Whether answers of this status have no body, and so no length."""
    return status in _NO_BODY


def _line(name: str, value: str) -> bytes:
    if not (name + value).isprintable():
        raise ValueError(f"a header {name!r} of an answer has a control character")
    return f"{name}: {value}\r\n".encode("latin-1")


def cors_fields() -> bytes:
    """What lets pages of other sites ask models; nothing that would let them change any."""
    return (
        b"Access-Control-Allow-Origin: *\r\n"
        b"Access-Control-Allow-Methods: POST, GET\r\n"
        b"Access-Control-Allow-Headers: Content-Type, Content-Encoding\r\n"
    )
