"""What the client writes and reads on the wire, against Python protobuf."""

from __future__ import annotations

import sys
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire_messages import (
    DTYPES,
    PredictRequest,
    PredictResponse,
    WireMaker,
    check_response,
    element_size,
)
from tfsrv.client._wire import read_predict_response, write_predict_request
from tfsrv.client.dtypes import NAMES, UnknownTypeError, data_type, numpy_type
from tfsrv.client.values import as_array
from tfsrv.errors import Code, ServingError

randoms = st.integers(0, 2**64).map(Random)  # draws of its own would be ten times slower
more = settings(max_examples=300, deadline=None)

SENDABLE = [number for number in DTYPES if not NAMES[number].startswith("q")]
CONTENT_FIELD = 4
DT_STRING = 7


def request(inputs: dict[str, Any], **options: Any) -> Any:
    """What protobuf reads in the request that is written."""
    message: Any = PredictRequest
    return message.FromString(write_predict_request("m", inputs, **options))


def tensor(value: Any) -> Any:
    return request({"x": value}).inputs["x"]


def answer(**outputs: Any) -> bytes:
    """A response with these TensorProtos."""
    response: Any = PredictResponse()
    for alias, proto in outputs.items():
        response.outputs[alias].CopyFrom(proto)
    data: bytes = response.SerializeToString()
    return data


def echoed(value: Any) -> np.ndarray[Any, Any]:
    """A value that is sent and comes back."""
    array: np.ndarray[Any, Any] = read_predict_response(answer(x=tensor(value)))[0]["x"]
    return array


def dims(proto: Any) -> list[int]:
    return [dim.size for dim in proto.tensor_shape.dim]


# ---- requests


@pytest.mark.parametrize("number", SENDABLE, ids=lambda number: NAMES[number])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_arrays_of_every_type_are_sent_as_they_are(number: int, shape: tuple[int, ...]) -> None:
    dtype = numpy_type(number)
    count = int(np.prod(shape))
    if number == DT_STRING:
        values = np.empty(shape, object)
        values.reshape(-1)[:] = [b"\0%d" % i for i in range(count)]
    else:
        values = (np.arange(count) % 2).astype(dtype).reshape(shape)
    proto = tensor(values)
    assert proto.dtype == number
    assert dims(proto) == list(shape)
    if number == DT_STRING:
        assert list(proto.string_val) == values.reshape(-1).tolist()
    else:
        assert proto.tensor_content == values.tobytes()
    back = echoed(values)
    assert back.dtype == dtype
    assert back.shape == shape
    assert back.tolist() == values.tolist()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(24, dtype="f4").reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(24, dtype="i8")[::-3],
        np.arange(6, dtype="f4").reshape(2, 3, order="F"),
        np.broadcast_to(np.float64(3), (4, 2)),
        np.arange(6, dtype=">f8").reshape(2, 3).T,
        np.arange(6, dtype=">u2"),
        np.arange(200_000, dtype="<i4"),
        np.arange(200_000, dtype="<i4").reshape(2, -1)[:, ::2],
        np.array(["a", "é𝄞", ""]),
        np.array([b"ab", b"c"])[::-1],
        np.array([["a"], ["b"]], dtype=object).T,
        np.arange(4).view(type("Subclass", (np.ndarray,), {})),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_layout_and_byte_order_do_not_matter(values: np.ndarray[Any, Any]) -> None:
    before = values.copy()
    back = echoed(values)
    assert back.shape == values.shape
    assert back.dtype.isnative
    expected = values.tolist()
    if values.dtype.kind in "UO":
        expected = np.char.encode(values.astype(str), "utf-8").tolist()
    assert back.tolist() == expected
    assert values.flags.c_contiguous == before.flags.c_contiguous or values.ndim
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        (1.5, "float32", ()),
        ([1.5, 2], "float32", (2,)),
        ([], "float32", (0,)),
        ([[], []], "float32", (2, 0)),
        (1, "int32", ()),
        ((1, 2), "int32", (2,)),
        ([1, 2**31], "int64", (2,)),
        ([2**63], "uint64", (1,)),
        (True, "bool", ()),
        ([[True], [False]], "bool", (2, 1)),
        (1j, "complex128", ()),
        ("a", "object", ()),
        ([b"a\0", "b"], "object", (2,)),
        ([np.float64(1.5)], "float32", (1,)),
        (np.float64(1.5), "float64", ()),
        (np.str_("a"), "<U1", ()),
        (np.array([1], np.float16), "float16", (1,)),
        (memoryview(b"ab"), "uint8", (2,)),
    ],
)
def test_values_of_python_get_the_types_of_make_tensor_proto(
    value: Any, dtype: str, shape: tuple[int, ...]
) -> None:
    array = as_array(value)
    assert (array.dtype, array.shape) == (np.dtype(dtype), shape)


def test_the_zeros_at_the_end_of_bytes_are_kept() -> None:
    assert echoed([[b"a\0\0"], [b"\0"]]).tolist() == [[b"a\0\0"], [b"\0"]]


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ([[1], [2, 3]], ValueError, "inhomogeneous"),
        (["a", 1], TypeError, "an element is no string but a int"),
        ([1, "a"], TypeError, "strings and numbers are mixed"),
        ([None], TypeError, "an element is no string but a NoneType"),
        (None, TypeError, "no array can be made of a NoneType"),
        ({"a": 1}, TypeError, "no array can be made of a dict"),
        (np.zeros(2, "M8[s]"), TypeError, "a TensorProto cannot carry datetime64"),
        (np.zeros(2, "i4,f4"), TypeError, "a TensorProto cannot carry"),
        (np.zeros(2, np.longdouble), TypeError, "a TensorProto cannot carry"),
        (np.ma.array([1, 2]), TypeError, "filled()"),
        (["\ud800"], ValueError, "surrogates"),
    ],
)
def test_what_cannot_be_sent_is_told_with_its_name(
    value: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=r"input 'x': .*" + text.replace("(", r"\(").replace(")", r"\)")):
        write_predict_request("m", {"x": value})


def test_a_request_names_its_model_and_what_is_wanted_of_it() -> None:
    told = request({}, signature_name="s", version=-1, output_filter=("a", "é"))
    assert (told.model_spec.name, told.model_spec.signature_name) == ("m", "s")
    assert told.model_spec.version.value == -1
    assert list(told.output_filter) == ["a", "é"]
    told = request({"a" * 200: 1, "": 2}, version_label="stable")
    assert told.model_spec.version_label == "stable"
    assert not told.model_spec.HasField("version")
    assert sorted(told.inputs) == ["", "a" * 200]
    assert request({}, version=0).model_spec.HasField("version")


def test_version_and_label_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="either a version or a label"):
        write_predict_request("m", {}, version=1, version_label="stable")
    with pytest.raises(ValueError, match="64 bits"):
        write_predict_request("m", {}, version=2**63)


def test_a_request_beyond_what_protobuf_can_say_is_refused_before_it_is_made() -> None:
    huge = np.broadcast_to(np.int8(1), (2**31,))
    with pytest.raises(ValueError, match="larger than a protobuf message"):
        write_predict_request("m", {"x": huge})


@pytest.mark.parametrize("dtype", [np.float32, object])
def test_an_array_that_gets_another_shape_meanwhile_is_sent_as_it_was(dtype: Any) -> None:
    values = np.array([b"a", b"b"]) if dtype is object else np.array([1, 2])
    array = values.astype(dtype)

    class Reshaping:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray[Any, Any]:
            array.shape = (1,) * 30 + (2,)
            return np.zeros(1, np.float32)

    inputs = request({"x": array, "y": Reshaping()}).inputs
    assert dims(inputs["x"]) == [2]


def test_a_request_keeps_no_hold_of_its_arrays() -> None:
    values = np.arange(3)
    before = sys.getrefcount(values)
    data = write_predict_request("m", {"x": values})
    assert sys.getrefcount(values) == before
    values.resize(100)  # refused while somebody has its memory
    assert PredictRequest.FromString(data).inputs["x"].tensor_content  # type: ignore[attr-defined]


# ---- responses


@more
@given(randoms)
def test_valid_responses_mean_what_protobuf_says(random: Random) -> None:
    assert check_response(WireMaker(random).response()) in ("read", "unreadable", "too large")


@more
@given(randoms)
def test_odd_responses_are_read_or_refused_as_by_protobuf(random: Random) -> None:
    check_response(WireMaker(random, odd=True).response())


@more
@given(randoms)
def test_mutated_responses_are_read_or_refused_as_by_protobuf(random: Random) -> None:
    maker = WireMaker(random)
    check_response(maker.mutated(maker.response()))


@settings(max_examples=20, deadline=None)
@given(randoms)
def test_no_part_of_a_response_is_read_beyond_its_end(random: Random) -> None:
    data = WireMaker(random).response()
    for size in range(min(len(data), 300)):
        check_response(data[:size])


def test_arrays_outlive_the_response_and_may_be_written_to() -> None:
    data = bytearray(answer(x=tensor(np.arange(100_000)), s=tensor(["a", "b"])))
    outputs = read_predict_response(bytes(data))[0]
    outputs["x"] += 1
    outputs["s"][0] = b"c"
    assert outputs["x"][-1] == 100_000
    assert outputs["s"].tolist() == [b"c", b"b"]


@pytest.mark.parametrize("number", DTYPES, ids=lambda number: NAMES[number])
def test_typed_fields_are_read_with_the_last_value_repeated(number: int) -> None:
    field, _, parts = DTYPES[number]
    message: Any = PredictResponse()
    proto = message.outputs["y"]
    proto.dtype = number
    proto.tensor_shape.dim.add(size=3)
    one: Any = b"\1" if field in ("string_val", "float8_val") else 1
    if field == "float8_val":
        proto.float8_val = one
    else:
        getattr(proto, field).extend([one] * parts)
    array = read_predict_response(message.SerializeToString())[0]["y"]
    if number == DT_STRING:
        assert array.tolist() == [b"\1"] * 3
    else:
        assert array.dtype.itemsize == element_size(number)
        assert len(set(array.view(f"V{array.itemsize}").tolist())) == 1
        assert array.tobytes().count(0) < array.nbytes


def test_few_bytes_that_ask_for_much_are_refused() -> None:
    message: Any = PredictResponse()
    message.outputs["y"].dtype = 1
    message.outputs["y"].tensor_shape.dim.add(size=1 << 40)
    with pytest.raises(ServingError) as caught:
        read_predict_response(message.SerializeToString())
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    for alias in ("a", "b"):
        message.outputs[alias].dtype = 1
        message.outputs[alias].tensor_shape.dim.add(size=100)
    del message.outputs["y"]
    assert len(read_predict_response(message.SerializeToString(), 800)[0]) == 2
    with pytest.raises(ServingError, match="more than 799 bytes"):
        read_predict_response(message.SerializeToString(), 799)


@pytest.mark.parametrize(("number", "name"), [(20, "resource"), (21, "variant"), (99, "type 99")])
def test_a_type_without_arrays_is_named(number: int, name: str) -> None:
    message: Any = PredictResponse()
    message.outputs["y"].dtype = number
    message.outputs["y"].tensor_shape.SetInParent()
    with pytest.raises(ServingError, match=f"output y cannot be read: .*{name}"):
        read_predict_response(message.SerializeToString())


def test_without_ml_dtypes_the_other_types_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(UnknownTypeError, match="install ml_dtypes"):
        numpy_type(14)
    assert numpy_type(1) == np.float32
    assert data_type(np.dtype("float32")) == 1
