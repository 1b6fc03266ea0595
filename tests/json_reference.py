"""The JSON that TensorFlow Serving reads, in plain Python: what native code is compared with.

RapidJSON 1.1.0's iterative reader with kParseNanAndInfFlag and kParseStopWhenDoneFlag, its errors
with their offsets. Numbers are rounded correctly, and lone low surrogates refused, as tfsrv does.
"""

from __future__ import annotations

import re
from typing import Any

ESCAPES = {
    b'"': '"',
    b"\\": "\\",
    b"/": "/",
    b"b": "\b",
    b"f": "\f",
    b"n": "\n",
    b"r": "\r",
    b"t": "\t",
}
DIGITS = re.compile(rb"[0-9]*")
SPACES = re.compile(rb"[ \n\r\t]*")
PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
HEX = re.compile(rb"[0-9a-fA-F]{4}")


class Refused(Exception):
    """The text of an error and its offset."""

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(f"JSON Parse error: {text} at offset: {offset}")


class Reader:
    """Reads one value: objects are tuples of pairs, lists are lists, strings are bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        for byte in b"\xef\xbb\xbf":
            if data[self.at : self.at + 1] == bytes([byte]):
                self.at += 1

    def peek(self) -> bytes:
        byte = self.data[self.at : self.at + 1]
        return b"" if byte == b"\0" else byte

    def spaces(self) -> None:
        match = SPACES.match(self.data, self.at)
        assert match
        self.at = match.end()

    def refuse(self, text: str, at: int | None = None) -> Refused:
        return Refused(text, self.at if at is None else at)

    def read(self) -> Any:
        if not self.data:
            raise Refused("", -1)
        self.spaces()
        if self.peek() in (b"", b"]", b"}", b",", b":"):
            raise self.refuse("The document is empty.")
        return self.value()

    def value(self) -> Any:
        """A value whose first byte is here. It nests as deep as Python lets it."""
        byte = self.peek()
        if byte == b"[":
            return self.array()
        if byte == b"{":
            return self.object()
        if byte == b'"':
            return self.string()
        for word, value in ((b"true", True), (b"false", False), (b"null", None)):
            if byte == word[:1]:
                self.word(word)
                return value
        if byte in (b"", b"]", b"}", b",", b":"):
            raise self.refuse("Invalid value.")
        return self.number()

    def word(self, word: bytes) -> None:
        for byte in word:
            if self.data[self.at : self.at + 1] != bytes([byte]):
                raise self.refuse("Invalid value.")
            self.at += 1

    def array(self) -> list[Any]:
        self.at += 1
        items: list[Any] = []
        self.spaces()
        if self.peek() == b"]":
            self.at += 1
            return items
        while True:
            items.append(self.value())
            self.spaces()
            if self.peek() == b"]":
                self.at += 1
                return items
            if self.peek() != b",":
                raise self.refuse("Missing a comma or ']' after an array element.")
            self.at += 1
            self.spaces()

    def object(self) -> tuple[Any, ...]:
        self.at += 1
        members: list[tuple[bytes, Any]] = []
        self.spaces()
        if self.peek() == b"}":
            self.at += 1
            return ()
        while True:
            if self.peek() != b'"':
                raise self.refuse("Missing a name for object member.")
            name = self.string()
            self.spaces()
            if self.peek() != b":":
                raise self.refuse("Missing a colon after a name of object member.")
            self.at += 1
            self.spaces()
            members.append((name, self.value()))
            self.spaces()
            if self.peek() == b"}":
                self.at += 1
                return tuple(members)
            if self.peek() != b",":
                raise self.refuse("Missing a comma or '}' after an object member.")
            self.at += 1
            self.spaces()

    def string(self) -> bytes:
        self.at += 1
        found = b""
        while True:
            match = PLAIN.match(self.data, self.at)
            assert match
            found += match[0]
            self.at = match.end()
            byte = self.peek()
            if byte == b'"':
                self.at += 1
                return found
            if byte == b"":
                raise self.refuse("Missing a closing quotation mark in string.")
            if byte != b"\\":
                raise self.refuse("Invalid escape character in string.")
            found += self.escape().encode()

    def escape(self) -> str:
        start = self.at
        letter = self.data[start + 1 : start + 2]
        self.at += 2
        if letter in ESCAPES:
            return ESCAPES[letter]
        if letter != b"u":
            raise self.refuse("Invalid escape character in string.", start)
        code = self.hex(start)
        if 0xD800 <= code <= 0xDFFF:
            if code > 0xDBFF or self.data[self.at : self.at + 2] != b"\\u":
                raise self.refuse("The surrogate pair in string is invalid.", start)
            self.at += 2
            low = self.hex(start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise self.refuse("The surrogate pair in string is invalid.", start)
            code = ((code - 0xD800) << 10 | (low - 0xDC00)) + 0x10000
        return chr(code)

    def hex(self, start: int) -> int:
        match = HEX.match(self.data, self.at)
        if match is None:
            raise self.refuse("Incorrect hex digit after \\u escape in string.", start)
        self.at += 4
        return int(match[0], 16)

    def digits(self) -> bytes:
        match = DIGITS.match(self.data, self.at)
        assert match
        self.at = match.end()
        return match[0]

    def number(self) -> int | float:
        start = self.at
        if self.peek() == b"-":
            self.at += 1
        if self.peek() == b"0":
            self.at += 1
        elif not self.digits():
            return self.special(start)
        is_integer = True
        if self.peek() == b".":
            is_integer = False
            self.at += 1
            if not self.digits():
                raise self.refuse("Miss fraction part in number.")
        if self.peek() in (b"e", b"E"):
            is_integer = False
            self.at += 1
            if self.peek() in (b"+", b"-"):
                self.at += 1
            if not self.digits():
                raise self.refuse("Miss exponent in number.")
        return self.finite(self.data[start : self.at], start, is_integer=is_integer)

    def finite(self, text: bytes, start: int, *, is_integer: bool) -> int | float:
        if is_integer and len(text) < 22 and -(2**63) <= int(text) < 2**64:
            return int(text)
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise self.refuse("Number too big to be stored in double.", start)
        return value

    def special(self, start: int) -> float:
        if self.peek() == b"N":
            self.word(b"NaN")
            return float("nan")
        if self.peek() != b"I":
            raise self.refuse("Invalid value.")
        self.word(b"Inf")
        if self.peek() == b"i":
            self.word(b"inity")
        return float("-inf") if self.data[start : start + 1] == b"-" else float("inf")


def read(data: bytes) -> Any:
    """The value of a body. Refused if it is none, or nests too deep for Python."""
    return Reader(data).read()
