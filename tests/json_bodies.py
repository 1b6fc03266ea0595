"""Random JSON bodies for :predict, and what they mean to json and numpy."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.wire_messages import PredictRequest
from tfsrv._json_predict_request import read_predict
from tfsrv._tensor_values import parse_predict_request

STRING, BOOL, BFLOAT16 = 7, 10, 14
NUMPY: dict[int, Any] = {
    1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, 9: np.int64,
    10: np.bool_, 17: np.uint16, 19: np.float16, 22: np.uint32, 23: np.uint64,
}  # fmt: skip
DTYPES = [*NUMPY, STRING, BFLOAT16]
FLOATS = (1, 2, 14, 19)

NAMES = ["x", "y", "ids", "été", 'a"b', "b64s", "inputs"]
ALPHABET = 'ab "\\/\n\0\x1f\x7fé€😀\ud7ff\ue000'
PIECES = [
    *(bytes([byte]) for byte in b'[]{},:"\\-.e\0\x80\xff'),
    *(b"\\u", b"\\ud800", b"1e400", b"null", b"true", b"NaN", b"Inf", b"-Infinity"),
    *(b'{"b64":"YQ"}', b'""', b"[]"),
]


def nearest_bfloat16(value: float) -> int:
    """The bits of the bfloat16 that is nearest to a number, the even one of two."""
    if value != value:
        return 0x7FC0 | (0x8000 if np.signbit(value) else 0)
    sign = 0x8000 if np.signbit(value) else 0
    size = abs(value)
    if size == float("inf"):
        return sign | 0x7F80

    def worth(bits: int) -> Fraction:
        if bits == 0x7F80:
            return Fraction(2) ** 128
        return Fraction(float(np.array([bits << 16], np.uint32).view(np.float32)[0]))

    low, high = 0, 0x7F80
    while high - low > 1:
        middle = (low + high) // 2
        if worth(middle) <= Fraction(size):
            low = middle
        else:
            high = middle
    if Fraction(size) >= worth(0x7F80):
        return sign | 0x7F80
    below, above = Fraction(size) - worth(low), worth(high) - Fraction(size)
    return sign | (low if below < above or (below == above and low % 2 == 0) else high)


def as_array(values: Any, dtype: int) -> NDArray[Any]:
    """What json.loads made of a value as numpy has it; bfloat16s as their bits."""
    if dtype == STRING:
        return np.array(each(values, as_bytes), object)
    with np.errstate(over="ignore"):
        if dtype == BFLOAT16:
            return np.array(each(values, lambda value: nearest_bfloat16(float(value))), np.uint16)
        if dtype in FLOATS:
            values = each(values, float)
        return np.array(values, NUMPY[dtype])


def each(values: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(values, list):
        return [each(value, function) for value in values]
    return function(values)


def as_bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return str(value).encode()


def tensor_array(tensor: Any) -> NDArray[Any]:
    """A TensorProto as as_array would have it."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == STRING:
        array = np.empty(len(tensor.string_val), object)
        array[:] = list(tensor.string_val)
        return array.reshape(shape)
    kind = np.uint16 if tensor.dtype == BFLOAT16 else NUMPY[tensor.dtype]
    return np.frombuffer(tensor.tensor_content, kind).reshape(shape)


def read(body: bytes, inputs: dict[str, int], **spec: Any) -> tuple[dict[str, NDArray[Any]], bool]:
    """The tensors that a body asks for, and whether it has rows."""
    request, in_rows = read_request(body, inputs, **spec)
    return {name: tensor_array(tensor) for name, tensor in request.inputs.items()}, in_rows


def read_request(body: bytes, inputs: dict[str, int], **spec: Any) -> tuple[Any, bool]:
    """The PredictRequest of a body, as protobuf reads it, and whether it has rows.

    tfsrv's own reader takes what was written as well.
    """
    wire, in_rows = read_predict(body, inputs, **spec)
    request: Any = PredictRequest.FromString(wire)
    ours: Any = parse_predict_request(wire)["inputs"]
    assert ours.keys() == request.inputs.keys()
    for name, tensor in request.inputs.items():
        assert list(ours[name]["shape"]) == [dim.size for dim in tensor.tensor_shape.dim]
        assert ours[name]["values"] is not None
    return request, in_rows


def check_body(body: bytes, inputs: dict[str, int]) -> None:
    """A valid body means to tfsrv what it means to json and numpy."""
    document = json.loads(body)
    arrays, in_rows = read(body, inputs)
    assert in_rows == ("instances" in document)
    values = document["instances" if in_rows else "inputs"]
    for name, dtype in inputs.items():
        if in_rows and is_map(values[0]):
            expected = [row[name] for row in values]
        elif not in_rows and is_map(values):
            expected = values[name]
        else:
            expected = values
        array = as_array(expected, dtype)
        assert arrays[name].shape == array.shape, body
        np.testing.assert_array_equal(arrays[name], array, err_msg=repr(body))
        if dtype in (1, 2, 19):  # zeros have signs
            np.testing.assert_array_equal(np.signbit(arrays[name]), np.signbit(array), repr(body))


def is_map(value: Any) -> bool:
    is_bytes = isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)
    return isinstance(value, dict) and not is_bytes


class BodyMaker:
    """Valid bodies that say the same in many spellings, from a source of chance."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def space(self) -> str:
        if self.random.random() < 0.7:
            return ""
        return "".join(self.random.choices(" \n\r\t", k=self.random.randrange(4)))

    def listed(self, items: list[str], brackets: str) -> str:
        separator = self.space() + "," + self.space()
        return brackets[0] + self.space() + separator.join(items) + self.space() + brackets[1]

    def map_of(self, members: list[tuple[str, str]]) -> str:
        pairs = [
            self.string(name) + self.space() + ":" + self.space() + value for name, value in members
        ]
        return self.listed(pairs, "{}")

    def string(self, text: str) -> str:
        return '"' + "".join(map(self.letter, text)) + '"'

    def letter(self, letter: str) -> str:
        """A letter as it is, or escaped in one of the ways."""
        short = json.dumps(letter, ensure_ascii=False)[1:-1]
        if self.random.random() < 0.8:
            return short
        spelled = json.dumps(letter)[1:-1]
        if not spelled.startswith("\\u"):
            spelled = f"\\u{ord(letter):04x}"
        return spelled if self.random.random() < 0.5 else spelled.upper().replace("\\U", "\\u")

    def text(self) -> str:
        return "".join(self.random.choices(ALPHABET, k=self.random.choice([0, 1, 3, 9, 30])))

    def value(self, dtype: int) -> str:
        if dtype == STRING:
            if self.random.random() < 0.3:
                data = base64.b64encode(self.random.randbytes(self.random.randrange(9))).decode()
                return self.map_of([("b64", self.string(data))])
            return self.string(self.text())
        if dtype == BOOL:
            return self.random.choice(["true", "false"])
        if dtype in FLOATS:
            return self.real()
        limits = np.iinfo(NUMPY[dtype])
        near = [int(limits.min), int(limits.max), int(limits.min) + 1, int(limits.max) - 1, 0, 1]
        if self.random.random() < 0.5:
            return str(self.random.choice(near))
        return str(
            self.random.randint(int(limits.min), int(limits.max)) >> self.random.randrange(8)
        )

    def real(self) -> str:
        kind = self.random.randrange(6)
        if kind == 0:
            return str(self.random.randrange(-(2**66), 2**66) >> self.random.randrange(66))
        if kind == 1:
            return repr(self.random.uniform(-10, 10))
        if kind == 2:
            return json.dumps(float(np.frombuffer(self.random.randbytes(8), np.float64)[0]))
        if kind == 3:
            return self.random.choice(
                ["NaN", "Infinity", "-Infinity", "-0", "-0.0", "0e0", "0.0E-5"]
            )
        digits = "".join(self.random.choices("0123456789", k=self.random.choice([1, 3, 20, 45])))
        sign = self.random.choice(["", "-"])
        whole = str(int(digits))
        letter, plus = self.random.choice("eE"), self.random.choice(["", "+", "-"])
        exponent = self.random.choice(["", f"{letter}{plus}{self.random.randrange(40):02}"])
        return f"{sign}{whole}.{digits[::-1]}{exponent}"

    def tensor(self, dtype: int, shape: list[int]) -> str:
        if not shape:
            return self.value(dtype)
        return self.listed([self.tensor(dtype, shape[1:]) for _ in range(shape[0])], "[]")

    def shape(self) -> list[int]:
        rank = self.random.choice([0, 0, 1, 2, 3, 6])
        return self.random.choices([0, 1, 1, 2, 3], k=rank)

    def body(self) -> tuple[bytes, dict[str, int]]:
        """A valid body, and the inputs of its signature."""
        random = self.random
        names = random.sample(NAMES, random.choice([1, 1, 2, 3]))
        inputs = {name: random.choice(DTYPES) for name in names}
        in_rows = random.random() < 0.6
        shapes = {name: self.shape() for name in names}
        order = random.sample(names, len(names))
        if len(names) == 1 and random.random() < 0.6:
            name = names[0]
            shape = [random.choice([1, 2, 5]), *shapes[name]] if in_rows else shapes[name]
            values = self.tensor(inputs[name], shape)
        elif in_rows:
            rows = [
                self.map_of([(name, self.tensor(inputs[name], shapes[name])) for name in order])
                for _ in range(random.choice([1, 2, 5]))
            ]
            values = self.listed(rows, "[]")
        else:
            members = [(name, self.tensor(inputs[name], shapes[name])) for name in order]
            if random.random() < 0.3:
                members.append(("unused", '[null, {"a": []}]'))
            values = self.map_of(members)
        members = [("instances" if in_rows else "inputs", values)]
        if random.random() < 0.3:
            members.insert(random.randrange(2), ("signature_name", self.string("some")))
        text = self.space() + self.map_of(members)
        return text.encode(), inputs

    def mutated(self, data: bytes) -> bytes:
        """With some bytes changed, left out, added or said twice."""
        changed = bytearray(data)
        for _ in range(self.random.choice([1, 1, 2, 5])):
            at = self.random.randrange(len(changed) + 1)
            kind = self.random.randrange(5)
            if kind == 0:
                del changed[at:]
            elif kind == 1:
                del changed[at : at + self.random.randrange(1, 4)]
            elif kind == 2:
                changed[at:at] = self.random.choice(PIECES)
            elif kind == 3 and at < len(changed):
                changed[at] = self.random.choice([0, 32, 34, 92, 0xFF, changed[at] ^ 1])
            else:
                changed[at:at] = changed[at : at + self.random.randrange(30)]
        return bytes(changed)
