"""What tests of REST routes share: a core of puppets behind a RestApi, and requests to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from tests.unit.test_health import FakeCore
from tfsrv.errors import Code
from tfsrv.frontends.http_messages import HttpHandler, HttpRequest, HttpResponse
from tfsrv.frontends.rest_api import RestApi
from tfsrv.frontends.rest_management import RestManagement
from tfsrv.frontends.rest_models import RestModels
from tfsrv.handlers.health import Health
from tfsrv.handlers.model_management import ModelManagement
from tfsrv.handlers.servables import Servables, ServingMap
from tfsrv.handlers.status import GetModelStatus
from tfsrv.server_core import ServerCore

LONG = 30.0

T = TypeVar("T")


class Rest:
    """The routes of one core. Made in a running loop."""

    def __init__(
        self,
        core: ServerCore,
        serving_map: ServingMap,
        *,
        is_managed: bool = True,
        timeout_seconds: float = LONG,
        pages: Mapping[str, HttpHandler] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.counted: list[tuple[str, Code]] = []
        status = GetModelStatus(core.monitor, core.version_labels)
        servables = Servables(serving_map, core.subscribe_decided, loop, wait_seconds=0.01)
        management = ModelManagement(core, timeout_seconds=timeout_seconds)
        self.api = RestApi(
            RestModels(core, status, servables),
            RestManagement(management if is_managed else None),
            Health(FakeCore(), loop),  # of another core: it would hear of this one for ever
            pages=pages,
            count=lambda model, code, _: self.counted.append((model, code)),
        )

    async def ask(self, method: str, target: str, **fields: Any) -> HttpResponse:
        path, _, query = target.partition("?")
        return await self.api(HttpRequest(method, path, query, **fields))

    async def get(self, target: str) -> tuple[int, Any]:
        """The status and the value of an answer in JSON."""
        response = await self.ask("GET", target)
        assert response.content_type == "application/json"
        return response.status, json.loads(response.body)


def error_of(response: HttpResponse) -> tuple[int, str]:
    """The status and the text of an error."""
    assert response.content_type == "application/json"
    value = json.loads(response.body)
    assert set(value) == {"error"}
    return response.status, value["error"]


def run(test: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await asyncio.wait_for(test(), LONG)

    return asyncio.run(main())
