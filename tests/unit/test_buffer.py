"""Growable byte buffers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsrv._buffer import ByteBuffer, compare_bytes
from tfsrv._memory import idle_bytes, trim


@settings(deadline=None)
@given(st.lists(st.binary(max_size=400)))
def test_holds_all_that_was_appended(pieces: list[bytes]) -> None:
    buffer = ByteBuffer()
    for piece in pieces:
        buffer.append(piece)
    assert bytes(buffer) == b"".join(pieces)
    assert len(buffer) <= buffer.capacity or not pieces


@pytest.mark.parametrize("value", [0, 7, -1, 2**63 - 1, -(2**63)])
def test_writes_numbers_in_decimal(value: int) -> None:
    buffer = ByteBuffer()
    buffer.append(b"version ")
    buffer.append_int(value)
    assert bytes(buffer) == b"version %d" % value


def test_text_ends_before_its_zero() -> None:
    buffer = ByteBuffer()
    buffer.append_text(b"abc")
    buffer.append_text(b"")
    assert bytes(buffer) == b"abc"


def test_many_appends_take_memory_few_times() -> None:
    buffer = ByteBuffer()
    capacities = set()
    for _ in range(100_000):
        buffer.append(b"x")
        capacities.add(buffer.capacity)
    assert len(capacities) < 25


def test_reserve_leaves_content_alone() -> None:
    buffer = ByteBuffer()
    buffer.append(b"abc")
    buffer.reserve(1_000_000)
    assert bytes(buffer) == b"abc"
    assert buffer.capacity >= 1_000_003


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1, 2**20, 2**26, 2**26 + 1])
def test_keeps_its_content_while_it_moves_to_larger_memory(size: int) -> None:
    buffer = ByteBuffer()
    content = b"0123456789abcdef" * 4096  # 64 KiB
    buffer.append(content)
    buffer.reserve(size)
    assert buffer.capacity >= len(content) + size
    buffer.append(b"behind")
    assert bytes(buffer) == content + b"behind"


def test_memory_of_large_buffers_is_used_again() -> None:
    trim()
    trim()
    before = idle_bytes()
    buffer = ByteBuffer()
    buffer.reserve(40 << 20)
    capacity = buffer.capacity
    del buffer
    assert capacity == 64 << 20
    assert idle_bytes() == before + capacity
    again = ByteBuffer()
    again.reserve(40 << 20)
    assert idle_bytes() == before
    del again
    trim()
    trim()


@pytest.mark.parametrize("extra", [2**63, 2**64 - 1])
def test_refuses_what_no_memory_can_hold_and_keeps_its_content(extra: int) -> None:
    buffer = ByteBuffer()
    buffer.append(b"abc")
    with pytest.raises(MemoryError):
        buffer.reserve(extra)
    assert bytes(buffer) == b"abc"


def test_can_be_used_again_after_free() -> None:
    buffer = ByteBuffer()
    buffer.append(b"abc")
    buffer.free()
    assert (len(buffer), buffer.capacity) == (0, 0)
    buffer.append(b"d")
    assert bytes(buffer) == b"d"


@settings(deadline=None)
@given(st.binary(max_size=4), st.binary(max_size=4))
def test_bytes_are_ordered_as_python_orders_them(a: bytes, b: bytes) -> None:
    order = compare_bytes(a, b)
    assert (order > 0) - (order < 0) == (a > b) - (a < b)
