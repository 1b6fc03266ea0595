"""REST's routes of a whole server: everything but the answers that tests/conformance has."""

from __future__ import annotations

import gzip
import http.client
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.functional.launching import SECONDS, Launched, until
from tests.functional.rest_servers import (
    MODELS,
    half_plus_two,
    model_config,
    rest_serving,
    wait_for,
)
from tfsrv._proto import message_class

JSON_HEADERS = {"Content_Type": "application/json"}
ROWS = b'{"instances": [[1.0]]}'
PREDICT = "/v1/models/half_plus_two:predict"


@dataclass
class Answer:
    """What a server said."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Of an error, which is JSON and nothing else."""
        assert self.headers["Content-Type"] == "application/json"
        ((key, text),) = self.json.items()
        assert key == "error"
        return self.status, str(text)


class Asking:
    """Asks a server over one connection that is kept."""

    def __init__(self, address: str) -> None:
        self._client = http.client.HTTPConnection(address, timeout=SECONDS)

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """`headers` with "_" for "-"."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._client.request(method, path, body, named)
        response = self._client.getresponse()
        return Answer(response.status, response.headers, response.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self("GET", path, None, **headers)

    def close(self) -> None:
        self._client.close()


@contextmanager
def asking(server: Launched) -> Iterator[Asking]:
    ask = Asking(server.rest_address())
    try:
        yield ask
    finally:
        ask.close()


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base path of a model that can't be loaded."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "1").mkdir()
    (folder / "1" / "saved_model.pb").write_bytes(b"no SavedModel")
    return str(folder)


@pytest.fixture(scope="module")
def ask(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """A server of half_plus_two and several_signatures; models may be changed, metrics are on."""
    file = tmp_path_factory.mktemp("monitoring") / "monitoring.config"
    file.write_text("prometheus_config { enable: true }")
    flags = ("--enable_model_management", f"--monitoring_config_file={file}")
    config = half_plus_two() + model_config("several", models / "several_signatures")
    with (
        rest_serving(*flags, config=config, errors_are_meant=True) as server,
        asking(server) as ask,
    ):
        for version in ("half_plus_two/versions/1", "half_plus_two/versions/2", "several"):
            wait_for(server.rest_address(), f"/v1/models/{version}/metadata")
        yield ask


# ---- what runs models ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '{"signature_name": "negate", "instances": [1.5]}',
        '{"instances": [1.5], "signature_name": "negate"}',
        '{"instances": [{"x": 1.5}], "signature_name": "negate"}',
        '{"instances": [1.5], "more": {}, "\\u0073ignature_name": "negate"}',
        '{"instances": [1.5], "signature_name": "negate", "signature_name": "double"}',
    ],
)
def test_the_signature_may_be_named_anywhere_in_the_body(ask: Asking, body: str) -> None:
    answer = ask("POST", "/v1/models/several:predict", body.encode())
    assert (answer.status, answer.json) == (200, {"predictions": [-1.5]})


def test_a_signature_named_behind_the_values_has_its_own_inputs(ask: Asking) -> None:
    body = b'{"inputs": [[1, 2], [3, 4]], "signature_name": "rows"}'
    answer = ask("POST", "/v1/models/several:predict", body)
    assert answer.json == {"outputs": {"sum": [3.0, 7.0], "first": [1.0, 3.0]}}
    body = b'{"inputs": [1], "signature_name": "none"}'
    assert ask("POST", "/v1/models/several:predict", body).error == (
        400,
        'Serving signature name: "none" not found in signature def',
    )


def test_a_body_that_is_no_json_is_told_before_a_signature_that_there_is_not(ask: Asking) -> None:
    body = b'{"signature_name": "none", "inputs": [1'
    status, text = ask("POST", "/v1/models/several:predict", body).error
    assert status == 400
    assert text.startswith("JSON Parse error")


def test_query_strings_break_no_path(ask: Asking) -> None:
    assert ask("POST", f"{PREDICT}?x=1", ROWS).json == {"predictions": [[2.5]]}
    assert ask.get("/v1/models/half_plus_two?x=1").status == 200
    pretty = ask("POST", f"{PREDICT}?pretty", ROWS)
    assert pretty.body.startswith(b'{\n    "predictions"')
    spec = ask("POST", f"{PREDICT}?model_spec", ROWS).json["model_spec"]
    assert spec == {"name": "half_plus_two", "version": "2", "signature_name": "serving_default"}
    assert "model_spec" not in ask("POST", f"{PREDICT}?model_spec=0", ROWS).json


def test_bodies_may_be_gzip_and_answers_are_when_they_are_long(ask: Asking) -> None:
    rows = json.dumps({"instances": [[1.0]] * 1000}).encode()
    answer = ask(
        "POST", PREDICT, gzip.compress(rows), Content_Encoding="gzip", Accept_Encoding="gzip"
    )
    assert answer.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer.body)) == {"predictions": [[2.5]] * 1000}


def test_arrays_and_protobuf_are_answered_in_kind(ask: Asking) -> None:
    file = io.BytesIO()
    numpy.save(file, numpy.array([[1.0]], numpy.float32))
    answer = ask("POST", PREDICT, file.getvalue(), Content_Type="application/x-npy")
    assert answer.headers["Content-Type"] == "application/x-npy"
    assert numpy.load(io.BytesIO(answer.body)).tolist() == [[2.5]]
    answer = ask("POST", PREDICT, ROWS, Accept="application/x-protobuf")
    response: Any = message_class("tensorflow.serving.PredictResponse").FromString(answer.body)
    assert list(response.outputs["y"].float_val) == [2.5]


def test_arrays_are_for_predict_only(ask: Asking) -> None:
    path = "/v1/models/half_plus_two:classify"
    status, text = ask("POST", path, b"", Content_Type="application/x-npy").error
    assert status == 400
    assert "arrays are for :predict" in text


# ---- health -------------------------------------------------------------------------------------


def test_tells_that_it_lives_and_is_ready(ask: Asking) -> None:
    until(lambda: ask.get("/readyz").status == 200)
    for path in ("/healthz", "/readyz", "/readyz?model=half_plus_two"):
        answer = ask.get(path)
        assert (answer.status, answer.body) == (200, b"ok\n")
    assert ask.get("/readyz?model=none").error == (404, "Model none is not configured")


# ---- methods ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/healthz", "/readyz", "/openapi.json", "/tfsrv/overview"),
        *("/v1/models", "/v1/models/half_plus_two", "/v1/models/half_plus_two/metadata"),
        *("/nothing", "/v1/nothing", "/v1/models/none"),
    ],
)
def test_head_is_get_without_its_body(ask: Asking, path: str) -> None:
    get, head = ask.get(path), ask("HEAD", path)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    if path != "/tfsrv/overview":  # which tells the time
        assert head.headers["Content-Length"] == str(len(get.body))


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/models/m", "GET, HEAD, PUT, DELETE"),
        ("/v1/models/m/metadata", "GET, HEAD"),
        (PREDICT, "POST"),
    ],
)
def test_says_which_methods_a_path_takes(ask: Asking, path: str, allowed: str) -> None:
    answer = ask("TRACE", path)
    assert answer.error == (405, f"Method not allowed: TRACE {path}. It takes {allowed}.")
    assert answer.headers["Allow"] == allowed
    preflight = ask("OPTIONS", path, Origin="http://page")
    assert (preflight.status, preflight.body) == (200, b"")
    assert preflight.headers["Allow"] == f"{allowed}, OPTIONS"


def test_options_without_an_origin_is_no_preflight(ask: Asking) -> None:
    answer = ask("OPTIONS", PREDICT)
    assert answer.error == (400, "Origin header is missing in CORS preflight")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_known_methods_below_the_root_are_malformed_as_in_tensorflow_serving(
    ask: Asking, method: str
) -> None:
    assert ask(method, PREDICT).error == (400, f"Malformed request: {method} {PREDICT}")


def test_pages_are_only_read(ask: Asking) -> None:
    for path in ("/", "/healthz", "/openapi.json"):
        answer = ask("POST", path, b"{}")
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"


def test_other_sites_may_not_read_answers_unless_a_flag_says_so(ask: Asking) -> None:
    for answer in (
        ask("POST", PREDICT, ROWS, Origin="http://page"),
        ask("OPTIONS", PREDICT, Origin="http://page"),
    ):
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] is None


# ---- models -------------------------------------------------------------------------------------


def test_lists_the_models(ask: Asking) -> None:
    models = {model["name"]: model for model in ask.get("/v1/models").json["models"]}
    assert models["half_plus_two"]["version_labels"] == {"stable": "1"}
    states = models["half_plus_two"]["model_version_status"]
    assert [(state["version"], state["state"]) for state in states] == [
        ("2", "AVAILABLE"),
        ("1", "AVAILABLE"),
    ]


def test_labels_name_versions(ask: Asking) -> None:
    path = "/v1/models/half_plus_two/labels/stable"
    (status,) = ask.get(path).json["model_version_status"]
    assert status["version"] == "1"
    assert ask.get(f"{path}/metadata").json["model_spec"]["version"] == "1"
    spec = ask("POST", f"{path}:predict?model_spec", ROWS).json["model_spec"]
    assert spec["version"] == "1"
    assert ask.get("/v1/models/half_plus_two/labels/none").status == 400


def test_adds_and_removes_a_model(ask: Asking) -> None:
    config = json.dumps({"base_path": str(MODELS / "half_plus_two")}).encode()
    added = ask("PUT", "/v1/models/a%2Fnew", config, **JSON_HEADERS)
    assert (added.status, added.json["name"]) == (200, "a/new")
    assert ask("POST", "/v1/models/a%2Fnew:predict", ROWS).json == {"predictions": [[3.5]]}
    assert ask("DELETE", "/v1/models/a%2Fnew").status == 200
    until(lambda: ask("POST", "/v1/models/a%2Fnew:predict", ROWS).status == 404)
    assert ask("DELETE", "/v1/models/a%2Fnew").status == 404


def test_says_why_an_added_model_is_not_there(ask: Asking, broken: str) -> None:
    config = json.dumps({"base_path": broken}).encode()
    assert ask("PUT", "/v1/models/broken", config, **JSON_HEADERS).status >= 400
    answer = ask.get("/readyz?model=broken")
    assert (answer.status, answer.json["models_not_ready"]) == (503, ["broken"])
    (status,) = ask.get("/v1/models/broken").json["model_version_status"]
    assert status["status"]["error_code"] != "OK"
    assert ask("DELETE", "/v1/models/broken").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://page"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Host": "page:8501"},
    ],
)
def test_pages_of_other_sites_change_no_models(ask: Asking, headers: dict[str, str]) -> None:
    config = json.dumps({"base_path": str(MODELS / "half_plus_two")}).encode()
    assert ask("PUT", "/v1/models/x", config, **JSON_HEADERS, **headers).error[0] == 403
    assert ask("DELETE", "/v1/models/half_plus_two", None, **headers).error[0] == 403
    assert ask.get("/v1/models/x").status == 404
    assert ask.get("/v1/models/half_plus_two").status == 200


def test_a_model_is_set_with_json_that_says_so(ask: Asking) -> None:
    for headers in ({}, {"Content_Type": "text/plain"}):
        assert ask("PUT", "/v1/models/x", b"{}", **headers).error[0] == 415


def test_models_are_not_changed_unless_a_flag_says_so() -> None:
    with rest_serving("--rest_api_enable_cors_support") as server, asking(server) as ask:
        status, text = ask("PUT", "/v1/models/x", b"{}", **JSON_HEADERS).error
        assert status == 403
        assert "--enable_model_management" in text
        preflight = ask("OPTIONS", "/v1/models/x", Origin="http://page")
        assert preflight.headers["Allow"] == "GET, HEAD, OPTIONS"
        for answer in (preflight, ask.get("/healthz"), ask.get("/nothing")):
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert answer.headers["Access-Control-Allow-Methods"] == "POST, GET"
        assert ask.get("/metrics").status == 404  # no monitoring_config_file


# ---- metrics, and the description of all this ---------------------------------------------------


def test_metrics_have_an_alias(ask: Asking) -> None:
    ask("POST", PREDICT, ROWS)
    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        answer = ask.get(path)
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert b":tensorflow:serving:request_count{" in answer.body
        assert b'entrypoint="REST"' in answer.body


def test_what_is_not_there_is_told_in_json(ask: Asking) -> None:
    assert ask.get("/nothing?a=1").error == (404, "Not found: /nothing")
    assert ask.get("/v1/nothing?a=1").error == (400, "Malformed request: GET /v1/nothing?a=1")
    assert ask.get("/v1/models/none").error[0] == 404


def test_requests_over_rest_are_counted_for_the_page(ask: Asking) -> None:
    ask("POST", PREDICT, ROWS)
    ask.get("/v1/models/half_plus_two")  # who only looks runs nothing
    traffic = ask.get("/tfsrv/overview?model=half_plus_two").json["traffic"]
    assert {entry["entrypoint"] for entry in traffic} == {"REST"}
    assert {entry["method"] for entry in traffic} == {"Predict"}
