"""The client's other calls against a real server: examples, health, and what errors tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Launched
from tfsrv.client import AsyncClient, Class, Client, ClientError, Code

MODEL = "half_plus_two_v1"
CLASSIFY = "classify_x_to_y"
REGRESS = "regress_x_to_y"


@pytest.fixture(scope="module")
def example_server(models: Path) -> Iterator[Launched]:
    """A server of a model that takes tf.Examples with a feature x: y = x / 2 + 2."""
    with serving({MODEL: models / MODEL}) as server:
        yield server


@pytest.fixture(params=["auto", "grpc"])
def client(example_server: Launched, request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(example_server.address(), timeout=SECONDS, transport=request.param) as client:
        yield client


def test_examples_are_classified_and_regressed(client: Client) -> None:
    examples = [{"x": 1.0}, {"x": np.float32(2)}]
    classes = client.classify(MODEL, examples, signature=CLASSIFY)
    assert classes == [[Class("", 2.5)], [Class("", 3.0)]]
    values = client.regress(MODEL, examples, signature=REGRESS)
    assert values == [2.5, 3.0]
    assert (values.model, values.version, values.signature) == (MODEL, 1, REGRESS)


def test_a_context_is_common_to_all_examples(client: Client) -> None:
    values = client.regress(MODEL, [{}, {"y": "z"}], context={"x": 4.0}, signature=REGRESS)
    assert values == [4.0, 4.0]


def test_signatures_are_asked_at_once(client: Client) -> None:
    results = client.multi_inference(MODEL, [{"x": 2.0}], classify=[CLASSIFY], regress=[REGRESS])
    assert results == {CLASSIFY: [[Class("", 3.0)]], REGRESS: [3.0]}


def test_bytes_that_are_no_example_are_the_server_s_to_refuse(client: Client) -> None:
    with pytest.raises(ClientError, match="Could not parse example input") as caught:
        client.classify(MODEL, [b"\xff"], signature=CLASSIFY)
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(ClientError, match="Input is empty"):
        client.classify(MODEL, [], signature=CLASSIFY)


def test_health_is_told_of_the_server_and_of_a_model(client: Client) -> None:
    assert client.health() == "SERVING"
    assert client.health(f"model/{MODEL}") == "SERVING"
    with pytest.raises(ClientError) as caught:
        client.health("model/nosuch")
    assert caught.value.code is Code.NOT_FOUND


def test_errors_tell_what_they_are_about(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        client.predict("nosuch", {"x": 1.0})
    assert (caught.value.reason, caught.value.model) == ("MODEL_NOT_FOUND", "nosuch")
    with pytest.raises(ClientError) as caught:
        client.predict(MODEL, {"x": [1.0]}, signature="nosuch")
    error = caught.value
    assert (error.reason, error.version, error.signature) == ("SIGNATURE_NOT_FOUND", 1, "nosuch")


def test_coroutines_do_the_same(example_server: Launched) -> None:
    async def run() -> None:
        async with AsyncClient(example_server.address(), timeout=SECONDS) as client:
            assert await client.regress(MODEL, [{"x": 1.0}], signature=REGRESS) == [2.5]
            assert await client.health() == "SERVING"

    asyncio.run(run())
