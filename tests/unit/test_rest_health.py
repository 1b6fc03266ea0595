"""/healthz and /readyz."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.rest import run
from tests.unit.test_health import AVAILABLE, END, FakeCore, made
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import HttpRequest, HttpResponse
from tfsrv.frontends.rest_health import MAX_NAMES, Readyz, healthz
from tfsrv.handlers.health import Health


async def readyz(health: Health, query: str = "") -> HttpResponse:
    return await Readyz(health)(HttpRequest("GET", "/readyz", query))


async def refusal(health: Health, query: str = "") -> tuple[int, Any]:
    response = await readyz(health, query)
    assert response.content_type == "application/json"
    return response.status, json.loads(response.body)


def not_ready(error: str, *models: str) -> tuple[int, Any]:
    return 503, {
        "error": error,
        "models_not_ready": list(models),
        "num_models_not_ready": len(models),
    }


def is_ok(response: HttpResponse) -> bool:
    assert response.content_type == "text/plain; charset=utf-8"
    return (response.status, response.body) == (200, b"ok\n")


def test_is_alive_whatever_the_models_do() -> None:
    assert is_ok(asyncio.run(healthz(HttpRequest("GET", "/healthz"))))


def test_is_ready_once_every_model_is_available() -> None:
    async def test() -> None:
        core = FakeCore("a", "b", "c")
        health = made(core, is_open=False)
        assert await refusal(health) == not_ready("TensorFlow is being opened.", "a", "b", "c")
        health.opened()
        on_their_way = "The first versions of models are on their way."
        assert await refusal(health) == not_ready(on_their_way, "a", "b", "c")
        await core.set("a", 1, AVAILABLE)
        assert await refusal(health) == not_ready(on_their_way, "b", "c")
        await core.decide("b")
        await core.decide("c")
        assert await refusal(health) == not_ready("Some models are not available.", "b", "c")
        await core.set("b", 1, AVAILABLE)
        await core.set("c", 1, AVAILABLE)
        assert is_ok(await readyz(health))
        for name in ("a", "b", "c"):
            await core.set(name, 1, END)
        assert await refusal(health) == not_ready("No model is available.", "a", "b", "c")

    run(test)


def test_a_server_without_models_is_ready() -> None:
    async def test() -> None:
        assert is_ok(await readyz(made(FakeCore())))

    run(test)


def test_a_server_that_drains_is_not_ready() -> None:
    async def test() -> None:
        core = FakeCore("a")
        health = made(core)
        await core.set("a", 1, AVAILABLE)
        health.drain()
        assert await refusal(health) == not_ready("The server is shutting down.")
        assert await refusal(health, "model=a") == not_ready("The server is shutting down.", "a")

    run(test)


def test_one_model_is_ready_when_it_is_available() -> None:
    async def test() -> None:
        core = FakeCore("a", "half plus/two")
        health = made(core)
        query = "x=1&model=half+plus%2Ftwo"
        on_their_way = "The first versions of models are on their way."
        assert await refusal(health, query) == not_ready(on_their_way, "half plus/two")
        await core.set("half plus/two", 1, AVAILABLE)
        assert is_ok(await readyz(health, query))  # the other one holds up nobody
        await core.decide("a")
        assert await refusal(health, "model=a") == not_ready("Model a is not available.", "a")

    run(test)


@pytest.mark.parametrize("name", ["b", "", "A"])
def test_a_model_that_nobody_knows_is_not_found(name: str) -> None:
    async def test() -> ServingError:
        with pytest.raises(ServingError) as caught:
            await readyz(made(FakeCore("a")), f"model={name}")
        return caught.value

    error = run(test)
    assert (error.code, error.message) == (Code.NOT_FOUND, f"Model {name} is not configured")


def test_of_thousands_of_models_some_are_named() -> None:
    async def test() -> Any:
        return await refusal(made(FakeCore(*(f"m{i}" for i in range(10_000)))))

    status, told = run(test)
    assert status == 503
    assert told["num_models_not_ready"] == 10_000
    assert len(told["models_not_ready"]) == MAX_NAMES


def test_an_answer_may_be_pretty() -> None:
    async def test() -> HttpResponse:
        return await readyz(made(FakeCore("a")), "pretty")

    assert run(test).body.startswith(b'{\n    "error": ')
