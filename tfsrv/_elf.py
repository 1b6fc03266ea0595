"""The dynamic symbols of a shared library, read from its file: nothing of it is loaded or run.

Only what 64-bit little-endian Linux needs of the format (https://gabi.xinuos.com/, ELF-64). The
file may be anything, and may change or shrink meanwhile: it is read in a few bounded pieces.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_IDENTITY = b"\x7fELF\x02\x01"  # 64-bit, little-endian
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHT_DYNSYM = 11
_SHN_UNDEF = 0

_MOST_BYTES = 1 << 28  # of a table; the names of libtensorflow_cc.so.2 are 82 MB
_MOST_FOUND = 10_000  # names and symbols that begin as was asked for
_LONGEST_NAME = 1 << 16  # bytes; those of templates may be long


@dataclass(frozen=True)
class Symbol:
    """A name that the library has for others, or that it wants of others."""

    name: bytes
    is_defined: bool


class NotElf(ValueError):
    """The file is no shared library of this kind, or is cut short."""


def dynamic_symbols(path: str, prefix: bytes) -> list[Symbol]:
    """The symbols of the library at `path` that begin with `prefix`; 10,000 at most.

    Raises NotElf, or OSError.
    """
    # A pipe would be waited for.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise NotElf(path)
        return list(_symbols(file, prefix))
    except (struct.error, IndexError, OverflowError, ValueError):
        raise NotElf(path) from None
    finally:
        os.close(file)


def _symbols(file: int, prefix: bytes) -> Iterator[Symbol]:
    symbols, strings = _dynamic_tables(file)
    # Tens of thousands of symbols: look for the few names first, then who has them. A name
    # may lie at the end of a longer one, where linkers put it to save room.
    wanted = set(_occurrences(strings, prefix))
    found = 0
    for name, _, _, where, _, _ in _SYMBOL.iter_unpack(symbols):
        if name in wanted:
            found += 1
            if found > _MOST_FOUND:
                raise ValueError("too many symbols")
            end = strings.index(b"\0", name, name + _LONGEST_NAME)
            yield Symbol(strings[name:end], where != _SHN_UNDEF)


def _dynamic_tables(file: int) -> tuple[bytes, bytes]:
    """The table of dynamic symbols, and that of their names; a library has one of each, or none."""
    header = _read(file, 0, _HEADER.size)
    if header[: len(_IDENTITY)] != _IDENTITY:
        raise ValueError("no ELF file of this kind")
    fields = _HEADER.unpack(header)
    start, entry_size, count = fields[5], fields[10], fields[11]
    if entry_size != _SECTION.size:
        raise ValueError("no section headers of this kind")
    sections = list(_SECTION.iter_unpack(_read(file, start, count * entry_size)))
    for _, kind, _, _, offset, size, link, *_ in sections:
        if kind == _SHT_DYNSYM:
            strings = sections[link]
            return _read(file, offset, size), _read(file, strings[4], strings[5])
    return b"", b""


def _read(file: int, offset: int, size: int) -> bytes:
    """So many bytes of the file. ValueError if that is too much, or if they are not there."""
    if size > _MOST_BYTES or offset + size > os.fstat(file).st_size:
        raise ValueError("no table of this size")
    parts = []
    while size:
        part = os.pread(file, size, offset)
        if not part:
            raise ValueError("the file was cut short")
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def _occurrences(strings: bytes, prefix: bytes) -> Iterator[int]:
    found = 0
    at = strings.find(prefix)
    while at >= 0:
        found += 1
        if found > _MOST_FOUND:
            raise ValueError("too many names")
        yield at
        at = strings.find(prefix, at + 1)
