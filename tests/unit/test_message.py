"""Messages with spliced payloads."""

from __future__ import annotations

import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from tfsrv._message import MessageBuilder


def build(pieces: list[tuple[bool, bytes]]) -> MessageBuilder:
    message = MessageBuilder()
    for spliced, data in pieces:
        if spliced:
            message.splice(data)
        else:
            message.append(data)
    return message


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=30))), st.integers(1, 40))
def test_reads_in_order_whatever_was_spliced(pieces: list[tuple[bool, bytes]], step: int) -> None:
    message = build(pieces)
    expected = b"".join(data for _, data in pieces)
    assert message.seal() == len(expected)
    read = b""
    while part := message.read(step):
        assert len(part) == step or len(read) + len(part) == len(expected)
        read += part
    assert read == expected


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.binary(max_size=30))),
    st.integers(1, 40),
    st.integers(1, 5),
    st.data(),
)
def test_tells_where_its_bytes_lie_and_goes_on_behind_those_that_were_sent(
    pieces: list[tuple[bool, bytes]], step: int, most: int, data: st.DataObject
) -> None:
    message = build(pieces)
    expected = b"".join(part for _, part in pieces)
    left = message.seal()
    sent = b""
    while left:
        found = message.pieces(most, step)
        assert 0 < len(found) <= most
        assert all(found)
        assert sum(map(len, found)) <= step
        size = data.draw(st.integers(0, sum(map(len, found))))
        message.skip(size)
        sent += b"".join(found)[:size]
        left -= size
        if size == 0:
            sent += message.read(1)
            left -= 1
    assert sent == expected
    assert message.pieces(most, step) == []


def test_is_read_from_the_start_when_sealed_again() -> None:
    message = build([(False, b"abc"), (True, b"def")])
    message.seal()
    assert message.read(4) == b"abcd"
    message.seal()
    assert message.read(10) == b"abcdef"


def test_holds_a_spliced_payload_until_it_is_cleared() -> None:
    payload = bytes(1000)
    before = sys.getrefcount(payload)
    message = build([(True, payload), (True, payload)])
    assert sys.getrefcount(payload) == before + 2
    message.clear()
    assert sys.getrefcount(payload) == before


def test_lets_go_of_payloads_when_it_dies() -> None:
    payload = bytes(1000)
    before = sys.getrefcount(payload)
    message = build([(True, payload)])
    del message
    assert sys.getrefcount(payload) == before


def test_can_be_filled_again_after_clear() -> None:
    message = build([(False, b"old"), (True, b"older")])
    message.seal()
    message.read(2)
    message.clear()
    message.append(b"new")
    assert message.seal() == 3
    assert message.read(100) == b"new"


def test_takes_many_splices() -> None:
    message = build([(True, b"%d," % i) for i in range(1000)])
    size = message.seal()
    assert message.read(size) == b"".join(b"%d," % i for i in range(1000))
    assert message.read(1) == b""
