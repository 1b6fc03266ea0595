"""JSON bodies for :predict: what they ask for, and why they are refused."""

from __future__ import annotations

import json
import math
import struct
from decimal import Context, Decimal
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.json_bodies import BodyMaker, check_body, nearest_bfloat16, read, read_request
from tests.wire_messages import PredictRequest
from tfsrv._json_predict_request import read_predict
from tfsrv.errors import Code, ServingError

FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, STRING, INT64, BOOL = 1, 2, 3, 4, 5, 6, 7, 9, 10
COMPLEX64, QINT8, BFLOAT16, UINT16, HALF, RESOURCE, UINT32, UINT64 = 8, 11, 14, 17, 19, 20, 22, 23
X = {"x": FLOAT}
MANY = {"label": STRING, "ids": INT64, "weight": FLOAT}

randoms = st.integers(0, 2**64).map(Random)
more = settings(max_examples=400, deadline=None)


def refusal(body: bytes, inputs: dict[str, int]) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        read_predict(body, inputs)
    return caught.value.code, caught.value.message


def values(body: bytes, inputs: dict[str, int], name: str = "x") -> Any:
    """The values of an input as lists."""
    return read(body, inputs)[0][name].tolist()


# --- what is read


@more
@given(randoms)
def test_valid_bodies_mean_what_json_and_numpy_say(random: Random) -> None:
    check_body(*BodyMaker(random).body())


def test_the_model_is_named_as_the_url_names_it() -> None:
    def spec(body: bytes, **options: Any) -> Any:
        request: Any = PredictRequest.FromString(read_predict(body, X, **options)[0])
        return request.model_spec

    body = b'{"signature_name": "s\\u00e9", "inputs": 1}'
    found = spec(body, model="m", version=7)
    assert (found.name, found.signature_name, found.version.value) == ("m", "sé", 7)
    assert spec(body, model="m", version=0).HasField("version")
    assert spec(body, model="m", version=2**63 - 1).version.value == 2**63 - 1
    assert spec(body, model="m", label="stable").version_label == "stable"
    without = spec(b'{"inputs": 1}', model="m")
    assert without.WhichOneof("version_choice") is None
    assert (without.name, without.signature_name) == ("m", "")


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (b'{"inputs": 1}', ()),
        (b'{"inputs": []}', (0,)),
        (b'{"inputs": [[], []]}', (2, 0)),
        (b'{"inputs": [[[]]]}', (1, 1, 0)),
        (b'{"inputs": [1, 2]}', (2,)),
        (b'{"inputs": {"x": [[1], [2]]}}', (2, 1)),
        (b'{"inputs": {"x": 1, "other": {"deep": [[]]}}}', ()),
        (b'{"instances": [1, 2, 3]}', (3,)),
        (b'{"instances": [[]]}', (1, 0)),
        (b'{"instances": [[1, 2]]}', (1, 2)),
        (b'{"instances": [{"x": 1}, {"x": 2}]}', (2,)),
        (b'{"instances": [{"x": [[1, 2]]}]}', (1, 1, 2)),
        (b'{"other": [1, [2]], "instances": [[[1]]]}', (1, 1, 1)),
    ],
)
def test_shapes(body: bytes, shape: tuple[int, ...]) -> None:
    arrays, in_rows = read(body, X)
    assert arrays["x"].shape == shape
    assert in_rows == (b"instances" in body)


def test_of_a_name_that_comes_twice_the_first_counts() -> None:
    assert values(b'{"inputs": {"x": 1, "x": 2}}', X) == 1
    assert values(b'{"instances": [{"x": 1, "x": [2]}, {"x": 3, "x": "a"}]}', X) == [1, 3]
    assert values(b'{"inputs": 1, "inputs": 2}', X) == 1


def test_an_input_may_have_any_name() -> None:
    for name in ("b64", "inputs", "", "é", 'a"b', "a\nb"):
        body = json.dumps({"instances": [{name: 1.0}]}).encode()
        assert values(body, {name: FLOAT}, name) == [1.0]


def test_an_object_b64_of_a_string_is_a_value_even_where_that_is_an_inputs_name() -> None:
    assert values(b'{"instances": [{"b64": "aGk="}]}', {"b64": STRING}, "b64") == [b"hi"]
    assert values(b'{"instances": [{"b64": {"b64": "aGk="}}]}', {"b64": STRING}, "b64") == [b"hi"]


def test_objects_may_have_their_members_in_any_order() -> None:
    rows = [{"ids": [1], "label": "a", "weight": 1}, {"weight": 2, "label": "b", "ids": [2]}]
    arrays, _ = read(json.dumps({"instances": rows * 3}).encode(), MANY)
    assert arrays["ids"].tolist() == [[1], [2]] * 3
    assert arrays["label"].tolist() == [b"a", b"b"] * 3
    assert arrays["weight"].tolist() == [1.0, 2.0] * 3


def test_strings_are_bytes_of_utf8_or_whatever_base64_says() -> None:
    body = rb'{"inputs": ["a\u0000b", "\u00e9", {"b64": "\u002f\u002F 8="}, {"b64": ""}, "", "raw '
    body += b'\xff\xfe"]}'
    assert values(body, {"x": STRING}) == [
        b"a\0b",
        "é".encode(),
        b"\xff\xff",
        b"",
        b"",
        b"raw \xff\xfe",
    ]


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE, BFLOAT16, HALF])
def test_floats_may_be_any_number(dtype: int) -> None:
    found = values(
        b'{"inputs": [NaN, Infinity, -Inf, -0.0, 1, 1e300, -18446744073709551615]}', {"x": dtype}
    )
    if dtype == BFLOAT16:
        assert found == [0x7FC0, 0x7F80, 0xFF80, 0x8000, 0x3F80, 0x7F80, 0xDF80]
        return
    kind = {FLOAT: np.float32, DOUBLE: np.float64, HALF: np.float16}[dtype]
    with np.errstate(over="ignore"):
        expected = np.array([math.nan, math.inf, -math.inf, -0.0, 1, 1e300, -(2.0**64)], kind)
    np.testing.assert_array_equal(np.array(found, kind), expected)
    assert np.signbit(np.array(found, kind)[3])


@more
@given(st.one_of(st.floats(allow_nan=False), st.floats(-70000, 70000), st.floats(-1e-4, 1e-4)))
def test_halves_are_rounded_as_numpy_rounds(value: float) -> None:
    body = json.dumps({"inputs": value}).encode()
    with np.errstate(over="ignore"):
        expected = np.array(value, np.float16)
    assert read(body, {"x": HALF})[0]["x"].tobytes() == expected.tobytes()


def test_every_half_and_what_is_between_two_is_rounded_right() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    between = (halves[:-1] + halves[1:]) / 2
    numbers = np.concatenate([
        halves, between, np.nextafter(between, 0), np.nextafter(between, 1e9), [65519.99, 65520.0],
    ])  # fmt: skip
    numbers = np.concatenate([numbers, -numbers])
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float16)
    found, _ = read(json.dumps({"inputs": numbers.tolist()}).encode(), {"x": HALF})
    assert found["x"].tobytes() == expected.tobytes()


@more
@given(st.one_of(st.floats(), st.floats(width=32)), st.integers(-3, 3))
def test_bfloat16s_are_rounded_once(value: float, steps: int) -> None:
    (bits,) = struct.unpack("<Q", struct.pack("<d", value))
    halfway = bits & ~((1 << 45) - 1) | 1 << 44  # between two of them, unless they are subnormal
    for number in (value, *struct.unpack("<2d", struct.pack("<2Q", halfway, halfway + steps))):
        found, _ = read(json.dumps({"inputs": number}).encode(), {"x": BFLOAT16})
        if not math.isnan(number):
            assert found["x"] == nearest_bfloat16(number)


def test_integers_as_floats_are_rounded_once() -> None:
    numbers = [2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**54 + 2**30 + 1, 2**63 + 2**39 + 1, 2**64 - 1]
    found = values(json.dumps({"inputs": numbers}).encode(), X)
    expected = [2**24, 2**24 + 4, -(2**24), 2**54 + 2**31, 2**63 + 2**40, 2**64]
    assert found == [float(number) for number in expected]


@pytest.mark.parametrize(
    ("dtype", "smallest", "largest"),
    [
        (INT32, -(2**31), 2**31 - 1),
        (INT64, -(2**63), 2**63 - 1),
        (UINT16, 0, 2**16 - 1),
        (UINT32, 0, 2**32 - 1),
        (UINT64, 0, 2**64 - 1),
    ],
)
def test_integers_are_in_the_range_of_their_dtype(dtype: int, smallest: int, largest: int) -> None:
    body = json.dumps({"inputs": [smallest, largest, 0]}).encode()
    assert values(body, {"x": dtype}) == [smallest, largest, 0]
    for value in (smallest - 1, largest + 1):
        code, text = refusal(json.dumps({"inputs": [0, value]}).encode(), {"x": dtype})
        assert code == Code.INVALID_ARGUMENT
        assert " Type: Number is not of expected type: " in text


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (INT8, [-1, 0, -128, 127, 0, -1]),
        (UINT8, [255, 0, 128, 127, 0, 255]),
        (INT16, [255, 256, -32640, 32639, 0, -1]),
    ],
)
def test_of_integers_for_short_types_the_low_bits_count(dtype: int, expected: list[int]) -> None:
    given = [255, 256, -32640, 32639, -(2**31), 2**31 - 1]
    assert values(json.dumps({"inputs": given}).encode(), {"x": dtype}) == expected
    for value in (-(2**31) - 1, 2**31):
        code, text = refusal(json.dumps({"inputs": [0, value]}).encode(), {"x": dtype})
        assert code == Code.INVALID_ARGUMENT
        assert " Type: Number is not of expected type: " in text


def test_minus_zero_is_an_integer() -> None:
    assert values(b'{"inputs": [-0]}', {"x": UINT8}) == [0]


# --- what is refused


@pytest.mark.parametrize(
    ("body", "inputs", "text"),
    [
        # the document
        (b"", X, "JSON Parse error: The document is empty"),
        (b'{"instances": [1', X,
         "JSON Parse error: Missing a comma or ']' after an array element. at offset: 16"),
        (b"5", X, "JSON Value: 5 Is not object"),
        (b"[1]", X, "JSON Value: [1] Is not object"),
        (b'"\\n"', X, 'JSON Value: "\\n" Is not object'),
        (b"1.5", X, "JSON Value: 1.5 Is not object"),
        (b'{"signature_name": 5}', X,
         'JSON Value: {\n    "signature_name": 5\n} not formatted correctly. '
         "'signature_name' key must be a string value."),
        (b'{"signature_name": null, "signature_name": "a"}', X,
         'JSON Value: {\n    "signature_name": null,\n    "signature_name": "a"\n} not formatted '
         "correctly. 'signature_name' key must be a string value."),
        (b'{"signature_name": "s"}', {}, "Failed to get input map for signature: s"),
        (b"{}", {}, "Failed to get input map for signature: DEFAULT"),
        (b"{}", X, "Missing 'inputs' or 'instances' key"),
        (b'{"instances": 1, "inputs": 1}', X,
         'JSON Value: {\n    "instances": 1,\n    "inputs": 1\n} Not formatted correctly expecting '
         "only one of 'inputs' or 'instances' keys to exist "),
        (b'{"instances": {"x": 1}}', X,
         'JSON Value: {\n    "instances": {\n        "x": 1\n    }\n} '
         "Expecting 'instances' to be an list/array"),
        (b'{"instances": []}', X,
         'JSON Value: {\n    "instances": []\n} No values in \'instances\' array'),
        # rows
        (b'{"instances": [1]}', MANY,
         "instances is a plain list, but expecting list of objects as multiple input tensors "
         "required as "
         "per tensorinfo_map"),
        (b'{"instances": [{"b64": "aGk="}]}', MANY,
         "instances is a plain list, but expecting list of objects as multiple input tensors "
         "required as "
         "per tensorinfo_map"),
        (b'{"instances": [{"x": 1}, 2]}', X,
         "Expecting object but got list at item 1 of input list"),
        (b'{"instances": [{"x": 1}, {"b64": "aGk="}]}', X,
         "Expecting object but got list at item 1 of input list"),
        (b'{"instances": [1, 2, {"x": 1}]}', X,
         "Expecting value/list but got object at item 2 of input list"),
        (b'{"instances": [{}]}', X,
         "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal "
         "to: x"),
        (b'{"instances": [{"ids": 1, "weight": 1}]}', MANY,
         "Failed to process element: 0 of 'instances' list. JSON object: "
         '{\n    "ids": 1,\n    "weight": 1\n} keys must be equal to: ids,label,weight'),
        (b'{"instances": [{"x": 1}, {"x": 1, "y": 2}]}', X,
         "Failed to process element: 1 key: y of 'instances' list. Error: INVALID_ARGUMENT: "
         "JSON object: does not have named input: y"),
        (b'{"instances": [{"x": 1}, {"X": 1}]}', X,
         "Failed to process element: 1 key: X of 'instances' list. Error: INVALID_ARGUMENT: "
         "JSON object: does not have named input: X"),
        (b'{"instances": [{"x": "a", "y": 1}]}', X,
         "Failed to process element: 0 key: x of 'instances' list. Error: INVALID_ARGUMENT: "
         'JSON Value: "a" Type: String is not of expected type: float'),
        (b'{"instances": [[1, 2], [3]]}', X,
         "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
         "Expecting tensor size: 2 but got: 1"),
        (b'{"instances": [[1, 2], [[1, 2]]]}', X,
         "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
         "Expecting shape [2] but got: [1,2]"),
        (b'{"instances": [1, [1]]}', X,
         "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
         "Expecting shape [] but got: [1]"),
        (b'{"instances": [[], [[]]]}', X,
         "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
         "Expecting shape [0] but got: [1,0]"),
        (b'{"instances": [{"x": 1, "y": 1}, {"y": 1, "x": [1]}]}', {"y": FLOAT, "x": FLOAT},
         "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: "
         "Expecting shape [] but got: [1]"),
        (b'{"instances": [1]}', {"x": COMPLEX64},
         "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: "
         "Conversion of JSON Value: 1 to type: complex64"),
        # columns
        (b'{"inputs": [1]}', MANY,
         "inputs is a plain value/list, but expecting an object as multiple input tensors "
         "required as per "
         "tensorinfo_map"),
        (b'{"inputs": {"b64": "aGk="}}', MANY,
         "inputs is a plain value/list, but expecting an object as multiple input tensors "
         "required as per "
         "tensorinfo_map"),
        (b'{"inputs": {}}', X, "Missing named input: x in 'inputs' object."),
        (b'{"inputs": {"b64": 5}}', X, "Missing named input: x in 'inputs' object."),
        (b'{"inputs": {"weight": 1, "ids": 1}}', MANY,
         "Missing named input: label in 'inputs' object."),
        # values
        (b'{"inputs": [[1], 2]}', X,
         "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        (b'{"inputs": [1, [2]]}', X, "Encountered list at unexpected level: 1 expected < 1"),
        (b'{"inputs": [[1, 2], [3]]}', X,
         "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        (b'{"inputs": [[[1], [2]], [[1], [2, 3]]]}', X,
         "Encountered list at unexpected size: 2 at level: 2 expected size: 1"),
        (b'{"inputs": [[], [1]]}', X,
         "Encountered list at unexpected size: 1 at level: 1 expected size: 0"),
        (b'{"inputs": [[1], {"a": 1}]}', X,
         'JSON Value: {\n    "a": 1\n} found at incorrect level: 2 in the JSON DOM. Expected at '
         'level: 2'),
        (b'{"inputs": [1, null]}', X, "JSON Value: null Type: Null is not of expected type: float"),
        (b'{"inputs": [1, true]}', X, "JSON Value: true Type: True is not of expected type: float"),
        (b'{"inputs": [1, false]}', {"x": INT32},
         "JSON Value: false Type: False is not of expected type: int32"),
        (b'{"inputs": ["1"]}', {"x": DOUBLE},
         'JSON Value: "1" Type: String is not of expected type: double'),
        (b'{"inputs": [1, {"b64": "aGk="}]}', X,
         'JSON Value: {\n    "b64": "aGk="\n} Type: Object is not of expected type: float'),
        (b'{"inputs": 1.0}', {"x": INT32},
         "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        (b'{"inputs": 1e2}', {"x": INT64},
         "JSON Value: 100.0 Type: Number is not of expected type: int64"),
        (b'{"inputs": NaN}', {"x": INT64},
         "JSON Value: NaN Type: Number is not of expected type: int64"),
        (b'{"inputs": 2147483648}', {"x": INT32},
         "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        (b'{"inputs": -1}', {"x": UINT64},
         "JSON Value: -1 Type: Number is not of expected type: uint64"),
        (b'{"inputs": 18446744073709551616}', {"x": UINT64},
         "JSON Value: 1.84467441e+19 Type: Number is not of expected type: uint64"),
        (b'{"inputs": 2147483648}', {"x": UINT8},
         "JSON Value: 2147483648 Type: Number is not of expected type: uint8"),
        (b'{"inputs": 1}', {"x": BOOL}, "JSON Value: 1 Type: Number is not of expected type: bool"),
        (b'{"inputs": "a"}', {"x": HALF},
         'JSON Value: "a" Type: String is not of expected type: half'),
        (b'{"inputs": "a"}', {"x": BFLOAT16},
         'JSON Value: "a" Type: String is not of expected type: bfloat16'),
        (b'{"inputs": 1.5}', {"x": UINT16},
         "JSON Value: 1.5 Type: Number is not of expected type: uint16"),
        # strings
        (b'{"inputs": ["a", 1]}', {"x": STRING},
         "JSON Value: 1 Type: Number is not of expected type: string"),
        (b'{"inputs": null}', {"x": STRING},
         "JSON Value: null Type: Null is not of expected type: string"),
        (b'{"inputs": [{"b64": "aGk=", "x": 1}]}', {"x": STRING},
         'JSON Value: {\n    "b64": "aGk=",\n    "x": 1\n} not formatted correctly for base64 '
         'data'),
        (b'{"inputs": ["a", {"b65": "aGk="}]}', {"x": STRING},
         'JSON Value: {\n    "b65": "aGk="\n} not formatted correctly for base64 data'),
        (b'{"inputs": [{}]}', {"x": STRING},
         "JSON Value: {} not formatted correctly for base64 data"),
        (b'{"inputs": {"b64": "a"}}', {"x": STRING}, "Unable to base64 decode"),
        (b'{"inputs": ["a", ["b"]]}', {"x": STRING},
         "Encountered list at unexpected level: 1 expected < 1"),
        (b'{"instances": [{"b64": "%"}]}', {"x": STRING},
         "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: Unable to "
         "base64 decode"),
        # dtypes without a form in JSON; an object is none of any
        (b'{"inputs": [{"a": 1}]}', {"x": COMPLEX64},
         'JSON Value: {\n    "a": 1\n} Type: Object is not of expected type: complex64'),
    ],
)  # fmt: skip
def test_refuses(body: bytes, inputs: dict[str, int], text: str) -> None:
    assert refusal(body, inputs) == (Code.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (COMPLEX64, "complex64"),
        (18, "complex128"),
        (QINT8, "qint8"),
        (12, "quint8"),
        (13, "qint32"),
        (15, "qint16"),
        (16, "quint16"),
        (RESOURCE, "resource"),
        (21, "variant"),
        (24, "float8_e5m2"),
        (25, "float8_e4m3fn"),
        (29, "int4"),
        (30, "uint4"),
        (0, "INVALID"),
        (99, "unknown dtype enum (99)"),
        (-3, "unknown dtype enum (-3)"),
    ],
)
def test_other_dtypes_have_no_form_in_json(dtype: int, name: str) -> None:
    assert refusal(b'{"inputs": [true]}', {"x": dtype}) == (
        Code.UNIMPLEMENTED,
        f"Conversion of JSON Value: true to type: {name}",
    )


def test_a_name_of_a_signature_that_is_not_utf8_is_refused() -> None:
    code, text = refusal(b'{"signature_name": "\xff", "inputs": 1}', X)
    assert code == Code.INVALID_ARGUMENT
    assert text.endswith("'signature_name' key must be a string value.")


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_a_tensor_has_254_dimensions_at_most(key: str) -> None:
    def body(depth: int) -> bytes:
        return b'{"%s": %s1%s}' % (key.encode(), b"[" * depth, b"]" * depth)

    request, _ = read_request(body(254), X)
    assert [dim.size for dim in request.inputs["x"].tensor_shape.dim] == [1] * 254
    for depth in (255, 1000, 1_000_000):
        code, text = refusal(body(depth), X)
        assert code == Code.INVALID_ARGUMENT
        assert text.endswith("Lists are nested too deep: a tensor has at most 254 dimensions")


def test_deep_lists_that_nobody_asked_for_are_no_trouble() -> None:
    deep = b"[" * 1_000_000 + b"]" * 1_000_000
    assert values(b'{"a": %s, "inputs": 1}' % deep, X) == 1
    assert values(b'{"inputs": {"a": %s, "x": 1}}' % deep, X) == 1
    assert refusal(b'{"inputs": [1, %s]}' % deep, X)[0] == Code.INVALID_ARGUMENT
    assert (
        refusal(b'{"inputs": {"x": {"a": %s}}}' % deep, {"x": STRING})[0] == Code.INVALID_ARGUMENT
    )


def test_many_empty_lists_are_a_tensor_without_elements() -> None:
    body = b'{"instances": [%s]}' % b",".join([b"[]"] * 100_000)
    assert read(body, X)[0]["x"].shape == (100_000, 0)


def test_lists_that_only_begin_like_a_huge_tensor_take_no_memory() -> None:
    wide = b"[" + b",".join([b"0"] * 1000) + b"]"
    body = b'{"inputs": [' + b",".join([b"[" + wide + b",1" * 999 + b"]"] * 1000) + b"]}"
    assert refusal(body, X)[1] == (
        "JSON Value: 1 found at incorrect level: 3 in the JSON DOM. Expected at level: 3"
    )


# --- any bytes


@more
@given(randoms)
def test_mutated_bodies_are_read_or_refused(random: Random) -> None:
    maker = BodyMaker(random)
    body, inputs = maker.body()
    mutated = maker.mutated(body)
    outcome = Code.OK
    try:
        read(mutated, inputs)
    except ServingError as error:
        outcome = error.code
    assert outcome in (Code.OK, Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED)


def test_bodies_cut_off_are_refused() -> None:
    body = rb'{"instances": [{"label": "\u00e9", "ids": [1, 2], "weight": -1.5e3}]}'
    read(body, MANY)
    for size in range(len(body)):
        assert refusal(body[:size], MANY)[1].startswith("JSON Parse error: ")


# --- rounding


def test_floats_are_rounded_once() -> None:
    # Half-way between two floats, and so little from it that a double does not tell.
    half = "1.000000059604644775390625"
    below = "1.00000005960464477539062499999999999"
    next_float = float(np.nextafter(np.float32(1), 2))
    texts = [half, half + "00001", below, "-" + half + "00001", half.replace("1.", "100000.")]
    found = values(f'{{"inputs": [{",".join(texts)}]}}'.encode(), X)
    assert found == [1.0, next_float, 1.0, -next_float, 100000.0]


@more
@given(st.integers(0, 2**23), st.sampled_from(["", "000000000000000000001"]))
def test_floats_below_the_normal_ones_are_rounded_once(steps: int, more_digits: str) -> None:
    exact = Context(prec=400)
    halfway = exact.divide(Decimal(2 * steps + 1), exact.power(Decimal(2), 150))
    text = f"{halfway:.150f}" + more_digits
    found = values(f'{{"inputs": {text}}}'.encode(), X)
    expected = steps + 1 if more_digits or steps % 2 else steps  # the even one of two
    assert found == expected * 2.0**-149
