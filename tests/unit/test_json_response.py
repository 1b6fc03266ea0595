"""Answers of REST as JSON, compact and in TensorFlow Serving's own layout."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tfsrv._json_response import write_json_classify, write_json_predict, write_json_regress
from tfsrv.errors import Code, ServingError

CASES = ROOT / "tests" / "conformance" / "cases.jsonl"
FLOAT, DOUBLE, STRING, INT64, BOOL = 1, 2, 7, 9, 10

Output = tuple[str, int, tuple[int, ...], "bytes | list[bytes]"]


def floats(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


def tensor(alias: str, array: np.ndarray[Any, Any], dtype: int) -> Output:
    return alias, dtype, array.shape, array.tobytes()


def error_of(outputs: list[Output], *, in_rows: bool) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        write_json_predict(outputs, in_rows)
    return caught.value.code, caught.value.message


# ---- as TensorFlow Serving answered ----


def recorded(method: str) -> list[Any]:
    """Requests of a method, with the answers that TensorFlow Serving gave."""
    params = []
    for line in CASES.read_text().splitlines():
        case = json.loads(line)
        if case["proto"] != "rest" or not case["path"].endswith(f":{method}"):
            continue
        if case["method"] != "POST" or case["answer"]["status"] != 200:
            continue
        request = base64.b64decode(case["body"] or "").decode("utf-8", "replace")
        params.append(pytest.param(request, case["answer"]["body"], id=case["id"]))
    assert len(params) > 5
    return params


def is_bytes(value: object) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"]


def tensor_of(name: str, value: Any, *, is_double: bool) -> Output:
    """The tensor that a value in an answer was written from."""
    shape = []
    leaf = value
    leaves = [value]
    while isinstance(leaf, list):
        shape.append(len(leaf))
        leaves = [item for part in leaves for item in part]
        leaf = leaf[0] if leaf else 0.0
    if is_bytes(leaf):
        texts = [base64.b64decode(item["b64"]) for item in leaves]
        return f"{name.removesuffix('_bytes')}_bytes", STRING, tuple(shape), texts
    if isinstance(leaf, str):
        return name, STRING, tuple(shape), [item.encode() for item in leaves]
    number, dtype = {
        bool: (BOOL, np.bool_),
        int: (INT64, np.int64),
        float: (DOUBLE, np.float64) if is_double else (FLOAT, np.float32),
    }[type(leaf)]
    if any(item > 2**63 for item in leaves if isinstance(item, int)):
        number, dtype = 23, np.uint64
    return name, number, tuple(shape), np.array(leaves, dtype).tobytes()


@pytest.mark.parametrize(("request_text", "answer"), recorded("predict"))
def test_predict_is_laid_out_as_tensorflow_serving_does(request_text: str, answer: str) -> None:
    value = json.loads(answer)
    in_rows = "predictions" in value
    whole = value["predictions" if in_rows else "outputs"]
    columns = {"y": whole}
    if in_rows and whole and isinstance(whole[0], dict) and not is_bytes(whole[0]):
        columns = {key: [row[key] for row in whole] for key in whole[0]}
    elif isinstance(whole, dict) and not is_bytes(whole):
        columns = whole
    is_double = "float64" in request_text
    outputs = [tensor_of(name, item, is_double=is_double) for name, item in columns.items()]
    assert write_json_predict(outputs, in_rows, True).decode() == answer
    # NaN is not equal to itself, its text is.
    compact = write_json_predict(outputs, in_rows)
    assert json.dumps(json.loads(compact)) == json.dumps(value)


@pytest.mark.parametrize(("request_text", "answer"), recorded("classify"))
def test_classify_is_laid_out_as_tensorflow_serving_does(request_text: str, answer: str) -> None:
    rows = json.loads(answer)["results"]
    pairs = [pair for row in rows for pair in row]
    labels = [pair[0].encode() for pair in pairs]
    scores = floats(*(pair[1] for pair in pairs))
    written = write_json_classify(len(rows), len(rows[0]), labels, scores, True)
    assert written.decode() == answer


@pytest.mark.parametrize(("request_text", "answer"), recorded("regress"))
def test_regress_is_laid_out_as_tensorflow_serving_does(request_text: str, answer: str) -> None:
    values = json.loads(answer)["results"]
    assert write_json_regress(len(values), floats(*values), True).decode() == answer


# ---- forms ----

PAIR = floats(1, 2.5)


def test_rows_of_one_output_have_no_names() -> None:
    assert write_json_predict([("y", FLOAT, (2,), PAIR)], True) == b'{"predictions":[1.0,2.5]}'
    assert (
        write_json_predict([("y", FLOAT, (2, 1), PAIR)], True) == b'{"predictions":[[1.0],[2.5]]}'
    )


def test_rows_of_several_outputs_are_objects() -> None:
    outputs: list[Output] = [("a", FLOAT, (2,), PAIR), ("b", STRING, (2, 1), [b"x", b"y"])]
    assert write_json_predict(outputs, True) == (
        b'{"predictions":[{"a":1.0,"b":["x"]},{"a":2.5,"b":["y"]}]}'
    )


def test_columns_may_be_scalars_and_differ_in_size() -> None:
    outputs: list[Output] = [("a", FLOAT, (), floats(4)), ("b", FLOAT, (2,), PAIR)]
    assert write_json_predict(outputs[:1], False) == b'{"outputs":4.0}'
    assert write_json_predict(outputs, False) == b'{"outputs":{"a":4.0,"b":[1.0,2.5]}}'


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((0,), "[]", "[]"),
        ((0, 3), "[]", "[]"),
        ((2, 0), "[[],[]]", "[[],[]]"),
        ((1, 2, 0), "[[[],[]]]", "[[[],[]]]"),
    ],
)
def test_empty_tensors_keep_their_shape(shape: tuple[int, ...], rows: str, columns: str) -> None:
    for dtype in (FLOAT, STRING, 8):  # also a dtype that could not be written
        output: Output = ("y", dtype, shape, [] if dtype == STRING else b"")
        assert write_json_predict([output], True).decode() == f'{{"predictions":{rows}}}'
        assert write_json_predict([output], False).decode() == f'{{"outputs":{columns}}}'


def test_no_rows_are_an_empty_list_in_either_layout() -> None:
    outputs: list[Output] = [("a", FLOAT, (0,), b""), ("b", FLOAT, (0, 2), b"")]
    assert write_json_predict(outputs, True) == b'{"predictions":[]}'
    assert write_json_predict(outputs, True, True) == b'{\n    "predictions": []\n}'


def test_only_strings_named_so_are_base64() -> None:
    outputs: list[Output] = [
        ("a_bytes", STRING, (1,), [b"\xff"]),
        ("b_bytes_", STRING, (1,), [b"\xff"]),
        ("c_bytes", FLOAT, (1,), floats(1)),
        ("_bytes", STRING, (1,), [b""]),
        ("ytes", STRING, (1,), [b'"']),
    ]
    assert json.loads(write_json_predict(outputs, True)) == {
        "predictions": [
            {
                "a_bytes": {"b64": "/w=="},
                "b_bytes_": "\ufffd",
                "c_bytes": 1.0,
                "_bytes": {"b64": ""},
                "ytes": '"',
            }
        ]
    }


def test_names_are_escaped() -> None:
    outputs: list[Output] = [('"a"', FLOAT, (1,), floats(1)), ("b\n", FLOAT, (1,), floats(1))]
    assert write_json_predict(outputs, True) == b'{"predictions":[{"\\"a\\"":1.0,"b\\n":1.0}]}'


@pytest.mark.parametrize("pretty", [False, True])
def test_the_model_comes_first_if_asked_for(pretty: bool) -> None:
    spec = ("m", 5, 'serving "default"')
    told = {"name": "m", "version": "5", "signature_name": 'serving "default"'}
    answers = [
        write_json_predict([("y", FLOAT, (2,), PAIR)], True, pretty, spec),
        write_json_classify(1, 1, [b"a"], floats(1), pretty, spec),
        write_json_regress(1, floats(1), pretty, spec),
    ]
    for answer in answers:
        value = json.loads(answer)
        assert next(iter(value)) == "model_spec"
        assert value["model_spec"] == told
        assert list(value["model_spec"]) == list(told)


@pytest.mark.parametrize(
    ("number", "dtype", "values"),
    [
        (1, np.float32, [0.5, -0.0, 1 / 3]),
        (2, np.float64, [0.5, -0.0, 1 / 3]),
        (3, np.int32, [-(2**31), 0, 2**31 - 1]),
        (4, np.uint8, [0, 7, 255]),
        (5, np.int16, [-(2**15), 0, 2**15 - 1]),
        (6, np.int8, [-128, 0, 127]),
        (9, np.int64, [-(2**63), 0, 2**63 - 1]),
        (10, np.bool_, [True, False]),
        (17, np.uint16, [0, 2**16 - 1]),
        (19, np.float16, [0.5, -0.0, 0.0999755859375]),
        (22, np.uint32, [0, 2**32 - 1]),
        (23, np.uint64, [0, 2**64 - 1]),
    ],
)
def test_every_dtype_that_has_numbers_is_written(
    number: int, dtype: type[np.generic], values: list[float]
) -> None:
    array = np.array(values, dtype)
    text = write_json_predict([tensor("y", array, number)], False)
    read: list[float] = json.loads(text)["outputs"]
    assert [math.copysign(1, value) for value in read] == [math.copysign(1, v) for v in values]
    assert np.array_equal(np.array(read, dtype), array)
    assert {type(value) for value in read} == {type(value) for value in values}


def test_bfloat16_is_written_as_the_float_that_it_is() -> None:
    bits = np.array([0x3F80, 0x3DCD, 0xFF80, 0x7FC0], np.uint16)
    text = write_json_predict([tensor("y", bits, 14)], False)
    assert text == b'{"outputs":[1.0,0.100097656,-Infinity,NaN]}'


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@settings(deadline=None)
@given(SHAPES, st.booleans())
def test_values_stand_where_numpy_has_them(shape: tuple[int, ...], pretty: bool) -> None:
    array = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    output = tensor("y", array, 3)
    assert json.loads(write_json_predict([output], False, pretty))["outputs"] == array.tolist()
    if shape:
        value = json.loads(write_json_predict([output, output], True, pretty))["predictions"]
        assert value == [{"y": array[row].tolist()} for row in range(shape[0])]


@pytest.mark.parametrize("size", [511, 512, 513, 1024, 5000])
@pytest.mark.parametrize("pretty", [False, True])
def test_long_lists_are_written_across_steps(size: int, pretty: bool) -> None:
    array = np.arange(size, dtype=np.float32) / 7
    text = write_json_predict([tensor("y", array, FLOAT)], False, pretty)
    assert np.array_equal(np.array(json.loads(text)["outputs"], np.float32), array)


def test_the_deepest_tensor_is_written() -> None:
    shape = (1,) * 254
    text = write_json_predict([("y_bytes", STRING, shape, [b"a"])], False, True).decode()
    assert text.count("[") == text.count("]") == 254
    assert "".join(text.split()) == f'{{"outputs":{"[" * 254}{{"b64":"YQ=="}}{"]" * 254}}}'


def test_the_longest_numbers_fit() -> None:
    smallest = np.full(2000, -1.1754944e-38, np.float32)
    text = write_json_predict([tensor("y", smallest, FLOAT)], False)
    assert text == b'{"outputs":[' + b",".join([b"-1.17549435e-38"] * 2000) + b"]}"
    least = np.full(2000, -2.2250738585072014e-308)
    text = write_json_predict([tensor("y", least, DOUBLE)], False)
    assert text == b'{"outputs":[' + b",".join([b"-2.2250738585072014e-308"] * 2000) + b"]}"


def test_what_has_no_scores_or_labels_says_nothing_of_them() -> None:
    assert write_json_classify(1, 2, None, PAIR) == b'{"results":[[["",1.0],["",2.5]]]}'
    assert write_json_classify(1, 1, [b"a"], None) == b'{"results":[[["a",0.0]]]}'
    assert write_json_classify(2, 0, None, None) == b'{"results":[[],[]]}'
    assert write_json_regress(2, None) == b'{"results":[0.0,0.0]}'
    assert write_json_regress(2, PAIR) == b'{"results":[1.0,2.5]}'


# ---- errors ----


def test_no_outputs_have_no_form() -> None:
    for in_rows in (False, True):
        assert error_of([], in_rows=in_rows) == (
            Code.INVALID_ARGUMENT,
            "Cannot convert empty tensor map to JSON",
        )


def test_rows_need_a_first_dimension() -> None:
    assert error_of([("y", FLOAT, (), floats(1))], in_rows=True) == (
        Code.INVALID_ARGUMENT,
        "Tensor name: y has no shape information ",
    )


def test_rows_need_as_many_of_each() -> None:
    outputs: list[Output] = [("a", FLOAT, (1,), floats(1)), ("b", FLOAT, (2,), PAIR)]
    assert error_of(outputs, in_rows=True) == (
        Code.INVALID_ARGUMENT,
        "Tensor name: b has inconsistent batch size: 2 expecting: 1",
    )


@pytest.mark.parametrize(
    ("dtype", "unit", "name"),
    [
        (8, 8, "complex64"),
        (11, 1, "qint8"),
        (12, 1, "quint8"),
        (13, 4, "qint32"),
        (15, 2, "qint16"),
        (16, 2, "quint16"),
        (18, 16, "complex128"),
        (20, 8, "resource"),
        (21, 8, "variant"),
        (24, 1, "float8_e5m2"),
        (25, 1, "float8_e4m3fn"),
        (29, 1, "int4"),
        (30, 1, "uint4"),
        (99, 1, "99"),
    ],
)
def test_what_is_no_number_is_refused_by_its_name(dtype: int, unit: int, name: str) -> None:
    assert error_of([("y", dtype, (1,), bytes(unit))], in_rows=True) == (
        Code.INVALID_ARGUMENT,
        f"Failed to write JSON value for tensor type: {name}",
    )


@pytest.mark.parametrize("shape", [(3,), (2, 2), (-1, -2), (2**40, 2**20), (1,) * 255])
def test_values_that_do_not_fit_their_shape_are_refused(shape: tuple[int, ...]) -> None:
    code, message = error_of([("y", FLOAT, shape, floats(1, 2))], in_rows=False)
    assert code == Code.INTERNAL
    assert message == "The values of an output do not fit its shape: y"


@pytest.mark.parametrize("shape", [(2**40, 0), (1, 2**30, 0, 5)])
def test_too_many_empty_lists_are_refused_before_they_are_written(shape: tuple[int, ...]) -> None:
    code, _ = error_of([("y", FLOAT, shape, b"")], in_rows=False)
    assert code == Code.RESOURCE_EXHAUSTED


def test_no_examples_have_no_results() -> None:
    with pytest.raises(ServingError, match="Cannot convert empty ClassificationResults to JSON"):
        write_json_classify(0, 1, [], b"")
    with pytest.raises(ServingError, match="Cannot convert empty RegressionResults to JSON"):
        write_json_regress(0, b"")
