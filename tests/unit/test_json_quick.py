"""The quick reader of :predict bodies: what it reads means to it what it means to the exact one."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.json_bodies import DTYPES, BodyMaker
from tests.wire_messages import PredictRequest
from tfsrv._json_predict_request import read_predict
from tfsrv._json_quick import read_quick

FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, INT64, UINT16 = 1, 2, 3, 4, 5, 6, 9, 17
QUICK = [FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, INT64, UINT16]
X = {"x": FLOAT}

randoms = st.integers(0, 2**64).map(Random)
more = settings(max_examples=400, deadline=None)


def agrees(body: bytes, inputs: dict[str, int]) -> bool:
    """Whether the quick reader takes a body; then it must take it as the exact one does."""
    quick = read_quick(body, inputs, "m")
    if quick is None:
        return False
    exact = read_predict(body, inputs, "m")  # refuses none of these
    assert quick[1] == exact[1], body
    assert parsed(quick[0]) == parsed(exact[0]), body
    return True


def parsed(wire: bytes) -> Any:
    """Tensors are compared as bytes: there are NaNs and signed zeros in them."""
    message: Any = PredictRequest.FromString(wire)
    inputs = {
        name: (proto.dtype, [dim.size for dim in proto.tensor_shape.dim], proto.tensor_content)
        for name, proto in message.inputs.items()
    }
    return inputs, message.model_spec, list(message.output_filter)


class QuickMaker(BodyMaker):
    """Bodies of numbers, of the kinds that the quick reader is for."""

    def string(self, text: str) -> str:
        return f'"{text}"'

    def real(self) -> str:
        text = super().real()
        return text if text[-1].isdigit() else "0.5"

    def quick_body(self) -> tuple[bytes, dict[str, int]]:
        random = self.random
        names = random.sample(["x", "y", "ids", "été", "inputs"], random.choice([1, 1, 2, 3]))
        inputs = {name: random.choice(QUICK) for name in names}
        in_rows = random.random() < 0.6
        shapes = {name: self.lists() for name in names}
        if len(names) == 1 and random.random() < 0.6:
            shape = [random.choice([1, 2, 300]), *shapes[names[0]]] if in_rows else self.lists()
            values = self.tensor(inputs[names[0]], shape)
        elif in_rows:
            rows = random.choice([1, 2, 5])
            values = self.listed([self.members(inputs, shapes) for _ in range(rows)], "[]")
        else:
            values = self.members(inputs, shapes)
        members = [("instances" if in_rows else "inputs", values)]
        if random.random() < 0.3:
            members.insert(0, ("signature_name", '"some"'))
        return (self.space() + self.map_of(members) + self.space()).encode(), inputs

    def members(self, inputs: dict[str, int], shapes: dict[str, list[int]]) -> str:
        order = self.random.sample(list(inputs), len(inputs))
        return self.map_of([(name, self.tensor(inputs[name], shapes[name])) for name in order])

    def lists(self) -> list[int]:
        """A shape without empty lists, of at most seven dimensions and a thousand values."""
        return self.random.choices([1, 1, 1, 2, 3], k=self.random.choice([0, 1, 1, 2, 6]))


@more
@given(randoms)
def test_takes_bodies_of_numbers_as_the_exact_reader_does(random: Random) -> None:
    body, inputs = QuickMaker(random).quick_body()
    assert agrees(body, inputs), body


@more
@given(randoms)
def test_takes_any_body_as_the_exact_reader_does_or_not_at_all(random: Random) -> None:
    agrees(*BodyMaker(random).body())


@more
@given(randoms)
def test_takes_nothing_that_the_exact_reader_refuses(random: Random) -> None:
    maker = QuickMaker(random)
    body, inputs = maker.quick_body()
    for _ in range(5):
        agrees(maker.mutated(body), inputs)
    agrees(body[: random.randrange(len(body) + 1)], inputs)


@settings(max_examples=25, deadline=None)
@given(randoms)
def test_takes_no_body_that_is_cut_off(random: Random) -> None:
    body, inputs = QuickMaker(random).quick_body()
    whole = body.rstrip()
    for size in range(0, len(whole), max(1, len(whole) // 300)):
        assert read_quick(whole[:size], inputs) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "value",
    [
        "0", "-0", "-0.0", "1", "1.0", "1e0", "1E+2", "-1", "127", "128", "255", "256", "-129",
        "32767", "32768", "65535", "65536", "2147483647", "2147483648", "-2147483648",
        "-2147483649", "4294967295", "9223372036854775807", "9223372036854775808",
        "-9223372036854775808", "-9223372036854775809", "18446744073709551615",
        "18446744073709551616", "1e38", "3.5e38", "1e-46", "1e308", "1e309", "1e400", "-1e400",
        "1e-400", "0.1", "01", "+1", ".5", "1.", "1e", "0x10", "NaN", "Infinity", "-Infinity",
        "Inf", "-Inf", "nan", "-NaN", "null", "true", '"1"', "1" * 10_000, "0." + "3" * 10_000,
        "1" + "0" * 400, "1 2", "1,", ",1", "", "[1", "1]", "{}", "\0", "1\0", "\f1",
    ],
)  # fmt: skip
def test_takes_a_number_as_the_exact_reader_does_or_not_at_all(dtype: int, value: str) -> None:
    for body in (f'{{"instances": [{value}, {value}]}}', f'{{"inputs": {{"x": {value}}}}}'):
        agrees(body.encode(), {"x": dtype})


RAGGED = [
    "[[1, 2], [3]]", "[[1], [2, 3]]", "[[1], 2]", "[1, [2]]", "[[[1]], [[2], [3]]]", "[[], [1]]",
    "[[1], []]", "[[[1], [2]], [[3]]]", "[[1, [2]]]", "[]", "[[]]", "[[1,2],[3,4],[5]]",
    "[[[1,2],[3,4]],[[5,6],[7]]]",
]  # fmt: skip


@pytest.mark.parametrize("values", RAGGED)
def test_leaves_lists_that_are_no_tensor_to_the_exact_reader(values: str) -> None:
    rows = json.loads(values)
    for body in (
        {"instances": rows},
        {"inputs": rows},
        {"instances": [{"x": row} for row in rows]},
    ):
        assert read_quick(json.dumps(body).encode(), X) is None


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": [1], "inputs": [1]}',
        '{"instances": [1], "instances": [2]}',
        '{"instances": [1], "signature_name": "s"}',
        '{"signature_name": "s", "signature_name": "t", "instances": [1]}',
        '{"other": 1, "instances": [1]}',
        '{"instances": [{"x": 1, "x": 2}]}',
        '{"instances": [{"x": 1}, {"y": 2}]}',
        '{"instances": [{"x": 1}, 2]}',
        '{"instances": [1, {"x": 2}]}',
        '{"instances": [{"b64": 1}]}',
        '{"inputs": {"x": 1, "y": 2}}',
        '{"inputs": {"x": 1, "x": 2}}',
        '{"inst\\u0061nces": [1]}',
        '{"signature_name": "\\u0073", "instances": [1]}',
        '{"signature_name": 1, "instances": [1]}',
        '{"instances": 1}',
        '{"instances": null}',
        "[1]",
        "",
        "{",
        "{}",
        '{"instances"',
        '{"instances":',
        '{"inputs": {',
        '{"inputs": {"x"',
        '{"instances": [{"x": [[[[[[[[[1]]]]]]]]]}]}',
    ],
)
def test_leaves_what_is_out_of_the_ordinary_to_the_exact_reader(body: str) -> None:
    assert not agrees(body.encode(), X)


def test_takes_no_more_dimensions_than_it_has_room_for() -> None:
    for rank in range(1, 20):
        nested = "[" * rank + "1" + "]" * rank
        for body in (f'{{"instances": {nested}}}', f'{{"instances": [{{"x": {nested}}}]}}'):
            agrees(body.encode(), X)
    assert read_quick(b'{"inputs": ' + b"[" * 1_000_000, X) is None


def test_takes_what_comes_behind_the_document_for_nothing() -> None:
    for rest in (b"", b" ", b"\0", b"}", b'{"inputs": 2}', b"\xff"):
        assert agrees(b'{"instances": [1]}' + rest, X)


@pytest.mark.parametrize("dtype", QUICK)
@pytest.mark.parametrize("size", [1, 255, 256, 257, 1023, 1024, 1025, 5000])
def test_takes_lists_of_any_length(dtype: int, size: int) -> None:
    numbers = [i % 100 for i in range(size)]
    for body in ({"instances": numbers}, {"inputs": [numbers, numbers]}):
        assert agrees(json.dumps(body).encode(), {"x": dtype})
    assert agrees(json.dumps({"instances": [{"x": numbers}] * 3}).encode(), {"x": dtype})


def test_takes_as_many_inputs_as_it_has_room_for() -> None:
    for count in (1, 2, 16, 17, 40):
        inputs = {f"x{i}": QUICK[i % len(QUICK)] for i in range(count)}
        row = {name: [i % 7] for i, name in enumerate(inputs)}
        for body in ({"instances": [row] * 2}, {"inputs": row}):
            assert agrees(json.dumps(body).encode(), inputs) == (count <= 16)
    assert read_quick(b'{"inputs": {}}', {}) is None


@pytest.mark.parametrize("dtype", QUICK)
def test_has_room_for_each_of_many_scalars(dtype: int) -> None:
    """For a sanitizer: buffers grow to sizes that are no multiple of a value's."""
    for rows in range(1, 1600, 7):
        row = b'{"x": 1, "y": 2}'
        assert agrees(
            b'{"instances": [' + b", ".join([row] * rows) + b"]}", {"x": dtype, "y": FLOAT}
        )
