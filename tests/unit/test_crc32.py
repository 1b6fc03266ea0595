"""CRC-32: both ways of computing it agree with zlib's."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsrv._crc32 import crc32

BLOCK = bytes(range(256)) * 5


@pytest.mark.parametrize("by_tables", [False, True], ids=["folded", "by tables"])
@pytest.mark.parametrize("size", [*range(150), 255, 256, 1000, 1279])
def test_is_that_of_zlib(size: int, by_tables: bool) -> None:
    assert crc32(BLOCK[:size], by_tables) == zlib.crc32(BLOCK[:size])


def test_the_standard_check_value() -> None:
    assert crc32(b"123456789") == 0xCBF43926


@given(st.binary(max_size=2000), st.booleans())
def test_of_any_bytes_is_that_of_zlib(data: bytes, by_tables: bool) -> None:
    assert crc32(data, by_tables) == zlib.crc32(data)
