r"""The platform "lookup_table": a version is a directory with a table.tsv, keys in and values out.

    key:string	value:float
    cat	4
    spider	8

The first line names the types: keys are `string` or `int64`, values `string`, `int64`, `float`
or `double`. Each line after it is a key, a tab and a value; a key stands in one line. Strings are
any bytes, `\t`, `\n`, `\r` and `\\` in them stand for what cannot stand there itself. Empty lines
are none, and lines may end as on Windows.

A request asks for any number of `keys`, and may have a `default`, one for all or one for each
key. The answer has `values` and `found`, both in the shape of `keys`. The value of a key that is
not there is the default, or else 0 or the empty string.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfsrv._proto import message_class
from tfsrv.config import ServerOptions
from tfsrv.core.failure import as_serving_error
from tfsrv.core.loader import Loader
from tfsrv.core.platform import Platform
from tfsrv.core.resources import RAM, ResourceAllocation
from tfsrv.core.servable import ServableData
from tfsrv.core.source import SourceAdapter
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.servables.version_files import VersionFiles, settle_seconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE_NAME = "table.tsv"
MAX_LINE_BYTES = 1 << 20  # a longer line is a file of another kind
SLICE = 4096  # keys that are looked up without letting others have the GIL
SAMPLE_BYTES = 65536  # of the file that are looked at to tell how many lines it has
ENTRY_BYTES = 150  # of memory for a key and its value, beyond their texts

Key = bytes | int
Value = bytes | int | float


@dataclass(frozen=True)
class Kind:
    """A type that a table knows."""

    name: str
    data_type: int  # in tensorflow/core/framework/types.proto
    numpy_type: str
    parse: Callable[[bytes], Any]  # raises ValueError
    nothing: Value


_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"\\": b"\\"}
_NUMBER = re.compile(rb"[-+]?[0-9.]+([eE][-+]?[0-9]+)?|[-+]?(inf|nan)")
_INTEGER = re.compile(rb"[-+]?[0-9]+")


def _string(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    try:
        return _ESCAPE.sub(lambda found: _ESCAPED[found[1]], text)
    except KeyError as error:
        raise ValueError(f"\\{error.args[0].decode(errors='replace')} has no meaning") from None


def _int64(text: bytes) -> int:
    number = int(text) if _INTEGER.fullmatch(text) and len(text) < 32 else None
    if number is None or not -(2**63) <= number < 2**63:
        raise ValueError(f"{_shown(text)} is no int64")
    return number


def _double(text: bytes) -> float:
    return _number(text, "double", math.inf)


def _float(text: bytes) -> float:
    return _number(text, "float", 2.0**128 - 2.0**103)  # what is rounded to the largest is below


def _number(text: bytes, kind: str, limit: float) -> float:
    try:
        number = float(text) if _NUMBER.fullmatch(text) else None
    except ValueError:
        number = None
    if number is None:
        raise ValueError(f"{_shown(text)} is no number")
    if abs(number) >= limit and not text.endswith(b"inf"):
        raise ValueError(f"{_shown(text)} is too large for a {kind}")
    return number


def _shown(text: bytes) -> str:
    return repr(text[:40].decode(errors="replace"))


STRING = Kind("string", 7, "object", _string, b"")
INT64 = Kind("int64", 9, "int64", _int64, 0)
KEY_KINDS = {kind.name: kind for kind in (STRING, INT64)}
VALUE_KINDS = KEY_KINDS | {
    "float": Kind("float", 1, "float32", _float, 0.0),
    "double": Kind("double", 2, "float64", _double, 0.0),
}


class LookupTable:
    """A table as a servable."""

    def __init__(self, key_kind: Kind, value_kind: Kind, values: dict[Key, Value]) -> None:
        self.key_kind = key_kind
        self._value_kind = value_kind
        self._values = values
        self.signature_defs = {"serving_default": _signature_def(key_kind, value_kind)}

    def __len__(self) -> int:
        return len(self._values)

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, NDArray[Any]],
        output_filter: Sequence[str],
    ) -> dict[str, NDArray[Any]]:
        """Values by keys. ServingError INVALID_ARGUMENT for what does not fit the table."""
        import numpy  # takes a while, and not every server has a table

        keys, default = self._checked(inputs)
        flat = keys.reshape(-1)
        values = numpy.empty(flat.size, self._value_kind.numpy_type)
        found = numpy.empty(flat.size, bool)
        if default is None:
            default = numpy.array(self._value_kind.nothing, self._value_kind.numpy_type)
        defaults = numpy.broadcast_to(default, keys.shape).reshape(-1)
        table = self._values
        for begin in range(0, flat.size, SLICE):
            part = slice(begin, begin + SLICE)
            wanted: list[Key] = flat[part].tolist()
            found[part] = [key in table for key in wanted]
            values[part] = [
                table.get(key, other)
                for key, other in zip(wanted, defaults[part].tolist(), strict=True)
            ]
        return {"values": values.reshape(keys.shape), "found": found.reshape(keys.shape)}

    def close(self) -> None:
        """Free the table, in steps that keep the GIL from nobody for long."""
        while self._values:
            self._values.popitem()

    def _checked(
        self, inputs: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The keys, and the default if there is one, of the right types and fitting shapes."""
        unknown = sorted(inputs.keys() - {"keys", "default"})
        if unknown or "keys" not in inputs:
            raise _invalid(
                'A lookup table takes "keys" and may take "default", but the request has '
                + (", ".join(f'"{name}"' for name in sorted(inputs)) or "no inputs")
            )
        keys, default = inputs["keys"], inputs.get("default")
        _check_type("keys", keys, self.key_kind)
        if default is not None:
            _check_type("default", default, self._value_kind)
            if default.shape not in (keys.shape, (), (1,)):
                raise _invalid(
                    f'"default" has shape {list(default.shape)}: it may have one element, or the'
                    f' shape of "keys", {list(keys.shape)}'
                )
            if default.shape != keys.shape:
                default = default.reshape(())
        return keys, default


def _check_type(alias: str, array: NDArray[Any], kind: Kind) -> None:
    if array.dtype != kind.numpy_type:
        given = "string" if array.dtype == object else array.dtype
        raise _invalid(f'"{alias}" is of type {given}, but the table has {kind.name} there')


def _invalid(text: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, text)


def _signature_def(key_kind: Kind, value_kind: Kind) -> Any:
    signature: Any = message_class("tensorflow.SignatureDef")()
    signature.method_name = "tensorflow/serving/predict"
    _describe(signature.inputs["keys"], "keys", key_kind.data_type)
    _describe(signature.outputs["values"], "values", value_kind.data_type)
    _describe(signature.outputs["found"], "found", 10)  # DT_BOOL
    return signature


def _describe(info: Any, name: str, data_type: int) -> None:
    info.name = f"{name}:0"
    info.dtype = data_type
    info.tensor_shape.dim.add(size=-1)


def read_table(path: str) -> LookupTable:
    """Read a table.tsv. ServingError INVALID_ARGUMENT names the file and the line that is wrong."""
    values: dict[Key, Value] = {}
    number = 0
    try:
        with open(path, "rb") as file:
            number = 1
            key_kind, value_kind = _kinds(file.readline(MAX_LINE_BYTES))
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if (text := _without_end(line)) != b"":
                    _add_line(values, text, key_kind, value_kind)
    except ValueError as error:
        raise _invalid(f"{path}:{number}: {error}") from None
    except OSError as error:
        raise as_serving_error(error) from None
    return LookupTable(key_kind, value_kind, values)


def _without_end(line: bytes) -> bytes:
    if len(line) >= MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    return line.rstrip(b"\r\n")


def _kinds(line: bytes) -> tuple[Kind, Kind]:
    """The types that the first line names."""
    names = re.fullmatch(rb"key:(\w+)\tvalue:(\w+)", _without_end(line))
    if names is not None:
        key_kind = KEY_KINDS.get(names[1].decode())
        value_kind = VALUE_KINDS.get(names[2].decode())
        if key_kind is not None and value_kind is not None:
            return key_kind, value_kind
    raise ValueError(
        f"the first line is {_shown(line)}, but should be 'key:TYPE', a tab and 'value:TYPE', with"
        f" {' or '.join(KEY_KINDS)} for keys and {', '.join(VALUE_KINDS)} for values"
    )


def _add_line(values: dict[Key, Value], text: bytes, key_kind: Kind, value_kind: Kind) -> None:
    fields = text.split(b"\t")
    if len(fields) != 2:
        raise ValueError(f"a key, one tab and a value are expected, not {len(fields) - 1} tabs")
    key = key_kind.parse(fields[0])
    if key in values:
        raise ValueError(f"the key {_shown(fields[0])} is there a second time")
    values[key] = value_kind.parse(fields[1])


class LookupTableLoader(Loader):
    """A table.tsv as a servable."""

    def __init__(self, origin: StoragePath) -> None:
        self._origin = origin
        self._path = os.path.join(origin.path, FILE_NAME)
        self._table: LookupTable | None = None

    @property
    def origin(self) -> StoragePath:
        return self._origin

    def estimate_resources(self) -> ResourceAllocation:
        try:
            size = os.path.getsize(self._path)
            lines = _estimated_lines(self._path, size) if self._table is None else len(self._table)
        except OSError as error:
            raise as_serving_error(error) from None
        return {RAM: size + lines * ENTRY_BYTES}

    def load(self) -> None:
        self._table = read_table(self._path)

    def warm_up(self) -> None:
        """Imports what the first request would have to import."""
        import numpy

        table = self._table
        assert table is not None  # the order of calls
        table.predict("", {"keys": numpy.empty(0, table.key_kind.numpy_type)}, ())

    def servable(self) -> object:
        return self._table

    def unload(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            table.close()


def _estimated_lines(path: str, size: int) -> int:
    """From the length of the first ones."""
    with open(path, "rb") as file:
        sample = file.read(SAMPLE_BYTES)
    return size * sample.count(b"\n") // max(1, len(sample)) + 1


class LookupTableSourceAdapter(SourceAdapter[StoragePath, Loader]):
    """Makes loaders of paths."""

    def convert(self, version: ServableData[StoragePath]) -> Loader:
        return LookupTableLoader(version.data)


def lookup_table_platform(options: ServerOptions) -> Platform:
    """The platform, as a server with these options has it."""
    return Platform(LookupTableSourceAdapter(), VersionFiles((FILE_NAME,), settle_seconds(options)))
