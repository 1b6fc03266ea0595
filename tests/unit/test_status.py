"""Codes and messages of native code."""

from __future__ import annotations

from tfsrv._status import make_error
from tfsrv.errors import Code


def test_builds_a_message_of_texts_bytes_and_numbers() -> None:
    error = make_error(5, b"Could not find version ", -7, b" of ", b"half\0plus")
    assert error.code is Code.NOT_FOUND
    assert error.message == "Could not find version -7 of half\0plus"


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert make_error(13, b"", b"\xff").message == "�"


def test_unknown_code_is_unknown() -> None:
    assert make_error(77, b"?").code is Code.UNKNOWN


def test_a_message_is_cut_at_64_kib() -> None:
    assert len(make_error(5, b"no ", b"x" * 100_000).message) == 65536
    assert len(make_error(5, b"no ", b"x" * 65_000, b"y" * 65_000).message) == 65536
