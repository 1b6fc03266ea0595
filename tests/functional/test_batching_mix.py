"""Batching changes no answer: all kinds of requests at once, and one by one without batching."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Client, Launched, client
from tests.functional.messages import PredictRequest
from tests.functional.mixed_requests import Mixer, model_paths

ROUNDS = 3
AT_ONCE = 300  # requests
CONNECTIONS = 3

# name: BatchingParameters; None: there is no file.
PARAMETERS: dict[str, str | None] = {
    "none": None,
    "waiting": "max_batch_size { value: 8 } batch_timeout_micros { value: 3000 }",
    "allowed": "max_batch_size { value: 16 } allowed_batch_sizes: [3, 5, 16]",
    "splitting": (
        "max_batch_size { value: 50 } max_execution_batch_size { value: 3 }"
        " enable_large_batch_splitting { value: true } batch_timeout_micros { value: 500 }"
    ),
    "splitting_allowed": (
        "max_batch_size { value: 8 } max_execution_batch_size { value: 4 }"
        " enable_large_batch_splitting { value: true } allowed_batch_sizes: [2, 4]"
    ),
    "padding": (
        "max_batch_size { value: 8 } pad_variable_length_inputs: true"
        " batch_timeout_micros { value: 1000 } allowed_batch_sizes: [4, 8]"
    ),
}


@pytest.fixture(scope="module")
def alone(models: Path) -> Iterator[Client]:
    """A client of the server without batching."""
    with serving(model_paths(models)) as server, client(server.address()) as ask:
        yield ask


@pytest.fixture(params=PARAMETERS)
def parameters(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def batching(models: Path, tmp_path: Path, parameters: str) -> Iterator[Launched]:
    flags = ["--enable_batching"]
    text = PARAMETERS[parameters]
    if text is not None:
        file = tmp_path / "batching.config"
        file.write_text(text + " max_enqueued_batches { value: 1000 }")
        flags.append(f"--batching_parameters_file={file}")
    with serving(model_paths(models), *flags) as server:
        yield server


Answer = tuple[str, str | bytes]


def answer(future: object) -> Answer:
    """The code, and the text of the error or the response with its maps sorted."""
    error = future.exception(SECONDS)  # type: ignore[attr-defined]
    if error is not None:
        return error.code().name, comparable(error.details())
    return "OK", future.result().SerializeToString(deterministic=True)  # type: ignore[attr-defined]


def comparable(text: str) -> str:
    """Without what depends on the run.

    Which of a graph's nodes fails first is a race, and what an assertion shows are the values of
    the whole run, with rows of padding, or without those of the request's other parts.
    """
    text = re.sub(r"\{\{node [^}]*\}\}", "", text)
    return re.sub(r"= \] \[[^]]*\]", "= ]", text)


def test_every_answer_is_as_without_batching(
    alone: Client, batching: Launched, parameters: str
) -> None:
    mixer = Mixer(sum(parameters.encode()), ragged=parameters != "padding")
    codes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        codes += compare(alone, batching, mixer.requests(AT_ONCE))
    assert codes["OK"] > 2 * ROUNDS * AT_ONCE / 3
    assert codes["INVALID_ARGUMENT"] > 0


def test_every_answer_in_tensor_content_is_as_without_batching(models: Path) -> None:
    flag = "--enable_serialization_as_tensor_content"
    with (
        serving(model_paths(models), flag) as server,
        serving(model_paths(models), flag, "--enable_batching") as batching,
        client(server.address()) as alone,
    ):
        compare(alone, batching, Mixer(1).requests(AT_ONCE))


def compare(alone: Client, batching: Launched, requests: list[bytes]) -> Counter[str]:
    """Ask one by one, and all at once on several connections; the codes of the answers."""
    expected = [answer(alone.predict_future(request)) for request in requests]
    with ExitStack() as stack:
        asks = [stack.enter_context(client(batching.address())) for _ in range(CONNECTIONS)]
        futures = [
            asks[i % CONNECTIONS].predict_future(request) for i, request in enumerate(requests)
        ]
        answers = [answer(future) for future in futures]
    assert [
        (PredictRequest.FromString(request), ours, theirs)
        for request, ours, theirs in zip(requests, answers, expected, strict=True)
        if ours != theirs
    ] == []
    return Counter(code for code, _ in expected)
