"""JSON as protobuf prints it, which TensorFlow Serving answers GET with, and messages as JSON.

Protobuf's JSON: https://protobuf.dev/programming-guides/json. Names stay as in the .proto,
default values are printed, 64-bit integers are strings. `?pretty` gives the layout of its C++
library: one space for each level, `<` and `>` escaped, and a line feed at the end.

Encoding a long value in one step would hold the GIL all the while: `text_of` with `long` takes
many small ones, for threads.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor as Field

from tfsrv.frontends.http_messages import HttpResponse

if TYPE_CHECKING:
    from google.protobuf.message import Message

_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_PRETTY = json.JSONEncoder(ensure_ascii=False, indent=1)
_INT64 = {Field.CPPTYPE_INT64, Field.CPPTYPE_UINT64}
_MAX_WHOLE = 2**53  # whole numbers below it are printed without a point
_FLOAT_DIGITS = range(6, 10)  # of which nine always tell a float from any other


def text_of(value: object, *, pretty: bool, long: bool = False) -> str:
    """`value` as JSON, without the line feed at the end."""
    encoder = _PRETTY if pretty else _COMPACT
    text = "".join(encoder.iterencode(value)) if long else encoder.encode(value)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def protobuf_response(value: object, *, pretty: bool, long: bool = False) -> HttpResponse:
    """An answer in protobuf's layout."""
    text = text_of(value, pretty=pretty, long=long) + ("\n" if pretty else "")
    return HttpResponse(body=text.encode("utf-8", "replace"))


def value_of(message: Message) -> dict[str, object]:
    """What JSON prints of a message: the keys of maps in order, the fields as they are declared.

    For messages without protobuf's own types (Any, wrappers), which have a JSON of their own.
    """
    printed: dict[str, object] = {}
    fields: Any = message.DESCRIPTOR.fields  # of whichever implementation protobuf runs on
    for field in fields:
        value = getattr(message, field.name)
        if isinstance(value, Mapping):
            kind = field.message_type.fields_by_name["value"]
            printed[field.name] = {_key(key): _single(kind, value[key]) for key in sorted(value)}
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            printed[field.name] = [_single(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            printed[field.name] = _single(field, value)
    return printed


def _key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _single(field: Any, value: Any) -> object:
    if field.message_type is not None:
        return value_of(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return _number(value, is_float=field.cpp_type == Field.CPPTYPE_FLOAT)
    return str(value) if field.cpp_type in _INT64 else value


def _number(value: float, *, is_float: bool) -> float | str:
    """A number that JSON has, in its shortest form, or the word that stands for it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    is_negative_zero = value == 0 and math.copysign(1.0, value) < 0
    if value.is_integer() and abs(value) < _MAX_WHOLE and not is_negative_zero:
        return int(value)
    if is_float:
        single = struct.pack("f", value)
        for digits in _FLOAT_DIGITS:
            shortest = float(f"{value:.{digits}g}")
            if _packed(shortest) == single:
                return shortest
    return value


def _packed(value: float) -> bytes:
    try:
        return struct.pack("f", value)
    except OverflowError:  # the largest float, rounded up
        return b""
