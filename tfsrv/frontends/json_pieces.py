"""JSON that is put together of pieces, so that a long one is not made in one breath.

json.dumps holds the GIL from its first byte to its last. Each value here is short, and pieces are
joined once, which copies bytes only.

    b"".join(object_pieces([("a", [b"1"]), ("b", [b"[", b"2", b"]"])]))    # {"a":1,"b":[2]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

MOST_CHARACTERS = 65536  # of a string, at a time: a tenth of a millisecond


def json_bytes(value: object) -> bytes:
    """`value` as compact JSON. What is no Unicode, as names of files may be, becomes "?"."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def json_string(text: str) -> bytes:
    """A string that may be long."""
    starts = range(0, len(text), MOST_CHARACTERS)
    pieces = (json_bytes(text[start : start + MOST_CHARACTERS])[1:-1] for start in starts)
    return b'"%b"' % b"".join(pieces)


def json_array(values: Iterable[bytes]) -> bytes:
    """An array of values that are JSON already."""
    return b"[%b]" % b",".join(values)


def json_object(members: Iterable[tuple[str, bytes]]) -> bytes:
    """An object whose values are JSON already."""
    return b"".join(object_pieces((key, (value,)) for key, value in members))


def object_pieces(members: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[bytes]:
    """The pieces of an object, whose values are in pieces, too."""
    before = b"{"
    for key, value in members:
        yield b"%b%b:" % (before, json_bytes(key))
        yield from value
        before = b","
    yield b"{}" if before == b"{" else b"}"
