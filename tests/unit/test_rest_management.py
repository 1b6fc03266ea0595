"""PUT and DELETE of a model over REST: what they change, and whom they refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rest import LONG, Rest, error_of, run
from tests.unit.test_server_core import Site
from tests.unit.waiting import eventually
from tfsrv.config import AllVersions
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import HttpRequest, HttpResponse
from tfsrv.frontends.rest_errors import HttpError
from tfsrv.frontends.rest_management import MAX_BODY_BYTES, check_body, check_sender, config_of
from tfsrv.model_listing import SetBy

JSON = {"content-type": "application/json", "host": "localhost:8501"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    threads_before = set(threading.enumerate())
    site = Site(tmp_path)
    site.serve()
    yield site
    site.adapter.gate.set()
    assert site.core is not None
    assert site.core.stop(LONG)
    eventually(lambda: not set(threading.enumerate()) - threads_before)


def send(
    site: Site,
    method: str,
    target: str,
    body: bytes | Mapping[str, object] = b"",
    *,
    headers: Mapping[str, str] = JSON,
    is_local: bool = True,
    **options: Any,
) -> HttpResponse:
    assert site.core is not None
    core = site.core

    async def ask() -> HttpResponse:
        return await Rest(core, site.serving_map, **options).ask(
            method,
            target,
            headers=headers,
            is_local=is_local,
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        )

    return run(ask)


def put(site: Site, name: str, body: bytes | Mapping[str, object], **more: Any) -> HttpResponse:
    return send(site, "PUT", f"/v1/models/{name}", body, **more)


def base_path(site: Site, name: str) -> str:
    return str(site.folder / name)


# --- what they do


def test_a_model_is_added_and_told_as_in_the_list(site: Site) -> None:
    site.add("m", 1)
    response = put(site, "m", {"base_path": base_path(site, "m")})
    assert response.status == 200
    told = json.loads(response.body)
    assert told["name"] == "m"
    assert told["platform"] == "tensorflow"
    assert [version["state"] for version in told["model_version_status"]] == ["AVAILABLE"]
    assert site.latest("m") == 1
    assert site.core is not None
    (listing,) = site.core.list_models()
    assert listing.set_by is SetBy.CALL
    listed = send(site, "GET", "/v1/models?pretty")
    assert json.loads(listed.body) == {"models": [told]}


def test_a_model_is_changed_by_the_whole_of_its_configuration(site: Site) -> None:
    site.add("m", 1)
    site.add("m", 2)
    assert put(site, "m", {"base_path": base_path(site, "m")}).status == 200
    config = {
        "name": "m",
        "basePath": base_path(site, "m"),
        "modelPlatform": "tensorflow",
        "model_version_policy": {"all": {}},
        "version_labels": {"old": "1", "new": 2},
    }
    response = put(
        site, "m", config, headers={**JSON, "content-type": "Application/JSON; charset=utf-8"}
    )
    assert response.status == 200
    assert json.loads(response.body)["version_labels"] == {"old": "1", "new": "2"}
    assert site.core is not None
    (model,) = site.core.models()
    assert model.version_policy == AllVersions()


def test_a_name_may_need_encoding(site: Site) -> None:
    site.add("half plus two é", 1)
    config = {"base_path": base_path(site, "half plus two é")}
    assert put(site, "half%20plus%20two%20%C3%A9", config).status == 200
    assert site.latest("half plus two é") == 1


def test_a_model_is_removed(site: Site) -> None:
    site.add("m", 1)
    put(site, "m", {"base_path": base_path(site, "m")})
    response = send(site, "DELETE", "/v1/models/m", headers={})
    assert (response.status, response.body) == (200, b"{}")
    eventually(lambda: site.code("m") is Code.NOT_FOUND)
    assert error_of(send(site, "DELETE", "/v1/models/m")) == (404, "Model m is not configured")


def test_a_model_that_does_not_become_available_is_told_and_stays_configured(site: Site) -> None:
    site.add("m", 1, "fails")
    status, message = error_of(put(site, "m", {"base_path": base_path(site, "m")}))
    assert status == 404
    assert message.startswith("Model m: ")
    assert "broken model" in message
    assert site.core is not None
    assert site.core.model_names() == ("m",)


def test_who_waits_for_a_model_waits_so_long_and_no_longer(site: Site) -> None:
    site.add("m", 1, "stuck")
    config = {"base_path": base_path(site, "m")}
    status, message = error_of(put(site, "m", config, timeout_seconds=0.05))
    assert status == 504
    assert message.startswith("Model m: ")


# --- bodies


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "it is no object"),
        (b"[]", "it is no object"),
        (b"null", "it is no object"),
        (b"{", ""),
        (b"{} {}", ""),
        (b'{"base_path": "/a", "base_path": "/b"}', "duplicate key"),
        (b'{"nosuch": 1}', "nosuch"),
        (b'{"version_labels": {"a": 1e400}}', ""),
        (b'{"version_labels": {"a": "x"}}', ""),
        (b'{"base_path": "\xff"}', "utf-8"),
        (b'{"base_path": "\\ud800"}', ""),
        (b'{"name": NaN}', ""),
        (b'{"a":' * 20_000, ""),
        (b'{"logging_config": {"log_collector_config": {"type": []}}}', ""),
    ],
)
def test_a_body_that_is_no_model_is_refused(site: Site, body: bytes, reason: str) -> None:
    status, message = error_of(put(site, "m", body))
    assert status == 400
    assert message.startswith("The body is no ModelConfig in JSON: ")
    assert reason in message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda values: (
            st.lists(values)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "name",
                        "base_path",
                        "model_type",
                        "logging_config",
                        "model_version_policy",
                        "version_labels",
                        "specific",
                        "versions",
                        "latest",
                        "@type",
                        "1",
                        "é",
                    ]
                ),
                values,
            )
        ),
    )
)
def test_any_json_is_a_model_or_refused(value: object) -> None:
    with suppress(ServingError):
        assert config_of("m", json.dumps(value).encode()).name == "m"


def test_what_is_wrong_with_a_model_is_told(site: Site) -> None:
    assert error_of(put(site, "m", {"name": "other", "base_path": "/m"})) == (
        400,
        "The path is that of model m, but the body's name is other.",
    )
    wrong: list[dict[str, object]] = [
        {},
        {"base_path": "relative"},
        {"base_path": "/m", "model_platform": "nosuch"},
    ]
    for config in wrong:
        status, message = error_of(put(site, "m", config))
        assert status == 400
        assert message
    assert site.core is not None
    assert site.core.model_names() == ()


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_a_model_has_to_be_sent_as_json(site: Site, kind: str | None) -> None:
    headers = {"host": "localhost"} | ({} if kind is None else {"content-type": kind})
    status, message = error_of(put(site, "m", {"base_path": "/m"}, headers=headers))
    assert status == 415
    assert "application/json" in message


def test_a_model_of_megabytes_is_refused(site: Site) -> None:
    body = b'{"base_path": "/' + b"m" * MAX_BODY_BYTES + b'"}'
    assert error_of(put(site, "m", body)) == (
        413,
        f"The ModelConfig is larger than {MAX_BODY_BYTES} bytes.",
    )
    with pytest.raises(HttpError, match="larger than") as refused:
        check_body(HttpRequest("PUT", "/v1/models/m", headers=JSON, is_too_long=True))
    assert refused.value.status == 413


# --- who may


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_nobody_may_unless_it_is_switched_on(site: Site, method: str) -> None:
    response = send(site, method, "/v1/models/m", {"base_path": "/m"}, is_managed=False)
    assert error_of(response) == (
        403,
        "Models cannot be changed over REST: --enable_model_management is not set.",
    )


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_nobody_may_from_another_machine(site: Site, method: str) -> None:
    response = send(site, method, "/v1/models/m", {"base_path": "/m"}, is_local=False)
    assert error_of(response) == (
        403,
        "Models are only changed by requests on loopback and unix sockets.",
    )


def refusal(**headers: str) -> str:
    """Why a request from this machine with these headers is refused; "" if it is not."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        check_sender(HttpRequest("DELETE", "/v1/models/m", headers=named, is_local=True))
    except ServingError as error:
        return error.message if error.code is Code.PERMISSION_DENIED else ""
    return ""


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8501",
        "LocalHost.",
        "tfsrv.localhost:80",
        "127.0.0.1",
        "127.0.0.1:8501",
        "[::1]",
        "[::1]:8501",
        "192.0.2.7:8501",
        "",
    ],
)
def test_localhost_and_addresses_are_hosts(host: str) -> None:
    assert refusal(host=host) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8501",
        "localhost.evil.example",
        "notlocalhost",
        "127.0.0.1.evil.example",
        "[::1",
        "::1",
        "[evil]",
        "localhost:x",
        "localhost:1:2",
        "a@localhost",
        ":8501",
        "[]",
        "1",
        "0x7f.1",
    ],
)
def test_names_that_may_be_made_to_point_here_are_no_hosts(host: str) -> None:
    assert refusal(host=host) == (
        f"Models are not changed by requests to {host}: use localhost, or an IP address."
    )


def test_a_request_without_a_host_comes_from_no_browser() -> None:
    assert refusal() == ""


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example:8501",
        "http://localhost",
        "http://localhost:8502",
        "http://127.0.0.1:8501",
        "null",
        "",
        "localhost:8501",
        "file://localhost:8501",
    ],
)
def test_pages_of_other_sites_may_not(origin: str) -> None:
    assert refusal(host="localhost:8501", origin=origin) == (
        "Models are not changed by pages of other sites."
    )


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "x"])
def test_what_a_browser_sends_for_another_site_may_not(site: str) -> None:
    assert refusal(host="localhost:8501", sec_fetch_site=site) == (
        "Models are not changed by pages of other sites."
    )


@pytest.mark.parametrize("origin", ["http://localhost:8501", "https://LOCALHOST:8501"])
def test_our_own_page_may(origin: str) -> None:
    assert refusal(host="Localhost:8501", origin=origin, sec_fetch_site="same-origin") == ""
    assert refusal(host="Localhost:8501", sec_fetch_site="none") == ""


def test_a_refusal_changes_nothing(site: Site) -> None:
    site.add("m", 1)
    config = {"base_path": base_path(site, "m")}
    headers = {**JSON, "origin": "http://evil.example"}
    assert put(site, "m", config, headers=headers).status == 403
    assert put(site, "m", config, headers={**JSON, "host": "evil.example"}).status == 403
    assert site.core is not None
    assert site.core.model_names() == ()
