"""Tensors made from requests, in TensorFlow's hands."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.conftest import tensorflow_version
from tests.wire_messages import (
    DTYPES,
    PredictRequest,
    TensorProto,
    TooLarge,
    WireMaker,
    element_count,
    element_size,
    expected_values,
)
from tfsrv._memory import live_blocks
from tfsrv._proto import message_class
from tfsrv._tensor import echo_request, tensors_of_request
from tfsrv.errors import Code, ServingError

pytestmark = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")

PredictResponse = message_class("tensorflow.serving.PredictResponse")
DT_FLOAT, DT_STRING = 1, 7
NOT_SERVED = (20, 21, *range(29, 34))  # resources, variants, numbers of less than a byte
NUMERIC_DTYPES = [dtype for dtype in DTYPES if dtype != DT_STRING]


def tensor_proto(dtype: int, shape: list[int], **fields: Any) -> Any:
    proto: Any = TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def request_of(**inputs: Any) -> bytes:
    request: Any = PredictRequest()
    for alias, proto in inputs.items():
        request.inputs[alias].CopyFrom(proto)
    return bytes(request.SerializeToString())


def content_of(dtype: int, elements: int) -> bytes:
    if dtype == 10:
        return bytes(i % 2 for i in range(elements))
    return bytes(i % 251 for i in range(elements * element_size(dtype)))


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
def test_tensor_of_each_dtype_holds_the_requests_bytes(dtype: int) -> None:
    content = content_of(dtype, 6)
    proto = tensor_proto(dtype, [2, 3], tensor_content=content)
    tensor = tensors_of_request(request_of(x=proto))["x"]
    assert (tensor.dtype, tensor.shape, tensor.values()) == (dtype, (2, 3), content)


@pytest.mark.parametrize("elements", [1, 15, 100, 16_384, 150_528, 5_000_000])
def test_memory_is_aligned_for_tensorflow(elements: int) -> None:
    proto = tensor_proto(DT_FLOAT, [elements], float_val=[1.0])
    tensor = tensors_of_request(request_of(x=proto))["x"]
    assert tensor.address % 64 == 0


def test_memory_is_given_back_only_when_the_tensor_is_deleted() -> None:
    before = live_blocks()
    tensors = tensors_of_request(request_of(x=tensor_proto(DT_FLOAT, [2]), y=tensor_proto(7, [3])))
    assert live_blocks() == before + 2
    del tensors["x"]
    assert live_blocks() == before + 1
    tensors.clear()
    assert live_blocks() == before


@pytest.mark.parametrize("elements", [0, 1, 3])
@pytest.mark.parametrize("size", [0, 22, 23, 1_000_000])
def test_strings_of_any_length_arrive(elements: int, size: int) -> None:
    texts = [bytes([65 + i]) * size for i in range(elements)]
    proto = tensor_proto(DT_STRING, [elements], string_val=texts)
    assert tensors_of_request(request_of(x=proto))["x"].values() == texts


def test_rank_0_and_rank_254_are_tensors() -> None:
    inputs = {
        "scalar": tensor_proto(DT_FLOAT, [], float_val=[2.0]),
        "deep": tensor_proto(DT_FLOAT, [1] * 254, float_val=[2.0]),
    }
    tensors = tensors_of_request(request_of(**inputs))
    assert tensors["scalar"].shape == ()
    assert tensors["deep"].shape == (1,) * 254
    assert tensors["deep"].values() == struct.pack("<f", 2.0)


@pytest.mark.parametrize(
    "proto",
    [
        tensor_proto(DT_FLOAT, [-1]),
        tensor_proto(DT_FLOAT, [1] * 255),
        tensor_proto(DT_FLOAT, [2**62, 2**62, 0]),
        tensor_proto(DT_FLOAT, [2], tensor_content=b"1234567"),
        tensor_proto(0, [1]),
        tensor_proto(20, [1]),
        tensor_proto(101, [1]),
        tensor_proto(10, [1], tensor_content=b"\2"),
        tensor_proto(DT_STRING, [2], tensor_content=b"\1\2abcd"),
    ],
    ids=["negative", "rank", "overflow", "size", "invalid", "resource", "ref", "bool", "strings"],
)
def test_what_tensorflow_refuses_or_aborts_at_is_an_error(proto: Any) -> None:
    before = live_blocks()
    with pytest.raises(ServingError, match="tensor parsing error: x") as caught:
        tensors_of_request(request_of(x=proto))
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert live_blocks() == before


def test_empty_tensor_with_huge_other_dims_does_not_abort_tensorflow() -> None:
    proto = tensor_proto(DT_FLOAT, [0, 2**62, 2**62], tensor_content=b"ignored")
    tensor = tensors_of_request(request_of(x=proto))["x"]
    assert (tensor.shape, tensor.values()) == ((0, 2**62, 2**62), b"")


@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("splice_from", [0, 1 << 40])
@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
def test_echo_has_the_values_of_the_request(dtype: int, splice_from: int, as_content: bool) -> None:
    content = content_of(dtype, 300)
    data = request_of(x=tensor_proto(dtype, [3, 100], tensor_content=content))
    before = live_blocks()
    answer: Any = PredictResponse.FromString(echo_request(data, as_content, splice_from))
    assert live_blocks() == before
    echoed = answer.outputs["x"]
    assert bool(echoed.tensor_content) == as_content
    assert expected_values(echoed) == content


def test_tensors_may_be_made_and_deleted_on_many_threads() -> None:
    data = request_of(x=tensor_proto(DT_FLOAT, [50_000], float_val=[1.0]))
    expected = struct.pack("<f", 1.0) * 50_000
    good: list[bool] = []

    def work() -> None:
        good.extend(tensors_of_request(data)["x"].values() == expected for _ in range(100))

    before = live_blocks()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 400
    assert live_blocks() == before


def values_by_tensorflow(protos: list[Any]) -> list[bytes | list[bytes] | None]:
    framed = b""
    for proto in protos:
        data = proto.SerializeToString()
        framed += struct.pack("<i", len(data)) + data
    script = Path(__file__).with_name("parse_tensors.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script], input=framed, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    results: list[bytes | list[bytes] | None] = []
    at = 0
    for proto in protos:
        (size,) = struct.unpack_from("<i", done.stdout, at)
        at += 4
        if size < 0:
            results.append(None)
            continue
        data = done.stdout[at : at + size]
        at += size
        if proto.dtype == DT_STRING:
            results.append(list(TensorProto.FromString(data).string_val))  # type: ignore[attr-defined]
        else:
            results.append(data)
    return results


def comparable(proto: Any) -> bool:
    """NumPy shows the tensor, and it is one that we mean to read."""
    elements = element_count(proto)
    if len(proto.tensor_shape.dim) > 32 or proto.dtype in NOT_SERVED:
        return False
    if elements == 0 and max(dim.size for dim in proto.tensor_shape.dim) > 1000:
        return False
    try:
        expected_values(proto)
    except TooLarge:
        return False
    return True


def test_values_are_those_that_tensorflow_parses() -> None:
    makers = [WireMaker(Random(f"parse {i}")) for i in range(4000)]
    protos = [TensorProto.FromString(maker.tensor()) for maker in makers]
    protos = [proto for proto in protos if comparable(proto)]
    parsed = values_by_tensorflow(protos)
    refused = 0
    for proto, by_tensorflow in zip(protos, parsed, strict=True):
        try:
            ours = tensors_of_request(request_of(x=proto))["x"].values()
        except ServingError:
            ours = None
            refused += 1
        assert ours == by_tensorflow, proto
    assert refused < len(protos) // 2
