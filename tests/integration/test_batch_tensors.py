"""Rows of many requests as one tensor, and apart again; NumPy says what they should be."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, tensorflow_version
from tests.wire_messages import DTYPES, FIXED, PredictRequest, TensorProto, element_size
from tfsrv._batch_tensors import (
    RowsError,
    join_tensors,
    kind_hash,
    look_at_rows,
    merge_requests,
    rows_of_request,
    same_kind,
    slice_tensor,
)
from tfsrv._memory import live_blocks
from tfsrv._tensor import Tensor, tensors_of_request
from tfsrv.errors import Code, ServingError

pytestmark = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")

DT_FLOAT, DT_INT32, DT_STRING, DT_BOOL = 1, 3, 7, 10
PARSING_ERROR = "tensor parsing error: x"
EMPTY_ERROR = "Got empty tensor in batch of non-empty tensors."

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def every_block_comes_back() -> Any:
    before = live_blocks()
    yield
    assert live_blocks() == before


# Requests, and the twin


def request_of(proto: Any) -> bytes:
    request: Any = PredictRequest()
    request.inputs["x"].CopyFrom(proto)
    return bytes(request.SerializeToString())


def proto_of(dtype: int, shape: Sequence[int], **fields: Any) -> Any:
    proto: Any = TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def floats(shape: Sequence[int], values: Sequence[float] = ()) -> bytes:
    return request_of(proto_of(DT_FLOAT, shape, float_val=values))


def texts(shape: Sequence[int], values: Sequence[bytes]) -> bytes:
    return request_of(proto_of(DT_STRING, shape, string_val=values))


def array_of(tensor: Tensor) -> Array:
    """Any dtype: strings as objects, numbers as the bytes of each element."""
    if tensor.dtype == DT_STRING:
        array = np.empty(prod(tensor.shape), dtype=object)
        array[:] = tensor.values()
        return array.reshape(tensor.shape)
    values = tensor.values()
    assert isinstance(values, bytes)
    return np.frombuffer(values, f"V{element_size(tensor.dtype)}").reshape(tensor.shape)


def assert_holds(tensor: Tensor, expected: Array) -> None:
    assert tensor.shape == expected.shape
    assert array_of(tensor).tolist() == expected.tolist()


def random_elements(random: Random, dtype: int, count: int) -> Array:
    """Values that are unlike each other, as array_of would show them."""
    if dtype == DT_STRING:
        strings = np.empty(count, dtype=object)
        strings[:] = [random.randbytes(random.choice([0, 1, 22, 23, 90])) for _ in range(count)]
        return strings
    size = element_size(dtype)
    raw = random.randbytes(count * size)
    if dtype == DT_BOOL:
        raw = bytes(byte & 1 for byte in raw)
    return np.frombuffer(raw, f"V{size}")


def string_list(strings: Sequence[bytes]) -> bytes:
    """tensor_content of a DT_STRING: all lengths, which are below 128 here, then all texts."""
    return bytes(map(len, strings)) + b"".join(strings)


def fill_typed(proto: Any, elements: Array) -> None:
    """Put elements into the dtype's own field."""
    field, kind, _ = DTYPES[proto.dtype]
    if field == "string_val":
        proto.string_val.extend(elements.tolist())
    elif field == "float8_val":
        proto.float8_val = elements.tobytes()
    elif field in FIXED:
        # Through a message's bytes, because a signalling NaN would not come through Python's float.
        number = next(f.number for f in proto.DESCRIPTOR.fields if f.name == field)
        raw = elements.tobytes()
        proto.MergeFromString(varint(number << 3 | 2) + varint(len(raw)) + raw)
    else:
        getattr(proto, field).extend(np.frombuffer(elements.tobytes(), kind).tolist())


def varint(value: int) -> bytes:
    pieces = []
    while value >= 0x80:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*pieces, value])


def make_request(
    random: Random, dtype: int, shape: tuple[int, ...], how: str
) -> tuple[bytes, Array]:
    """A request and what its input is; `how` its elements are sent."""
    count = prod(shape)
    proto = proto_of(dtype, shape)
    elements = random_elements(random, dtype, count)
    if how == "repeated" and count:
        given_count = random.randrange(1, count + 1)
        fill_typed(proto, elements[:given_count])
        last = elements[given_count - 1 : given_count]
        elements = np.concatenate([elements[:given_count], last.repeat(count - given_count)])
    elif how == "content" and count:
        is_string = dtype == DT_STRING
        proto.tensor_content = string_list(elements.tolist()) if is_string else elements.tobytes()
    elif how == "none" and dtype != DT_STRING:
        elements = np.frombuffer(bytes(count * element_size(dtype)), elements.dtype)
    else:
        fill_typed(proto, elements)
    return request_of(proto), elements.reshape(shape)


def padded(array: Array, inner: Sequence[int]) -> Array:
    """Grown at the ends of its inner dims, filled with its first element."""
    whole = np.empty((array.shape[0], *inner), dtype=array.dtype)
    if array.size:
        whole[...] = array[(0,) * array.ndim]
    whole[tuple(slice(size) for size in array.shape)] = array
    return whole


def merged(arrays: Sequence[Array], padding_rows: int) -> Array:
    inner = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
    parts = [padded(array, inner) for array in arrays]
    with_rows = [part for part in parts if part.shape[0]]
    return np.concatenate([*parts, *[part[:1] for part in with_rows[-1:]] * padding_rows])


# Whatever clients send


@dataclass(frozen=True)
class Batch:
    dtype: int
    requests: list[bytes]
    arrays: list[Array]
    padding_rows: int


HOW = st.sampled_from(["typed", "content", "repeated", "none"])


@st.composite
def batches(draw: Callable[..., Any], *, pads_inner: bool) -> Batch:
    random = draw(st.randoms(use_true_random=False))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    rank = draw(st.integers(1, 6 if pads_inner else 7))
    smallest = 1 if pads_inner else 0
    sizes = st.integers(smallest, 3 if rank > 3 else 7)

    def inner_shape() -> tuple[int, ...]:
        return tuple(draw(sizes) for _ in range(rank - 1))

    inner = inner_shape()
    made = []
    for _ in range(draw(st.integers(1, 6))):
        shape = (draw(st.integers(0, 4)), *(inner_shape() if pads_inner else inner))
        made.append(make_request(random, dtype, shape, draw(HOW)))
    requests = [request for request, _ in made]
    arrays = [array for _, array in made]
    has_rows = any(array.shape[0] for array in arrays)
    return Batch(dtype, requests, arrays, draw(st.integers(0, 3)) if has_rows else 0)


@settings(max_examples=400, deadline=None)
@given(batches(pads_inner=False))
def test_merge_is_numpys_concatenate(batch: Batch) -> None:
    tensor = merge_requests(batch.requests, "x", batch.padding_rows)
    assert tensor.dtype == batch.dtype
    assert_holds(tensor, merged(batch.arrays, batch.padding_rows))


@settings(max_examples=400, deadline=None)
@given(batches(pads_inner=True))
def test_merge_pads_inner_dims_with_the_first_element(batch: Batch) -> None:
    tensor = merge_requests(batch.requests, "x", batch.padding_rows, pads_inner=True)
    assert_holds(tensor, merged(batch.arrays, batch.padding_rows))


@settings(max_examples=200, deadline=None)
@given(batches(pads_inner=False))
def test_what_was_merged_comes_apart_and_together_again(batch: Batch) -> None:
    whole = merge_requests(batch.requests, "x", batch.padding_rows)
    first = 0
    parts = []
    for array in batch.arrays:
        rows = array.shape[0]
        part = slice_tensor(whole, first, rows)
        assert_holds(part, array)
        shape, elements, memory = look_at_rows(whole, first, rows)
        assert (shape, elements) == (array.shape, array.size)
        if batch.dtype != DT_STRING:
            assert memory == part.values()
        else:
            assert len(memory) == 24 * array.size
        parts.append((whole, first, rows))
        first += rows
    del whole
    assert_holds(join_tensors(parts), merged(batch.arrays, 0))


@settings(max_examples=200, deadline=None)
@given(batches(pads_inner=True), st.booleans())
def test_kinds_that_are_equal_have_equal_hashes(batch: Batch, pads_inner: bool) -> None:
    first = batch.requests[0]
    for request, array in zip(batch.requests, batch.arrays, strict=True):
        is_same = pads_inner or array.shape[1:] == batch.arrays[0].shape[1:]
        hashes = {kind_hash(first, "x", pads_inner), kind_hash(request, "x", pads_inner)}
        assert same_kind(first, request, "x", pads_inner) == is_same
        assert (len(hashes) == 1) == is_same  # 64 bits: two kinds never meet here
        assert rows_of_request(request, "x") == array.shape[0]


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("how", ["typed", "content", "repeated"])
def test_one_request_without_padding_is_the_plain_tensor(dtype: int, how: str) -> None:
    request, array = make_request(Random(dtype), dtype, (3, 2, 5), how)
    plain = tensors_of_request(request)["x"]
    tensor = merge_requests([request], "x")
    assert (tensor.dtype, tensor.shape, tensor.values()) == (dtype, plain.shape, plain.values())
    assert_holds(tensor, array)
    assert tensor.address % 64 == 0


# Kinds


@pytest.mark.parametrize(
    ("other", "pads_inner", "expected"),
    [
        (proto_of(DT_FLOAT, [9, 3]), False, True),
        (proto_of(DT_FLOAT, [0, 3]), False, True),
        (proto_of(DT_FLOAT, [2, 4]), False, False),
        (proto_of(DT_FLOAT, [2, 4]), True, True),
        (proto_of(DT_INT32, [2, 3]), False, False),
        (proto_of(DT_INT32, [2, 3]), True, False),
        (proto_of(DT_FLOAT, [2, 3, 1]), False, False),
        (proto_of(DT_FLOAT, [2, 3, 1]), True, False),
        (proto_of(DT_FLOAT, [2]), True, False),
    ],
)
def test_a_kind_is_dtype_rank_and_inner_dims(other: Any, pads_inner: bool, expected: bool) -> None:
    first = floats([2, 3])
    assert same_kind(first, request_of(other), "x", pads_inner) == expected
    hashes_equal = kind_hash(first, "x", pads_inner) == kind_hash(
        request_of(other), "x", pads_inner
    )
    assert hashes_equal == expected


def test_scalars_and_impossible_ranks_are_of_no_kind() -> None:
    for shape in ([], [1] * 255, [1] * 300):
        request = floats(shape)
        assert not same_kind(request, request, "x")
        assert kind_hash(request, "x") == kind_hash(request, "x")


def test_inner_dims_of_seven_dims_and_more_are_never_padded() -> None:
    request = floats([1] * 7)
    assert same_kind(request, request, "x")
    assert not same_kind(request, request, "x", pads_inner=True)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ([5, 2], 5), ([0], 0), ([], -1), ([-1, 2], -1), ([2, -1], -1), ([1] * 255, -1),
        ([2**62, 4], -1), ([7] + [1] * 253, 7),
    ],
)  # fmt: skip
def test_rows_are_the_first_dim_of_a_possible_shape(shape: list[int], rows: int) -> None:
    assert rows_of_request(floats(shape), "x") == rows


# Padding


def test_padding_rows_are_the_first_row_of_the_last_request() -> None:
    requests = [floats([1, 2], [1, 2]), floats([2, 2], [3, 4, 5, 6])]
    tensor = merge_requests(requests, "x", padding_rows=2)
    assert tensor.shape == (5, 2)
    assert tensor.values() == struct.pack("<10f", 1, 2, 3, 4, 5, 6, 3, 4, 3, 4)


def test_padding_rows_are_of_the_last_request_that_has_rows() -> None:
    requests = [floats([2], [1, 2]), floats([0])]
    assert merge_requests(requests, "x", padding_rows=1).values() == struct.pack("<3f", 1, 2, 1)


@pytest.mark.parametrize(("make", "zeros"), [(floats, bytes(24)), (texts, [b""] * 6)])
def test_padding_rows_of_no_rows_are_zeros(
    make: Callable[..., bytes], zeros: bytes | list[bytes]
) -> None:
    tensor = merge_requests([make([0, 3], [])], "x", padding_rows=2)
    assert tensor.shape == (2, 3)
    assert tensor.values() == zeros


def test_padding_rows_of_strings_are_strings_of_their_own() -> None:
    long = b"long enough to stand elsewhere"
    tensor = merge_requests([texts([2], [long, b"b"])], "x", padding_rows=3)
    assert tensor.values() == [long, b"b", long, long, long]


def test_padding_rows_of_more_than_64_kilobytes_are_copied() -> None:
    row = Random(1).randbytes(4 * 50_000)
    request = request_of(proto_of(DT_FLOAT, [1, 50_000], tensor_content=row))
    assert merge_requests([request], "x", padding_rows=3).values() == row * 4


def test_padded_dims_have_the_first_element_of_the_tensor_not_of_the_row() -> None:
    requests = [floats([2, 1], [1, 2]), floats([1, 3], [7, 8, 9])]
    tensor = merge_requests(requests, "x", padding_rows=1, pads_inner=True)
    assert tensor.shape == (4, 3)
    assert tensor.values() == struct.pack("<12f", 1, 1, 1, 2, 1, 1, 7, 8, 9, 7, 8, 9)


def test_padding_keeps_equal_inner_shapes_as_they_are() -> None:
    requests = [floats([1, 2], [1, 2]), floats([1, 2], [3, 4])]
    tensor = merge_requests(requests, "x", pads_inner=True)
    assert (tensor.shape, tensor.values()) == ((2, 2), struct.pack("<4f", 1, 2, 3, 4))


def test_request_without_elements_among_others_is_named() -> None:
    requests = [floats([1, 2]), floats([1, 3]), floats([1, 0]), floats([1, 1])]
    with pytest.raises(RowsError, match=EMPTY_ERROR) as caught:
        merge_requests(requests, "x", pads_inner=True)
    assert (caught.value.code, caught.value.source) == (Code.INVALID_ARGUMENT, 2)


def test_request_without_rows_needs_no_element_to_be_padded_with() -> None:
    requests = [floats([0, 2]), floats([1, 3], [1, 2, 3]), floats([0, 0])]
    tensor = merge_requests(requests, "x", pads_inner=True)
    assert (tensor.shape, tensor.values()) == ((1, 3), struct.pack("<3f", 1, 2, 3))


def test_requests_that_are_all_without_elements_make_a_batch_without() -> None:
    tensor = merge_requests([floats([2, 0, 3]), floats([1, 0, 5])], "x", 1, pads_inner=True)
    assert (tensor.shape, tensor.values()) == ((4, 0, 5), b"")


# Bad requests


GOOD = {
    DT_FLOAT: floats([2, 2], [1, 2, 3, 4]),
    DT_BOOL: request_of(proto_of(DT_BOOL, [1, 2], bool_val=[True])),
    DT_STRING: texts([2, 2], [b"a", b"a text that stands elsewhere"]),
}
BAD = {
    "content too short": proto_of(DT_FLOAT, [1, 2], tensor_content=b"1234567"),
    "content too long": proto_of(DT_FLOAT, [1, 2], tensor_content=b"123456789"),
    "content for fewer bytes than can be counted": proto_of(
        DT_FLOAT, [2**61, 2], tensor_content=b"12345678"
    ),
    "negative dim": proto_of(DT_FLOAT, [-1, 2]),
    "bool": proto_of(DT_BOOL, [1, 2], tensor_content=b"\1\2"),
    "strings": proto_of(DT_STRING, [1, 2], tensor_content=b"\1\2abcd"),
    "strings too short": proto_of(DT_STRING, [1, 2], tensor_content=b"\1"),
    "varint": proto_of(DT_STRING, [1, 2], tensor_content=b"\x80\x80"),
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("pads_inner", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_request_that_does_not_parse_is_named(name: str, pads_inner: bool, place: int) -> None:
    requests = [GOOD[BAD[name].dtype]] * 2
    requests.insert(place, request_of(BAD[name]))
    with pytest.raises(RowsError, match=PARSING_ERROR) as caught:
        merge_requests(requests, "x", 1, pads_inner=pads_inner)
    assert (caught.value.code, caught.value.source) == (Code.INVALID_ARGUMENT, place)
    del requests[place]
    assert merge_requests(requests, "x", 1, pads_inner=pads_inner).shape[1:] == (2,)


@pytest.mark.parametrize("dtype", [0, 20, 21, 29, 101, -1, 2**31 - 1])
def test_dtype_that_nobody_can_send_is_refused(dtype: int) -> None:
    with pytest.raises(RowsError, match=PARSING_ERROR) as caught:
        merge_requests([request_of(proto_of(dtype, [1]))], "x")
    assert caught.value.source == 0


@pytest.mark.parametrize(
    "other", [floats([1, 3]), floats([2]), floats([]), request_of(proto_of(DT_INT32, [1, 2]))]
)
def test_request_of_another_kind_is_named(other: bytes) -> None:
    with pytest.raises(RowsError, match="tensors of different kinds: x") as caught:
        merge_requests([GOOD[DT_FLOAT], GOOD[DT_FLOAT], other], "x")
    assert caught.value.source == 2


@pytest.mark.parametrize(
    "shapes",
    [
        [[2**60, 2]],
        [[2**62, 1], [2**62, 1]],
        [[1, 2**40, 1], [1, 1, 2**40]],
        [[2**61, 2, 0], [2**61, 2, 0]],
        [[0, 2**62, 2], [1, 2**62, 1]],
    ],
)
def test_more_memory_than_can_be_counted_is_refused(shapes: list[list[int]]) -> None:
    requests = [floats(shape) for shape in shapes]
    with pytest.raises(MemoryError):
        merge_requests(requests, "x", pads_inner=True)


def test_padding_rows_that_overflow_are_refused() -> None:
    with pytest.raises(MemoryError):
        merge_requests([GOOD[DT_FLOAT]], "x", padding_rows=2**63 - 1)


# Strings that take more memory than the process may have, once the library is open.
OUT_OF_MEMORY = """
import resource
from tests.integration.test_batch_tensors import texts
from tfsrv._batch_tensors import join_tensors, merge_requests, slice_tensor
from tfsrv._memory import live_blocks

def refused(make):
    try:
        make()
    except MemoryError:
        return live_blocks() == kept
    return False

text = bytes(50_000_000)
request, wide = texts([1, 1], [text]), texts([1, 30], [b""])
repeated = texts([30, 1], [text])
kept = 0
merge_requests([texts([1, 1], [b"a"])], "x")
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600_000_000,) * 2)
print(refused(lambda: merge_requests([repeated], "x")))
print(refused(lambda: merge_requests([request], "x", 30)))
print(refused(lambda: merge_requests([request, wide], "x", pads_inner=True)))
whole = merge_requests([request, request], "x", 2)
kept = 1
print(refused(lambda: join_tensors([(whole, 0, 4)] * 5)))
print(slice_tensor(whole, 3, 1).values() == [text])
"""


@pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="it needs terabytes of addresses")
def test_strings_without_memory_for_all_of_them_leave_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.split() == ["True"] * 5, done.stderr[-2000:]


def test_negative_padding_rows_and_no_requests_are_refused() -> None:
    with pytest.raises(RowsError):
        merge_requests([GOOD[DT_FLOAT]], "x", padding_rows=-1)
    with pytest.raises(RowsError):
        merge_requests([], "x")


def test_huge_inner_dims_without_rows_do_not_abort_tensorflow() -> None:
    requests = [floats([0, 2**62, 2**62])] * 2
    tensor = merge_requests(requests, "x")
    assert (tensor.shape, tensor.values()) == ((0, 2**62, 2**62), b"")


def test_rank_254_is_merged() -> None:
    requests = [floats([1, *[1] * 253], [1]), floats([2, *[1] * 253], [2])]
    tensor = merge_requests(requests, "x", 1)
    assert tensor.shape == (4, *[1] * 253)
    assert tensor.values() == struct.pack("<4f", 1, 2, 2, 2)


def test_request_that_cannot_be_decoded_is_an_error() -> None:
    with pytest.raises(ServingError, match="cannot be decoded"):
        merge_requests([GOOD[DT_FLOAT], b"\xff"], "x")
    with pytest.raises(KeyError):
        merge_requests([GOOD[DT_FLOAT]], "y")


# Apart


def row_values(first: int, rows: int) -> bytes:
    return struct.pack(f"<{2 * rows}f", *range(2 * first, 2 * (first + rows)))


def five_rows() -> Tensor:
    return merge_requests([floats([5, 2], list(range(10)))], "x")


@pytest.mark.parametrize(("first", "rows"), [(0, 5), (0, 0), (5, 0), (1, 3), (4, 1)])
def test_slice_is_a_copy_of_rows(first: int, rows: int) -> None:
    whole = five_rows()
    part = slice_tensor(whole, first, rows)
    assert look_at_rows(whole, first, rows) == ((rows, 2), 2 * rows, row_values(first, rows))
    del whole
    assert (part.shape, part.values()) == ((rows, 2), row_values(first, rows))


@pytest.mark.parametrize(("first", "rows"), [(-1, 1), (0, 6), (5, 1), (6, 0), (0, -1), (2**62, 1)])
def test_rows_that_are_not_there_are_refused(first: int, rows: int) -> None:
    whole = five_rows()
    with pytest.raises(RowsError):
        slice_tensor(whole, first, rows)
    with pytest.raises(RowsError):
        join_tensors([(whole, 0, 5), (whole, first, rows)])
    with pytest.raises(ValueError, match="no rows"):
        look_at_rows(whole, first, rows)


def test_scalars_have_no_rows() -> None:
    scalar = tensors_of_request(floats([], [1]))["x"]
    with pytest.raises(RowsError):
        slice_tensor(scalar, 0, 1)
    with pytest.raises(RowsError):
        join_tensors([(scalar, 0, 1)])


def test_join_takes_rows_of_several_tensors_in_order() -> None:
    first, second = five_rows(), merge_requests([floats([1, 2], [20, 21])], "x")
    joined = join_tensors([(second, 0, 1), (first, 3, 2), (first, 0, 0), (first, 0, 1)])
    assert joined.shape == (4, 2)
    assert joined.values() == row_values(10, 1) + row_values(3, 2) + row_values(0, 1)


@pytest.mark.parametrize("other", [floats([1, 3]), floats([1]), texts([1, 2], [b"a"])])
def test_join_refuses_tensors_of_another_kind(other: bytes) -> None:
    tensor = tensors_of_request(other)["x"]
    with pytest.raises(RowsError, match="different kinds"):
        join_tensors([(five_rows(), 0, 1), (tensor, 0, 1)])


def test_join_of_nothing_is_refused() -> None:
    with pytest.raises(RowsError):
        join_tensors([])


def test_strings_of_a_slice_outlive_the_whole() -> None:
    strings = [bytes([65 + i]) * (10 * i) for i in range(6)]
    whole = merge_requests([texts([6], strings)], "x")
    part = slice_tensor(whole, 1, 4)
    del whole
    assert part.values() == strings[1:5]


# Many threads


def test_threads_may_merge_slice_and_delete_at_once() -> None:
    random = Random(4)
    cases = []
    for dtype, inner in ((DT_FLOAT, (30_000,)), (DT_STRING, (40,)), (DT_BOOL, (100, 1000))):
        made = [make_request(random, dtype, (rows, *inner), "typed") for rows in (1, 2, 3)]
        requests, arrays = [item[0] for item in made], [item[1] for item in made]
        cases.append((requests, merge_requests(requests, "x", 2).values()))
        assert_holds(merge_requests(requests, "x", 2), merged(arrays, 2))
    wholes = [merge_requests(requests, "x", 2) for requests, _ in cases]
    good: list[bool] = []

    def work(number: int) -> None:
        for turn in range(30):
            requests, expected = cases[(number + turn) % len(cases)]
            whole = merge_requests(requests, "x", 2)
            parts = [slice_tensor(whole, first, 2) for first in (0, 2, 4, 6)]
            shared = slice_tensor(wholes[(number + turn) % len(cases)], 0, 4)
            del whole
            joined = join_tensors([(shared, 0, 4), (parts[2], 0, 2), (parts[3], 0, 2)])
            good.append(joined.values() == expected)

    before = live_blocks()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 120
    assert live_blocks() == before
