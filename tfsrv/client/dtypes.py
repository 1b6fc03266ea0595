"""numpy's types and TensorFlow's: which stands for which.

The numbers are those of tensorflow/core/framework/types.proto. bfloat16 and the floats of 8 bits
are the package ml_dtypes', if it is installed. The quantized types are read as the integers that
they hold.
"""

from __future__ import annotations

from typing import Any

import numpy

DT_STRING = 7

NAMES: dict[int, str] = {
    1: "float", 2: "double", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string",
    8: "complex64", 9: "int64", 10: "bool", 11: "qint8", 12: "quint8", 13: "qint32",
    14: "bfloat16", 15: "qint16", 16: "quint16", 17: "uint16", 18: "complex128", 19: "half",
    20: "resource", 21: "variant", 22: "uint32", 23: "uint64", 24: "float8_e5m2",
    25: "float8_e4m3fn", 26: "float8_e4m3fnuz", 27: "float8_e4m3b11fnuz", 28: "float8_e5m2fnuz",
}  # fmt: skip
"""What TensorFlow calls its types, by number: DT_FLOAT is "float"."""

_CODES = {
    1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", DT_STRING: "O", 8: "c8", 9: "i8",
    10: "?", 11: "i1", 12: "u1", 13: "i4", 15: "i2", 16: "u2", 17: "u2", 18: "c16", 19: "f2",
    22: "u4", 23: "u8",
}  # fmt: skip
_OF_ML_DTYPES = (14, 24, 25, 26, 27, 28)
_STRING_KINDS = "OSUT"
_NUMBERS_BY_NAME = {NAMES[number]: number for number in _OF_ML_DTYPES}
_NUMBERS_BY_KIND = {
    (numpy.dtype(code).kind, numpy.dtype(code).itemsize): number
    for number, code in _CODES.items()
    if not NAMES[number].startswith("q")
}


class UnknownTypeError(TypeError):
    """There is no such type on the other side."""


def data_type(dtype: numpy.dtype[Any]) -> int:
    """The DataType that an array of `dtype` is sent as. UnknownTypeError if there is none."""
    if dtype.kind in _STRING_KINDS:
        return DT_STRING
    if dtype.type.__module__ == "ml_dtypes":
        number = _NUMBERS_BY_NAME.get(dtype.name)
    else:
        number = _NUMBERS_BY_KIND.get((dtype.kind, dtype.itemsize))
    if number is None:
        raise UnknownTypeError(f"a TensorProto cannot carry {dtype}")
    return number


def numpy_type(data_type: int) -> numpy.dtype[Any]:
    """The type of the array that a DataType is read as. UnknownTypeError if there is none."""
    code = _CODES.get(data_type)
    if code is not None:
        return numpy.dtype(code)
    name = NAMES.get(data_type, f"data type {data_type}")
    if data_type not in _OF_ML_DTYPES:
        raise UnknownTypeError(f"numpy has no type for {name}")
    try:
        import ml_dtypes  # wanted only where such a tensor comes
    except ImportError:
        raise UnknownTypeError(f"numpy has no type for {name}: install ml_dtypes") from None
    dtype: numpy.dtype[Any] = numpy.dtype(getattr(ml_dtypes, name))
    return dtype
