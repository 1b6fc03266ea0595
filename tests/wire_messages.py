"""Serialized PredictRequests and -Responses, good and bad, and what they mean to Python protobuf.

`WireMaker` puts messages together from raw pieces, so that they come in any order, packed or
not, repeated, with unknown fields and with longer varints than needed. `check_reading` compares
what tfsrv reads with what protobuf reads, and `check_response` what its client reads.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from google.protobuf.message import DecodeError

from tfsrv._proto import message_class
from tfsrv._tensor_values import parse_predict_request
from tfsrv.client._wire import read_predict_response
from tfsrv.errors import Code, ServingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PredictRequest = message_class("tensorflow.serving.PredictRequest")
PredictResponse = message_class("tensorflow.serving.PredictResponse")
TensorProto = message_class("tensorflow.TensorProto")

DT_STRING = 7
MAX_RANK = 254
TENSOR_LIMIT = 1 << 16  # bytes; larger tensors are refused in these tests

# dtype: (field of its values, numpy's type for an element or a part of it, parts)
DTYPES: dict[int, tuple[str, str, int]] = {
    1: ("float_val", "<f4", 1),
    2: ("double_val", "<f8", 1),
    3: ("int_val", "<i4", 1),
    4: ("int_val", "u1", 1),
    5: ("int_val", "<i2", 1),
    6: ("int_val", "i1", 1),
    7: ("string_val", "", 1),
    8: ("scomplex_val", "<f4", 2),
    9: ("int64_val", "<i8", 1),
    10: ("bool_val", "u1", 1),
    11: ("int_val", "i1", 1),
    12: ("int_val", "u1", 1),
    13: ("int_val", "<i4", 1),
    14: ("half_val", "<u2", 1),
    15: ("int_val", "<i2", 1),
    16: ("int_val", "<u2", 1),
    17: ("int_val", "<u2", 1),
    18: ("dcomplex_val", "<f8", 2),
    19: ("half_val", "<u2", 1),
    22: ("uint32_val", "<u4", 1),
    23: ("uint64_val", "<u8", 1),
    24: ("float8_val", "u1", 1),
    25: ("float8_val", "u1", 1),
    26: ("float8_val", "u1", 1),
    27: ("float8_val", "u1", 1),
    28: ("float8_val", "u1", 1),
}
NUMBERS = {
    "float_val": 5, "double_val": 6, "int_val": 7, "string_val": 8, "scomplex_val": 9,
    "int64_val": 10, "bool_val": 11, "dcomplex_val": 12, "half_val": 13, "uint32_val": 16,
    "uint64_val": 17, "float8_val": 18,
}  # fmt: skip
FIXED = {"float_val": 5, "scomplex_val": 5, "double_val": 1, "dcomplex_val": 1}  # wire types


def element_size(dtype: int) -> int:
    """Bytes in memory; 24 for a string without its text."""
    _, kind, parts = DTYPES[dtype]
    return np.dtype(kind).itemsize * parts if kind else 24


class WireMaker:
    """Makes messages from choices of `random`."""

    def __init__(self, random: Random, *, odd: bool = False) -> None:
        self.random = random
        self.odd = odd  # also groups, wire types that do not exist, rare fields

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def varint(self, value: int, longest: int = 10) -> bytes:
        value &= (1 << 64) - 1
        pieces = []
        while value >= 0x80:
            pieces.append(value & 0x7F | 0x80)
            value >>= 7
        pieces.append(value)
        if self.chance(12) and len(pieces) < longest:  # longer than needed
            pieces[-1] |= 0x80
            while len(pieces) < longest - 1 and self.chance(2):
                pieces.append(0x80)
            pieces.append(0)
        return bytes(pieces)

    def tag(self, number: int, wire_type: int) -> bytes:
        return self.varint(number << 3 | wire_type, 5)

    def block(self, number: int, content: bytes) -> bytes:
        return self.tag(number, 2) + self.varint(len(content), 5) + content

    def number(self, number: int, value: int) -> bytes:
        return self.tag(number, 0) + self.varint(value)

    def shuffled(self, pieces: list[bytes]) -> bytes:
        if self.chance(2):
            self.random.shuffle(pieces)
        return b"".join(pieces)

    def some(self, make: Callable[[], bytes], *, most: int = 3) -> list[bytes]:
        return [make() for _ in range(self.random.randrange(most + 1))]

    def integer(self) -> int:
        bits = self.random.choice([1, 7, 8, 14, 31, 32, 62, 63, 64])
        return self.random.getrandbits(bits) * self.random.choice([1, 1, -1])

    def raw(self, most: int = 12) -> bytes:
        return self.random.randbytes(self.random.randrange(most + 1))

    def text(self) -> bytes:
        if self.odd and self.chance(40):
            return self.raw()
        alphabet = "ab" if self.chance(2) else "aé€𝄞\0￿"
        return "".join(
            self.random.choices(alphabet, k=self.random.choice([0, 1, 1, 2, 9]))
        ).encode()

    def unknown(self) -> bytes:
        number = self.random.choice([8, 21, 100, 2**29 - 1])
        wire_type = self.random.choice([0, 1, 2, 5])
        if self.odd and self.chance(20):
            number = self.random.choice([0, 1, 2, 3, 5, 7, 14, 15, number])
            wire_type = self.random.randrange(8)
        return self.tag(number, wire_type) + self.value(wire_type)

    def value(self, wire_type: int) -> bytes:
        if wire_type == 0:
            return self.varint(self.integer())
        if wire_type == 1:
            return self.random.randbytes(8)
        if wire_type == 2:
            content = self.raw(20)
            return self.varint(len(content), 5) + content
        if wire_type == 5:
            return self.random.randbytes(4)
        return b""

    def maybe_unknown(self) -> list[bytes]:
        return [self.unknown()] if self.chance(6) else []

    def model_spec(self) -> bytes:
        makers = [
            lambda: self.block(1, self.text()),
            lambda: self.block(2, self.shuffled(self.some(lambda: self.number(1, self.integer())))),
            lambda: self.block(3, self.text()),
            lambda: self.block(4, self.text()),
        ]
        pieces = self.some(lambda: self.random.choice(makers)(), most=5)
        return self.shuffled(pieces + self.maybe_unknown())

    def dim(self, size: int) -> bytes:
        pieces = [self.number(1, size)]
        if self.chance(4):
            pieces.append(self.block(2, self.text()))
        return self.shuffled(pieces + self.maybe_unknown())

    def shape(self) -> bytes:
        sizes = [self.random.choice([1, 1, 2, 3, 5, 0]) for _ in range(self.random.randrange(4))]
        if self.chance(20):
            sizes.append(self.random.choice([-1, 2**62, 2**63 - 1, 1 << 20]))
        if self.chance(60):
            sizes += [1] * self.random.choice([MAX_RANK - len(sizes), MAX_RANK])
        pieces = [self.block(2, self.dim(size)) for size in sizes]
        if self.chance(8):
            pieces.append(self.number(3, self.random.randrange(3)))
        return b"".join(pieces + self.maybe_unknown())

    def values(self, field: str) -> bytes:
        """One run or one value of a typed field."""
        number = NUMBERS[field]
        if field in ("string_val", "float8_val"):
            return self.block(number, self.raw(self.random.choice([3, 30])))
        count = self.random.choice([0, 1, 1, 2, 6, 40])
        one: Callable[[], bytes]
        if field in FIXED:
            width = 4 if FIXED[field] == 5 else 8
            one = lambda: self.random.randbytes(width)  # noqa: E731
        else:
            one = lambda: self.varint(self.integer())  # noqa: E731
        if self.chance(2):
            return self.block(number, b"".join(one() for _ in range(count)))
        return b"".join(self.tag(number, FIXED.get(field, 0)) + one() for _ in range(count))

    def tensor(self) -> bytes:
        dtype = self.random.choice([*DTYPES, *DTYPES, 0, 20, 21, 29, 30, 101, 110, 999, -5])
        field = DTYPES[dtype][0] if dtype in DTYPES else "float_val"
        fields = [field, field, field, self.random.choice(list(NUMBERS))]
        pieces = [self.number(1, dtype)]
        pieces += [self.block(2, self.shape()) for _ in range(self.random.choice([0, 1, 1, 1, 2]))]
        pieces += self.some(lambda: self.values(self.random.choice(fields)))
        if self.chance(5):
            pieces.append(self.block(4, self.content(dtype)))
        if self.chance(8):
            pieces.append(self.number(3, self.integer()))
        if self.chance(10):
            pieces.append(self.number(1, self.random.choice(list(DTYPES))))
        if self.odd and self.chance(60):
            pieces.append(self.block(self.random.choice([14, 15]), b""))
        return self.shuffled(pieces + self.maybe_unknown())

    def content(self, dtype: int) -> bytes:
        elements = self.random.choice([0, 1, 1, 2, 3, 6])
        if dtype == DT_STRING:
            texts = [self.raw() for _ in range(elements)]
            return b"".join(self.varint(len(text), 5) for text in texts) + b"".join(texts)
        if dtype == 10:
            return bytes(self.random.choices([0, 1, 1, 1, 2], k=elements))
        return self.random.randbytes(elements * (element_size(dtype) if dtype in DTYPES else 4))

    def entry(self) -> bytes:
        pieces = [self.block(1, self.text()), self.block(2, self.tensor())]
        if self.chance(8):
            pieces.append(self.block(2, self.tensor()))
        if self.chance(8):
            pieces.append(self.block(1, self.text()))
        if self.chance(12):
            pieces.pop(self.random.randrange(len(pieces)))
        if self.chance(20):
            pieces.append(self.unknown())
        return self.shuffled(pieces)

    def request(self) -> bytes:
        pieces = [self.block(1, self.model_spec()) for _ in range(self.random.choice([0, 1, 1, 2]))]
        pieces += [self.block(2, self.entry()) for _ in range(self.random.choice([0, 1, 2, 4, 40]))]
        pieces += self.some(lambda: self.block(3, self.text()))
        if self.chance(8):
            pieces.append(self.block(6, self.raw()))
        if self.odd and self.chance(30):
            pieces.append(self.block(self.random.choice([5, 7]), b""))
        return self.shuffled(pieces + self.maybe_unknown())

    def response(self) -> bytes:
        """A PredictResponse."""
        pieces = [self.block(2, self.model_spec()) for _ in range(self.random.choice([0, 1, 1, 2]))]
        pieces += [self.block(1, self.entry()) for _ in range(self.random.choice([0, 1, 2, 4, 40]))]
        return self.shuffled(pieces + self.maybe_unknown())

    def mutated(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.choice([1, 1, 2, 5])):
            at = self.random.randrange(len(changed) + 1)
            kind = self.random.randrange(5)
            if kind == 0:
                del changed[at:]
            elif kind == 1:
                del changed[at : at + self.random.randrange(1, 4)]
            elif kind == 2:
                changed[at:at] = self.random.randbytes(self.random.randrange(1, 4))
            elif kind == 3 and at < len(changed):
                changed[at] = self.random.choice([0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ 1])
            else:
                changed[at:at] = changed[at : at + self.random.randrange(30)]
        return bytes(changed)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint that is known to be there: its value, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


# Where sub-messages and the fields that tfsrv leaves to protobuf are: path of fields → numbers.
Fields = dict[tuple[int, ...], set[int]]
SUB_MESSAGES: Fields = {
    (): {1, 2}, (1,): {2}, (2,): {2}, (2, 2): {2}, (2, 2, 2): {2},
}  # fmt: skip
RARE_FIELDS: Fields = {(): {5, 7}, (2, 2): {14, 15}}
# The same of a PredictResponse, whose fields have each other's numbers.
SUB_MESSAGES_OF_RESPONSE: Fields = {
    (): {1, 2}, (2,): {2}, (1,): {2}, (1, 2): {2}, (1, 2, 2): {2},
}  # fmt: skip
RARE_FIELDS_OF_RESPONSE: Fields = {(1, 2): {14, 15}}


def uses_rare(
    data: bytes,
    path: tuple[int, ...] = (),
    *,
    sub_messages: Fields = SUB_MESSAGES,
    rare_fields: Fields = RARE_FIELDS,
) -> bool:
    """Whether a request has a group or a field that tfsrv leaves to Python protobuf.

    It is looked at up to the first thing that is not valid. What is not said is PredictRequest's.
    """
    at = 0
    try:
        while at < len(data):
            key, at = read_varint(data, at)
            number, wire_type = key >> 3, key & 7
            if wire_type == 3 or (wire_type == 2 and number in rare_fields.get(path, ())):
                return True
            if wire_type == 0:
                _, at = read_varint(data, at)
            elif wire_type == 1:
                at += 8
            elif wire_type == 5:
                at += 4
            elif wire_type == 2:
                size, at = read_varint(data, at)
                if number in sub_messages.get(path, ()) and uses_rare(
                    data[at : at + size],
                    (*path, number),
                    sub_messages=sub_messages,
                    rare_fields=rare_fields,
                ):
                    return True
                at += size
            else:
                return False
    except IndexError:
        pass
    return False


def packed_bytes(tensor: Any, field: str) -> bytes:
    """The values of a repeated fixed-width field as they are packed.

    Python floats would not do: they change the bits of a signalling NaN.
    """
    only = TensorProto()
    getattr(only, field).MergeFrom(getattr(tensor, field))
    data = only.SerializeToString()
    if not data:
        return b""
    _, at = read_varint(data, 0)
    _, at = read_varint(data, at)
    return data[at:]


def element_count(tensor: Any) -> int | None:
    """None for a shape that TensorFlow refuses."""
    if len(tensor.tensor_shape.dim) > MAX_RANK:
        return None
    elements = 1
    for dim in tensor.tensor_shape.dim:
        elements *= dim.size
        if dim.size < 0 or elements >= 1 << 63:
            return None
    return elements


def decode_string_list(content: bytes, elements: int) -> list[bytes] | None:
    """TensorFlow's tensor_content of strings: all lengths, then all texts."""
    at = 0
    sizes = []
    for _ in range(elements):
        for end in range(at, at + 5):
            if end >= len(content):
                return None
            if content[end] < 0x80:
                break
        else:
            return None
        size, at = read_varint(content, at)
        sizes.append(size & 0xFFFFFFFF)
    if sum(sizes) != len(content) - at:
        return None
    ends = np.cumsum([at, *sizes]).tolist()
    return [content[start:end] for start, end in pairwise(ends)]


class TooLarge(Exception):
    """A tensor above TENSOR_LIMIT."""


def refuse_above_limit(size: int) -> None:
    if size > TENSOR_LIMIT:
        raise TooLarge


def expected_values(tensor: Any) -> bytes | list[bytes] | None:
    """What TensorFlow's Tensor::FromProto would make of a TensorProto."""
    elements = element_count(tensor)
    if elements is None or tensor.dtype not in DTYPES:
        return None
    if tensor.dtype == DT_STRING:
        return expected_strings(tensor, elements)
    field, kind, parts = DTYPES[tensor.dtype]
    unit = element_size(tensor.dtype)
    content = tensor.tensor_content
    if elements and content and len(content) != elements * unit:
        return None
    refuse_above_limit(elements * unit)
    if elements and content:
        return content if field != "bool_val" or max(content) <= 1 else None
    return fill_up(given_values(tensor, field, kind), elements, unit, parts)


def given_values(tensor: Any, field: str, kind: str) -> bytes:
    if field in FIXED:
        return packed_bytes(tensor, field)
    if field == "float8_val":
        return bytes(tensor.float8_val)
    modulus = 1 << 8 * np.dtype(kind).itemsize
    unsigned = np.dtype(kind.replace("i", "u"))
    values: Iterable[int] = getattr(tensor, field)
    return np.array([int(value) % modulus for value in values], dtype=unsigned).tobytes()


def fill_up(given: bytes, elements: int, unit: int, parts: int) -> bytes:
    count = len(given) // unit
    if count == 0:
        return bytes(elements * unit)
    last = given[(count - 1) * unit : count * unit]
    return (given[: count * unit] + last * max(0, elements - count))[: elements * unit]


def expected_strings(tensor: Any, elements: int) -> list[bytes] | None:
    content = tensor.tensor_content
    if elements and content:
        if elements > len(content):
            return None
        refuse_above_limit(elements * 24 + len(content) - elements)
        return decode_string_list(content, elements)
    texts = list(tensor.string_val)[:elements]
    last = texts[-1] if texts else b""
    repeats = elements - len(texts)
    refuse_above_limit(elements * 24 + sum(map(len, texts)) + repeats * len(last))
    return texts + [last] * repeats


def expected_request(data: bytes) -> dict[str, Any]:
    """What parse_predict_request should give, from Python protobuf. DecodeError, TooLarge."""
    request: Any = PredictRequest.FromString(data)
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    return {
        "has_model_spec": request.HasField("model_spec"),
        "name": spec.name,
        "signature_name": spec.signature_name,
        "version": spec.version.value if choice == "version" else None,
        "version_label": spec.version_label if choice == "version_label" else None,
        "inputs": {
            alias: {
                "dtype": tensor.dtype,
                "shape": tuple(dim.size for dim in tensor.tensor_shape.dim)[: MAX_RANK + 1],
                "unknown_rank": tensor.tensor_shape.unknown_rank,
                "values": expected_values(tensor),
            }
            for alias, tensor in request.inputs.items()
        },
        "output_filter": list(request.output_filter),
    }


def check_reading(data: bytes) -> str:
    """Compare, and tell what came out: "read", "refused", "rare" or "too large"."""
    expected: dict[str, Any] | None = None
    outcome = "read"
    try:
        expected = expected_request(data)
    except DecodeError:
        outcome = "refused"
    except TooLarge:
        outcome = "too large"
    try:
        read = parse_predict_request(data, TENSOR_LIMIT)
    except ServingError as error:
        if error.code == Code.UNIMPLEMENTED:
            return "rare" if uses_rare(data) else fail(data, "there is nothing rare in it")
        codes = {"refused": Code.INTERNAL, "too large": Code.RESOURCE_EXHAUSTED}
        if codes.get(outcome) == error.code:
            return outcome
        fail(data, f"{outcome} by protobuf, but {error}")
    if outcome != "read":
        fail(data, f"{outcome} by protobuf, but read as {read}")
    if read != expected:
        fail(data, f"{expected} by protobuf, but read as {read}")
    return outcome


def expected_response(data: bytes) -> dict[str, tuple[int, Any, Any]] | None:
    """Dtype, shape and values of each output, from Python protobuf; None if one cannot be read.

    DecodeError, TooLarge.
    """
    response: Any = PredictResponse.FromString(data)
    expected: dict[str, tuple[int, Any, Any]] = {}
    readable = True
    for alias, tensor in response.outputs.items():
        values = expected_values(tensor)
        shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
        readable = readable and values is not None and can_be_an_array(shape, tensor.dtype)
        expected[alias] = (tensor.dtype, shape, values)
    return expected if readable else None


def can_be_an_array(shape: tuple[int, ...], dtype: int) -> bool:
    """Whether numpy takes it: it has limits of its own."""
    size = 8 if dtype == DT_STRING else element_size(dtype)
    try:
        np.empty(shape, f"V{size}")
    except ValueError:
        return False
    return True


def check_response(data: bytes) -> str:
    """Compare what the client reads; "read", "unreadable", "refused", "rare" or "too large"."""
    expected: dict[str, tuple[int, Any, Any]] | None = None
    outcome = "read"
    try:
        expected = expected_response(data)
        outcome = "unreadable" if expected is None else "read"
    except DecodeError:
        outcome = "refused"
    except TooLarge:
        outcome = "too large"
    try:
        outputs, *spec = read_predict_response(data, 1 << 24)
    except ServingError as error:
        if "no array can be made" in error.message:
            is_rare = uses_rare(
                data, sub_messages=SUB_MESSAGES_OF_RESPONSE, rare_fields=RARE_FIELDS_OF_RESPONSE
            )
            return "rare" if is_rare else fail(data, "there is nothing rare in it")
        texts = {"refused": "cannot be decoded", "unreadable": "cannot be read"}
        if outcome == "too large" or texts.get(outcome, "?") in error.message:
            return outcome
        fail(data, f"{outcome} by protobuf, but {error}")
    if outcome == "too large":
        return outcome
    if expected is None:
        fail(data, f"{outcome} by protobuf, but read as {outputs}")
    if outputs.keys() != expected.keys():
        fail(data, f"{expected} by protobuf, but read as {outputs}")
    for alias, (dtype, shape, values) in expected.items():
        array = outputs[alias]
        read = array.reshape(-1).tolist() if dtype == DT_STRING else array.tobytes()
        if array.shape != shape or read != values or not array.flags.writeable:
            fail(data, f"{expected} by protobuf, but read as {outputs}")
    told = PredictResponse.FromString(data).model_spec  # type: ignore[attr-defined]
    if spec != [told.name, told.version.value, told.signature_name]:
        fail(data, f"{told} by protobuf, but read as {spec}")
    return outcome


def fail(data: bytes, reason: str) -> NoReturn:
    raise AssertionError(f"{data.hex()}: {reason}")
