"""The answers that were recorded from TensorFlow Serving: see tests/conformance/README.md.

Only what this server can do yet: gRPC's Predict, GetModelStatus and HandleReloadConfigRequest
without batching.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ROOT, tensorflow_version
from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Client, Launched, client, until
from tests.functional.sites import AVAILABLE
from tfsrv._proto import message_class

CONFORMANCE = ROOT / "tests" / "conformance"
MODELS = ("half_plus_two", "dtypes", "multi", "odd")
# As the recording served them: see CONFIG in tests/conformance/check.py.
VERSIONS = {
    "half_plus_two": (
        "model_version_policy { specific { versions: 1 versions: 2 versions: 5 } }"
        " version_labels { key: 'stable' value: 2 } version_labels { key: 'canary' value: 5 }"
    )
}
METHODS = {
    "tensorflow.serving.PredictionService/Predict": "tensorflow.serving.PredictResponse",
    "tensorflow.serving.ModelService/GetModelStatus": "tensorflow.serving.GetModelStatusResponse",
    "tensorflow.serving.ModelService/HandleReloadConfigRequest": (
        "tensorflow.serving.ReloadConfigResponse"
    ),
    "tensorflow.serving.PredictionService/NoSuchMethod": "",
}

# Cases in which this server differs on purpose, with the reason.
DIFFERS: dict[str, str] = {}


def recorded() -> dict[str, dict[str, Any]]:
    """The cases by id."""
    lines = (CONFORMANCE / "cases.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    return {
        case["id"]: case
        for case in cases
        if case["server"] == "plain" and case["proto"] == "grpc" and case["method"] in METHODS
    }


CASES = recorded()


@pytest.fixture(scope="module")
def conformance_server(transport: str) -> Iterator[Launched]:
    if tensorflow_version() is None:
        pytest.skip("needs TensorFlow")
    paths = {name: CONFORMANCE / "models" / name for name in MODELS}
    with serving(paths, f"--grpc_transport={transport}", texts=VERSIONS) as server:
        with client(server.address()) as ask:
            until(lambda: ask.states("half_plus_two") == [AVAILABLE] * 3)
        yield server


@pytest.fixture
def ask(conformance_server: Launched) -> Iterator[Client]:
    with client(conformance_server.address()) as ask:
        yield ask


def answer(ask: Client, case: dict[str, Any]) -> dict[str, str]:
    """Our answer, in the recording's form."""
    call = ask.channel.unary_unary("/" + case["method"])
    future = call.future(base64.b64decode(case["request"]), timeout=SECONDS)
    error = future.exception()
    if error is not None:
        return {"code": error.code().name, "details": error.details()}
    return {"code": "OK", "response": base64.b64encode(future.result()).decode()}


def comparable(case: dict[str, Any], said: dict[str, str]) -> dict[str, str]:
    """Responses in text format, which sorts maps; no addresses of memory."""
    if said["code"] != "OK":
        return {**said, "details": re.sub("0x[0-9a-f]+", "", said["details"])}
    response_class = message_class(METHODS[case["method"]])
    return {
        "code": "OK",
        "response": str(response_class.FromString(base64.b64decode(said["response"]))),
    }


@pytest.mark.parametrize("id", sorted(CASES.keys() - DIFFERS.keys()))
def test_answers_as_tensorflow_serving_did(ask: Client, id: str) -> None:
    case = CASES[id]
    assert comparable(case, answer(ask, case)) == comparable(case, case["answer"])


def test_no_case_is_left_out_without_need(ask: Client) -> None:
    assert len(CASES) == 102
    for id, reason in DIFFERS.items():
        case = CASES[id]
        agrees = comparable(case, answer(ask, case)) == comparable(case, case["answer"])
        assert not agrees, f"{id} ({reason}) is the same by now: take it off the list"
