"""What requests by REST leave on the metrics' page, and what they do not."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.functional.conftest import serving
from tests.functional.launching import Launched, client
from tests.functional.messages import floats, predict_request
from tests.functional.rest_client import NPY, PROTOBUF, Rest, npy
from tests.functional.test_python_servables import add_table

COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"
OURS = "tfsrv_request_duration_seconds"
ONE = {"instances": [1]}


@pytest.fixture(scope="module")
def server(
    models: Path, inference_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    add_table(folder / "legs", 1, "cat\t4\n")
    paths = {
        "half": models / "half_plus_two",
        "several": models / "several_signatures",
        "fails": models / "fails_for_negative",
        "inference": inference_models / "inference",
        "legs@lookup_table": folder / "legs",
    }
    flag = f"--monitoring_config_file={folder / 'monitoring.config'}"
    with serving(paths, flag, "--rest_api_port=-1") as server:
        yield server


@pytest.fixture
def rest(server: Launched) -> Rest:
    return Rest(server)


def families(rest: Rest) -> dict[str, Any]:
    text = rest.ask("GET", "/monitoring/prometheus/metrics").body.decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def total(rest: Rest, family: str, **labels: str) -> float:
    """The sum of what was counted under such labels."""
    return sum(
        float(sample.value)
        for sample in families(rest)[family].samples
        if sample.name.endswith(("_count", "_total")) and labels.items() <= sample.labels.items()
    )


REQUESTS: dict[str, Any] = {
    "predict": ("half:predict", ONE, {}),
    "exact": ("half:predict", {"other": 1, **ONE}, {}),
    "large": ("half:predict", {"instances": [1] * 50_000}, {}),
    "npy": ("half:predict", npy(floats(1)), {"Content_Type": NPY}),
    "protobuf": (
        "half:predict",
        predict_request("nonsense", {"x": floats(1)}).SerializeToString(),
        {"Content_Type": PROTOBUF},
    ),
    "gzip": ("half:predict", gzip.compress(b'{"inputs":[1]}'), {"Content_Encoding": "gzip"}),
    "table": ("legs:predict", {"inputs": ["cat"]}, {}),
}
EXAMPLES: dict[str, Any] = {
    verb: (f"inference:{verb}", {"signature_name": verb, "examples": [{"x": 1.0}]}, {})
    for verb in ("classify", "regress")
}
METHODS = {**dict.fromkeys(REQUESTS, "predict"), **{verb: verb for verb in EXAMPLES}}


@pytest.mark.parametrize("kind", METHODS)
def test_each_request_is_counted_once(rest: Rest, kind: str) -> None:
    path, body, more = {**REQUESTS, **EXAMPLES}[kind]
    model = path.partition(":")[0]
    labels = {"model_name": model, "entrypoint": "REST", "API": METHODS[kind]}
    counts = {"model_name": model, "status": "OK"}
    ours = {"model": model, "entrypoint": "REST", "code": "OK"}
    before = total(rest, LATENCY, **labels), total(rest, COUNT, **counts), total(rest, OURS, **ours)
    for _ in range(3):
        assert rest.post(path, body, **more).status == 200
    after = total(rest, LATENCY, **labels), total(rest, COUNT, **counts), total(rest, OURS, **ours)
    assert [new - old for new, old in zip(after, before, strict=True)] == [3, 3, 3]


def test_entrypoints_are_told_apart(server: Launched, rest: Rest) -> None:
    def both() -> tuple[float, float]:
        def of(entrypoint: str) -> float:
            return total(rest, OURS, model="several", entrypoint=entrypoint)

        return of("REST"), of("GRPC")

    before = both()
    rest.predictions("several:predict", ONE)
    assert both() == (before[0] + 1, before[1])
    with client(server.address()) as ask:
        ask.predict(predict_request("several", {"x": floats(1)}))
    assert both() == (before[0] + 1, before[1] + 1)


def test_signatures_and_codes_are_told_apart(rest: Rest) -> None:
    for name in ("double", "negate"):
        labels = {"model": "several", "signature": name, "code": "OK"}
        before = total(rest, OURS, **labels)
        rest.predictions("several:predict", {"signature_name": name, **ONE})
        rest.predictions("several:predict", {**ONE, "signature_name": name})
        assert total(rest, OURS, **labels) == before + 2
    labels = {"model": "fails", "code": "INVALID_ARGUMENT", "entrypoint": "REST"}
    before = total(rest, OURS, **labels)
    rest.refusal("fails:predict", {"instances": [-1]})
    rest.refusal("fails:predict", {"instances": ["a"]})
    assert total(rest, OURS, **labels) == before + 2


def test_labels_are_only_of_what_is_known(rest: Rest) -> None:
    strange = "made_up_by_a_client"
    bodies: list[Any] = [ONE, {"other": 1, **ONE}, "{", b"", {"instances": [1] * 50_000}]
    for body in bodies:
        rest.post(f"{strange}:predict", body)
        rest.post(f"half/labels/{strange}:predict", body)
        rest.post("half/versions/987654321:predict", body)
        rest.post(f"half:predict?signature_name={strange}", body)
        rest.post(f"half:{strange}", body)
        rest.ask(strange.upper(), "/v1/models/half:predict", b"{}")
    for model in ("half", "legs"):
        rest.post(f"{model}:predict", {"signature_name": strange, "inputs": [1]})
        rest.post(f"{model}:predict", {"inputs": [1], "signature_name": strange})
        rest.post(f"{model}:classify", {"signature_name": strange, "examples": [{"x": 1}]})
    request = predict_request(strange, {"x": floats(1)}, signature=strange).SerializeToString()
    for name in ("half", strange):
        rest.post(f"{name}:predict", request, Content_Type=PROTOBUF)
    rest.post(f"half:predict?signature_name={strange}", npy(floats(1)), Content_Type=NPY)
    text = rest.ask("GET", "/metrics").body.decode()
    assert strange not in text.lower()
    assert "987654321" not in text
