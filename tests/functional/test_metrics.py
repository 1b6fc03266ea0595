"""Metrics of a server that was started with --monitoring_config_file, as Prometheus gets them."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.functional.conftest import Serve
from tests.functional.launching import Launched, client
from tests.functional.messages import floats, predict_request
from tests.unit.serving_metrics import TYPES
from tfsrv.flag_table import FLAGS, Status

pytestmark = pytest.mark.skipif(
    FLAGS["rest_api_port"].status is Status.NOT_YET, reason="needs the REST port"
)

PATH = "/monitoring/prometheus/metrics"
ANY_REST_PORT = "--rest_api_port=-1"
COUNT = ":tensorflow:serving:request_count"


@pytest.fixture
def server(serve: Serve, models: Path, tmp_path: Path) -> Launched:
    file = tmp_path / "monitoring.config"
    file.write_text("prometheus_config { enable: true }")
    flags = (f"--monitoring_config_file={file}", ANY_REST_PORT)
    return serve({"half": models / "half_plus_two"}, *flags)


def rest_address(server: Launched) -> str:
    return server.rest_address()


def get(server: Launched, path: str) -> Any:
    return urllib.request.urlopen(f"http://{rest_address(server)}{path}", timeout=30)


def page(server: Launched, path: str = PATH) -> dict[str, Any]:
    with get(server, path) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = response.read().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def requests(server: Launched) -> dict[tuple[str, str], float]:
    """Requests by model and status."""
    samples = page(server)[COUNT].samples
    return {(s.labels["model_name"], s.labels["status"]): s.value for s in samples}


def test_the_page_has_all_metrics_of_tensorflow_serving(server: Launched) -> None:
    shown = page(server)
    types = {name.removesuffix("_total"): kind for name, kind in TYPES.items()}
    assert types.items() <= {name: family.type for name, family in shown.items()}.items()
    assert shown["tfsrv_connections"].samples


@pytest.mark.parametrize("path", ["/metrics", f"{PATH}?name=a", "/metrics?x"])
def test_the_page_has_another_name_and_query_strings_do_not_matter(
    server: Launched, path: str
) -> None:
    assert COUNT in page(server, path)


def test_requests_through_grpc_are_shown(server: Launched) -> None:
    before = requests(server).get(("half", "OK"), 0)
    with client(server.address()) as ask:
        for _ in range(7):
            ask.predict(predict_request("half", {"x": floats(1.0)}))
    assert requests(server)["half", "OK"] == before + 7


def test_requests_by_rest_are_shown_with_their_entrypoint(server: Launched) -> None:
    body = b'{"instances": [1.0, 2.0]}'
    url = f"http://{rest_address(server)}/v1/models/half:predict"
    for _ in range(3):
        urllib.request.urlopen(urllib.request.Request(url, body), timeout=30).close()
    latency = page(server)[":tensorflow:serving:request_latency"].samples
    (count,) = [
        sample.value
        for sample in latency
        if sample.name.endswith("_count")
        and sample.labels["entrypoint"] == "REST"
        and sample.labels["API"] == "predict"
    ]
    assert count == 3


def test_nothing_is_shown_unless_it_is_enabled(serve: Serve, models: Path) -> None:
    server = serve({"half": models / "half_plus_two"}, ANY_REST_PORT)
    for path in (PATH, "/metrics"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(server, path)
        assert caught.value.code == 404
        caught.value.close()
