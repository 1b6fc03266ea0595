"""Servables written in Python, over REST: tables, and a platform from a package."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.functional.conftest import config_file, serving
from tests.functional.launching import SECONDS, Launched, launched, until
from tests.functional.messages import array, floats, predict_request, scalar, strings
from tests.functional.rest_client import (
    NPY,
    NPZ,
    PROTOBUF,
    Rest,
    from_npz,
    meanwhile,
    npy,
    npz,
    post_bytes,
)
from tests.functional.test_python_servables import ECHO, add_table, add_version, environment
from tests.inference import (
    classes,
    classification_request,
    example,
)
from tests.plugging import write_package
from tfsrv._proto import message_class

PredictResponse: Any = message_class("tensorflow.serving.PredictResponse")
ClassificationResponse: Any = message_class("tensorflow.serving.ClassificationResponse")

# The same, and says of what types its inputs are.
TYPED = (
    ECHO.replace("class Echo:", "class Untyped:")
    .replace("class EchoLoader", "class Loading")
    .replace("EchoLoader(", "Loading(")
    .replace("self.echo = Echo(", "self.echo = Typed(")
    + """
from tfsrv._proto import message_class, parse_text

def signature(inputs, outputs, method="predict"):
    def infos(kind, names):
        return "".join(
            f'{kind} {{ key: "{name}" value {{ dtype: {dtype} }} }}'
            for name, dtype in names.items()
        )
    text = infos("inputs", inputs) + infos("outputs", outputs)
    text += f'method_name: "tensorflow/serving/{method}"'
    return parse_text("tensorflow.SignatureDef", text, "")

ANY = {"version": "DT_INT64"}
TWO = {"a": "DT_INT64", "b": "DT_BOOL"}

class Typed(Untyped):
    signature_defs = {
        "serving_default": signature({"x": "DT_FLOAT"}, {"x": "DT_FLOAT", **ANY}),
        "strings": signature({"s": "DT_STRING"}, {"s": "DT_STRING", **ANY}),
        "two": signature(TWO, {**TWO, **ANY}),
        "fail": signature({"fail": "DT_FLOAT"}, ANY),
        "wait": signature({"path": "DT_STRING"}, {"path": "DT_STRING", **ANY}),
        "classify": signature(
            {"inputs": "DT_STRING"}, {"classes": "DT_STRING", "scores": "DT_FLOAT"}, "classify"),
        "regress": signature({"inputs": "DT_STRING"}, {"outputs": "DT_FLOAT"}, "regress"),
    }
"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "packages").mkdir()
    for name, source in (("echo", ECHO), ("typed", TYPED)):
        entry_points = {"tfsrv.platforms": {name: f"{name}_platform:make"}}
        write_package(folder / "packages", f"{name}_platform", entry_points, source)
        add_version(folder / name, 1, "echo", "")
    add_table(folder / "legs", 1, "cat\t4\nspider\t8\n")
    return folder


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[Launched]:
    paths = {
        "legs@lookup_table": site / "legs",
        "echo@echo": site / "echo",
        "typed@typed": site / "typed",
    }
    flags = ("--rest_api_port=-1", "--rest_api_timeout_in_ms=3000")
    with serving(paths, *flags, environment=environment(site)) as server:
        yield server


@pytest.fixture
def rest(server: Launched) -> Rest:
    return Rest(server)


# --- a table


def test_a_table_answers_in_rows_and_columns(rest: Rest) -> None:
    expected = {"values": [8, 0, 4], "found": [True, False, True]}
    keys = ["spider", "worm", "cat"]
    for body in ({"inputs": {"keys": keys}}, {"inputs": keys}):
        assert rest.predictions("legs:predict", body) == expected
    rows = {"instances": [{"keys": "spider"}, {"keys": "worm"}]}
    assert rest.predictions("legs:predict", rows) == [
        {"values": 8, "found": True},
        {"values": 0, "found": False},
    ]


def test_a_table_takes_other_forms(rest: Rest) -> None:
    request = predict_request("zz", {"keys": strings("cat", "worm")}).SerializeToString()
    answer = rest.post("legs:predict?model_spec", request, Content_Type=PROTOBUF)
    response = PredictResponse.FromString(answer.body)
    assert array(response.outputs["values"]).tolist() == [4, 0]
    assert response.model_spec.name == "legs"
    answer = rest.post("legs:predict", request, Content_Type=PROTOBUF, Accept=NPZ)
    assert from_npz(answer.body)["found"].tolist() == [True, False]


def test_what_a_table_refuses(rest: Rest) -> None:
    body = {"signature_name": "nope", "inputs": {"keys": ["cat"]}}
    assert rest.refusal("legs:predict", body) == (
        400,
        'Serving signature name: "nope" not found in signature def',
    )
    body = {"inputs": {"keys": ["cat"]}, "signature_name": "nope"}
    assert rest.refusal("legs:predict", body)[1].startswith('Serving signature name: "nope"')
    status, text = rest.refusal("legs:classify", {"examples": [{"x": 1.0}]})
    assert status == 400
    assert "No classification inputs found in SignatureDef" in text
    assert rest.refusal("legs/versions/7:predict", body)[0] == 404


# --- a servable that says of what types its inputs are


def test_predicts_in_rows_columns_and_with_several_inputs(rest: Rest) -> None:
    body: dict[str, Any]
    for body in (
        {"inputs": [1, 2.5]},
        {"inputs": {"x": [1, 2.5]}},
        {"other": 1, "inputs": [1, 2.5]},
    ):
        assert rest.predictions("typed:predict", body) == {"x": [1, 2.5], "version": 1}
    body = {"signature_name": "two", "inputs": {"a": [2**62], "b": True}}
    assert rest.predictions("typed:predict", body) == {"a": [2**62], "b": True, "version": 1}
    body = {"inputs": {"a": [2**62], "b": True}, "signature_name": "two"}
    assert rest.predictions("typed:predict", body) == {"a": [2**62], "b": True, "version": 1}
    body = {"signature_name": "strings", "inputs": ["é\0", {"b64": "YQ=="}]}
    assert rest.predictions("typed:predict", body) == {"s": ["é\0", "a"], "version": 1}
    body = {"inputs": [1.0]}
    assert rest.value("typed:predict?model_spec", body)["model_spec"] == {
        "name": "typed",
        "version": "1",
        "signature_name": "serving_default",
    }
    status, text = rest.refusal("typed:predict", {"instances": [1.0]})
    assert status == 400
    assert text == "Tensor name: version has no shape information "


def test_classifies_and_regresses(rest: Rest) -> None:
    rows = [{"x": 1.0}, {"x": 2.0, "c": 3.0}]
    sizes = [float(example(row).ByteSize()) for row in rows]
    for name in ("typed", "echo"):
        body = {"signature_name": "classify", "examples": rows}
        assert rest.value(f"{name}:classify", body) == {
            "results": [[["classify", size]] for size in sizes]
        }
        body = {"signature_name": "regress", "examples": rows}
        assert rest.value(f"{name}:regress", body) == {"results": sizes}
        assert rest.value(f"{name}:regress?model_spec", body)["model_spec"]["version"] == "1"
    request = classification_request("zz", rows, signature="classify").SerializeToString()
    answer = rest.post("typed:classify", request, Content_Type=PROTOBUF)
    said = ClassificationResponse.FromString(answer.body)
    assert classes(said) == [[("classify", size)] for size in sizes]
    with_context = {"signature_name": "regress", "context": {"y": 1.0}, "examples": rows}
    context = float(example({"y": 1.0}).ByteSize())
    assert rest.value("typed:regress", with_context) == {
        "results": [size + context for size in sizes]
    }


def test_arrays_in_and_out(rest: Rest) -> None:
    x = numpy.arange(100_000, dtype="float32").reshape(1000, 100)
    answer = rest.post("typed:predict", npy(x), Content_Type=NPY)
    assert from_npz(answer.body)["x"].tolist() == x.tolist()
    body = npz(a=numpy.arange(3), b=numpy.array([True]))
    path = "typed:predict?signature_name=two"
    answer = rest.post(path, body, Content_Type=NPZ, Accept="application/json")
    assert answer.json() == {"outputs": {"a": [0, 1, 2], "b": [True], "version": 1}}
    status, text = rest.refusal("typed:predict", npy(numpy.ones(1)), Content_Type=NPY)
    assert status == 400
    assert 'astype("float32")' in text


def test_large_bodies_and_answers_also_packed(rest: Rest) -> None:
    x = numpy.random.default_rng(1).standard_normal(250_000).astype("float32")
    body = json.dumps({"inputs": x.tolist()}).encode()
    for data, more in ((body, {}), (gzip.compress(body, 1), {"Content_Encoding": "gzip"})):
        answer = rest.post("typed:predict", data, Accept_Encoding="gzip", **more)
        assert answer.headers["content-encoding"] == "gzip"
        said = answer.json()["outputs"]["x"]
        numpy.testing.assert_array_equal(numpy.array(said, "float32"), x)


def test_broken_bodies_are_refused(rest: Rest) -> None:
    for name in ("typed", "legs"):
        assert rest.refusal(f"{name}:predict", '{"inputs": [')[0] == 400
        assert rest.refusal(f"{name}:predict", "x", Content_Encoding="gzip")[0] == 400
        for kind in (NPY, NPZ, PROTOBUF):
            assert rest.refusal(f"{name}:predict", b"\xff" * 50, Content_Type=kind)[0] == 400
    half = predict_request("m", {"x": floats(1)}).SerializeToString()[:-1]
    assert rest.refusal("typed:predict", half, Content_Type=PROTOBUF)[0] == 400
    inner = predict_request("m", {"x": floats(1)})
    inner.inputs["x"].tensor_content = b"abc"
    assert rest.refusal("typed:predict", inner.SerializeToString(), Content_Type=PROTOBUF)[0] == 400
    assert rest.predictions("typed:predict", {"inputs": [1]}) == {"x": [1], "version": 1}


def test_exceptions_are_500_with_their_text_and_logged_once(site: Path) -> None:
    flags = ("--port=0", "--bind_address=127.0.0.1", "--rest_api_port=-1")
    with (
        config_file({"typed@typed": site / "typed"}) as config,
        launched(config, *flags, environment=environment(site)) as server,
    ):
        rest = Rest(server)
        until(lambda: rest.get("typed").status == 200)
        for _ in range(3):
            body = {"signature_name": "fail", "inputs": [1]}
            assert rest.refusal("typed:predict", body) == (500, "ValueError: as was asked for")
        assert server.stop() == 0
        assert sum("Traceback" in line for line in server.log) == 1


# --- one that does not


def test_without_types_only_protobuf_is_taken_and_that_is_said(rest: Rest) -> None:
    for body, kind in (
        (b'{"inputs": {"x": [1]}}', "application/json"),
        (npy(floats(1)), NPY),
        (npz(x=floats(1)), NPZ),
    ):
        assert rest.refusal("echo:predict", body, Content_Type=kind) == (
            400,
            "The servable has no signature_defs, which say of what types its inputs are:"
            " it takes protobuf only.",
        )
    request = predict_request("m", {"x": floats(1, 2)}).SerializeToString()
    answer = rest.post("echo:predict", request, Content_Type=PROTOBUF, Accept="application/json")
    assert answer.json() == {"outputs": {"x": [1, 2], "version": 1}}


# --- time


def test_what_hangs_is_answered_at_the_time_out_and_others_before(
    rest: Rest, tmp_path: Path
) -> None:
    paths = [str(tmp_path / str(number)) for number in range(3)]
    answers: list[tuple[int, str]] = []

    def ask(path: str) -> None:
        body = {"signature_name": "wait", "inputs": path}
        answers.append(rest.refusal("typed:predict", body))

    threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
    with meanwhile(rest, "legs:predict", {"inputs": {"keys": ["cat"]}}, ANSWER):
        for thread in threads:
            thread.start()
        until(lambda: all(Path(f"{path}.began").exists() for path in paths))
        for thread in threads:
            thread.join(SECONDS)
    assert [status for status, _ in answers] == [504] * 3
    for path in paths:
        Path(path).touch()


ANSWER = {"values": [4], "found": [True]}


def test_who_hangs_up_is_forgotten(server: Launched, rest: Rest, tmp_path: Path) -> None:
    path = tmp_path / "path"
    request = predict_request("m", {"path": scalar(str(path).encode())}, signature="wait")
    body = request.SerializeToString()
    with rest.dial() as peer:
        peer.send(post_bytes("typed:predict", body, f"Content-Type: {PROTOBUF}"))
        until(Path(f"{path}.began").exists)
    path.touch()
    assert rest.predictions("typed:predict", {"inputs": [1]}) == {"x": [1], "version": 1}
    assert server.process.poll() is None
