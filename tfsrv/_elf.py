"""The dynamic symbols of a shared library, read from its file: nothing of it is loaded or run.

Only what 64-bit little-endian Linux needs of the format (https://gabi.xinuos.com/, ELF-64).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_IDENTITY = b"\x7fELF\x02\x01"  # 64-bit, little-endian
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHT_DYNSYM = 11
_SHN_UNDEF = 0


@dataclass(frozen=True)
class Symbol:
    """A name that the library has for others, or that it wants of others."""

    name: bytes
    is_defined: bool


class NotElf(ValueError):
    """The file is no shared library of this kind, or is cut short."""


def dynamic_symbols(path: str, prefix: bytes) -> list[Symbol]:
    """The symbols of the library at `path` that begin with `prefix`. Raises NotElf, or OSError."""
    with open(path, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            raise NotElf(path) from None
        with data:
            try:
                return list(_symbols(data, prefix))
            except (struct.error, IndexError, OverflowError, ValueError):
                raise NotElf(path) from None


def _symbols(data: mmap.mmap, prefix: bytes) -> Iterator[Symbol]:
    if data[: len(_IDENTITY)] != _IDENTITY:
        raise ValueError("no ELF file of this kind")
    header = _HEADER.unpack_from(data)
    start, entry_size, count = header[5], header[10], header[11]
    sections = [_SECTION.unpack_from(data, start + i * entry_size) for i in range(count)]
    for _, kind, _, _, offset, size, link, *_ in sections:
        if kind != _SHT_DYNSYM:
            continue
        strings = data[sections[link][4] : sections[link][4] + sections[link][5]]
        # Tens of thousands of symbols: look for the few names first, then who has them. A name
        # may lie at the end of a longer one, where linkers put it to save room.
        wanted = set(_occurrences(strings, prefix))
        for name, _, _, where, _, _ in _SYMBOL.iter_unpack(data[offset : offset + size]):
            if name in wanted:
                end = strings.index(b"\0", name)
                yield Symbol(strings[name:end], where != _SHN_UNDEF)


def _occurrences(strings: bytes, prefix: bytes) -> Iterator[int]:
    at = strings.find(prefix)
    while at >= 0:
        yield at
        at = strings.find(prefix, at + 1)
