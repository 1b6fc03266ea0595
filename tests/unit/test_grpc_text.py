"""gRPC's encodings in headers: time-outs, content types, lists and messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsrv.frontends._grpc import (
    accepts_content_type,
    lists_token,
    percent_encode,
    timeout_nanoseconds,
)

_UNITS = {b"n": 1, b"u": 10**3, b"m": 10**6, b"S": 10**9, b"M": 60 * 10**9, b"H": 3600 * 10**9}
_CENTURY_HOURS = 876_000


@given(st.integers(0, 99_999_999), st.sampled_from(sorted(_UNITS)))
def test_timeout_is_read_in_every_unit(value: int, unit: bytes) -> None:
    if unit == b"H":
        value = min(value, _CENTURY_HOURS)
    assert timeout_nanoseconds(b"%d%s" % (value, unit)) == value * _UNITS[unit]


def test_timeout_beyond_a_century_is_a_century() -> None:
    assert timeout_nanoseconds(b"99999999H") == _CENTURY_HOURS * _UNITS[b"H"]


@pytest.mark.parametrize(
    "text",
    [b"", b"1", b"S", b"-1S", b"+1S", b" 1S", b"1s", b"1.5S", b"123456789S", b"1SS", b"\x00\x00"],
)
def test_malformed_timeout_is_refused(text: bytes) -> None:
    assert timeout_nanoseconds(text) == -1


@pytest.mark.parametrize(
    "text",
    [
        b"application/grpc",
        b"application/grpc+proto",
        b"application/grpc;charset=utf-8",
        b"Application/GRPC",
    ],
)
def test_grpc_content_types_are_accepted(text: bytes) -> None:
    assert accepts_content_type(text)


@pytest.mark.parametrize(
    "text", [b"", b"application/grp", b"application/grpc-web", b"application/json"]
)
def test_other_content_types_are_not_accepted(text: bytes) -> None:
    assert not accepts_content_type(text)


@pytest.mark.parametrize(
    "text", [b"gzip", b"identity,gzip", b"identity, deflate, gzip", b" gzip ,br"]
)
def test_token_is_found_in_a_list(text: bytes) -> None:
    assert lists_token(text, b"gzip")


@pytest.mark.parametrize("text", [b"", b"gzipped", b"xgzip", b"identity", b"gz ip", b",,"])
def test_token_is_not_found_in_a_list_without_it(text: bytes) -> None:
    assert not lists_token(text, b"gzip")


def _percent_decode(text: bytes) -> bytes:
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at : at + 1] == b"%":
            out.append(int(text[at + 1 : at + 3], 16))
            at += 3
        else:
            out.append(text[at])
            at += 1
    return bytes(out)


@given(st.binary(max_size=1024))
def test_message_survives_percent_encoding(text: bytes) -> None:
    encoded = percent_encode(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert _percent_decode(encoded) == text


def test_message_of_1024_bytes_is_not_cut() -> None:
    assert percent_encode(b"x" * 1024) == b"x" * 1024


@given(st.text(min_size=600, max_size=1200, alphabet="aé€😀"))
def test_long_message_is_cut_between_characters(text: str) -> None:
    data = text.encode()
    decoded = _percent_decode(percent_encode(data))
    if len(data) <= 1024:
        assert decoded == data
        return
    head = decoded.removesuffix(b"...TRUNCATED")
    assert head != decoded
    assert data.startswith(head)
    assert 1024 - 4 < len(head) <= 1024
    head.decode()
