"""PUT and DELETE of /v1/models/NAME: adding, changing and removing one model.

    curl -X PUT -H 'Content-Type: application/json' -d '{"base_path": "/models/m"}' \\
        http://localhost:8501/v1/models/m
    curl -X DELETE http://localhost:8501/v1/models/m

The body is a tensorflow.serving.ModelConfig as protobuf's JSON. Its `name` may be left out, and so
may its `model_platform`, "tensorflow". PUT answers when the model is available, with what
GET /v1/models tells of it, and with an error if it does not become so; the configuration stays
changed all the same. The switch is that of the gRPC service, --enable_model_management, and so is
who may ask: this machine.

A browser on this machine is not its user: any page that he opens can send requests to localhost.
Two ways are closed here. A page of another site names itself in Origin (RFC 6454, section 7), and
its sending is marked in Sec-Fetch-Site (https://www.w3.org/TR/fetch-metadata). A page whose name
was made to point to 127.0.0.1 after it was loaded counts as our own site to the browser ("DNS
rebinding"), but the browser still sends that name in Host: there must be an address, or localhost.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from google.protobuf import json_format

from tfsrv._proto import message_class, pool
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import JSON, HttpRequest, HttpResponse
from tfsrv.frontends.rest_errors import HttpError
from tfsrv.frontends.rest_json import protobuf_response
from tfsrv.frontends.rest_models import listing_value
from tfsrv.handlers.model_management import ModelManagement

MAX_BODY_BYTES = 128 * 1024  # parsing it holds the GIL for a millisecond

_CONFIG = "tensorflow.serving.ModelConfig"
_AUTHORITY = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")  # host and port


class RestManagement:
    """Answers PUT and DELETE of a model."""

    def __init__(self, management: ModelManagement | None) -> None:
        """None: it is switched off, and all is refused."""
        self._management = management

    @property
    def is_on(self) -> bool:
        """Whether models can be changed at all."""
        return self._management is not None

    async def set(self, name: str, request: HttpRequest, *, pretty: bool) -> HttpResponse:
        """Add or change the model. Raises ServingError."""
        management = self._checked(request)
        check_body(request)
        listing = await management.set(lambda: config_of(name, request.body))
        return protobuf_response({} if listing is None else listing_value(listing), pretty=pretty)

    async def remove(self, name: str, request: HttpRequest, *, pretty: bool) -> HttpResponse:
        """Remove the model. Raises ServingError; NOT_FOUND if it is not configured."""
        await self._checked(request).remove(name)
        return protobuf_response({}, pretty=pretty)

    def _checked(self, request: HttpRequest) -> ModelManagement:
        if self._management is None:
            raise ServingError(
                Code.PERMISSION_DENIED,
                "Models cannot be changed over REST: --enable_model_management is not set.",
            )
        check_sender(request)
        return self._management


def check_sender(request: HttpRequest) -> None:
    """Raise ServingError unless a program on this machine sends the request, or a page of ours."""
    if not request.is_local:
        raise ServingError(
            Code.PERMISSION_DENIED,
            "Models are only changed by requests on loopback and unix sockets.",
        )
    host = request.headers.get("host", "")
    if not _is_plain_host(host):
        raise ServingError(
            Code.PERMISSION_DENIED,
            f"Models are not changed by requests to {host}: use localhost, or an IP address.",
        )
    origin = request.headers.get("origin", f"http://{host}")
    site = request.headers.get("sec-fetch-site", "none")
    is_own = origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())
    if not is_own or site not in ("none", "same-origin"):
        raise ServingError(
            Code.PERMISSION_DENIED, "Models are not changed by pages of other sites."
        )


def _is_plain_host(host: str) -> bool:
    """Whether no name server had a say in a Host. Programs may send none."""
    match = _AUTHORITY.fullmatch(host)
    if match is None:
        return False
    bracketed, name = match.groups()
    if bracketed is not None:
        return _is_address(bracketed)
    name = name.lower().removesuffix(".")
    # RFC 6761, section 6.3: browsers resolve these names themselves.
    return not host or name == "localhost" or name.endswith(".localhost") or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check_body(request: HttpRequest) -> None:
    """Raise HttpError unless the body says that it is JSON, and is not too long."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise HttpError(
            415, Code.INVALID_ARGUMENT, f"A model is set with Content-Type: {JSON}, not {kind!r}."
        )
    if request.is_too_long or len(request.body) > MAX_BODY_BYTES:
        raise HttpError(
            413,
            Code.INVALID_ARGUMENT,
            f"The ModelConfig is larger than {MAX_BODY_BYTES} bytes.",
        )


def config_of(name: str, body: bytes) -> Any:
    """The ModelConfig that a body holds, of the model of that name. Raises ServingError."""
    config: Any = message_class(_CONFIG)()
    try:
        if not body.lstrip().startswith(b"{"):  # an empty list would pass
            raise ValueError("it is no object")
        json_format.Parse(body, config, descriptor_pool=pool())
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise ServingError(
            Code.INVALID_ARGUMENT, f"The body is no ModelConfig in JSON: {_reason(error)}"
        ) from None
    if config.name not in ("", name):
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"The path is that of model {name}, but the body's name is {config.name}.",
        )
    config.name = name
    if not (config.model_platform or config.model_type):
        config.model_platform = "tensorflow"
    return config


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
