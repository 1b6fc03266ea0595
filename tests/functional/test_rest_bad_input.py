"""JSON that nobody should send: it is refused, costs little, and others are answered meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.functional.conftest import serving
from tests.functional.launching import Launched
from tests.functional.rest_client import Rest, meanwhile, post_bytes

HALF = "half_plus_two:predict"
TEXTS = "string_identity:predict"
ONE = b'{"instances": [1]}'
MANY = 1_000_000


@pytest.fixture(scope="module")
def server(models: Path, inference_models: Path) -> Iterator[Launched]:
    names = ("half_plus_two", "string_identity", "sum_and_product", "identity")
    paths = {name: models / name for name in names}
    paths["inference"] = inference_models / "inference"
    with serving(paths, "--rest_api_port=-1") as server:
        yield server


@pytest.fixture
def rest(server: Launched) -> Iterator[Rest]:
    """While it is used, another client is answered all the time."""
    rest = Rest(server)
    with meanwhile(rest, HALF, ONE, [4.5]):
        yield rest


BRACKETS = {
    "in the instances": b'{"instances": %s',
    "in an input": b'{"inputs": {"x": %s',
    "in a row": b'{"instances": [{"x": %s',
    "in an unused key": b'{"unused": %s',
    "behind the values": b'{"instances": [1], "unused": %s',
    "in the name of the signature": b'{"signature_name": %s',
    "at the top": b"%s",
    "in the second row": b'{"instances": [1, %s',
}


@pytest.mark.parametrize("where", BRACKETS)
@pytest.mark.parametrize("bracket", [b"[", b'{"a":', b'[{"x":'])
def test_a_million_brackets_are_refused(rest: Rest, where: str, bracket: bytes) -> None:
    answer = rest.post(HALF, BRACKETS[where] % (bracket * MANY))
    assert answer.status == 400, answer
    assert answer.error
    assert len(answer.body) < 2000


@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_a_million_brackets_in_examples_are_refused(rest: Rest, verb: str) -> None:
    nested = b"[" * MANY + b"]" * MANY
    for place in (b'{"examples": %s}', b'{"examples": [{"x": %s}]}', b'{"context": %s}'):
        status, text = rest.refusal(f"inference:{verb}", place % nested)
        assert status == 400
        assert len(text) < 2000


def test_brackets_that_are_closed_again_are_a_value_of_an_unused_key(rest: Rest) -> None:
    nested = b"[" * MANY + b"]" * MANY
    body = b'{"unused": ' + nested + b', "instances": [1]}'
    assert rest.predictions(HALF, body) == [4.5]
    for place in (b'{"instances": %s}', b'{"inputs": %s}', b'{"inputs": {"x": %s}}'):
        status, text = rest.refusal(HALF, place % nested)
        assert status == 400
        assert len(text) < 2000


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e999999999999", "9" * 400])
def test_numbers_beyond_double_are_refused(rest: Rest, number: str) -> None:
    for body in (f'{{"instances": [{number}]}}', f'{{"unused": {number}, "inputs": 1}}'):
        status, text = rest.refusal(HALF, body)
        assert status == 400
        assert text.startswith("JSON Parse error: Number too big to be stored in double.")


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("0." + "3" * 10_000, 1 / 3),
        ("0." + "0" * 10_000 + "1", 0),
        ("1" + "0" * 300 + "e-300", 1),
        ("0" + "." + "0" * 9_999 + "1e10000", 1),
        ("1.5" + "0" * 100_000, 1.5),
        ("1e-999999999999", 0),
    ],
)
def test_numbers_of_thousands_of_digits_are_read(rest: Rest, number: str, value: float) -> None:
    for body in (f'{{"inputs": [{number}]}}', f'{{"unused": {number}, "inputs": [{number}]}}'):
        assert rest.predictions(HALF, body) == [pytest.approx(value / 2 + 4)]


@pytest.mark.parametrize(
    "text",
    [rb"\ud800", rb"\udc00", rb"\ud800\ud800", rb"\ud800x", rb"\udfff\ud800", rb"\u12", rb"\x"],
)
def test_broken_escapes_are_refused(rest: Rest, text: bytes) -> None:
    for path, body in (
        (TEXTS, b'{"instances": ["%s"]}'),
        (TEXTS, b'{"inputs": {"x": "%s"}}'),
        (HALF, b'{"unused": "%s", "inputs": 1}'),
        (HALF, b'{"signature_name": "%s", "inputs": 1}'),
        (HALF, b'{"%s": 1, "inputs": 1}'),
    ):
        status, error = rest.refusal(path, body % text)
        assert status == 400
        assert error.startswith("JSON Parse error: ")


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82", b"\x80"])
def test_text_that_is_no_utf8_is_answered_in_valid_json(rest: Rest, text: bytes) -> None:
    """TensorFlow Serving takes strings as they are; what comes back must be JSON."""
    answer = rest.post(TEXTS, b'{"instances": ["' + text + b'"]}')
    assert answer.status in (200, 400)
    json.loads(answer.body.decode())
    for body in (
        b'{"signature_name": "%s", "inputs": 1}',
        b'{"inputs": {"%s": 1}}',
        b'{"instances": [{"%s": 1}]}',
        b'{"instances": ["%s"]}',
    ):
        refused = rest.post(HALF, body % text)
        assert refused.status == 400
        assert refused.error  # is JSON, and UTF-8


def test_nul_bytes_and_control_characters(rest: Rest) -> None:
    assert rest.refusal(HALF, b"\0" * 1000)[0] == 400
    for byte in range(0x20):
        status, _ = rest.refusal(TEXTS, b'{"instances": ["a%cb"]}' % byte)
        assert status == 400
    for place in range(len(ONE)):
        answer = rest.post(HALF, ONE[:place] + b"\0" + ONE[place:])
        assert answer.status == 400, place
    assert rest.predictions(HALF, ONE + b"\0" * 100) == [4.5]


def test_of_keys_that_come_twice_the_first_counts(rest: Rest) -> None:
    assert rest.predictions(HALF, b'{"instances": [1], "instances": [5]}') == [4.5]
    assert rest.predictions(HALF, b'{"inputs": {"x": [1], "x": [5]}}') == [4.5]
    body = b'{"signature_name": "serving_default", "signature_name": "no", "inputs": [1]}'
    assert rest.predictions(HALF, body) == [4.5]


def test_an_object_of_many_keys_is_no_quadratic_work(server: Launched, rest: Rest) -> None:
    row = {f"k{i}": 1 for i in range(50_000)}
    before = server.cpu_seconds()
    status, text = rest.refusal("sum_and_product:predict", {"instances": [row] * 4})
    assert status == 400
    assert len(text) < 2000
    assert rest.refusal("sum_and_product:predict", {"inputs": row})[0] == 400
    assert rest.refusal(HALF, {**row, "instances": 1})[0] == 400
    assert server.cpu_seconds() - before < 10


DOCUMENTS = [
    (HALF, b'{"signature_name": "serving_default", "instances": [1.5, -2e3, NaN]}'),
    ("sum_and_product:predict", b'{"instances": [{"a": 1, "b": [2]}, {"b": 3, "a": 4}]}'),
    ("sum_and_product:predict", b'{"inputs": {"a": [1, 2], "b": [3, 4]}}'),
    (TEXTS, rb'{"inputs": ["\u00e9\n", {"b64": "YWI="}, "\ud83d\ude00"]}'),
    ("inference:classify", b'{"signature_name": "classify", "examples": [{"x": 1.0, "c": [2.0]}]}'),
    ("inference:regress", b'{"context": {"c": 1.0}, "examples": [{"x": 1.0}, {"x": 2.0}]}'),
]


@pytest.mark.parametrize(("path", "document"), DOCUMENTS)
def test_documents_that_are_cut_off_are_refused(rest: Rest, path: str, document: bytes) -> None:
    with rest.dial() as peer:
        for size in range(len(document)):
            answer = peer.ask(post_bytes(path, document[:size]))
            assert answer.status == 400
            assert answer.error.startswith("JSON Parse error: ")


@pytest.mark.parametrize(("path", "document"), DOCUMENTS)
def test_mutated_documents_are_answered_or_refused(rest: Rest, path: str, document: bytes) -> None:
    chance = Random(path)
    pieces = [b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\0", b"\xff", b"1e999", b"null"]
    seen = set()
    with rest.dial() as peer:
        for _ in range(300):
            changed = bytearray(document)
            for _ in range(chance.choice([1, 1, 3])):
                at = chance.randrange(len(changed) + 1)
                changed[at : at + chance.randrange(3)] = chance.choice([b"", *pieces])
            answer = peer.ask(post_bytes(path, bytes(changed)))
            assert answer.status in (200, 400, 501), (answer, bytes(changed))
            json.loads(answer.body.decode())
            seen.add(answer.status)
    assert 400 in seen


def test_a_hundred_megabytes_of_garbage(server: Launched, rest: Rest) -> None:
    chance = Random(1)
    before = server.memory_bytes()
    size = 100_000_000
    for body in (
        chance.randbytes(1000) * (size // 1000),
        b"[" * size,
        b'{"instances": [' + b"1," * (size // 2),
        b'{"instances": ["' + b"a" * size,
        b" " * size,
    ):
        answer = rest.post(HALF, body)
        assert answer.status in (400, 413, 429), answer.status
        assert answer.error
    del body
    assert rest.predictions(HALF, ONE) == [4.5]
    assert server.memory_bytes() - before < 150_000_000


def test_what_is_no_object_is_refused(rest: Rest) -> None:
    for body in ("1", "[]", '"a"', "null", "true", "NaN", "[1]"):
        status, text = rest.refusal(HALF, body)
        assert (status, text) == (400, f"JSON Value: {body} Is not object")
    assert rest.refusal(HALF, "") == (400, "JSON Parse error: The document is empty")
    assert rest.refusal(HALF, "{}") == (400, "Missing 'inputs' or 'instances' key")


def test_rows_that_differ_are_told(rest: Rest) -> None:
    assert rest.refusal(HALF, {"instances": [1, [2]]}) == (
        400,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
        " Expecting shape [] but got: [1]",
    )
    assert rest.refusal(HALF, {"instances": [[1, 2], [3]]}) == (
        400,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
        " Expecting tensor size: 2 but got: 1",
    )
    assert rest.refusal(HALF, {"inputs": [[1, 2], [3]]})[1].startswith(
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2"
    )
