"""npy bodies: what numpy saves is read, what is damaged or does not fit is refused with its reason,
and what is written numpy loads.
"""

from __future__ import annotations

import io
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.npy_files import (
    DT_BFLOAT16,
    DT_STRING,
    NUMBERS,
    SHAPES,
    Array,
    check_reading,
    mutated,
    npy,
    npy_of,
    random_array,
    read_inputs,
    values_of,
)
from tfsrv._npy_predict import read_predict, write_predict
from tfsrv._tensor_values import parse_predict_request
from tfsrv.errors import Code, ServingError

FLOATS = npy(np.arange(6, dtype="<f4").reshape(2, 3))
QUANTIZED = {11: "int8", 12: "uint8", 13: "int32", 15: "int16", 16: "uint16"}
FLOAT8 = [24, 25, 26, 27, 28]


def read(body: bytes, dtype: int, **options: Any) -> tuple[tuple[int, ...], bytes | list[bytes]]:
    """Shape and values of an input of `dtype`."""
    found_dtype, shape, values = read_inputs(body, [("x", dtype)], **options)["x"]
    assert found_dtype == dtype
    return shape, values


def refusal(body: bytes, dtype: int = 1, **options: Any) -> str:
    with pytest.raises(ServingError) as caught:
        read_predict(body, [("x", dtype)], **options)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def written(dtype: int, array: Array, **options: Any) -> Any:
    """What numpy loads of an output with the array's values."""
    output = ("y", dtype, array.shape, values_of(array))
    return np.load(io.BytesIO(write_predict([output], **options)), allow_pickle=False)


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_reads_numbers_of_every_type_in_every_shape(dtype: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape, dtype=int))
    array = np.arange(count).astype(dtype).reshape(shape)
    assert read(npy(array), NUMBERS[dtype]) == (shape, array.tobytes())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_turns_the_order_of_fortran(dtype: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape, dtype=int))
    array = np.arange(count).astype(dtype).reshape(shape)
    assert read(npy(np.array(array, order="F")), NUMBERS[dtype]) == (shape, array.tobytes())


@pytest.mark.parametrize("shape", [(100, 77), (64, 64), (16, 1, 17), (3, 50, 50, 2), (2, 1, 33)])
def test_turns_arrays_of_more_than_a_tile(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).random(shape)
    assert read(npy(np.asfortranarray(array)), 2) == (shape, array.tobytes())


@pytest.mark.parametrize("fortran", [False, True], ids=["C order", "Fortran order"])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_swaps_the_bytes_of_big_endian_numbers(dtype: str, fortran: bool) -> None:
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    if array.dtype.kind == "c":
        array = (array + 1j * array[::-1]).astype(dtype)
    big = array.astype(array.dtype.newbyteorder(">"), order="F" if fortran else "C")
    assert read(npy(big), NUMBERS[dtype]) == (array.shape, array.tobytes())


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_reads_every_version_of_the_format(version: tuple[int, int]) -> None:
    array = np.arange(6, dtype="int64")
    assert read(npy(array, version), 9) == ((6,), array.tobytes())


def test_makes_bools_zero_or_one() -> None:
    array = np.array([0, 1, 2, 255], "u1").view("bool")
    assert read(npy(array), 10) == ((4,), b"\0\1\1\1")


@pytest.mark.parametrize(("dtype", "name"), QUANTIZED.items())
def test_reads_integers_as_quantized_ones(dtype: int, name: str) -> None:
    array = np.arange(4).astype(name)
    assert read(npy(array), dtype) == ((4,), array.tobytes())


def test_reads_bfloat16_as_numpy_saves_it() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    for body in (npy(array), npy(array.view("V2"))):
        assert read(body, DT_BFLOAT16) == ((2,), array.tobytes())


@pytest.mark.parametrize("dtype", FLOAT8)
def test_reads_float8_as_numpy_saves_it(dtype: int) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    names = ["float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz"]
    kind = getattr(ml_dtypes, [*names, "float8_e5m2fnuz"][dtype - 24])
    array = np.array([1.5, -2.0], kind)
    for body in (npy(array), npy(array.view("V1"))):
        assert read(body, dtype) == ((2,), array.tobytes())


# ---- strings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["S", "U", ">U"])
def test_reads_strings_without_the_zeros_behind_them(kind: str) -> None:
    array = np.array([["a", "", "long one"], ["z\0z", "b\0", "\0"]]).astype(kind)
    expected = [b"a", b"", b"long one", b"z\0z", b"b", b""]
    assert read(npy(array), DT_STRING) == ((2, 3), expected)
    assert read(npy(np.asfortranarray(array)), DT_STRING) == ((2, 3), expected)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 2, 1, 3, 1), (2, 3, 2, 1)], ids=str)
def test_turns_strings_of_any_shape(shape: tuple[int, ...]) -> None:
    texts = [str(number) for number in range(int(np.prod(shape, dtype=int)))]
    array = np.array(texts, "U3").reshape(shape)
    expected = [text.encode() for text in texts]
    assert read(npy(np.array(array, order="F")), DT_STRING) == (shape, expected)
    assert read(npy(array), DT_STRING) == (shape, expected)


def test_reads_bytes_that_are_no_text() -> None:
    assert read(npy(np.array([b"\xff\xfe", b"a"])), DT_STRING) == ((2,), [b"\xff\xfe", b"a"])


@pytest.mark.parametrize("order", "<>")
def test_reads_characters_of_every_length_as_utf8(order: str) -> None:
    texts = ["a\x7f", "\x80é\u07ff", "\u0800日\ud7ff\ue000\uffff", "\U00010000😀\U0010ffff"]
    array = np.array(texts).astype(f"{order}U9")
    assert read(npy(array), DT_STRING) == ((4,), [text.encode() for text in texts])


@pytest.mark.parametrize("number", [0xD800, 0xDFFF, 0x110000, 0xFFFFFFFF])
def test_refuses_numbers_that_are_no_characters(number: int) -> None:
    body = npy_of(
        b"{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}", number.to_bytes(4, "little")
    )
    said = f'The npy array "x" has a string with the number {number} in it, '
    assert refusal(body, DT_STRING) == said + "which is no character of Unicode"


def test_reads_a_string_alone() -> None:
    assert read(npy(np.array("hello")), DT_STRING) == ((), [b"hello"])


def test_strings_of_no_bytes_cost_the_sender_too() -> None:
    body = npy_of(b"{'descr': '|S0', 'fortran_order': False, 'shape': (999999999999,)}")
    assert refusal(body, DT_STRING).endswith("makes the request longer than 1073741824 bytes")
    few = npy_of(b"{'descr': '|S0', 'fortran_order': False, 'shape': (3,)}")
    assert read(few, DT_STRING) == ((3,), [b"", b"", b""])


# ---- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }   \n",
        b"{'shape': (2,), 'descr': '<f4', 'fortran_order': False}",
        b'{"fortran_order": False, "shape": (2,), "descr": "<f4"}',
        b"\t{ 'descr' :'<f4'\n,'fortran_order':False , 'shape':( 2 , ) } \r\n",
        b"{'descr': '=f4', 'fortran_order': True, 'shape': (2,)}",
        b"{'descr': 'f4', 'fortran_order': False, 'shape': (2,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2,)}",
    ],
    ids=repr,
)
def test_reads_headers_in_other_forms(header: bytes) -> None:
    _, values = read(npy_of(header, b"\0\0\x80?\0\0\0@"), 1)
    assert values == np.array([1, 2], "<f4").tobytes()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"{'descr': '<f4', 'fortran_order': False}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)},",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), , }",
        b"{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
        b"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
        b"{'fortran_order': False, 'shape': (2,), 'shape': (2,), 'descr': '<f4'}",
        b"{'descr': \"<f4', 'fortran_order': False, 'shape': (2,)}",
        b"{'descr': '<f4\\', 'fortran_order': False, 'shape': (2,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}\0",
        b"{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (2,)}",
    ],
    ids=repr,
)
def test_refuses_what_is_no_header(header: bytes) -> None:
    said = "has a header that is not {'descr': ..., 'fortran_order': ..., 'shape': ...}"
    assert refusal(npy_of(header, b"12345678")) == f'The npy array "x" {said}'


@pytest.mark.parametrize(
    "shape",
    ["2", "(2)", "[2]", "(-2,)", "(2.0,)", "(02,)", "(2L,)", "(,)", "(1,,2)", "(1 2)", "(2", "None",
     "(1234567890123456789,)"],
)  # fmt: skip
def test_refuses_what_is_no_shape(shape: str) -> None:
    body = npy_of(b"{'descr': '<f4', 'fortran_order': False, 'shape': %s}" % shape.encode())
    said = "has a shape that is not a tuple of sizes, like (1, 224, 224, 3)"
    assert refusal(body) == f'The npy array "x" {said}'


@pytest.mark.parametrize("order", ["0", "'True'", "None", "true"])
def test_refuses_what_is_no_order(order: str) -> None:
    body = npy_of(b"{'descr': '<f4', 'fortran_order': %s, 'shape': (2,)}" % order.encode())
    assert refusal(body) == 'The npy array "x" has a fortran_order that is not True or False'


@pytest.mark.parametrize(
    "descr",
    ["", "<", "f", "<f", "<f3", "<f16", "<i16", "<f04", "<f4 ", " <f4", "?", "<b2", "float32",
     "<M8[s]", "<m8", "|V3", "<S99999999999999999999", "!f4"],
)  # fmt: skip
def test_refuses_types_that_no_input_can_have(descr: str) -> None:
    body = npy_of(b"{'descr': '%s', 'fortran_order': False, 'shape': (2,)}" % descr.encode())
    said = f'has the dtype "{descr}", which no input of a model can have'
    assert refusal(body) == f'The npy array "x" {said}'


def test_refuses_objects_and_fields() -> None:
    objects = npy(np.array([None, "a"], dtype=object))
    assert refusal(objects, DT_STRING) == (
        'The npy array "x" holds Python objects, which are not read: send numbers, or strings by '
        '.astype("S") or .astype("U")'
    )
    fields = npy(np.zeros(3, [("a", "f4"), ("b", "i4")]))
    said = "has elements of several fields: send an array for each field"
    assert refusal(fields) == f'The npy array "x" {said}'


def test_refuses_more_dims_than_tensorflow_has() -> None:
    header = b"{'descr': '<f4', 'fortran_order': %s, 'shape': (%s)}"
    most = read(npy_of(header % (b"True", b"1," * 254), b"1234"), 1)
    assert most == ((1,) * 254, b"1234")
    body = npy_of(header % (b"False", b"1," * 255), b"1234")
    assert refusal(body) == 'The npy array "x" has more than 254 dimensions'


@pytest.mark.parametrize(
    "shape", ["(999999999999999999, 999999999999999999)", "(0, 4294967296, 4294967296)"]
)
def test_counts_elements_without_overflow(shape: str) -> None:
    body = npy_of(b"{'descr': '<f4', 'fortran_order': False, 'shape': %s}" % shape.encode())
    assert refusal(body) == 'The npy array "x" has a shape of more elements than can be'


def test_refuses_other_files_and_versions() -> None:
    for body in (b"", b"\x93NUMP", b"PK\x03\x04", b"[1, 2, 3]      "):
        assert refusal(body) == 'The npy array "x" is not in numpy\'s npy format'
    later = FLOATS[:6] + b"\x04\x01" + FLOATS[8:]
    assert refusal(later) == (
        'The npy array "x" has version 4.1 of the format; 1.0, 2.0 and 3.0 are known'
    )
    long = npy_of(b"{" + b" " * 10_000 + b"}", version=2)
    assert refusal(long) == 'The npy array "x" has a header of more than 10000 bytes'
    assert refusal(FLOATS[:100]) == 'The npy array "x" is cut off in its header'


@pytest.mark.parametrize(("body", "count"), [(FLOATS[:-1], 23), (FLOATS + b"\0", 25)])
def test_refuses_another_number_of_bytes_than_the_shape_has(body: bytes, count: int) -> None:
    said = f"has {count} bytes of elements where its header says 24"
    assert refusal(body) == f'The npy array "x" {said}'


# ---- the input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "dtype", "said"),
    [
        (np.zeros(2), 1, 'float64, but its input takes float32: use .astype("float32")'),
        (np.zeros(2, "int64"), 3, 'int64, but its input takes int32: use .astype("int32")'),
        (np.zeros(2, "uint8"), 6, 'uint8, but its input takes int8: use .astype("int8")'),
        (np.zeros(2, "bool"), 4, 'bool, but its input takes uint8: use .astype("uint8")'),
        (np.zeros(2, "c8"), 2, 'complex64, but its input takes float64: use .astype("float64")'),
        (np.zeros(2), 7, 'float64, but its input takes strings: use .astype("S")'),
        (np.array(["a"]), 1, 'strings, but its input takes float32: use .astype("float32")'),
        (np.zeros(2), 14, "float64, but its input takes bfloat16: use .astype(ml_dtypes.bfloat16)"),
        (np.zeros(2, "V2"), 19, 'void16, but its input takes float16: use .astype("float16")'),
        (np.zeros(2), 20, "float64, and its input is of a type that numpy does not have"),
        (np.zeros(2), 21, "float64, and its input is of a type that numpy does not have"),
        (np.zeros(2), 0, "float64, and its input is of a type that numpy does not have"),
        (np.zeros(2), 1000, "float64, and its input is of a type that numpy does not have"),
    ],
    ids=str,
)  # fmt: skip
def test_converts_nothing_and_says_what_to_call(array: Array, dtype: int, said: str) -> None:
    assert refusal(npy(array), dtype) == f'The npy array "x" is of {said}'


def test_is_for_signatures_of_one_input() -> None:
    with pytest.raises(ServingError) as caught:
        read_predict(FLOATS, [("x", 1), ("y", 1)])
    assert caught.value.message == (
        'An npy is one array, and the signature has 2 inputs: "x", "y"; send an npz with the array '
        "of each under its name"
    )
    with pytest.raises(ServingError, match="the signature has 0 inputs; send an npz"):
        read_predict(FLOATS, [])


@pytest.mark.parametrize("version", [None, 0, 3, -1, 2**62])
def test_names_model_version_label_and_signature(version: int | None) -> None:
    label = "" if version is not None else "stable"
    wire = read_predict(FLOATS, [("é", 1)], "model", version, label, "signature")
    request = parse_predict_request(wire)
    assert (request["name"], request["signature_name"]) == ("model", "signature")
    assert (request["version"], request["version_label"]) == (version, label or None)
    assert list(request["inputs"]) == ["é"]


def test_names_nothing_if_there_is_nothing_to_name() -> None:
    request = parse_predict_request(read_predict(FLOATS, [("x", 1)]))
    assert (request["has_model_spec"], request["name"]) == (True, "")
    assert (request["version"], request["version_label"]) == (None, None)


def test_limits_the_request() -> None:
    whole = len(read_predict(FLOATS, [("x", 1)]))
    assert read(FLOATS, 1, most_bytes=whole)[0] == (2, 3)
    said = f"makes the request longer than {whole - 1} bytes"
    assert refusal(FLOATS, most_bytes=whole - 1) == f'The npy array "x" {said}'
    assert refusal(FLOATS, most_bytes=0).endswith("longer than 0 bytes")


# ---- any bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", ">i8", "S4", "U2"])
def test_refuses_a_file_cut_off_anywhere(dtype: str) -> None:
    body = npy(np.arange(4).astype(dtype))
    number = {"<f4": 1, ">i8": 9}.get(dtype, DT_STRING)
    assert read(body, number)[0] == (4,)
    for size in range(len(body)):
        refusal(body[:size], number)


def test_every_byte_may_be_another() -> None:
    body = npy(np.arange(3, dtype="<i4"))
    outcomes = {
        check_reading(body[:at] + bytes([byte]) + body[at + 1 :], [("x", 3)], is_npz=False)
        for at in range(len(body))
        for byte in range(256)
    }
    assert outcomes == {"read", "refused"}


@given(st.binary(max_size=200))
def test_any_header_is_refused_or_means_what_it_means_to_numpy(header: bytes) -> None:
    check_reading(npy_of(header), [("x", 1)], is_npz=False)


@given(st.integers(), st.sampled_from([*NUMBERS, "S", "U"]), st.booleans())
def test_means_what_it_means_to_numpy(seed: int, dtype: str, damaged: bool) -> None:
    random = Random(seed)
    inputs = [("x", NUMBERS.get(dtype, DT_STRING))]
    body = npy(random_array(random, dtype))
    assert check_reading(body, inputs, is_npz=False) == "read"
    if damaged:
        check_reading(mutated(random, body), inputs, is_npz=False)


# ---- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("splice_from", [0, 1 << 30], ids=["spliced", "copied"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_numpy_loads_numbers(dtype: str, shape: tuple[int, ...], splice_from: int) -> None:
    count = int(np.prod(shape, dtype=int))
    array = np.arange(count).astype(dtype).reshape(shape)
    loaded = written(NUMBERS[dtype], array, splice_from=splice_from)
    assert (loaded.dtype, loaded.shape) == (array.dtype, shape)
    assert np.array_equal(loaded, array)


@pytest.mark.parametrize(("dtype", "name"), QUANTIZED.items())
def test_writes_quantized_integers_as_integers(dtype: int, name: str) -> None:
    array = np.arange(4).astype(name)
    loaded = written(dtype, array)
    assert loaded.dtype == array.dtype
    assert np.array_equal(loaded, array)


def test_writes_bfloat16_as_ml_dtypes_does() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    file = write_predict([("y", DT_BFLOAT16, (1, 2), array.tobytes())])
    assert file == npy(array)
    assert np.array_equal(np.load(io.BytesIO(file)).view(ml_dtypes.bfloat16), array)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_writes_float8_so_that_numpy_loads_it(dtype: int) -> None:
    loaded = np.load(io.BytesIO(write_predict([("y", dtype, (2,), b"\1\2")])))
    assert (loaded.dtype.str, loaded.tobytes()) == ("|V1", b"\1\2")


@pytest.mark.parametrize(
    "texts", [[b"a", b"", b"long one"], [b""], [b"", b""], [], [b"z\0z"], [b"\xff" * 1000, b"a"]]
)
def test_numpy_loads_strings(texts: list[bytes]) -> None:
    loaded = np.load(io.BytesIO(write_predict([("y", DT_STRING, (len(texts),), texts)])))
    assert loaded.dtype == np.dtype(f"S{max([1, *map(len, texts)])}")
    assert loaded.tolist() == texts


def test_aligns_the_elements_as_numpy_does() -> None:
    for rank in range(40):
        file = write_predict([("y", 1, (1,) * rank, b"1234")])
        assert len(file) % 64 == 4


def refused_output(*outputs: Any, code: Code = Code.INVALID_ARGUMENT) -> str:
    with pytest.raises(ServingError) as caught:
        write_predict(list(outputs))
    assert caught.value.code is code
    return caught.value.message


def test_an_answer_of_several_outputs_is_no_npy() -> None:
    output = ("y", 1, (), b"1234")
    assert refused_output(output, ("z", 1, (), b"1234")) == (
        'The response has 2 outputs: "y", "z"; an npy holds one array: ask for an npz'
    )
    assert refused_output() == "The response has 0 outputs; an npy holds one array: ask for an npz"


def test_refuses_to_lose_a_zero_at_the_end_of_a_string() -> None:
    assert refused_output(("y", DT_STRING, (2,), [b"a", b"b\0"])) == (
        'The output "y" has a string with a zero at its end, which numpy would drop: ask for JSON '
        "or protobuf"
    )


def test_does_not_fill_memory_with_zeros_behind_strings() -> None:
    texts = [b"x" * 100_000, *[b""] * 10_000]
    assert refused_output(("y", DT_STRING, (len(texts),), texts)) == (
        'The output "y" has strings of lengths too different for numpy, which gives each the room '
        "of the longest: ask for JSON or protobuf"
    )


@pytest.mark.parametrize("dtype", [0, 20, 21, 29, -1])
def test_refuses_outputs_that_numpy_has_no_type_for(dtype: int) -> None:
    said = refused_output(("y", dtype, (), b""))
    assert said == 'The output "y" is of a type that numpy does not have'


def test_refuses_an_output_whose_bytes_are_not_those_of_its_shape() -> None:
    said = refused_output(("y", 1, (2,), b"1234"), code=Code.INTERNAL)
    assert said == "An output is not as long as its shape says"
