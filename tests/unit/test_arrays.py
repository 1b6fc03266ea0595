"""Requests as numpy arrays, and numpy arrays as responses, against Python protobuf."""

from __future__ import annotations

import os
import sys
import threading
from random import Random
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.functional import messages
from tests.functional.messages import PredictResponse, TensorProto, predict_request, tensor
from tests.wire_messages import TooLarge, WireMaker, expected_values
from tfsrv._arrays import arrays_of_request, write_response
from tfsrv._proto import message_class
from tfsrv.errors import Code, ServingError

PredictRequest: Any = message_class("tensorflow.serving.PredictRequest")
WITHOUT_NUMPY_TYPE = {
    "qint8", "quint8", "qint32", "bfloat16", "qint16", "quint16",
}  # fmt: skip
NUMPY_TYPES = {
    name: "float16" if name == "half" else kind
    for name, (_, _, kind) in messages.DTYPES.items()
    if name not in WITHOUT_NUMPY_TYPE
}
randoms = st.integers(0, 2**64).map(Random)


def arrays_of(**inputs: Any) -> dict[str, NDArray[Any]]:
    return arrays_of_request(predict_request("m", inputs).SerializeToString())


def refusal(**inputs: Any) -> str:
    with pytest.raises(ServingError) as caught:
        arrays_of(**inputs)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def written(as_content: bool = False, **outputs: Any) -> Any:
    return PredictResponse.FromString(write_response(outputs, as_content=as_content)).outputs


def unwritable(output: Any) -> str:
    with pytest.raises(ServingError) as caught:
        write_response({"y": output})
    assert caught.value.code is Code.INTERNAL
    return caught.value.message


def samples(dtype: str) -> NDArray[Any]:
    """Six values, the extreme ones among them, as a matrix."""
    if dtype == "object":
        return messages.strings(b"", b"a", b"\0", b"b\0", b"x" * 5000, "ü").reshape(2, 3)
    if dtype == "bool":
        return numpy.array([True, False, True, True, False, False]).reshape(2, 3)
    kind: Any = numpy.dtype(dtype)
    if kind.kind in "iu":
        info = numpy.iinfo(dtype)
        return numpy.array([info.min, info.max, 0, 1, 2, info.max - 1], dtype).reshape(2, 3)
    reals = [0.5, -2, numpy.inf, 0, -0.0, 3]
    if kind.kind == "c":
        return numpy.array([complex(x, 1 - x) for x in reals], dtype).reshape(2, 3)
    return numpy.array(reals, dtype).reshape(2, 3)


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype == object:
        return bool(left.tolist() == right.tolist())
    return left.tobytes() == right.tobytes()


# --- in


@pytest.mark.parametrize("as_content", [False, True], ids=["fields", "content"])
@pytest.mark.parametrize("name", NUMPY_TYPES)
def test_a_tensor_of_every_type_becomes_an_array(name: str, as_content: bool) -> None:
    values = samples(NUMPY_TYPES[name])
    if name == "half":  # on the wire as bits
        proto = tensor(values.view("uint16"), "half", as_content=as_content)
    else:
        proto = tensor(values, name, as_content=as_content)
    made = arrays_of(x=proto)["x"]
    assert same(made, values)
    assert made.flags.writeable


@pytest.mark.parametrize("name", sorted(WITHOUT_NUMPY_TYPE))
def test_a_type_that_numpy_has_not_is_refused_by_name(name: str) -> None:
    _, _, bits = messages.DTYPES[name]
    message = refusal(x=tensor(numpy.zeros(2, bits), name))
    assert f"DT_{name.upper()}, for which numpy has no type: x" in message


@pytest.mark.parametrize("dtype", [0, 20, 21, 999, -1])
def test_what_is_no_type_is_a_parsing_error(dtype: int) -> None:
    assert refusal(x=TensorProto(dtype=dtype)) == "tensor parsing error: x"


def outcome(data: bytes) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays, or why there are none."""
    try:
        return arrays_of_request(data), ""
    except ServingError as error:
        if error.code is not Code.INVALID_ARGUMENT:
            raise
        return {}, error.message


@settings(max_examples=400, deadline=None)
@given(randoms)
def test_requests_mean_what_protobuf_and_tensorflow_say(random: Random) -> None:
    data = WireMaker(random).request()
    request = PredictRequest.FromString(data)
    try:
        expected = {alias: expected_values(proto) for alias, proto in request.inputs.items()}
    except TooLarge:
        return
    arrays, reason = outcome(data)
    if reason:
        is_beyond_numpy = "numpy has no type" in reason or reason.endswith(")")
        assert is_beyond_numpy or None in expected.values()
        return
    assert arrays.keys() == expected.keys()
    for alias, array in arrays.items():
        assert array.shape == tuple(dim.size for dim in request.inputs[alias].tensor_shape.dim)
        values = array.ravel().tolist() if array.dtype == object else array.tobytes()
        assert values == expected[alias]


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 5000])
def test_any_number_of_strings_is_read(count: int) -> None:
    texts = messages.strings(*(b"text %d" % i for i in range(count)))
    assert same(arrays_of(x=tensor(texts))["x"], texts)
    assert same(arrays_of(x=tensor(texts, as_content=True))["x"], texts)


def test_the_last_string_is_repeated_and_is_one_object() -> None:
    proto = tensor(messages.strings("a", "b"))
    proto.tensor_shape.dim[0].size = 3000
    made = arrays_of(x=proto)["x"]
    assert made.tolist() == [b"a"] + [b"b"] * 2999
    assert len({id(text) for text in made.tolist()}) == 2


def test_no_strings_at_all_are_empty_ones() -> None:
    proto = TensorProto(dtype=7)
    proto.tensor_shape.dim.add(size=3)
    assert arrays_of(x=proto)["x"].tolist() == [b"", b"", b""]


def test_strings_are_counted_to_the_end_whatever_refers_to_them() -> None:
    """A string that was read belongs to the array alone."""
    made = arrays_of(x=tensor(messages.strings("only here", "and here")))["x"]
    assert [sys.getrefcount(made[i]) for i in range(2)] == [sys.getrefcount(object()) + 1] * 2


@pytest.mark.parametrize(
    "shape", [(1,) * 65, (0, 2**62, 2**62)], ids=["more dimensions", "larger ones"]
)
def test_a_shape_beyond_numpys_is_refused_with_numpys_reason(shape: tuple[int, ...]) -> None:
    proto = TensorProto(dtype=1)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    assert refusal(x=proto).startswith("tensor parsing error: x (")


def test_what_is_no_request_is_an_internal_error() -> None:
    with pytest.raises(ServingError, match="cannot be decoded"):
        arrays_of_request(b"\xff")


# --- out


@pytest.mark.parametrize("as_content", [False, True], ids=["fields", "content"])
@pytest.mark.parametrize("name", NUMPY_TYPES)
def test_an_array_of_every_type_becomes_a_tensor(name: str, as_content: bool) -> None:
    values = samples(NUMPY_TYPES[name])
    (output,) = written(as_content, y=values).values()
    bits = values.view("uint16") if name == "half" else values
    assert output == tensor(bits, name, as_content=as_content)


@pytest.mark.parametrize(
    "values",
    [
        numpy.arange(24, dtype="int32").reshape(2, 3, 4).transpose(),
        numpy.arange(10, dtype="float64")[::-3],
        numpy.arange(5, dtype=">i8"),
        numpy.array(2.5, "float32"),
        numpy.zeros((3, 0, 2), "int16"),
        numpy.zeros((), bool),
        numpy.broadcast_to(numpy.uint64(2**64 - 1), (3, 3)),
    ],
    ids=["transposed", "backwards", "big-endian", "scalar", "empty", "bool", "broadcast"],
)
def test_an_array_may_lie_in_memory_as_it_likes(values: NDArray[Any]) -> None:
    native = values.astype(values.dtype.newbyteorder("="))
    assert same(messages.array(written(y=values)["y"]), native)


@pytest.mark.parametrize(
    "values",
    [
        numpy.array([b"a", b"bc", b""]),
        numpy.array(["a", "bc", ""]),
        numpy.array(["a", b"bc", ""], object),
        messages.strings("a", "bc", "")[::-1][::-1],
    ],
    ids=["S", "U", "mixed", "strided"],
)
def test_every_array_of_strings_is_written(values: NDArray[Any]) -> None:
    for as_content in (False, True):
        output = written(as_content, y=values)["y"]
        assert output == tensor(messages.strings("a", "bc", ""), as_content=as_content)


@pytest.mark.parametrize("count", [1023, 1024, 1025, 5000])
def test_any_number_of_strings_is_written(count: int) -> None:
    texts = messages.strings(*(b"text %d" % i for i in range(count)))
    assert list(written(y=texts)["y"].string_val) == texts.tolist()


def test_numpys_scalars_are_written_as_arrays_without_dimensions() -> None:
    outputs = written(f=numpy.float32(1.5), s=numpy.bytes_(b"text"))
    assert messages.array(outputs["f"]) == 1.5
    assert list(outputs["s"].string_val) == [b"text"]
    assert not outputs["s"].tensor_shape.dim


def test_subclasses_of_array_are_written_as_what_they_hold() -> None:
    class Odd(numpy.ndarray[Any, Any]):
        def reshape(self, *shape: Any, **options: Any) -> Any:
            raise AssertionError("not to be asked")

    assert list(written(y=messages.strings("a", "b").view(Odd))["y"].string_val) == [b"a", b"b"]


@pytest.mark.parametrize(
    "values",
    [
        numpy.zeros(1, "datetime64[s]"),
        numpy.zeros(1, "longdouble"),
        numpy.zeros(1, [("a", "i4")]),
        numpy.zeros(1, "V3"),
    ],
    ids=str,
)
def test_an_array_that_no_tensor_can_carry_is_an_internal_error(values: NDArray[Any]) -> None:
    assert "output y has a type that a TensorProto cannot carry" in unwritable(values)


@pytest.mark.parametrize("wrong", [None, 1, ["a"], bytearray(b"a")], ids=str)
def test_an_element_that_is_no_string_is_an_internal_error(wrong: object) -> None:
    values = messages.strings("a", "b")
    values[1] = wrong
    assert unwritable(values) == (
        f"The servable's output y has an element that is no string: {type(wrong).__name__}"
    )


@pytest.mark.skipif("TSAN_OPTIONS" in os.environ, reason="races on purpose")
@pytest.mark.parametrize("dtype", ["int64", "int16", "float16", "bool", "float32"])
def test_an_array_that_is_changed_meanwhile_gives_torn_values_at_worst(dtype: str) -> None:
    """Numbers that take one byte or ten, as they are: what is measured is what is written."""
    shared = numpy.zeros(100_000, dtype)
    memory = shared.view("u1")
    stop = threading.Event()

    def change() -> None:
        large, small = numpy.full_like(memory, 255), numpy.zeros_like(memory)
        while not stop.is_set():
            memory[:] = large  # without the GIL
            memory[:] = small

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            output = written(y=shared)["y"]
            (values,) = (value for field, value in output.ListFields() if "_val" in field.name)
            assert len(values) == shared.size
    finally:
        stop.set()
        thread.join()


def test_what_is_larger_than_a_message_is_refused_before_anything_is_copied() -> None:
    text = "The response is larger than a message may be."
    for value in (numpy.float32(1), numpy.int8(1), numpy.array(b"x"), numpy.array("x", object)):
        for size in (2**31, 2**64 // 24, 2**64 // 24 + 1, 2**57):
            assert unwritable(numpy.broadcast_to(value, (size,))) == text
    long = "x" * 2**20  # one that is repeated is held once
    assert unwritable(numpy.broadcast_to(numpy.array(long, object), (3000,))) == text
    half = numpy.broadcast_to(numpy.array(long, object), (1500,))
    with pytest.raises(ServingError, match="larger than a message"):
        write_response({"a": half, "b": half})


def test_a_masked_array_is_refused() -> None:
    masked: Any = numpy.ma.masked_array([1, 2], [True, False])
    assert "output y is a masked array" in unwritable(masked)
    assert list(written(y=masked.filled(7))["y"].int64_val) == [7, 2]


def test_model_spec_and_order_of_outputs_are_written() -> None:
    response = PredictResponse.FromString(
        write_response({"b": numpy.zeros(1), "a": numpy.ones(1)}, "m", 7, "sign")
    )
    assert response.model_spec.name == "m"
    assert response.model_spec.version.value == 7
    assert response.model_spec.signature_name == "sign"
    assert sorted(response.outputs) == ["a", "b"]
