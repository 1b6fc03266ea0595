"""What Python answers over REST, of real models: the answers recorded from TensorFlow Serving.

See tests/conformance/README.md. These are the requests of the recording that run no model, without
the HTTP around them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ROOT, tensorflow_version
from tests.unit.rest import Rest
from tests.unit.waiting import eventually
from tfsrv._serving_map import ServingMap
from tfsrv.config import ModelConfig, ServerOptions, SpecificVersions
from tfsrv.core.servable import ManagerState
from tfsrv.frontends.http_messages import HttpResponse
from tfsrv.servables.saved_model import saved_model_platform
from tfsrv.server_core import ServerCore

pytestmark = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")

LONG = 60.0
CONFORMANCE = ROOT / "tests" / "conformance"
# Cases in which this server differs on purpose, with the reason.
DIFFERS = {
    "rest-0016": "the status heeds a label",
    "rest-0022": "the status refuses a label that is not known",
    "rest-0025": "each error has a text",
    "rest-0055": "GET /v1/models is a list",
    "rest-0068": "DELETE removes a model, or says which flag is missing",
    "rest-0439": "HEAD is answered as GET",
}


def recorded() -> dict[str, dict[str, Any]]:
    """The cases that are answered in Python, by id. OPTIONS is the server's."""
    cases = map(json.loads, (CONFORMANCE / "cases.jsonl").read_text().splitlines())
    return {
        case["id"]: case
        for case in cases
        if case["proto"] == "rest" and case["method"] not in ("POST", "OPTIONS")
    }


CASES = recorded()


VERSIONS = {"half_plus_two": [5, 2, 1], "dtypes": [1], "multi": [7], "odd": [3]}


def available(core: ServerCore, name: str) -> list[int]:
    states = core.monitor.versions(name).values()
    return [state.id.version for state in states if state.manager_state is ManagerState.AVAILABLE]


def models() -> tuple[ModelConfig, ...]:
    """As the recording served them: see CONFIG in tests/conformance/check.py."""
    base = CONFORMANCE / "models"
    versions = ModelConfig(
        "half_plus_two",
        str(base / "half_plus_two"),
        version_policy=SpecificVersions(frozenset((1, 2, 5))),
        version_labels=(("canary", 5), ("stable", 2)),
    )
    return versions, *(ModelConfig(name, str(base / name)) for name in ("dtypes", "multi", "odd"))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ServerCore, ServingMap]]:
    options = ServerOptions(
        models=models(),
        model_config_file="models.config",
        allow_version_labels_for_unavailable_models=True,
    )
    serving_map = ServingMap()
    core = ServerCore(options, serving_map, {"tensorflow": saved_model_platform(options)})
    core.start()
    eventually(lambda: {m.name: available(core, m.name) for m in options.models} == VERSIONS)
    yield core, serving_map
    assert core.stop(LONG)


def answer(
    served: tuple[ServerCore, ServingMap], case: dict[str, Any], query: str = ""
) -> HttpResponse:
    async def ask() -> HttpResponse:
        rest = Rest(*served, is_managed=False)
        return await rest.ask(case["method"], case["path"] + query, headers=case["headers"])

    return asyncio.run(ask())


def is_same(response: HttpResponse, said: dict[str, Any]) -> bool:
    if (response.status, response.content_type) != (said["status"], said["content_type"]):
        return False
    return bool(said["body"]) and json.loads(response.body) == json.loads(said["body"])


@pytest.mark.parametrize("id", sorted(CASES.keys() - DIFFERS.keys()))
def test_answers_as_tensorflow_serving_did(served: tuple[ServerCore, ServingMap], id: str) -> None:
    case = CASES[id]
    said = case["answer"]
    assert is_same(answer(served, case), said)


# What is malformed is told with its query.
PRETTY = [id for id, case in CASES.items() if "Malformed" not in case["answer"]["body"]]


@pytest.mark.parametrize("id", sorted(set(PRETTY) - DIFFERS.keys()))
def test_pretty_answers_have_the_same_lines(served: tuple[ServerCore, ServingMap], id: str) -> None:
    case = CASES[id]
    said = case["answer"]
    body = answer(served, case, "?pretty").body.decode()
    if case["path"].endswith("metadata"):  # the order of signatures and tensors is by chance there
        assert sorted(lines(body)) == sorted(lines(said["body"]))
    else:
        assert body == said["body"]


def lines(text: str) -> list[str]:
    """The lines without the commas that their order brings with it."""
    return [line.removesuffix(",") for line in text.split("\n")]


def test_no_case_is_left_out_without_need(served: tuple[ServerCore, ServingMap]) -> None:
    assert len(CASES) == 23
    for id, reason in DIFFERS.items():
        same = is_same(answer(served, CASES[id]), CASES[id]["answer"])
        assert not same, f"{id} ({reason}) is the same by now: take it off the list"
