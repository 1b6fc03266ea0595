"""Bodies that are not JSON: protobuf, npy and npz in, and out as Content-Type and Accept ask."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy
import pytest

from tests.functional.conftest import serving
from tests.functional.launching import Launched, client, until
from tests.functional.messages import DTYPES, array, floats, predict_request, strings, tensor
from tests.functional.rest_client import (
    NPY,
    NPZ,
    PROTOBUF,
    Rest,
    from_npy,
    from_npz,
    npy,
    npz,
    post_bytes,
)
from tests.functional.sites import AVAILABLE
from tests.inference import (
    classes,
    classification_request,
    classifications,
    regression_request,
    regressions,
    values,
)
from tfsrv._proto import message_class

JSON = "application/json"
PredictResponse: Any = message_class("tensorflow.serving.PredictResponse")
ClassificationResponse: Any = message_class("tensorflow.serving.ClassificationResponse")
RegressionResponse: Any = message_class("tensorflow.serving.RegressionResponse")
MODELS = [
    "half_plus_two", "several_signatures", "sum_and_product", "identity", "string_identity",
    "default_inputs", "fails_for_negative",
]  # fmt: skip
ALL = "model_version_policy { all {} }"
NUMPYS = [
    "half", "float", "double", "complex64", "complex128", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(models: Path, inference_models: Path) -> Iterator[Launched]:
    names = (
        "half_plus_two",
        "several_signatures",
        "sum_and_product",
        "identity",
        "string_identity",
    )
    paths = {name: models / name for name in (*names, "default_inputs", "fails_for_negative")}
    paths["inference"] = inference_models / "inference"
    with serving(paths, "--rest_api_port=-1", texts={"half_plus_two": ALL}) as server:
        with client(server.address()) as ask:
            until(lambda: ask.states("half_plus_two") == [AVAILABLE] * 3)
        yield server


@pytest.fixture
def rest(server: Launched) -> Rest:
    return Rest(server)


# --- protobuf


def test_a_predict_request_gets_a_predict_response(rest: Rest) -> None:
    request = predict_request("half_plus_two", {"x": floats(1, 2)})
    answer = rest.post("half_plus_two:predict", request.SerializeToString(), Content_Type=PROTOBUF)
    assert (answer.status, answer.headers["content-type"]) == (200, PROTOBUF)
    response = PredictResponse.FromString(answer.body)
    assert array(response.outputs["y"]).tolist() == [4.5, 5]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (
        "half_plus_two",
        3,
        "serving_default",
    )


def test_the_model_of_the_path_wins_and_the_signature_of_the_body_stays(rest: Rest) -> None:
    requests = [
        predict_request("nonsense", {"x": floats(3)}, signature="double", version=77),
        predict_request("half_plus_two", {"x": floats(3)}, signature="double", label="nope"),
        predict_request("", {"x": floats(3)}, signature="double"),
    ]
    for request in requests:
        answer = rest.post(
            "several_signatures/versions/1:predict?signature_name=negate",
            request.SerializeToString(),
            Content_Type="application/protobuf",
        )
        response = PredictResponse.FromString(answer.body)
        assert array(response.outputs["y"]).tolist() == [6]
        assert response.model_spec.name == "several_signatures"
        assert response.model_spec.signature_name == "double"


def test_the_signature_of_the_query_is_for_bodies_that_name_none(rest: Rest) -> None:
    request = predict_request("m", {"x": floats(3)}).SerializeToString()
    for body, kind in ((request, PROTOBUF), (npy(floats(3)), NPY), (npz(x=floats(3)), NPZ)):
        path = "several_signatures:predict?signature_name=negate"
        answer = rest.post(path, body, Content_Type=kind, Accept=JSON)
        assert answer.json() == {"outputs": [-3]}


def test_model_specs_in_pieces_are_read_as_protobuf_does(rest: Rest) -> None:
    """A message that comes twice is merged; unknown fields are nobody's business."""
    first = predict_request("a", signature="negate").SerializeToString()
    second = predict_request("b", {"x": floats(3)}, version=9).SerializeToString()
    unknown = b"\xfa\x07\x03abc"  # field 127
    for body in (first + second, unknown + first + unknown + second + unknown):
        answer = rest.post("several_signatures:predict", body, Content_Type=PROTOBUF, Accept=JSON)
        assert answer.json() == {"outputs": [-3]}


def test_an_output_filter_counts(rest: Rest) -> None:
    inputs = {"a": floats(2), "b": floats(5)}
    request = predict_request("m", inputs, output_filter=["product"]).SerializeToString()
    answer = rest.post("sum_and_product:predict", request, Content_Type=PROTOBUF)
    assert list(PredictResponse.FromString(answer.body).outputs) == ["product"]
    answer = rest.post("sum_and_product:predict", request, Content_Type=PROTOBUF, Accept=JSON)
    assert answer.json() == {"outputs": [10]}


def test_defaults_of_a_signature_count(rest: Rest) -> None:
    request = predict_request("m", {"x": floats(3)}).SerializeToString()
    answer = rest.post("default_inputs:predict", request, Content_Type=PROTOBUF, Accept=JSON)
    assert answer.json() == {"outputs": [7]}
    answer = rest.post("default_inputs:predict", npz(x=floats(3)), Content_Type=NPZ, Accept=JSON)
    assert answer.json() == {"outputs": [7]}


def test_classification_and_regression_requests(rest: Rest) -> None:
    rows = [{"x": 0.25, "c": 3.0}, {"x": 0.5}]
    request = classification_request("zz", rows, signature="classify").SerializeToString()
    answer = rest.post("inference/versions/2:classify", request, Content_Type=PROTOBUF)
    assert answer.headers["content-type"] == PROTOBUF
    response = ClassificationResponse.FromString(answer.body)
    assert classes(response) == classifications("classify", rows, version=2)
    assert response.model_spec.name == "inference"
    assert response.model_spec.version.value == 2
    request = regression_request("", rows, signature="regress", context={"c": 1.0})
    answer = rest.post("inference:regress", request.SerializeToString(), Content_Type=PROTOBUF)
    said = RegressionResponse.FromString(answer.body)
    expected = values("regress", rows, {"c": 1.0}, version=2)
    assert regressions(said) == expected
    answer = rest.post(
        "inference:regress", request.SerializeToString(), Content_Type=PROTOBUF, Accept=JSON
    )
    assert answer.json() == {"results": expected}


def test_examples_in_json_can_be_answered_in_protobuf(rest: Rest) -> None:
    body = {"signature_name": "classify", "examples": [{"x": 1.0}]}
    answer = rest.post("inference:classify", body, Accept=PROTOBUF)
    response = ClassificationResponse.FromString(answer.body)
    assert classes(response) == classifications("classify", [{"x": 1.0}], version=2)


def test_parts_that_native_code_does_not_read_hurt_nobody(rest: Rest) -> None:
    request = predict_request("m", {"x": floats(3)}, signature="negate")
    request.inputs["x"].resource_handle_val.add(name="r")
    answer = rest.post(
        "several_signatures:predict", request.SerializeToString(), Content_Type=PROTOBUF
    )
    assert array(PredictResponse.FromString(answer.body).outputs["y"]).tolist() == [-3]


def test_requests_of_another_method_are_refused(rest: Rest) -> None:
    request = predict_request("m", {"x": floats(1)}, signature="classify").SerializeToString()
    status, _ = rest.refusal("inference:classify", request, Content_Type=PROTOBUF)
    assert status in (400, 500)
    assert rest.predictions("half_plus_two:predict", {"instances": [1]}) == [4.5]


def test_mutated_protobuf_is_answered_or_refused_and_hurts_nobody(rest: Rest) -> None:
    chance = Random(5)
    valid = predict_request("m", {"x": floats(1, 2)}, signature="double").SerializeToString()
    bodies = [valid[:size] for size in range(len(valid))]
    for _ in range(200):
        changed = bytearray(valid)
        for _ in range(chance.choice([1, 1, 3])):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        bodies.append(bytes(changed))
    seen = set()
    with rest.dial() as peer:
        for body in bodies:
            request = post_bytes("several_signatures:predict", body, f"Content-Type: {PROTOBUF}")
            answer = peer.ask(request)
            seen.add(answer.status)
            assert answer.status in (200, 400, 429), (answer, body.hex())
    assert seen >= {200, 400}


# --- npy and npz


@pytest.mark.parametrize("dtype", NUMPYS)
def test_npy_in_and_out_for_every_dtype_of_numpy(rest: Rest, dtype: str) -> None:
    kind = "float16" if dtype == "half" else DTYPES[dtype][2]
    for shape in ((), (0,), (3,), (2, 3), (2, 0, 3)):
        sent = numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape).astype(kind)
        for array_sent in (sent, numpy.asfortranarray(sent)):
            path = f"identity:predict?signature_name={dtype}"
            answer = rest.post(path, npy(array_sent), Content_Type=NPY)
            assert (answer.status, answer.headers["content-type"]) == (200, NPY), answer
            got = from_npy(answer.body)
            assert (got.dtype, got.shape) == (sent.dtype, array_sent.shape)
            assert got.tolist() == array_sent.tolist()


def test_bytes_in_npy(rest: Rest) -> None:
    sent = numpy.array([b"a", b"", "ü".encode(), b"\xff\x01"])
    answer = rest.post("string_identity:predict", npy(sent), Content_Type=NPY)
    assert answer.status == 200, answer
    assert from_npy(answer.body).tolist() == sent.tolist()


def test_npz_has_an_array_for_each_input_and_output(rest: Rest) -> None:
    for packed in (False, True):
        body = npz(packed=packed, a=floats(1, 2), b=floats(5, 7))
        answer = rest.post("sum_and_product:predict", body, Content_Type=NPZ)
        assert answer.headers["content-type"] == NPZ
        got = from_npz(answer.body)
        assert {name: value.tolist() for name, value in got.items()} == {
            "sum": [6, 9],
            "product": [5, 14],
        }


def test_several_outputs_come_as_npz_unless_an_npy_was_asked_for(rest: Rest) -> None:
    path = "several_signatures:predict?signature_name=rows"
    sent = npy(numpy.array([[1, 2], [3, 4]], "float32"))
    answer = rest.post(path, sent, Content_Type=NPY)
    assert answer.headers["content-type"] == NPZ
    assert {k: v.tolist() for k, v in from_npz(answer.body).items()} == {
        "sum": [3, 7],
        "first": [1, 3],
    }
    assert rest.refusal(path, sent, Content_Type=NPY, Accept=NPY) == (
        400,
        'The response has 2 outputs: "first", "sum"; an npy holds one array: ask for an npz',
    )


SENT = {
    JSON: b'{"inputs": [1, 2]}',
    PROTOBUF: predict_request("m", {"x": floats(1, 2)}).SerializeToString(),
    NPY: npy(floats(1, 2)),
    NPZ: npz(x=floats(1, 2)),
}


def read_answer(kind: str, body: bytes, json_answer: Any) -> list[float]:
    readers: dict[str, Any] = {
        JSON: lambda: json_answer()["outputs"],
        PROTOBUF: lambda: array(PredictResponse.FromString(body).outputs["y"]).tolist(),
        NPY: lambda: from_npy(body).tolist(),
        NPZ: lambda: from_npz(body)["y"].tolist(),
    }
    result: list[float] = readers[kind]()
    return result


@pytest.mark.parametrize("accept", SENT)
@pytest.mark.parametrize("content_type", SENT)
def test_every_form_in_can_be_answered_in_every_form(
    rest: Rest, content_type: str, accept: str
) -> None:
    for asked in (accept, f"text/html;q=1, {accept};q=0.9, */*"):
        answer = rest.post(
            "half_plus_two/versions/1:predict",
            SENT[content_type],
            Content_Type=content_type,
            Accept=asked,
        )
        assert (answer.status, answer.headers["content-type"]) == (200, accept)
        assert read_answer(accept, answer.body, answer.json) == [2.5, 3]


@pytest.mark.parametrize("content_type", SENT)
def test_who_asks_for_no_form_gets_the_one_that_was_sent(rest: Rest, content_type: str) -> None:
    for more in ({}, {"Accept": "*/*"}, {"Accept": "text/html"}, {"Accept": ""}):
        answer = rest.post(
            "half_plus_two/versions/1:predict",
            SENT[content_type],
            Content_Type=f"{content_type}; charset=utf-8",
            **more,
        )
        assert answer.headers["content-type"] == content_type
        assert read_answer(content_type, answer.body, answer.json) == [2.5, 3]


def test_json_whatever_other_content_type_is_told(rest: Rest) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "", "nonsense"):
        answer = rest.post("half_plus_two:predict", SENT[JSON], Content_Type=kind)
        assert answer.json() == {"outputs": [4.5, 5]}


def test_errors_are_json_whatever_was_asked_for(rest: Rest) -> None:
    for kind in (PROTOBUF, NPY, NPZ):
        for path in ("nope:predict", "half_plus_two/versions/9:predict"):
            status, text = rest.refusal(path, SENT[kind], Content_Type=kind, Accept=kind)
            assert status == 404
            assert text.startswith("Servable not found for request: ")
    body = npy(floats(-1))
    status, text = rest.refusal("fails_for_negative:predict", body, Content_Type=NPY)
    assert status == 400
    assert "x must not be negative" in text


def test_dtypes_are_not_converted(rest: Rest) -> None:
    path = "half_plus_two:predict"
    for kind in ("float64", "int32", "float16", "bool"):
        text = f'is of {kind}, but its input takes float32: use .astype("float32")'
        assert rest.refusal(path, npy(numpy.ones(2, kind)), Content_Type=NPY) == (
            400,
            f'The npy array "x" {text}',
        )
        status, said = rest.refusal(path, npz(x=numpy.ones(2, kind)), Content_Type=NPZ)
        assert (status, said.partition('" ')[2]) == (400, text)


def test_names_that_are_not_of_the_signature_are_told(rest: Rest) -> None:
    status, text = rest.refusal("half_plus_two:predict", npz(z=floats(1)), Content_Type=NPZ)
    assert (status, text) == (
        400,
        'The npz has the array "z", but the signature has no input of that name;'
        ' its inputs are "x"',
    )
    status, text = rest.refusal("sum_and_product:predict", npz(a=floats(1)), Content_Type=NPZ)
    assert status == 400
    assert "Missing but required: {b}" in text
    status, text = rest.refusal("sum_and_product:predict", npy(floats(1)), Content_Type=NPY)
    assert status == 400
    assert '"a", "b"; send an npz' in text
    for kind in (NPY, NPZ):
        path = "half_plus_two:predict?signature_name=nope"
        assert rest.refusal(path, SENT[kind], Content_Type=kind) == (
            400,
            'Serving signature name: "nope" not found in signature def',
        )


def test_arrays_are_for_predict(rest: Rest) -> None:
    for more in ({"Content_Type": NPY}, {"Content_Type": NPZ}, {"Accept": NPY}):
        status, text = rest.refusal("inference:classify", b"{}", **more)
        assert status == 400
        assert "arrays are for :predict" in text


@pytest.mark.parametrize("kind", [NPY, NPZ])
def test_files_that_are_cut_off_or_mutated_are_refused_or_answered(rest: Rest, kind: str) -> None:
    chance = Random(7)
    valid = SENT[kind] if kind == NPY else npz(packed=True, x=floats(1, 2))
    bodies = [valid[: int(size)] for size in numpy.linspace(0, len(valid) - 1, 60)]
    for body in bodies:
        status, _ = rest.refusal("half_plus_two:predict", body, Content_Type=kind)
        assert status == 400, body
    for _ in range(150):
        changed = bytearray(valid)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        answer = rest.post("half_plus_two:predict", bytes(changed), Content_Type=kind)
        assert answer.status in (200, 400, 429), (answer, bytes(changed))
    for garbage in (b"", b"\x93NUMPY", b"PK\x05\x06" + bytes(18), b"\0" * 1000, b'{"inputs": [1]}'):
        assert rest.refusal("half_plus_two:predict", garbage, Content_Type=kind)[0] == 400


def test_pickles_are_never_read(rest: Rest) -> None:
    file = io.BytesIO()
    numpy.save(file, numpy.array([{"a": 1}], dtype=object), allow_pickle=True)
    for path in ("half_plus_two:predict", "string_identity:predict"):
        assert rest.refusal(path, file.getvalue(), Content_Type=NPY)[0] == 400


def zip_bomb(bytes_inside: int) -> bytes:
    """An npz of zeros, a thousand times smaller than what it says."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as entry,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (bytes_inside // 4,)}
        numpy.lib.format.write_array_header_1_0(entry, header)
        for _ in range(bytes_inside >> 20):
            entry.write(bytes(1 << 20))
    return file.getvalue()


def test_an_npz_that_would_take_too_much_is_refused_before_it_is_unpacked(models: Path) -> None:
    bomb = zip_bomb(256 << 20)
    assert len(bomb) < 1 << 19
    paths = {"half_plus_two": models / "half_plus_two"}
    flags = ("--rest_api_port=-1", "--max_in_flight_bytes=50000000")
    with serving(paths, *flags) as server:
        rest = Rest(server)
        assert rest.predictions("half_plus_two:predict", {"instances": [1]}) == [4.5]
        server.forget_peak_memory()
        before = server.memory_bytes()
        for _ in range(3):
            status, text = rest.refusal("half_plus_two:predict", bomb, Content_Type=NPZ)
            assert status == 429
            assert "Too many bytes are in flight" in text
        assert server.peak_memory_bytes() - before < 40_000_000
        assert rest.predictions("half_plus_two:predict", {"instances": [1]}) == [4.5]


def test_an_npz_that_lies_about_its_size_is_refused(server: Launched, rest: Rest) -> None:
    honest = zip_bomb(64 << 20)
    server.forget_peak_memory()
    before = server.memory_bytes()
    for said in (128, 1 << 20):  # bytes, instead of 64 MiB, in the directory and in the head
        size = (64 << 20) + 128
        lies = honest.replace(size.to_bytes(4, "little"), said.to_bytes(4, "little"))
        lies = lies.replace(size.to_bytes(8, "little"), said.to_bytes(8, "little"))
        assert lies != honest
        assert rest.refusal("half_plus_two:predict", lies, Content_Type=NPZ)[0] == 400
    assert server.peak_memory_bytes() - before < 40_000_000


def test_strings_in_protobuf_and_what_numpy_cannot_hold(rest: Rest) -> None:
    request = predict_request("m", {"x": strings("a", b"\xff")}).SerializeToString()
    answer = rest.post("string_identity:predict", request, Content_Type=PROTOBUF)
    assert list(PredictResponse.FromString(answer.body).outputs["y"].string_val) == [b"a", b"\xff"]
    quantized = tensor(numpy.array([1, -2], "int8"), "qint8")
    request = predict_request("m", {"x": quantized}, signature="qint8").SerializeToString()
    answer = rest.post("identity:predict", request, Content_Type=PROTOBUF, Accept=NPY)
    assert from_npy(answer.body).tolist() == [1, -2]  # numpy has no qint8
    assert rest.refusal("identity:predict", request, Content_Type=PROTOBUF, Accept=JSON) == (
        400,
        "Failed to write JSON value for tensor type: qint8",
    )
