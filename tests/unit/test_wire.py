"""PredictRequest and PredictResponse on the wire, against Python protobuf."""

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
    WireMaker,
    check_reading,
    element_size,
    expected_values,
    given_values,
)
from tfsrv._predict_response import write_predict_response
from tfsrv._proto import message_class
from tfsrv._tensor_values import parse_predict_request
from tfsrv.errors import Code, ServingError

PredictResponse = message_class("tensorflow.serving.PredictResponse")
randoms = st.integers(0, 2**64).map(Random)  # draws of its own would be ten times slower
more = settings(max_examples=400, deadline=None)
few = settings(max_examples=30, deadline=None)


@more
@given(randoms)
def test_valid_requests_mean_what_protobuf_says(random: Random) -> None:
    assert check_reading(WireMaker(random).request()) in ("read", "too large")


@more
@given(randoms)
def test_concatenated_requests_merge_as_in_protobuf(random: Random) -> None:
    maker = WireMaker(random)
    assert check_reading(maker.request() + maker.request()) in ("read", "too large")


@more
@given(randoms)
def test_odd_requests_are_read_or_refused_as_by_protobuf(random: Random) -> None:
    check_reading(WireMaker(random, odd=True).request())


@more
@given(randoms)
def test_mutated_requests_are_read_or_refused_as_by_protobuf(random: Random) -> None:
    maker = WireMaker(random)
    check_reading(maker.mutated(maker.request()))


@more
@given(st.binary(max_size=40))
def test_random_bytes_are_read_or_refused_as_by_protobuf(data: bytes) -> None:
    check_reading(data)


@few
@given(randoms)
def test_every_truncation_is_read_or_refused_as_by_protobuf(random: Random) -> None:
    data = WireMaker(random).request()[:400]
    for size in range(len(data)):
        check_reading(data[:size])


READ = {
    "empty": "",
    "version merges": "0a04 1202 0805  0a02 1200",
    "version after label starts anew": "0a04 1202 0805  0a03 2201 78  0a02 1200",
    "label after version": "0a07 1202 0805 2201 78",
    "tag longer than needed": "9a80 8080 0001 61",
    "length longer than needed": "1a81 8080 8000 61",
    "varint of ten bytes": "08ff ffff ffff ffff ffff 7f",
    "entry without key and value": "1200",
    "entry with an unknown field is no entry": "1207 0a01 6112 0018 01",
    "key of another wire type": "1205 0801 0a01 61",
    "value of another wire type": "1205 1001 0a01 61",
    "rare field of another wire type": "2801 3801",
    "reserved field": "2203 6162 63",
    "client id of any bytes": "3202 ff00",
    "noncharacter": "1a03 efbf bf",
    "largest code point": "1a04 f48f bfbf",
    "dtype after its values": "1214 1212 2a08 0000 803f 0000 0040 0801 1204 1202 0802",
}
REFUSED = {
    "tag of six bytes": "9a80 8080 8000 0161",
    "tag above 32 bits": "9a80 8080 1001 61",
    "length of six bytes": "1a81 8080 8080 0061",
    "length above 2 GiB": "1aff ffff ff0f",
    "length beyond the end": "1a02 61",
    "varint of eleven bytes": "08ff ffff ffff ffff ffff ff01",
    "packed varint of eleven bytes": "1212 1210 520e 01ff ffff ffff ffff ffff ff01 0101",
    "packed varint that is cut off": "1205 1203 5201 80",
    "packed floats of five bytes": "1209 1207 2a05 0101 0101 01",
    "field zero": "0200",
    "end of no group": "0c",
    "end of no group in a sub-message": "0a01 0c",
    "wire type 6": "2e",
    "wire type 7": "2f",
    "value beyond its sub-message": "0a03 1201 0805",
    "tag beyond its sub-message": "0a01 9a01",
    "surrogate": "1a03 eda0 80",
    "code point above the largest": "1a04 f490 8080",
    "text longer than needed": "1a02 c0af",
    "text cut in a character": "1a02 e282",
    "key that is no text": "1203 0a01 ff",
    "name of a dim that is no text": "1207 1205 1203 1201 ff",
}
RARE = {
    "group": "0b0c",
    "unknown group": "a306 a406",
    "group in a dim": "1206 1204 1202 1b1c",
    "predict_streamed_options": "2a00",
    "request_options": "3a00",
    "resource_handle_val": "1204 1202 7200",
    "variant_val": "1204 1202 7a00",
}


@pytest.mark.parametrize("data", READ.values(), ids=READ)
def test_reads_what_protobuf_reads(data: str) -> None:
    assert check_reading(bytes.fromhex(data)) == "read"


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refuses_what_protobuf_refuses(data: str) -> None:
    assert check_reading(bytes.fromhex(data)) == "refused"


@pytest.mark.parametrize("data", RARE.values(), ids=RARE)
def test_leaves_rare_fields_to_protobuf(data: str) -> None:
    with pytest.raises(ServingError) as caught:
        parse_predict_request(bytes.fromhex(data))
    assert caught.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize("keys", [3, 16, 17, 500])
def test_the_last_of_many_entries_with_one_key_wins(keys: int) -> None:
    data = b""
    for round_number in range(20):
        for key in range(keys):
            request: Any = PredictRequest()
            request.inputs[f"input {key}"].dtype = round_number
            data += request.SerializeToString()
    assert check_reading(data) == "read"
    inputs = parse_predict_request(data)["inputs"]
    assert len(inputs) == keys
    assert {input["dtype"] for input in inputs.values()} == {19}


def test_a_request_of_absurdly_many_parts_is_refused_in_bounded_memory() -> None:
    with pytest.raises(MemoryError):
        parse_predict_request(b"\x1a\x00" * 5_000_000)


def test_a_tensor_that_would_expand_too_far_is_told_before_it_is_made() -> None:
    request: Any = PredictRequest()
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=1 << 40)
    with pytest.raises(ServingError) as caught:
        parse_predict_request(request.SerializeToString(), max_tensor_bytes=1 << 30)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
@pytest.mark.parametrize("value", [0, 127, 128, 2**31, 2**63 - 1, -1])
def test_packed_integers_of_every_length_are_counted(count: int, value: int) -> None:
    request: Any = PredictRequest()
    tensor = request.inputs["x"]
    tensor.dtype = 9
    tensor.tensor_shape.dim.add(size=count + 1)
    tensor.int64_val.extend([value] * count + [5])
    assert check_reading(request.SerializeToString()) == "read"


def response(outputs: dict[str, Any], name: str, version: int, signature: str) -> Any:
    message: Any = PredictResponse()
    message.model_spec.name = name
    message.model_spec.version.value = version
    message.model_spec.signature_name = signature
    for alias, tensor in outputs.items():
        message.outputs[alias].CopyFrom(tensor)
    return message


def as_tensorflow_writes(dtype: int, shape: tuple[int, ...], values: Any, as_content: bool) -> Any:
    """The TensorProto of Tensor::AsProtoField, or of AsProtoTensorContent."""
    tensor: Any = PredictResponse().outputs["x"]  # type: ignore[attr-defined]
    tensor.dtype = dtype
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    field, kind, _ = DTYPES[dtype]
    if as_content:
        if isinstance(values, list):
            maker = WireMaker(Never())
            values = b"".join(map(maker.varint, map(len, values))) + b"".join(values)
        tensor.tensor_content = values
    elif field == "float8_val":
        tensor.float8_val = values
    elif field == "string_val":
        tensor.string_val.extend(values)
    else:
        getattr(tensor, field).extend(np.frombuffer(values, dtype=kind).tolist())
    return tensor


class Never(Random):
    """Takes no chance."""

    def randrange(self, *_: Any) -> int:
        return 1


@st.composite
def outputs(draw: st.DrawFn) -> tuple[int, tuple[int, ...], Any]:
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    elements = int(np.prod(shape))
    if dtype == 7:
        return dtype, shape, [draw(st.binary(max_size=40)) for _ in range(elements)]
    if dtype == 10:
        return dtype, shape, bytes(draw(st.integers(0, 1)) for _ in range(elements))
    _, kind, parts = DTYPES[dtype]
    if kind.startswith("<f"):
        numbers = draw(
            st.lists(st.integers(-1000, 1000), min_size=elements * parts, max_size=elements * parts)
        )
        return dtype, shape, np.array(numbers, dtype=kind).tobytes()
    size = elements * element_size(dtype)
    return dtype, shape, draw(st.binary(min_size=size, max_size=size))


@more
@given(outputs(), st.booleans(), st.sampled_from([0, 16, 1 << 40]))
def test_writes_the_bytes_that_protobuf_writes(
    output: tuple[int, tuple[int, ...], Any], as_content: bool, splice_from: int
) -> None:
    dtype, shape, values = output
    tensor = as_tensorflow_writes(dtype, shape, values, as_content)
    expected = response({"y": tensor}, "half_plus_two", 123, "serving_default")
    written = write_predict_response(
        [("y", dtype, shape, values)], "half_plus_two", 123, "serving_default", as_content,
        splice_from,
    )  # fmt: skip
    assert written == expected.SerializeToString()


@few
@given(st.lists(outputs(), max_size=5), st.text(), st.integers(-(2**63), 2**63 - 1), st.text())
def test_what_is_written_is_what_protobuf_reads(
    written: list[tuple[int, tuple[int, ...], Any]], name: str, version: int, signature: str
) -> None:
    data = write_predict_response(
        [(f"output {i}", *output) for i, output in enumerate(written)], name, version, signature
    )
    read: Any = PredictResponse.FromString(data)
    assert (read.model_spec.name, read.model_spec.signature_name) == (name, signature)
    assert read.model_spec.version.value == version
    assert len(read.outputs) == len(written)
    for i, (dtype, shape, values) in enumerate(written):
        tensor = read.outputs[f"output {i}"]
        assert (tensor.dtype, tuple(dim.size for dim in tensor.tensor_shape.dim)) == (dtype, shape)
        assert expected_values(tensor) == values


def test_version_0_and_empty_names_are_written_as_proto3_does() -> None:
    written = write_predict_response([], "", 0, "")
    assert written == response({}, "", 0, "").SerializeToString()
    assert PredictResponse.FromString(written).model_spec.HasField("version")  # type: ignore[attr-defined]


def test_spliced_outputs_are_let_go_of() -> None:
    values = bytes(1000)
    before = sys.getrefcount(values)
    write_predict_response([("y", 1, (250,), values)], "m", 1, "s", splice_from=0)
    assert sys.getrefcount(values) == before


def test_an_output_of_rank_254_is_written() -> None:
    data = write_predict_response([("y", 3, (1,) * 254, b"\1\0\0\0")], "m", 1, "s")
    tensor = PredictResponse.FromString(data).outputs["y"]  # type: ignore[attr-defined]
    assert len(tensor.tensor_shape.dim) == 254
    assert given_values(tensor, "int_val", "<i4") == b"\1\0\0\0"


@pytest.mark.parametrize("dtype", [0, 20, 21, 101, 999])
def test_a_dtype_that_cannot_be_sent_is_an_error(dtype: int) -> None:
    with pytest.raises(ServingError) as caught:
        write_predict_response([("y", dtype, (1,), b"\0")], "m", 1, "s")
    assert caught.value.code is Code.INTERNAL


def test_an_answer_above_2_gib_is_an_error() -> None:
    half = bytes(1 << 30)  # fresh zero pages: never touched
    with pytest.raises(ServingError) as caught:
        write_predict_response(
            [("a", 1, (1 << 28,), half), ("b", 1, (1 << 28,), half)], "m", 1, "s"
        )
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
