"""/healthz and /readyz, for whoever restarts servers and sends them requests.

    GET /healthz               200 as long as the process answers
    GET /readyz                200 when requests can be answered, else 503 that says why not
    GET /readyz?model=NAME     200 when a version of the model is available, else 503; 404 for a
                               model that is neither configured nor there

What is ready, and when, is told in handlers/health.py: gRPC's health service says the same.
"""

from __future__ import annotations

from itertools import islice

from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import HttpRequest, HttpResponse, json_response
from tfsrv.frontends.rest_paths import query_flag, query_text
from tfsrv.handlers.health import Health, HealthStatus

MAX_NAMES = 100  # of models that are not ready; how many there are is told anyway

_OK = HttpResponse(body=b"ok\n", content_type="text/plain; charset=utf-8")
_NOT_READY = 503


async def healthz(request: HttpRequest) -> HttpResponse:
    """Answer that there is somebody who answers."""
    return _OK


class Readyz:
    """The handler of /readyz. It looks at what the health service has anyway: a few µs."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer one request. Raises ServingError."""
        name = query_text(request.query, "model")
        if name is not None:
            return self._of_model(name, request)
        unavailable = self._health.unavailable_models()
        if self._health.is_serving and not unavailable:
            return _OK
        return json_response(
            {
                "error": self._health.why_not_serving() or "Some models are not available.",
                "models_not_ready": sorted(islice(unavailable, MAX_NAMES)),
                "num_models_not_ready": len(unavailable),
            },
            status=_NOT_READY,
            pretty=query_flag(request.query, "pretty"),
        )

    def _of_model(self, name: str, request: HttpRequest) -> HttpResponse:
        status = self._health.model_status(name)
        if status is HealthStatus.SERVING:
            return _OK
        if status is HealthStatus.SERVICE_UNKNOWN:
            raise ServingError(Code.NOT_FOUND, f"Model {name} is not configured")
        return json_response(
            {
                "error": self._health.why_not_serving() or f"Model {name} is not available.",
                "models_not_ready": [name],
                "num_models_not_ready": 1,
            },
            status=_NOT_READY,
            pretty=query_flag(request.query, "pretty"),
        )
