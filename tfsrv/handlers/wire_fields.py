"""The fields of a serialized message as they stand there, for tensors that Python must not decode.

A message with a tensor of megabytes is taken apart and put together again in a few steps: only
what stands at the top of it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}


class Malformed(ValueError):
    """The bytes are no message, or have more fields than there may be."""


@dataclass(frozen=True)
class Field:
    """One occurrence of a field."""

    number: int
    wire_type: int
    whole: memoryview  # with its tag
    value: memoryview  # without tag and length


def fields(message: memoryview, max_fields: int) -> Iterator[Field]:
    """The fields of a message in the order of their bytes. Raises Malformed."""
    at = 0
    for _ in range(max_fields):
        if at == len(message):
            return
        begin = at
        tag, at = _varint(message, at)
        wire_type = tag & 7
        value = at
        if wire_type == VARINT:
            _, at = _varint(message, at)
        elif wire_type == LENGTH_DELIMITED:
            size, value = _varint(message, at)
            at = value + size
        elif wire_type in _FIXED_BYTES:
            at += _FIXED_BYTES[wire_type]
        else:
            raise Malformed(f"wire type {wire_type}")
        if at > len(message) or tag >> 3 == 0:
            raise Malformed("cut off")
        yield Field(tag >> 3, wire_type, message[begin:at], message[value:at])
    if at != len(message):
        raise Malformed(f"more than {max_fields} fields")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where the next thing stands."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise Malformed("cut off")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise Malformed("a number of more than ten bytes")


def bytes_field(number: int, *parts: bytes | memoryview) -> list[bytes | memoryview]:
    """A field of bytes, a string or a message, to be joined; `parts` follow each other in it."""
    size = sum(map(len, parts))
    prefix = bytearray([number << 3 | LENGTH_DELIMITED])
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return [bytes(prefix), *parts]
