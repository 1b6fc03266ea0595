"""Errors as JSON, dates and status lines of HTTP/1.1 answers."""

from __future__ import annotations

import json
import random
from email.utils import parsedate_to_datetime
from time import time

import pytest

from tfsrv.frontends._http1_answer import date_line, error_body, status_line


@pytest.mark.parametrize(
    "text", ["", "plain", 'a "quote" and a \\', "\0\x01\b\f\n\r\t\x1f\x7f", "é€😀/"]
)
def test_tells_any_text_as_json(text: str) -> None:
    for pretty in (False, True):
        assert json.loads(error_body(text.encode(), pretty)) == {"error": text}


def test_has_the_layout_that_is_asked_for() -> None:
    assert error_body(b"a\x01") == b'{"error":"a\\u0001"}'
    assert error_body(b"a", True) == b'{\n    "error": "a"\n}'


@pytest.mark.parametrize(
    "bad",
    [
        b"\x80",
        b"\xc3",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xff",
        b"\xf0\x9f\x98",
    ],
)
def test_replaces_what_is_no_utf8(bad: bytes) -> None:
    text = json.loads(error_body(b"a" + bad + b"b"))["error"]
    assert text == "a" + "\ufffd" * len(bad) + "b"


@pytest.mark.parametrize("character", ["x", "\x01", "é", "€", "𝄞", '"'])
@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_tells_the_begin_of_long_texts(character: str, before: str) -> None:
    whole = before + character * 16384
    told = json.loads(error_body(whole.encode()[:16384]))["error"]
    assert whole.startswith(told.rstrip("\ufffd"))
    shortened = json.loads(error_body((whole + "y").encode()))["error"]
    assert shortened.endswith("...")
    assert "\ufffd" not in shortened
    assert whole.startswith(shortened[:-3])
    assert 16380 < len(shortened[:-3].encode()) <= 16384


def test_is_valid_whatever_the_text_is() -> None:
    chance = random.Random(3)
    for _ in range(3000):
        text = chance.randbytes(chance.randrange(40))
        expected = text.decode("utf-8", "replace").replace("\ufffd", "")
        assert json.loads(error_body(text))["error"].replace("\ufffd", "") == expected


def test_tells_the_date() -> None:
    line = date_line().decode()
    assert line.startswith("Date: ")
    assert line.endswith(" GMT\r\n")
    assert abs(parsedate_to_datetime(line[6:-2]).timestamp() - time()) < 5


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (499, b"HTTP/1.1 499 Client Closed Request\r\n"),
        (504, b"HTTP/1.1 504 Gateway Timeout\r\n"),
        (599, b"HTTP/1.1 599 \r\n"),
    ],
)
def test_knows_the_reasons(status: int, line: bytes) -> None:
    assert status_line(status) == line
