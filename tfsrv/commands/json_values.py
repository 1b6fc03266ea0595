"""Arrays as JSON, and JSON as arrays of a wanted type.

    [1, 2.5]                numbers
    ["text", {"b64": "AP8="}]   strings: text is sent as UTF-8, b64 stands for any bytes
    "1+2j"                  complex numbers
    NaN, Infinity           as Python's json writes them

What is printed can be sent again.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy
from numpy.typing import NDArray

from tfsrv.client.dtypes import DT_STRING, UnknownTypeError
from tfsrv.client.results import TensorInfo


def array_of(value: object, info: TensorInfo) -> NDArray[Any]:
    """A JSON value as the array that an input wants. ValueError says what does not fit."""
    try:
        dtype = info.numpy_dtype()
    except UnknownTypeError as error:
        raise ValueError(str(error)) from None
    shape = _shape(value)
    elements = list(_elements(value, shape))
    if info.data_type == DT_STRING:
        texts = numpy.empty(len(elements), object)
        texts[:] = [_text(element) for element in elements]
        return texts.reshape(shape)
    if dtype.kind == "c":
        elements = [_complex(element) for element in elements]
    for element in elements:
        _check_number(element, dtype, info.dtype)
    try:
        with numpy.errstate(over="raise"):
            return numpy.array(elements, dtype).reshape(shape)
    except (FloatingPointError, OverflowError):
        raise ValueError(f"a number is out of the bounds of {info.dtype}") from None


def _shape(value: object) -> tuple[int, ...]:
    """Of nested lists, as the first of each says."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _elements(value: Any, shape: tuple[int, ...]) -> Any:
    if not shape:
        if isinstance(value, list):
            raise ValueError("lists of different depths")
        yield value
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ValueError("lists of different lengths or depths")
    for each in value:
        yield from _elements(each, shape[1:])


def _text(element: object) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, dict) and list(element) == ["b64"]:
        try:
            return base64.b64decode(element["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError(f"not base64: {element['b64']}") from None
    raise ValueError(f"{_shown(element)} is no string, nor {{'b64': ...}}")


def _complex(element: object) -> object:
    if isinstance(element, str):
        try:
            return complex(element)
        except ValueError:
            pass
    return element


def _check_number(element: object, dtype: numpy.dtype[Any], name: str) -> None:
    """What numpy would change without a word is refused: 1.5 is no integer, 1 no boolean."""
    if dtype.kind == "b":
        fits = isinstance(element, bool)
    elif dtype.kind in "iu":
        fits = isinstance(element, int) and not isinstance(element, bool)
        limits = numpy.iinfo(dtype)
        if fits and not limits.min <= element <= limits.max:  # type: ignore[operator]
            raise ValueError(f"{_shown(element)} is out of the bounds of {name}")
    elif dtype.kind == "c":
        fits = isinstance(element, (int, float, complex)) and not isinstance(element, bool)
    else:
        fits = isinstance(element, (int, float)) and not isinstance(element, bool)
    if not fits:
        raise ValueError(f"{_shown(element)} is no {name}")


def _shown(element: object) -> str:
    text = repr(element)
    return text if len(text) <= 40 else f"{text[:37]}..."


def json_of(array: NDArray[Any]) -> object:
    """An array as nested lists, with the shortest numbers that stand for its elements."""
    flat = [_json_of_element(element) for element in array.reshape(-1)]
    if not array.ndim:
        return flat[0]
    return _nested(flat, array.shape)


def _nested(flat: list[object], shape: tuple[int, ...]) -> list[object]:
    if len(shape) == 1:
        return flat
    size = len(flat) // shape[0] if shape[0] else 0
    return [_nested(flat[row * size : (row + 1) * size], shape[1:]) for row in range(shape[0])]


def _json_of_element(element: Any) -> object:
    if isinstance(element, bytes):
        try:
            return element.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(element).decode()}
    if isinstance(element, (numpy.bool_, numpy.integer)):
        return element.item()
    if isinstance(element, numpy.complexfloating):
        return str(element).strip("()")
    return float(str(element))
