"""Values in JSON, out of the ordinary, through a whole server and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.functional.conftest import serving
from tests.functional.rest_client import Rest
from tests.graphs import FLOAT, STRING, Graph

INPUTS = 40  # of `many`, more than the quick reader takes
SPACES = b" " * 70_000  # with which a body is read by a worker


def many(folder: Path) -> Path:
    """x0 [*] ... x39 [*] → y0 ... y39, the same; and `some_bytes`: x string → y_bytes, y."""
    graph = Graph()
    xs = {f"x{i}": graph.add(f"x{i}", "Placeholder", dtype=FLOAT) for i in range(INPUTS)}
    ys = {f"y{i}": graph.add(f"y{i}", "Identity", x, T=FLOAT) for i, x in enumerate(xs.values())}
    graph.sign("serving_default", xs, ys)
    text = graph.add("text", "Placeholder", dtype=STRING)
    same = graph.add("same", "Identity", text, T=STRING)
    signature = graph.sign("some_bytes", {"x": text}, {"y_bytes": same, "y": same})
    for info in (*signature.inputs.values(), *signature.outputs.values()):
        info.dtype = STRING
    graph.save(folder / "1")
    return folder


@pytest.fixture(scope="module")
def rest(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    names = ("identity", "string_identity", "several_signatures", "counter", "keras_dense")
    paths = {name: models / name for name in names}
    paths["many"] = many(tmp_path_factory.mktemp("many") / "many")
    with serving(paths, "--rest_api_port=-1") as server:
        yield Rest(server)


def same(rest: Rest, dtype: str, values: str) -> Any:
    """What comes back of values that are spelt like this: the same by every way."""
    ways = [
        f'{{"signature_name": "{dtype}", "inputs": {values}}}'.encode(),
        f'{{"inputs": {{"x": {values}}}, "signature_name": "{dtype}"}}'.encode(),
        f'{{"signature_name": "{dtype}", "instances": {values}}}'.encode(),
    ]
    if not values.startswith("[") or values == "[]":
        ways.pop()
    ways.append(ways[0] + SPACES)
    answers = [rest.post("identity:predict", way) for way in ways]
    assert {answer.status for answer in answers} == {200}, answers
    texts = {answer.body.partition(b":")[2] for answer in answers}
    assert len(texts) == 1
    return texts.pop().decode().rstrip("}")


@pytest.mark.parametrize(
    ("dtype", "values", "spelling"),
    [
        ("float", "[NaN, Infinity, -Infinity, Inf, -Inf]", None),
        ("double", "[NaN, Infinity, -Infinity]", "[NaN,Infinity,-Infinity]"),
        ("float", "1.5", "1.5"),
        ("int64", "7", "7"),
        ("bool", "true", "true"),
        ("float", "[]", "[]"),
        ("float", "[[], []]", "[[],[]]"),
        ("int64", "[[[]]]", "[[[]]]"),
        ("float", "[1e39, -1e39, 1e-60]", "[Infinity,-Infinity,0.0]"),
        ("float", "[16777217, 0.1, 1e10, 123456789]", "[16777216.0,0.1,1e+10,123456792.0]"),
        ("double", "[0.1, 1e300, 5e-324, -0.0]", "[0.1,1e+300,4.94066e-324,-0.0]"),
        ("int64", "[9223372036854775807, -9223372036854775808]", None),
        ("uint64", "[18446744073709551615, 0]", "[18446744073709551615,0]"),
        ("int32", "[2147483647, -2147483648]", "[2147483647,-2147483648]"),
        ("uint32", "[4294967295]", "[4294967295]"),
        ("int8", "[127, -128]", "[127,-128]"),
        ("uint8", "[255, 0]", "[255,0]"),
        ("int16", "[32767, -32768]", "[32767,-32768]"),
        ("uint16", "[65535, 0]", "[65535,0]"),
        ("half", "[1.5, -0.0, 65504, 6e-8, 1e6]", "[1.5,-0.0,65504.0,5.96046448e-08,Infinity]"),
        ("bfloat16", "[1.5, 1, 3e38, NaN]", None),
        ("bool", "[true, false]", "[true,false]"),
    ],
)
def test_values_come_back_in_their_spelling(
    rest: Rest, dtype: str, values: str, spelling: str | None
) -> None:
    said = same(rest, dtype, values)
    if spelling is not None:
        assert said == spelling
        return
    sent, got = json.loads(values.replace("Inf,", "Infinity,").replace("Inf]", "Infinity]")), said
    if dtype == "bfloat16":
        numpy.testing.assert_allclose(json.loads(got), sent, rtol=0.01)
    else:
        numpy.testing.assert_array_equal(json.loads(got), sent)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", "9223372036854775808"),
        ("int64", "-9223372036854775809"),
        ("int64", "1.0"),
        ("int64", "1e2"),
        ("int32", "2147483648"),
        ("uint64", "18446744073709551616"),
        ("uint64", "-1"),
        ("uint32", "4294967296"),
        ("uint16", "65536"),
        ("uint16", "-1"),
        ("bool", "1"),
        ("float", "true"),
        ("float", '"1"'),
        ("float", "null"),
        ("float", '{"b64": "YQ=="}'),
        ("string", "1"),
        ("string", "null"),
    ],
)
def test_values_of_another_type_are_refused(rest: Rest, dtype: str, value: str) -> None:
    for body in (f'"inputs": {value}', f'"inputs": {{"x": {value}}}', f'"instances": [{value}]'):
        status, text = rest.refusal("identity:predict", f'{{"signature_name": "{dtype}", {body}}}')
        assert status == 400
        assert f"is not of expected type: {dtype}" in text


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "qint8", "quint8", "qint32"])
def test_types_without_a_form_in_json_are_told(rest: Rest, dtype: str) -> None:
    body = {"signature_name": dtype, "inputs": [1]}
    status, text = rest.refusal("identity:predict", body)
    assert status == 501
    assert f"to type: {dtype}" in text


@pytest.mark.parametrize("inputs", [1, 16, 17, INPUTS])
def test_many_inputs(rest: Rest, inputs: int) -> None:
    row: dict[str, Any] = {f"x{i}": [i, i + 0.5] for i in range(INPUTS)}
    expected = {f"y{i}": [i, i + 0.5] for i in range(INPUTS)}
    assert rest.predictions("many:predict", {"instances": [row, row]}) == [expected] * 2
    assert rest.predictions("many:predict", {"inputs": row}) == expected
    row[f"x{inputs - 1}"] = [[1.0]]
    assert rest.predictions("many:predict", {"inputs": row}) == {
        **expected,
        f"y{inputs - 1}": [[1]],
    }
    del row[f"x{inputs - 1}"]
    assert rest.refusal("many:predict", {"inputs": row}) == (
        400,
        f"Missing named input: x{inputs - 1} in 'inputs' object.",
    )


TEXTS = [
    "", "a", "\"\\/\b\f\n\r\t", "\0", "\x01\x1f\x7f", "é", "\ud7ff\ue000", "😀", "\u2028\u2029",
    "</script>", "\ufeff", "\uffff", "a" * 5000, "é" * 5000, "\\u0041", "%s%n", "\x80\x9f",
]  # fmt: skip


def test_strings_of_all_kinds_come_back(rest: Rest) -> None:
    for ascii_only in (True, False):
        for body in ({"instances": TEXTS}, {"inputs": TEXTS}, {"inputs": {"x": TEXTS}}):
            data = json.dumps(body, ensure_ascii=ascii_only).encode()
            for more in (b"", SPACES):
                assert rest.predictions("string_identity:predict", data + more) == TEXTS
    for text in TEXTS:
        assert rest.predictions("string_identity:predict", {"inputs": text}) == text
        assert rest.predictions("string_identity:predict", {"instances": [{"x": text}]}) == [text]


def test_escapes_of_json_are_read(rest: Rest) -> None:
    body = r'{"instances": ["\u00e9\ud83d\ude00\/\"\\\b\f\n\r\t\u0000\u001F"]}'
    got = rest.predictions("string_identity:predict", body)
    assert got == ['é😀/"\\\b\f\n\r\t\0\x1f']


@pytest.mark.parametrize(
    "encoded", ["gA==", "/////w==", "w6k=", "wyg=", "7aCA", "9JCAgA==", "4oLi", "Yf9i", "wIA="]
)
def test_bytes_that_are_no_utf8_are_answered_in_valid_json(rest: Rest, encoded: str) -> None:
    body = {"instances": [{"b64": encoded}] * 2}
    (first, second) = rest.predictions("string_identity:predict", body)
    assert isinstance(first, str)
    assert first == second
    named = {"signature_name": "some_bytes", **body}
    for row in rest.predictions("many:predict", named):
        assert row["y_bytes"] == {"b64": encoded}
        assert row["y"] == first


def test_a_base64_object_is_no_named_input(rest: Rest) -> None:
    assert rest.predictions("string_identity:predict", {"inputs": {"b64": "YQ=="}}) == "a"
    assert rest.predictions("string_identity:predict", {"inputs": {"x": {"b64": "YQ"}}}) == "a"
    status, text = rest.refusal("string_identity:predict", {"instances": [{"b64": "Y!"}]})
    assert status == 400
    assert "Unable to base64 decode" in text


def test_signatures_without_inputs_and_without_a_default(rest: Rest) -> None:
    body = {"signature_name": "get_counter", "inputs": {}}
    assert rest.refusal("counter:predict", body) == (
        400,
        "Failed to get input map for signature: get_counter",
    )
    body["signature_name"] = "__saved_model_init_op"  # its output is no tensor, either
    assert rest.refusal("string_identity:predict", body) == (
        400,
        "Failed to get input map for signature: __saved_model_init_op",
    )
    assert rest.refusal("counter:predict", {"inputs": {}}) == (
        400,
        'Serving signature name: "serving_default" not found in signature def',
    )
    more: dict[str, Any] = {"signature_name": "incr_counter_by", "inputs": 2.0}
    first = rest.predictions("counter:predict", more)
    assert rest.predictions("counter:predict", more) == first + 2
    status, text = rest.refusal("counter:predict", {**more, "instances": [2.0], "inputs": 1})
    assert status == 400
    assert "only one of 'inputs' or 'instances'" in text


def test_a_scalar_output_has_no_rows(rest: Rest) -> None:
    body = {"signature_name": "incr_counter_by", "instances": [{"delta": 1.0}]}
    status, _ = rest.refusal("counter:predict", body)  # delta is a vector then
    assert status == 400


def test_what_the_graph_says_is_told(rest: Rest) -> None:
    status, text = rest.refusal("keras_dense:predict", {"instances": [[1, 2]]})
    assert status == 400
    assert text
    assert rest.predictions("keras_dense:predict", {"instances": [[1, 2, 3]]}) == [[6, 12]]


def test_deep_tensors(rest: Rest) -> None:
    for rank in (1, 7, 8, 9, 30, 250):
        values = "[" * rank + "1" + "]" * rank
        body = f'{{"signature_name": "float", "inputs": {values}}}'
        answer = rest.post("identity:predict", body)
        assert answer.status in (200, 400), rank  # TensorFlow's own limit
        if answer.status == 200:
            assert answer.body.decode() == f'{{"outputs":{values.replace("1", "1.0")}}}'
        assert rank >= 250 or answer.status == 200 or rank > 8
    for rank in (255, 1000, 100_000):
        values = "[" * rank + "1" + "]" * rank
        body = f'{{"signature_name": "float", "inputs": {values}}}'
        assert rest.refusal("identity:predict", body)[0] == 400


def test_floats_are_rounded_once(rest: Rest) -> None:
    halfway = "1.00000005960464477539062500000000000001"  # just above the middle of two floats
    assert same(rest, "float", f"[{halfway}]") == "[1.00000012]"
