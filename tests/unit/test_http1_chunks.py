"""Chunked bodies in whatever pieces they come."""

from __future__ import annotations

import random

import pytest

from tfsrv.frontends._http1_chunks import read_chunks

BODY = b'5\r\nhello\r\n1;a=b;c="d e"\r\n,\r\n00A\r\n0123456789\r\n0\r\nX-Trailer: y\r\nZ:\r\n\r\n'
CONTENT = b"hello,0123456789"


@pytest.mark.parametrize("cut", range(len(BODY)))
def test_reads_a_body_wherever_it_is_cut(cut: int) -> None:
    assert read_chunks([BODY[:cut], BODY[cut:] + b"GET"]) == (0, CONTENT, b"GET")


def test_reads_a_body_byte_by_byte() -> None:
    pieces = [BODY[i : i + 1] for i in range(len(BODY))]
    assert read_chunks([*pieces, b"next"]) == (0, CONTENT, b"next")


@pytest.mark.parametrize("cut", range(len(BODY)))
def test_waits_for_the_end(cut: int) -> None:
    with pytest.raises(ValueError, match="no end"):
        read_chunks([BODY[:cut]])


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\na\r\n",
        b"1\t;a\r\na\r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\na\r\r",
        b"1\ra\r\n",
        b"1;\n",
        b"1;a\x00\r\n",
        b"1;a\rb\r\n",
        b";a\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA: \x00\r\n\r\n",
        b"0\r\nA: b\rc\r\n\r\n",
        b"0\r\n\n",
        b"0\n\r\n",
        b"1000000000000000\r\n",
        b"0000000000000001\r\na",
        b"ffffffffffffffffffff\r\n",
    ],
)
def test_refuses_what_is_malformed(body: bytes) -> None:
    assert read_chunks([body])[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b"1;" + b"x" * 20_000,
        b"1;xxxxxxxx\r\na\r\n" * 3000,
        b"0\r\nA: " + b"x" * 20_000,
        b"0\r\n" + b"A: b\r\n" * 10_000,
    ],
    ids=["extension", "extensions", "trailer", "trailers"],
)
def test_bounds_what_is_dropped(body: bytes) -> None:
    assert read_chunks([body])[0] == 431


def test_survives_any_damage() -> None:
    chance = random.Random(11)
    for _ in range(20_000):
        damaged = bytearray(BODY)
        for _ in range(chance.choice([1, 2, 5])):
            damaged[chance.randrange(len(damaged))] = chance.choice(b"\r\n;0fg\0\xff: ")
        try:
            status, content, _ = read_chunks([bytes(damaged)])
        except ValueError:
            continue
        assert status in (0, 400)
        assert len(content) <= len(BODY)
