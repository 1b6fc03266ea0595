"""gzip without the GIL: against Python's, and what is damaged, too long or not alone."""

from __future__ import annotations

import contextlib
import gzip
import random

import pytest

from tfsrv._gzip import deflate, deflate_parts, inflate

MEBIBYTE = 1 << 20
CONTENTS = [b"", b"a", b"[1.0, 2.5]" * 1000, bytes(range(256)) * 4096, b"0" * (5 * MEBIBYTE)]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("content", [*CONTENTS, noise(300_000)], ids=len)
def test_unpacks_what_python_packs_and_packs_what_python_unpacks(content: bytes) -> None:
    assert inflate(gzip.compress(content), len(content)) == content
    assert gzip.decompress(deflate(content)) == content


@pytest.mark.parametrize("head", [b"", b"{", noise(200_000)], ids=len)
@pytest.mark.parametrize("spliced", [b"", b"}", noise(100_000), b"7" * (3 * MEBIBYTE)], ids=len)
def test_packs_a_message_with_what_is_spliced_in(head: bytes, spliced: bytes) -> None:
    assert gzip.decompress(deflate_parts(head, spliced)) == head + spliced


def test_unpacks_several_members_behind_each_other() -> None:
    members = [b"first", b"", b"second" * 50_000, b"third"]
    assert inflate(b"".join(map(gzip.compress, members)), MEBIBYTE) == b"".join(members)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3 * MEBIBYTE])
def test_takes_what_just_fits_and_nothing_more(size: int) -> None:
    packed = gzip.compress(b"x" * size)
    assert len(inflate(packed, size)) == size
    if size:
        with pytest.raises(OverflowError):
            inflate(packed, size - 1)


def test_the_limit_is_for_all_members_together() -> None:
    packed = gzip.compress(b"x" * 100) * 10
    assert len(inflate(packed, 1000)) == 1000
    with pytest.raises(OverflowError):
        inflate(packed, 999)


def test_stops_a_bomb_at_its_limit() -> None:
    with pytest.raises(OverflowError):
        inflate(gzip.compress(bytes(200 * MEBIBYTE)), MEBIBYTE)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 15, 25, -1, -4, -8])
def test_refuses_what_is_cut_off(size: int) -> None:
    with pytest.raises(ValueError, match="not a gzip"):
        inflate(gzip.compress(b"content that is cut")[:size], MEBIBYTE)


@pytest.mark.parametrize("rubbish", [b"\0", b"rubbish", b"\x1f\x8b", gzip.compress(b"x")[:-1]])
def test_refuses_bytes_behind_the_end(rubbish: bytes) -> None:
    with pytest.raises(ValueError, match="not a gzip"):
        inflate(gzip.compress(b"content") + rubbish, MEBIBYTE)


@pytest.mark.parametrize("offset", [0, 1, 2, 3, -1, -5])
def test_refuses_what_is_damaged(offset: int) -> None:
    packed = bytearray(gzip.compress(b"content"))
    packed[offset] ^= 0xFF
    with pytest.raises(ValueError, match="not a gzip"):
        inflate(bytes(packed), MEBIBYTE)


def test_survives_any_damage() -> None:
    chance = random.Random(7)
    packed = gzip.compress(b"[0.5, 1.25, -3e7]" * 2000)
    for _ in range(2000):
        damaged = bytearray(packed)
        for _ in range(chance.choice([1, 2, 10])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with contextlib.suppress(ValueError, OverflowError):
            assert len(inflate(bytes(damaged), 100_000)) <= 100_000
