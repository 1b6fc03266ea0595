"""What TensorFlow Serving's page on its REST API shows, by curl, with models of ours.

https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import serving
from tests.functional.launching import client, until
from tests.functional.rest_client import Rest
from tests.functional.sites import AVAILABLE
from tests.inference import classifications, values

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")

VERSIONS = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"


@pytest.fixture(scope="module")
def rest(models: Path, inference_models: Path) -> Iterator[Rest]:
    names = ("half_plus_two", "string_identity", "sum_and_product", "keras_dense", "identity")
    paths = {name: models / name for name in names}
    paths["inference"] = inference_models / "inference"
    texts = {"half_plus_two": VERSIONS, "inference": VERSIONS}
    with serving(paths, "--rest_api_port=-1", texts=texts) as server:
        with client(server.address()) as ask:
            until(lambda: ask.states("half_plus_two") == [AVAILABLE] * 3)
            until(lambda: ask.states("inference") == [AVAILABLE] * 2)
        yield Rest(server)


def posted(rest: Rest, path: str, body: str, *arguments: str) -> Any:
    return json.loads(rest.curl("-d", body, *arguments, "-X", "POST", rest.url(path)))


def got(rest: Rest, path: str) -> Any:
    return json.loads(rest.curl(rest.url(path)))


def test_predict_in_rows(rest: Rest) -> None:
    for path in ("half_plus_two/versions/1", "half_plus_two/labels/stable"):
        answer = posted(rest, f"{path}:predict", '{"instances": [1.0, 2.0, 5.0]}')
        assert answer == {"predictions": [2.5, 3.0, 4.5]}
    answer = posted(rest, "half_plus_two:predict", '{"instances": [1.0, 2.0, 5.0]}')
    assert answer == {"predictions": [4.5, 5.0, 6.5]}


def test_predict_in_rows_of_lists(rest: Rest) -> None:
    body = '{"signature_name": "serving_default", "instances": [[1, 2, 3], [4.5, 5, 6]]}'
    assert posted(rest, "keras_dense:predict", body) == {"predictions": [[6.0, 12.0], [15.5, 31.0]]}


def test_predict_in_rows_of_named_inputs(rest: Rest) -> None:
    body = '{"instances": [{"a": 1.5, "b": 2}, {"a": 3, "b": -4}]}'
    assert posted(rest, "sum_and_product:predict", body) == {
        "predictions": [{"sum": 3.5, "product": 3.0}, {"sum": -1.0, "product": -12.0}]
    }


def test_predict_in_columns(rest: Rest) -> None:
    body = '{"inputs": {"a": [1.5, 3], "b": [2, -4]}}'
    assert posted(rest, "sum_and_product:predict", body) == {
        "outputs": {"sum": [3.5, -1.0], "product": [3.0, -12.0]}
    }
    assert posted(rest, "half_plus_two/versions/1:predict", '{"inputs": [1, 2, 5]}') == {
        "outputs": [2.5, 3.0, 4.5]
    }


def test_binary_values_in_base64(rest: Rest) -> None:
    picture = base64.b64encode("aw3s°me ímãge".encode()).decode()
    body = json.dumps({"instances": [{"b64": picture}, {"b64": ""}, "plain"]})
    assert posted(rest, "string_identity:predict", body) == {
        "predictions": ["aw3s°me ímãge", "", "plain"]
    }
    rows = [{"x": {"b64": picture}}, {"x": "plain"}]
    answer = posted(rest, "string_identity:predict", json.dumps({"instances": rows}))
    assert answer == {"predictions": ["aw3s°me ímãge", "plain"]}


def test_the_spelling_of_floats(rest: Rest) -> None:
    body = '{"signature_name": "float", "inputs": [NaN, Infinity, -Infinity, 0.1, 1e10, 3, -0.0]}'
    said = rest.curl("-d", body, rest.url("identity:predict"))
    assert said == '{"outputs":[NaN,Infinity,-Infinity,0.1,1e+10,3.0,-0.0]}'


def test_classify(rest: Rest) -> None:
    body = """{
      "signature_name": "classify",
      "context": {"c": [3.0]},
      "examples": [{"x": 1.0}, {"x": [2.0]}]
    }"""
    answer = posted(rest, "inference/versions/1:classify", body)
    rows = [{"x": 1.0, "c": 3.0}, {"x": 2.0, "c": 3.0}]
    expected = [[list(pair) for pair in row] for row in classifications("classify", rows)]
    assert answer == {"results": expected}


def test_regress(rest: Rest) -> None:
    body = '{"signature_name": "regress", "examples": [{"x": 1.0, "c": 0.5}, {"x": 2.5}]}'
    rows = [{"x": 1.0, "c": 0.5}, {"x": 2.5}]
    answer = posted(rest, "inference/labels/stable:regress", body)
    assert answer == {"results": values("regress", rows)}


def test_status(rest: Rest) -> None:
    answer = got(rest, "half_plus_two/versions/2")
    assert answer == {
        "model_version_status": [
            {
                "version": "2",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    all_of_them = got(rest, "half_plus_two")["model_version_status"]
    assert [each["version"] for each in all_of_them] == ["3", "2", "1"]


def test_metadata(rest: Rest) -> None:
    answer = got(rest, "half_plus_two/versions/1/metadata")
    assert answer["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signature["inputs"]["x"]["tensor_shape"] == shape


def test_errors(rest: Rest) -> None:
    assert posted(rest, "nope:predict", '{"instances": [1]}') == {
        "error": "Servable not found for request: Latest(nope)"
    }
    assert posted(rest, "half_plus_two:predict", '{"instances": ["a"]}') == {
        "error": "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT:"
        ' JSON Value: "a" Type: String is not of expected type: float'
    }
    status = rest.curl("-o", "/dev/null", "-w", "%{http_code}", "-d", "{", rest.url("nope:predict"))
    assert status == "400"
