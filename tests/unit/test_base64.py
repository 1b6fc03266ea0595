"""Base64 in: RFC 4648's, with what absl::Base64Unescape forgives."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsrv._json_text import decode_base64


@given(st.binary(max_size=100))
def test_what_was_encoded_comes_back_with_and_without_padding(data: bytes) -> None:
    text = base64.b64encode(data)
    assert decode_base64(text) == data
    assert decode_base64(text.rstrip(b"=")) == data
    assert decode_base64(text.replace(b"=", b".")) == data


@given(st.binary(max_size=60), st.randoms(use_true_random=False))
def test_white_space_may_stand_anywhere(data: bytes, random: object) -> None:
    text = base64.b64encode(data)
    for blank in (b" ", b"\t", b"\n", b"\v", b"\f", b"\r", b" \n "):
        assert decode_base64(blank.join(bytes([byte]) for byte in text)) == data
        assert decode_base64(blank + text + blank) == data


@pytest.mark.parametrize(
    "text",
    [
        b"A",  # 6 bits are no byte
        b"AAAAA",
        b"AA=",  # half of the padding
        b"AA===",
        b"AAA==",
        b"AAAA=",
        b"=",
        b"AA==AA==",  # something behind the padding
        b"A=A=",
        b"AB-_",  # the alphabet for URLs
        b"AA\0A",
        b"\xff\xff\xff\xff",
        b"aGk!",
        b"aGk$",
    ],
)
def test_refuses(text: bytes) -> None:
    assert decode_base64(text) is None


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (b"", b""),
        (b" \n", b""),
        (b"aGk=", b"hi"),
        (b"aGk", b"hi"),
        (b"aG k = ", b"hi"),
        (b"AB", b"\0"),  # bits are left over
        (b"+/+/", b"\xfb\xff\xbf"),
        (b"A A A A B B B B", b"\0\0\0\x04\x10\x41"),
    ],
)
def test_reads(text: bytes, data: bytes) -> None:
    assert decode_base64(text) == data


@given(st.binary(max_size=40))
def test_reads_what_python_reads(text: bytes) -> None:
    try:
        expected = base64.b64decode(text, validate=True)
    except ValueError:
        return
    if b"=" not in text.rstrip(b"="):
        assert decode_base64(text) == expected
