"""What paths and queries of requests to run a model mean, and that a request sees one version."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import Serve, serving
from tests.functional.launching import SECONDS, client, until
from tests.functional.rest_client import Rest
from tests.functional.sites import AVAILABLE
from tests.graphs import FLOAT, INT32, Graph

VERSIONS = (
    "model_version_policy { specific { versions: 1 versions: 2 } }"
    " version_labels { key: 'stable' value: 1 } version_labels { key: 'canary' value: 2 }"
)
ODD_NAME = "m%2Fé +:"  # of a model, in percent-encoding below
ODD_PATH = "m%252F%C3%A9%20+%3A"


@pytest.fixture(scope="module")
def rest(models: Path, inference_models: Path) -> Iterator[Rest]:
    paths = {
        "half": models / "half_plus_two",
        "several": models / "several_signatures",
        "identity": models / "identity",
        "inference": inference_models / "inference",
        ODD_NAME: models / "half_plus_two",
    }
    texts = {"half": VERSIONS, "inference": VERSIONS}
    with serving(paths, "--rest_api_port=-1", texts=texts) as server:
        with client(server.address()) as ask:
            until(lambda: ask.states("half") == [AVAILABLE] * 2)
            until(lambda: ask.states("inference") == [AVAILABLE] * 2)
        yield Rest(server)


ONE = {"instances": [1.0]}


# --- versions and labels


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("half", 2),
        ("half/versions/1", 1),
        ("half/versions/2", 2),
        ("half/versions/0002", 2),
        ("half/labels/stable", 1),
        ("half/labels/canary", 2),
        ("half/labels/%73table", 1),
        ("h%61lf", 2),
    ],
)
def test_paths_name_versions(rest: Rest, path: str, version: int) -> None:
    value = rest.value(f"{path}:predict?model_spec", ONE)
    assert value == {
        "model_spec": {
            "name": "half",
            "version": str(version),
            "signature_name": "serving_default",
        },
        "predictions": [1.5 + version],
    }


def test_names_may_be_odd(rest: Rest) -> None:
    value = rest.value(f"{ODD_PATH}:predict?model_spec", ONE)
    assert value["model_spec"]["name"] == ODD_NAME
    assert value["predictions"] == [4.5]


BODIES: dict[str, Any] = {
    "predict": ONE,
    "classify": {"signature_name": "classify", "examples": [{"x": 1.0}]},
    "regress": {"signature_name": "regress", "examples": [{"x": 1.0}]},
}


@pytest.mark.parametrize("verb", BODIES)
def test_what_there_is_not_is_not_found(rest: Rest, verb: str) -> None:
    """Once with the quick reader, and once with the exact one."""
    bodies = [BODIES[verb], {"other": None, **BODIES[verb]}]
    for body in (*bodies, json.dumps(bodies[0]) + " " * 100_000):
        for path, text in {
            "nope": "Servable not found for request: Latest(nope)",
            "half/versions/9": "Servable not found for request: Specific(half, 9)",
            "nope/versions/1": "Servable not found for request: Specific(nope, 1)",
        }.items():
            assert rest.refusal(f"{path}:{verb}", body) == (404, text)
        status, text = rest.refusal(f"half/labels/nope:{verb}", body)
        assert status in (400, 404)
        assert "nope" in text


def test_a_body_that_is_no_json_is_told_first(rest: Rest) -> None:
    for path in ("half", "nope", "half/versions/9", "half/labels/nope"):
        for verb in BODIES:
            assert rest.refusal(f"{path}:{verb}", "{") == (
                400,
                "JSON Parse error: Missing a name for object member. at offset: 1",
            )


@pytest.mark.parametrize(
    "path",
    [
        "half:PREDICT",
        "half:predic",
        "half:predicts",
        "half",
        "half/versions/x:predict",
        "half/versions/:predict",
        "half/versions/-1:predict",
        "half/versions/99999999999999999999:predict",
        "half/labels/:predict",
        "half/versions/1/labels/stable:predict",
        ":predict",
        "%FF:predict",
        "half%:predict",
        "half/:predict",
        "half:predict/",
        "half::predict",
    ],
)
def test_malformed_paths_are_refused_in_json(rest: Rest, path: str) -> None:
    status, text = rest.refusal(path, ONE)
    assert status in (400, 404, 405)
    assert text
    assert rest.predictions("half:predict", ONE) == [3.5]


# --- queries


def test_model_spec_says_what_ran(rest: Rest) -> None:
    spec = {"name": "several", "version": "1", "signature_name": "double"}
    body = {"signature_name": "double", **ONE}
    assert rest.value("several:predict?model_spec", body) == {
        "model_spec": spec,
        "predictions": [2],
    }
    assert rest.value("several:predict?model_spec=false", body) == {"predictions": [2]}
    assert rest.value("several:predict?model_spec=true&x=y", body)["model_spec"] == spec
    for verb in ("classify", "regress"):
        value = rest.value(f"inference/labels/stable:{verb}?model_spec", BODIES[verb])
        assert value["model_spec"] == {
            "name": "inference",
            "version": "1",
            "signature_name": verb,
        }
        assert len(value["results"]) == 1


def test_pretty_is_the_layout_of_tensorflow_serving(rest: Rest) -> None:
    answer = rest.post("half/versions/1:predict?pretty", {"instances": [1.0, 2.0, 5.0]})
    assert answer.body == b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
    answer = rest.post("half/versions/1:predict?pretty", {"inputs": [1.0, 2.0]})
    assert answer.body == b'{\n    "outputs": [\n        2.5,\n        3.0\n    ]\n}'
    compact = rest.post("half/versions/1:predict", {"instances": [1.0, 2.0, 5.0]})
    assert compact.body == b'{"predictions":[2.5,3.0,4.5]}'
    for verb in BODIES:
        path = f"{'half' if verb == 'predict' else 'inference'}:{verb}"
        pretty = rest.value(f"{path}?pretty&model_spec", BODIES[verb])
        assert pretty == rest.value(f"{path}?model_spec", BODIES[verb])


def test_a_signature_can_be_named_in_the_query_or_the_body(rest: Rest) -> None:
    quick = {"instances": [3.0]}
    exact = {"other": 1, "inputs": [3.0]}
    for body in (quick, exact):
        path = "several:predict?signature_name"
        assert rest.predictions(f"{path}=negate", body) == [-3]
        assert rest.predictions(f"{path}=ne%67ate&pretty", body) == [-3]
        assert rest.predictions(f"{path}=double&signature_name=negate", body) == [-3]
        assert rest.predictions(f"{path}=", body) == [3]
        assert rest.predictions(f"{path}=negate", {"signature_name": "double", **body}) == [6]
        assert rest.refusal(f"{path}=n%20o", body) == (
            400,
            'Serving signature name: "n o" not found in signature def',
        )
    for verb in ("classify", "regress"):
        examples = {"examples": [{"x": 1.0}]}
        named = rest.value(f"inference:{verb}", BODIES[verb])
        assert rest.value(f"inference:{verb}?signature_name={verb}", examples) == named


def test_a_signature_may_be_named_behind_the_values(rest: Rest) -> None:
    for name, factor in (("serving_default", 1), ("double", 2), ("negate", -1)):
        for values in ({"instances": [3.0]}, {"inputs": [3.0]}, {"instances": [{"x": 3.0}]}):
            body = {**values, "signature_name": name}
            assert rest.predictions("several:predict", body) == [3 * factor]
            assert rest.predictions("several:predict?signature_name=negate", body) == [3 * factor]
    body = {"instances": [[1, 2], [3, 4]], "signature_name": "rows"}
    assert rest.predictions("several:predict", body) == [
        {"sum": 3, "first": 1},
        {"sum": 7, "first": 3},
    ]
    assert rest.refusal("several:predict", {"instances": [1], "signature_name": "no"}) == (
        400,
        'Serving signature name: "no" not found in signature def',
    )
    status, text = rest.refusal("several:predict", {"instances": [1], "signature_name": 1})
    assert status == 400
    assert "'signature_name' key must be a string value" in text


def test_a_signature_is_looked_for_though_there_is_no_default_one(rest: Rest) -> None:
    for body in (
        {"instances": [0.5], "signature_name": "float"},
        {"inputs": {"x": [0.5]}, "signature_name": "float"},
        {"signature_name": "float", "instances": [0.5]},
    ):
        assert rest.predictions("identity:predict", body) == [0.5]
    assert rest.refusal("identity:predict", '{"instances": [0.5') == (
        400,
        "JSON Parse error: Missing a comma or ']' after an array element. at offset: 18",
    )
    assert rest.refusal("identity:predict", {"instances": [0.5]}) == (
        400,
        'Serving signature name: "serving_default" not found in signature def',
    )


def test_other_queries_are_nobodys_business(rest: Rest) -> None:
    for query in ("?", "?a", "?a=b&c", "?=&&=", "?%zz", "?model_specs&prettyy", "?" + "a" * 4000):
        answer = rest.post(f"half/versions/1:predict{query}", ONE)
        assert (answer.status, answer.body) == (200, b'{"predictions":[2.5]}')


def test_words_of_a_path_may_have_any_case_but_the_last(rest: Rest) -> None:
    answer = rest.ask("POST", "/V1/MODELS/half/VERSIONS/1:predict", json.dumps(ONE).encode())
    assert answer.json() == {"predictions": [2.5]}


# --- one version for a whole request


def alternating(folder: Path, version: int) -> None:
    """Odd versions take floats, even ones int32: the wrong signature would fail in the run."""
    kind = FLOAT if version % 2 else INT32
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=kind)
    y = graph.add("y", "Identity", x, T=kind)
    signature = graph.sign("serving_default", {"x": x}, {"y": y})
    signature.inputs["x"].dtype = signature.outputs["y"].dtype = kind
    graph.save(folder / str(version))


@pytest.mark.parametrize("batching", [False, True])
def test_signature_and_run_see_the_same_version(
    tmp_path: Path, serve: Serve, batching: bool
) -> None:
    folder = tmp_path / "m"
    alternating(folder, 1)
    flags = ["--rest_api_port=-1", *(["--enable_batching"] if batching else [])]
    server = serve({"m": folder}, *flags)
    rest = Rest(server)
    small, exact = b'{"instances": [1, 2]}', b'{"other": 1, "inputs": [1, 2]}'
    large = b'{"instances": [1, 2]}' + b" " * 100_000  # read by a worker
    seen: set[int] = set()
    failures: list[BaseException] = []
    enough = threading.Event()

    def ask(body: bytes) -> None:
        try:
            while not enough.is_set():
                value = rest.value("m:predict?model_spec", body)
                version = int(value["model_spec"]["version"])
                kinds = {type(each) for each in value.get("predictions") or value["outputs"]}
                assert kinds == {float if version % 2 else int}
                seen.add(version)
        except (AssertionError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(body,)) for body in (small, exact, large)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 8):
            alternating(tmp_path / "staging", version)
            shutil.move(tmp_path / "staging" / str(version), folder / str(version))
            until(lambda version=version: version in seen or bool(failures))  # type: ignore[misc]
    finally:
        enough.set()
        for thread in threads:
            thread.join(SECONDS)
    assert not failures, failures
