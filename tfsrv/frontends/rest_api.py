"""What REST answers in Python: everything but the running of models.

    /v1/...             TensorFlow Serving's API as far as it is GET, and the changing of models
    /healthz, /readyz   see rest_health.py
    more                pages and metrics, from outside

Errors are JSON, `{"error": "..."}`, wherever they come from. Below /v1/ whatever the grammar does
not know is "Malformed request", 400, as TensorFlow Serving's, in any method that its HTTP server
knows; other methods are 405 if the path takes any. Elsewhere an unknown path is 404, and a known
one with a method that it does not take is 405.

HEAD is answered as GET, body and all: leaving that out, but for its length, is the server's.
OPTIONS is too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from tfsrv.core.damped_log import DampedLog
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import HttpHandler, HttpRequest, HttpResponse
from tfsrv.frontends.rest_errors import answer_error, method_not_allowed
from tfsrv.frontends.rest_health import Readyz, healthz
from tfsrv.frontends.rest_management import RestManagement
from tfsrv.frontends.rest_models import RestModels
from tfsrv.frontends.rest_paths import (
    ModelPath,
    Verb,
    is_below_root,
    methods_of,
    parse,
    query_flag,
    query_text,
)
from tfsrv.handlers.health import Health

READS = ("GET", "HEAD")
KNOWN = frozenset({*READS, "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

Count = Callable[[str, Code, int], object]

logger = logging.getLogger("tfsrv")


def _count_nothing(model: str, code: Code, nanoseconds: int) -> None:
    pass


class RestApi:
    """The HttpHandler of all routes. Never raises. For one loop."""

    def __init__(
        self,
        models: RestModels,
        management: RestManagement,
        health: Health,
        *,
        pages: Mapping[str, HttpHandler] | None = None,
        count: Count = _count_nothing,
    ) -> None:
        """`pages` are further handlers by path, for GET and HEAD; they go first, so that metrics
        may have any path. `count` is told of each request below /v1/: the model of its path, ""
        if none can be told, how it ended, and how long it took in nanoseconds. It may be a
        name that no model has."""
        self._models = models
        self._management = management
        self._pages: dict[str, HttpHandler] = {
            "/healthz": healthz,
            "/readyz": Readyz(health),
            **(pages or {}),
        }
        self._count = count
        self._log = DampedLog(logger)

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer one request."""
        page = self._pages.get(request.path)
        if page is None and is_below_root(request.path):
            return await self._api(request)
        try:
            if page is None:
                raise ServingError(Code.NOT_FOUND, f"Not found: {request.path}")
            if request.method not in READS:
                raise method_not_allowed(request.method, request.path, ", ".join(READS))
            return await page(request)
        except Exception as error:
            return self._failed(request, error)

    async def _api(self, request: HttpRequest) -> HttpResponse:
        """Answer a request below /v1/."""
        model, code, begun_ns = "", Code.OK, time.monotonic_ns()
        try:
            self._check_method(request)
            path = parse(request.method, request.path, request.query)
            model = path.name
            return await self._answer(path, request)
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        except Exception as error:
            code = error.code if isinstance(error, ServingError) else Code.INTERNAL
            return self._failed(request, error)
        finally:
            self._count(model, code, time.monotonic_ns() - begun_ns)

    def _check_method(self, request: HttpRequest) -> None:
        """Raise HttpError for methods that TensorFlow Serving's HTTP server does not know."""
        if request.method not in KNOWN:
            allowed = methods_of(request.path, self._management.is_on)
            if allowed:
                raise method_not_allowed(request.method, request.path, ", ".join(allowed))

    async def _answer(self, path: ModelPath, request: HttpRequest) -> HttpResponse:
        pretty = query_flag(request.query, "pretty")
        match path.verb:
            case Verb.STATUS:
                return self._models.status(path, pretty=pretty)
            case Verb.METADATA:
                return await self._models.metadata(path, pretty=pretty)
            case Verb.LIST:
                return await self._models.list_all(pretty=pretty)
            case Verb.SET:
                return await self._management.set(path.name, request, pretty=pretty)
            case Verb.REMOVE:
                return await self._management.remove(path.name, request, pretty=pretty)
        # The server has routes of its own for what runs models: something is wrong with this one.
        query_text(request.query, "signature_name")
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"{request.path}: examples and results are JSON or protobuf; arrays are for :predict",
        )

    def _failed(self, request: HttpRequest, error: Exception) -> HttpResponse:
        """The answer to a request that has failed."""
        if not isinstance(error, ServingError):
            kind = type(error).__name__
            # Only the kind: other texts would be other problems, as many as there are requests.
            self._log.problem(kind, f"A REST request failed with {kind}", error)
            error = ServingError(Code.INTERNAL, f"{kind}: {error}")
        return answer_error(error, pretty=query_flag(request.query, "pretty"))
