"""What HTTP asks and what it is answered, where Python does it: all but the running of models."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tfsrv.errors import HTTP_STATUS, ServingError

JSON = "application/json"


@dataclass(frozen=True)
class HttpRequest:
    """One request, its body complete, neither chunked nor compressed any more."""

    method: str  # "GET"; as sent, for methods are case-sensitive
    path: str  # the target up to "?", still percent-encoded
    query: str = ""  # the target after "?"
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    is_local: bool = False  # it came from this machine
    is_too_long: bool = False  # the body, which was left out


@dataclass(frozen=True)
class HttpResponse:
    """One answer. Content-Length, Date and the like are the server's to add."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON  # "" for answers without one
    headers: tuple[tuple[str, str], ...] = ()


HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse]]  # may raise ServingError


def json_response(value: object, *, status: int = 200, pretty: bool = False) -> HttpResponse:
    """`value` as JSON; compact, or in lines with four spaces as TensorFlow Serving's."""
    if pretty:
        text = json.dumps(value, ensure_ascii=False, indent=4)
    else:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return HttpResponse(status, text.encode("utf-8", "replace"))


def error_response(error: ServingError, *, pretty: bool = False) -> HttpResponse:
    """`{"error": ...}` with the status of the error's code."""
    return json_response({"error": error.message}, status=HTTP_STATUS[error.code], pretty=pretty)
