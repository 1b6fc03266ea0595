"""JSON that is put together of pieces, so that a long one is not made in one breath.

json.dumps holds the GIL from its first byte to its last. Each value here is short, and joining the
pieces copies bytes only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable


def json_bytes(value: object) -> bytes:
    """`value` as compact JSON. What is no Unicode, as names of files may be, becomes "?"."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def json_array(pieces: Iterable[bytes]) -> bytes:
    """An array of values that are JSON already."""
    return b"[%b]" % b",".join(pieces)


def json_object(members: Iterable[tuple[str, bytes]]) -> bytes:
    """An object whose values are JSON already."""
    return b"{%b}" % b",".join(b"%b:%b" % (json_bytes(key), value) for key, value in members)
