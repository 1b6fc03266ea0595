"""Batches of requests by REST and through gRPC: who runs with whom, and whose errors they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.functional.batched import (
    FLAGS,
    answers,
    batched_model,
    error,
    patient,
    rows,
    send,
    together,
    values,
)
from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Client, Launched, client
from tests.functional.messages import floats, predict_request
from tests.functional.rest_client import NPY, PROTOBUF, Rest, npy
from tests.inference import regression_request, regressions

MODELS = {
    "mixed": ("probe", patient(6)),
    "forms": ("probe", patient(5)),
    "large": ("identity_image", patient(3)),
    "failing": ("fails_for_negative", patient(4)),
    "texts": ("string_identity", patient(4)),
    "by_default": ("probe", ""),
}


@pytest.fixture(scope="module")
def server(
    models: Path, inference_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("batched")
    paths = {
        name: batched_model(folder / name, models / source, parameters)
        for name, (source, parameters) in MODELS.items()
    }
    source = inference_models / "inference"
    paths["inference"] = batched_model(folder / "inference", source, patient(3))
    with serving(paths, *FLAGS, "--rest_api_port=-1") as server:
        yield server


@pytest.fixture
def rest(server: Launched) -> Rest:
    return Rest(server)


@pytest.fixture
def ask(server: Launched) -> Iterator[Client]:
    with client(server.address()) as ask:
        yield ask


@contextmanager
def posting() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def got(future: Future[Any]) -> Any:
    return future.result(SECONDS)


def test_rest_and_grpc_share_a_batch(rest: Rest, ask: Client) -> None:
    with posting() as pool:
        one = pool.submit(rest.predictions, "mixed:predict", {"instances": [1, 2]})
        other = pool.submit(rest.predictions, "mixed:predict", {"inputs": {"x": [3]}, "n": 0})
        (response,) = answers(send(ask, rows("mixed", 4, 5, 6)))
    assert sorted(together(response)) == [1, 2, 3, 4, 5, 6]
    assert values(response) == [4, 5, 6]
    assert [row["y"] for row in got(one)] == [1, 2]
    everybody = response.outputs["together"].string_val[0].decode()
    assert {row["together"] for row in got(one)} == {everybody}
    assert got(other)["y"] == [3]
    assert got(other)["together"] == [everybody]


def test_all_forms_share_a_batch(rest: Rest, ask: Client) -> None:
    protobuf = predict_request("zz", {"x": floats(2)}).SerializeToString()
    as_json = "application/json"
    with posting() as pool:
        futures = [
            pool.submit(rest.value, "forms:predict", {"instances": [{"x": 1}]}),
            pool.submit(
                rest.value, "forms:predict", protobuf, Content_Type=PROTOBUF, Accept=as_json
            ),
            pool.submit(
                rest.value, "forms:predict", npy(floats(3)), Content_Type=NPY, Accept=as_json
            ),
            pool.submit(rest.value, "forms/versions/1:predict?pretty&model_spec", {"inputs": [4]}),
        ]
        (response,) = answers(send(ask, rows("forms", 5)))
    first, second, third, fourth = map(got, futures)
    assert sorted(together(response)) == [1, 2, 3, 4, 5]
    assert first["predictions"][0]["y"] == 1
    assert [each["outputs"]["y"] for each in (second, third, fourth)] == [[2], [3], [4]]
    assert fourth["model_spec"]["version"] == "1"


def test_large_bodies_share_a_batch(rest: Rest) -> None:
    bodies = [{"inputs": [[float(i)] * 150_528]} for i in range(3)]
    with posting() as pool:
        futures = [pool.submit(rest.predictions, "large:predict", body) for body in bodies]
        for body, future in zip(bodies, futures, strict=True):
            assert got(future) == body["inputs"]


def test_an_error_is_only_for_who_is_to_blame(rest: Rest, ask: Client) -> None:
    with posting() as pool:
        good = pool.submit(rest.predictions, "failing:predict", {"instances": [1]})
        bad = pool.submit(rest.refusal, "failing:predict", {"instances": [-1]})
        futures = send(ask, rows("failing", 2), rows("failing", -3))
        assert values(futures[0].result(SECONDS)) == [2]
        code, text = error(futures[1])
    assert code == "INVALID_ARGUMENT"
    assert "x must not be negative" in text
    assert got(good) == [1]
    status, text = got(bad)
    assert status == 400
    assert "x must not be negative" in text


def test_strings_share_a_batch(rest: Rest) -> None:
    with posting() as pool:
        futures = {
            text: pool.submit(rest.predictions, "texts:predict", {"instances": [text]})
            for text in ("", "é\0", "a" * 200_000, "\\")
        }
        for text, future in futures.items():
            assert got(future) == [text]


def test_regressions_share_a_batch(rest: Rest, ask: Client) -> None:
    with posting() as pool:
        body = {"signature_name": "regress", "examples": [{"x": 1.0}, {"x": 2.0}]}
        future = pool.submit(rest.value, "inference:regress", body)
        request = regression_request("inference", [{"x": 3.0}], signature="regress")
        response = ask.infer(request, SECONDS)
    assert regressions(response) == [16]
    assert got(future) == {"results": [12, 14]}


def test_many_clients_each_get_their_own(rest: Rest, ask: Client) -> None:
    """Without parameters: whatever batches form."""
    failures: list[BaseException] = []

    def by_rest(number: int) -> None:
        try:
            for i in range(60):
                mine = [1000 * number + i, 1000 * number + i + 0.5]
                said = rest.predictions("by_default:predict", {"instances": mine})
                assert [row["y"] for row in said] == mine
        except (AssertionError, OSError) as problem:
            failures.append(problem)

    threads = [threading.Thread(target=by_rest, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for i in range(200):
        assert values(ask.predict(rows("by_default", i))) == [i]
    for thread in threads:
        thread.join(SECONDS)
    assert not failures
