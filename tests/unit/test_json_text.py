"""Strings of JSON texts, base64, and the bodies of errors."""

from __future__ import annotations

import base64
import json
import string
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsrv._json_text import decode_base64, encode_base64, json_error, json_string


def expected(text: bytes) -> bytes:
    """By Python: what is no UTF-8 replaced, then escaped as rapidjson's Writer does."""
    escapes = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r"}
    escapes["\t"] = "\\t"
    pieces = [
        escapes.get(c, f"\\u{ord(c):04X}" if c < " " else c)
        for c in text.decode("utf-8", "replace")
    ]
    return f'"{"".join(pieces)}"'.encode()


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_is_written_as_it_should(byte: int) -> None:
    for text in (bytes([byte]), b"plain text " + bytes([byte]) + b" and more of it"):
        assert json_string(text) == expected(text)


def test_a_slash_stays_and_hexadecimal_digits_are_upper_case() -> None:
    assert json_string(b"a/b\x1f\x7f") == b'"a/b\\u001F\x7f"'


# Pieces of characters in any order: cut off, too long, surrogates, beyond Unicode.
PIECES = st.sampled_from(
    [
        b"\xc3\xa9",
        b"\xe2\x82\xac",
        b"\xf0\x9f\x98\x80",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"\xf0\x90",
        b"\xc0",
        b"\xc1\xbf",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xed\x9f",
        b"\xf4\x90\x80\x80",
        b"\xf5",
        b"\xff",
        b"\x80",
        b"\xbf",
        b"a",
        b'"',
        b"\\",
        b"\x00",
        b"abcdefgh",
        b"\xf4\x8f\xbf",
    ]
)


@settings(deadline=None, max_examples=500)
@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_what_is_no_utf8_is_replaced_as_python_does(text: bytes) -> None:
    assert json_string(text) == expected(text)


@settings(deadline=None)
@given(st.text())
def test_json_reads_it_back(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    assert json.loads(json_string(data)) == data.decode("utf-8", "replace")


@pytest.mark.parametrize("size", [4094, 4095, 4096, 4097, 8190, 8192, 20_000])
@pytest.mark.parametrize("character", ["\x01", "é", "€", "😀", "a"])
def test_long_strings_are_written_across_steps(size: int, character: str) -> None:
    text = b"." * (size % 7) + character.encode() * size
    assert json_string(text) == expected(text)
    assert json_string(text[:-1]) == expected(text[:-1])


@pytest.mark.parametrize(
    ("pretty", "text"),
    [
        (False, b'{"error":"no \\"model\\""}'),
        (True, b'{\n    "error": "no \\"model\\""\n}'),
    ],
)
def test_an_error_is_an_object(pretty: bool, text: bytes) -> None:
    assert json_error(b'no "model"', pretty) == text


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_base64_is_that_of_python(data: bytes) -> None:
    text = encode_base64(data)
    assert text == base64.b64encode(data)
    assert decode_base64(text) == data
    assert decode_base64(text.rstrip(b"=")) == data


@settings(deadline=None)
@given(st.binary(max_size=50), st.randoms(use_true_random=False))
def test_white_space_is_skipped_anywhere(data: bytes, random: Random) -> None:
    text = bytearray(base64.b64encode(data))
    for _ in range(5):
        text.insert(random.randrange(len(text) + 1), random.randrange(9, 14))
        text.insert(random.randrange(len(text) + 1), ord(" "))
    assert decode_base64(bytes(text)) == data


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (b"", b""),
        (b" ", b""),
        (b"aGk=", b"hi"),
        (b"aGk.", b"hi"),
        (b"aA==", b"h"),
        (b"aA=.", b"h"),
        (b"a A = = ", b"h"),
        (b"aB", b"h"),  # bits left over
        (b"/+8=", b"\xff\xef"),
    ],
)
def test_takes_what_abseil_takes(text: bytes, data: bytes) -> None:
    assert decode_base64(text) == data


@pytest.mark.parametrize(
    "text",
    [
        b"a",
        b"aGk==",
        b"aA=",
        b"aGkh=",
        b"=",
        b"a===",
        b"aG=k",
        b"aGk=aGk=",
        b"_-8=",
        b"aGk\x00",
        b"aGkh\x00",
        b"aG\xc3\xa9",
        b"aGk\x85",
        b"aGk=x",
        b"aGkh,",
        b"%",
        b"aGkhaA===",
    ],
)
def test_refuses_what_abseil_refuses(text: bytes) -> None:
    assert decode_base64(text) is None


def test_only_the_alphabet_is_taken() -> None:
    alphabet = (string.ascii_letters + string.digits + "+/").encode()
    taken = [b for b in range(256) if decode_base64(b"AAA" + bytes([b])) not in (None, b"\0\0")]
    assert sorted(taken) == sorted(alphabet)
