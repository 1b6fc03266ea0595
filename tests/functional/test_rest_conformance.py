"""The answers over REST that were recorded from TensorFlow Serving.

See tests/conformance/README.md. The cases of both servers of the recording, "plain" and "batching";
and once more the plain ones that run a model with batching on, which must not change an answer.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, tensorflow_version
from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, client, until
from tests.functional.sites import AVAILABLE
from tests.functional.test_conformance import MODELS, PARAMETERS, VERSIONS

CONFORMANCE = ROOT / "tests" / "conformance"

# Cases in which this server differs on purpose, with the reason.
LABELS = "a status request heeds a label, and refuses unknown ones"
NO_TEXT = "a version that is too large is told about: TensorFlow Serving sends an empty body"
UNBATCHABLE = "what cannot be batched runs alone: TensorFlow Serving refuses it"
SHORT_TYPES = "uint16, half and bfloat16 can be sent as JSON"
DIFFERS: dict[str, str] = {
    "rest-0016": LABELS,
    "rest-0022": LABELS,
    "rest-0024": NO_TEXT,
    "rest-0025": NO_TEXT,
    "rest-0055": "GET /v1/models lists the models",
    "rest-0068": "DELETE removes a model, and says which flag allows it",
    **{f"rest-{number:04}": SHORT_TYPES for number in (193, 194, 196, 219, 220, 221, 224, 225)},
    "rest-0437": "the answer to OPTIONS is empty, and has no type",
    "rest-0439": "HEAD is answered as GET is",
    **{f"rest-{number:04}": UNBATCHABLE for number in (446, 448, 449, 456)},
}


def recorded(server: str) -> dict[str, dict[str, Any]]:
    """The cases of a server by id."""
    lines = (CONFORMANCE / "cases.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    return {
        case["id"]: case for case in cases if case["server"] == server and case["proto"] == "rest"
    }


PLAIN = recorded("plain")
BATCHING = recorded("batching")
CASES = {**PLAIN, **BATCHING}
RUN_CASES = {id: case for id, case in PLAIN.items() if case["method"] == "POST"}


@contextmanager
def conformance_server(*flags: str) -> Iterator[str]:
    """The address of the REST port of a server of the recording's models."""
    if tensorflow_version() is None:
        pytest.skip("needs TensorFlow")
    paths = {name: CONFORMANCE / "models" / name for name in MODELS}
    with (
        serving(paths, "--rest_api_port=-1", *flags, texts=VERSIONS) as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states("half_plus_two") == [AVAILABLE] * 3)
        yield server.rest_address()


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    with conformance_server() as address:
        yield address


@pytest.fixture(scope="module")
def batching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With the parameters of the recording."""
    file: Path = tmp_path_factory.mktemp("batching") / "batching.config"
    file.write_text(PARAMETERS)
    with conformance_server("--enable_batching", f"--batching_parameters_file={file}") as address:
        yield address


@pytest.fixture(scope="module")
def batching_by_default() -> Iterator[str]:
    """Without any parameter."""
    with conformance_server("--enable_batching") as address:
        yield address


def answer(address: str, case: dict[str, Any]) -> dict[str, Any]:
    """Our answer, in the recording's form."""
    connection = http.client.HTTPConnection(address, timeout=SECONDS)
    body = base64.b64decode(case["body"]) if case["body"] is not None else None
    try:
        connection.putrequest(case["method"], case["path"], skip_accept_encoding=True)
        for name, value in case["headers"].items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.getheader("Content-Encoding") == "gzip":
        data = gzip.decompress(data)
    return {
        "status": response.status,
        "content_type": response.getheader("Content-Type"),
        "cors": response.getheader("Access-Control-Allow-Origin"),
        "body": data.decode("utf-8", "surrogateescape")
        .encode("utf-8", "backslashreplace")
        .decode(),
    }


def comparable(said: dict[str, Any]) -> dict[str, Any]:
    """With JSON as values, but for numbers, whose spelling counts."""

    def number(spelling: str) -> tuple[str, str]:
        return ("number", spelling)

    try:
        body = json.loads(said["body"], parse_float=number, parse_int=number, parse_constant=number)
    except ValueError:
        body = ("no JSON", said["body"])
    return {**said, "body": body}


@pytest.mark.parametrize("id", sorted(PLAIN.keys() - DIFFERS.keys()))
def test_answers_as_tensorflow_serving_did(plain: str, id: str) -> None:
    case = CASES[id]
    assert comparable(answer(plain, case)) == comparable(case["answer"])


@pytest.mark.parametrize("id", sorted(BATCHING.keys() - DIFFERS.keys()))
def test_answers_as_tensorflow_serving_did_with_batching(batching: str, id: str) -> None:
    case = CASES[id]
    assert comparable(answer(batching, case)) == comparable(case["answer"])


@pytest.mark.parametrize("id", sorted(RUN_CASES.keys() - DIFFERS.keys()))
def test_batching_without_parameters_changes_no_answer(batching_by_default: str, id: str) -> None:
    case = CASES[id]
    for _ in range(2):  # at first on a worker, then perhaps in place
        assert comparable(answer(batching_by_default, case)) == comparable(case["answer"])


def test_no_case_is_left_out_without_need(plain: str, batching: str) -> None:
    assert len(PLAIN) + len(BATCHING) == 248
    for id, reason in DIFFERS.items():
        case = CASES[id]
        said = answer(plain if id in PLAIN else batching, case)
        agrees = comparable(said) == comparable(case["answer"])
        assert not agrees, f"{id} ({reason}) is the same by now: take it off the list"
