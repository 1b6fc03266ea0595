"""Which route answers, and how errors are told."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from tests.unit.rest import Rest, error_of, run
from tfsrv._serving_map import ServingMap
from tfsrv.config import ServerOptions
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import HttpHandler, HttpRequest, HttpResponse
from tfsrv.server_core import ServerCore


def rest(**pages: HttpHandler) -> Rest:
    """The routes of a server without models."""
    serving_map = ServingMap()
    core = ServerCore(ServerOptions(model_config_file="models.config"), serving_map, {})
    return Rest(core, serving_map, pages={f"/{path}": page for path, page in pages.items()})


def ask(method: str, target: str, **pages: HttpHandler) -> HttpResponse:
    async def answer() -> HttpResponse:
        return await rest(**pages).ask(method, target)

    return run(answer)


async def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(body=request.query.encode(), content_type="text/html")


@pytest.mark.parametrize("target", ["/healthz", "/healthz?x=%zz", "/readyz?"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_answered(method: str, target: str) -> None:
    response = ask(method, target)
    assert response.status == (200 if "healthz" in target else 503)


@pytest.mark.parametrize("path", ["/", "/x", "/v1", "/v2/models", "/healthz/", "/Healthz", "*", ""])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_paths_are_not_found(method: str, path: str) -> None:
    assert error_of(ask(method, path)) == (404, f"Not found: {path}")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/page"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get"])
def test_a_method_that_a_path_does_not_take_is_told_with_those_that_it_takes(
    method: str, path: str
) -> None:
    response = ask(method, path, page=page)
    assert error_of(response) == (
        405,
        f"Method not allowed: {method} {path}. It takes GET, HEAD.",
    )
    assert response.headers == (("Allow", "GET, HEAD"),)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/models/m:predict"),
        ("GET", "/v1/x?y=z"),
        ("POST", "/v1/models/m"),
        ("PATCH", "/v1/models/m"),
        ("PUT", "/v1/models/m:predict"),
        ("HEAD", "/v1/"),
    ],
)
def test_whatever_is_below_the_root_is_malformed_if_it_is_unknown(method: str, target: str) -> None:
    assert error_of(ask(method, target)) == (400, f"Malformed request: {method} {target}")


def test_what_runs_models_is_for_others() -> None:
    assert error_of(ask("POST", "/v1/models/m:predict")) == (
        400,
        "/v1/models/m:predict: examples and results are JSON or protobuf; arrays are for :predict",
    )


def test_a_signature_of_the_query_has_to_be_encoded_well() -> None:
    assert error_of(ask("POST", "/v1/models/m:predict?signature_name=%ff")) == (
        400,
        "Failed to decode signature_name:%ff",
    )


def test_errors_may_be_pretty() -> None:
    assert ask("GET", "/v1/x?pretty").body.decode() == (
        '{\n    "error": "Malformed request: GET /v1/x?pretty"\n}'
    )


def test_a_path_that_is_no_text_is_told_in_json_all_the_same() -> None:
    assert error_of(ask("GET", '/"\udcff\x01é')) == (404, 'Not found: /"?\x01é')


# --- pages


def test_pages_come_from_outside_and_go_first() -> None:
    async def answer() -> list[HttpResponse]:
        pages = {"/": page, "/v1/metrics": page, "/readyz": page}
        serving_map = ServingMap()
        core = ServerCore(ServerOptions(model_config_file="models.config"), serving_map, {})
        api = Rest(core, serving_map, pages=pages)
        return [await api.ask("GET", f"{path}?a=1") for path in pages]

    assert run(answer) == [HttpResponse(body=b"a=1", content_type="text/html")] * 3


def test_a_page_may_raise_a_serving_error() -> None:
    async def busy(request: HttpRequest) -> HttpResponse:
        raise ServingError(Code.RESOURCE_EXHAUSTED, "later")

    assert error_of(ask("GET", "/page", page=busy)) == (429, "later")


def test_an_error_that_nobody_expected_is_logged_once_for_its_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(request: HttpRequest) -> HttpResponse:
        raise KeyError(request.query) if request.query else ValueError("as was asked for")

    async def answer() -> None:
        api = rest(page=broken)
        assert error_of(await api.ask("GET", "/page")) == (500, "ValueError: as was asked for")
        for number in range(1, 8):
            assert error_of(await api.ask("GET", f"/page?{number}")) == (
                500,
                f"KeyError: '{number}'",
            )

    with caplog.at_level(logging.ERROR, "tfsrv"):
        run(answer)
    assert [record.getMessage() for record in caplog.records] == [
        "A REST request failed with ValueError",
        "A REST request failed with KeyError",
        "A REST request failed with KeyError (seen 2 times)",
        "A REST request failed with KeyError (seen 4 times)",
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [True, True, False, False]


def test_an_error_below_the_root_is_counted_by_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer() -> list[tuple[str, Code]]:
        api = rest()

        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("as was asked for")

        monkeypatch.setattr("tfsrv.frontends.rest_models.RestModels.status", fail)
        assert error_of(await api.ask("GET", "/v1/models/m")) == (
            500,
            "RuntimeError: as was asked for",
        )
        await api.ask("GET", "/v1/models/%ff")
        return api.counted

    assert run(answer) == [("m", Code.INTERNAL), ("", Code.INVALID_ARGUMENT)]


def test_a_client_that_hangs_up_ends_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer() -> list[tuple[str, Code]]:
        api = rest()

        async def forever(*_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr("tfsrv.frontends.rest_models.RestModels.metadata", forever)
        asking = asyncio.ensure_future(api.ask("GET", "/v1/models/m/metadata"))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        return api.counted

    assert run(answer) == [("m", Code.CANCELLED)]


def test_every_error_is_one_json_object() -> None:
    for target in ("/x", "/v1/x", "/v1/models/m", "/v1/models/m/metadata", "/readyz?model=x"):
        response = ask("GET", target)
        assert response.status >= 400
        assert list(json.loads(response.body)) == ["error"]
