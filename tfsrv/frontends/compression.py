"""gzip of single messages, within limits. Runs in threads: zlib lets the GIL go."""

from __future__ import annotations

import zlib

from tfsrv._budget import give_in_flight_bytes, take_in_flight_bytes
from tfsrv.errors import Code, ServingError

_CHUNK_BYTES = 1 << 20  # unpacked at a time
_PIECE_BYTES = 1 << 16  # given to zlib at a time; it hands back a copy of what it has not taken
_TOO_LONG = "Received message larger than max"
_TOO_MANY_BYTES = "Too many bytes are in flight (--max_in_flight_bytes)."
_GZIP = 31  # zlib's wbits for a gzip header and the largest window


def inflate(data: bytes, limit: int) -> bytes:
    """The message that `data` holds. The caller gives its length back to the in-flight budget.

    Raises ServingError: INTERNAL if `data` is no gzip, RESOURCE_EXHAUSTED if the message is longer
    than `limit` or than what is left of the budget.
    """
    stream = zlib.decompressobj(_GZIP)
    parts: list[bytes] = []
    size = 0
    taken = 0
    piece = b""
    try:
        while not stream.eof:
            if not piece:
                piece = data[taken : taken + _PIECE_BYTES]
                taken += len(piece)
            part = stream.decompress(piece, _CHUNK_BYTES)
            piece = stream.unconsumed_tail
            if not part and taken == len(data) and not piece and not stream.eof:
                raise ServingError(Code.INTERNAL, "The compressed message is cut off.")
            if size + len(part) > limit:
                raise ServingError(Code.RESOURCE_EXHAUSTED, f"{_TOO_LONG} ({limit})")
            if not take_in_flight_bytes(len(part)):
                raise ServingError(Code.RESOURCE_EXHAUSTED, _TOO_MANY_BYTES)
            size += len(part)
            parts.append(part)
        if stream.unused_data or taken < len(data):
            raise ServingError(Code.INTERNAL, "The compressed message has bytes behind its end.")
        return b"".join(parts)
    except zlib.error as error:
        give_in_flight_bytes(size)
        raise ServingError(Code.INTERNAL, f"The message cannot be decompressed: {error}") from error
    except ServingError:
        give_in_flight_bytes(size)
        raise


def deflate(data: bytes) -> bytes:
    """`data` as gzip."""
    stream = zlib.compressobj(wbits=_GZIP)  # zlib.compress() knows wbits only since Python 3.11
    return stream.compress(data) + stream.flush()
