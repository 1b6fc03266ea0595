"""The answers that were recorded from TensorFlow Serving: see tests/conformance/README.md.

Only what this server can do yet: gRPC's Predict, GetModelMetadata, GetModelStatus and
HandleReloadConfigRequest.

The cases of both servers of the recording, "plain" and "batching"; and once more Predict's plain
ones with batching on, which must not change an answer.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.protobuf import text_format

from tests.conftest import ROOT, tensorflow_version
from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Client, client, until
from tests.functional.sites import AVAILABLE
from tfsrv._proto import message_class, pool

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
    "tensorflow.serving.PredictionService/GetModelMetadata": (
        "tensorflow.serving.GetModelMetadataResponse"
    ),
    "tensorflow.serving.ModelService/GetModelStatus": "tensorflow.serving.GetModelStatusResponse",
    "tensorflow.serving.ModelService/HandleReloadConfigRequest": (
        "tensorflow.serving.ReloadConfigResponse"
    ),
    "tensorflow.serving.PredictionService/NoSuchMethod": "",
}

PREDICT = "tensorflow.serving.PredictionService/Predict"
# BATCHING in tests/conformance/check.py.
PARAMETERS = """
max_batch_size { value: 4 }
batch_timeout_micros { value: 0 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 100 }
allowed_batch_sizes: 2
allowed_batch_sizes: 4
"""

# Cases in which this server differs on purpose, with the reason.
DIFFERS: dict[str, str] = {
    "grpc-0622": "a scalar is no batch of rows, and runs alone: TensorFlow Serving refuses it",
    "grpc-0639": "a request without rows is answered: TensorFlow Serving never does it",
}
# What batching changes in an answer, by TensorFlow Serving's own rules.
NO_INPUT = {
    "code": "INVALID_ARGUMENT",
    "details": "Batching Run() must have at least one input tensor",
}


def recorded(server: str) -> dict[str, dict[str, Any]]:
    """The cases of a server by id."""
    lines = (CONFORMANCE / "cases.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    return {
        case["id"]: case
        for case in cases
        if case["server"] == server and case["proto"] == "grpc" and case["method"] in METHODS
    }


PLAIN = recorded("plain")
BATCHING = recorded("batching")
CASES = {**PLAIN, **BATCHING}
PREDICTS = {id: case for id, case in PLAIN.items() if case["method"] == PREDICT}


@contextmanager
def conformance_server(transport: str, *flags: str) -> Iterator[Client]:
    """A client of a server of the recording's models."""
    if tensorflow_version() is None:
        pytest.skip("needs TensorFlow")
    paths = {name: CONFORMANCE / "models" / name for name in MODELS}
    with (
        serving(paths, f"--grpc_transport={transport}", *flags, texts=VERSIONS) as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states("half_plus_two") == [AVAILABLE] * 3)
        yield ask


@pytest.fixture(scope="module")
def plain(transport: str) -> Iterator[Client]:
    with conformance_server(transport) as ask:
        yield ask


@pytest.fixture(scope="module")
def batching(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """With the parameters of the recording."""
    file = tmp_path_factory.mktemp("batching") / "batching.config"
    file.write_text(PARAMETERS)
    flags = ("--enable_batching", f"--batching_parameters_file={file}")
    with conformance_server(transport, *flags) as ask:
        yield ask


@pytest.fixture(scope="module")
def batching_by_default(transport: str) -> Iterator[Client]:
    """Without any parameter."""
    with conformance_server(transport, "--enable_batching") as ask:
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
    """Responses in text format, which sorts maps, also those in an Any; no addresses of memory."""
    if said["code"] != "OK":
        return {**said, "details": re.sub("0x[0-9a-f]+", "", said["details"])}
    response_class = message_class(METHODS[case["method"]])
    response = response_class.FromString(base64.b64decode(said["response"]))
    return {
        "code": "OK",
        "response": text_format.MessageToString(response, descriptor_pool=pool()),
    }


@pytest.mark.parametrize("id", sorted(PLAIN.keys() - DIFFERS.keys()))
def test_answers_as_tensorflow_serving_did(plain: Client, id: str) -> None:
    case = CASES[id]
    assert comparable(case, answer(plain, case)) == comparable(case, case["answer"])


@pytest.mark.parametrize("id", sorted(BATCHING.keys() - DIFFERS.keys()))
def test_answers_as_tensorflow_serving_did_with_batching(batching: Client, id: str) -> None:
    case = CASES[id]
    assert comparable(case, answer(batching, case)) == comparable(case, case["answer"])


@pytest.mark.parametrize("id", sorted(PREDICTS.keys() - DIFFERS.keys()))
def test_batching_without_parameters_changes_no_answer(
    batching_by_default: Client, id: str
) -> None:
    case = CASES[id]
    expected = case["answer"]
    if feeds_nothing(case):
        expected = NO_INPUT
    for _ in range(2):  # at first on a worker, then perhaps in place
        assert comparable(case, answer(batching_by_default, case)) == comparable(case, expected)


def feeds_nothing(case: dict[str, Any]) -> bool:
    """Whether the case was a run without any input, which batching does not take."""
    request: Any = message_class("tensorflow.serving.PredictRequest")()
    request.ParseFromString(base64.b64decode(case["request"]))
    return case["answer"]["code"] == "OK" and not request.inputs


@pytest.mark.parametrize("id", sorted(BATCHING.keys() & DIFFERS.keys()))
def test_what_tensorflow_serving_does_not_batch_is_answered(batching: Client, id: str) -> None:
    assert answer(batching, CASES[id])["code"] == "OK"


def test_no_case_is_left_out_without_need(plain: Client, batching: Client) -> None:
    assert len(PLAIN) == 113
    assert len(BATCHING) == 11
    for id, reason in DIFFERS.items():
        case = CASES[id]
        ask = plain if id in PLAIN else batching
        agrees = comparable(case, answer(ask, case)) == comparable(case, case["answer"])
        assert not agrees, f"{id} ({reason}) is the same by now: take it off the list"
