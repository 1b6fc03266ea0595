"""Whatever a caller may give for a tensor, as an array.

Arrays keep their type. Lists and scalars of Python get the types that TensorFlow's
tf.make_tensor_proto gives them (tensorflow/python/framework/tensor_util.py): float is float32, int
is int32 unless a value needs int64, complex is complex128, and str and bytes are strings.

    as_array([1.0, 2.0]).dtype              # float32
    as_array(numpy.array([1.0])).dtype      # float64
    as_array([1 << 40]).dtype               # int64
    as_array("a").dtype                     # object: a string, of shape ()
"""

from __future__ import annotations

import sys
from typing import Any

import numpy
from numpy.typing import NDArray


def as_array(value: object) -> NDArray[Any]:
    """The array of a value. TypeError or ValueError if there is none."""
    if type(value) is numpy.ndarray:
        return value
    if isinstance(value, (list, tuple, bool, int, float, complex, str, bytes)) and not isinstance(
        value, numpy.generic
    ):
        return _of_python(value)
    masked = sys.modules.get("numpy.ma")  # imported by numpy when somebody wants it
    if masked is not None and isinstance(value, masked.MaskedArray):
        raise TypeError("a TensorProto cannot carry a mask: call filled() on the array")
    array = numpy.asarray(value)
    if array.dtype.kind == "O" and not hasattr(value, "__array__"):
        raise TypeError(f"no array can be made of a {type(value).__name__}")
    return array


def _of_python(value: Any) -> NDArray[Any]:
    if isinstance(_first(value), (str, bytes)):
        return numpy.array(value, dtype=object)  # numpy's own strings lose zeros at their ends
    array = numpy.array(value)
    if array.dtype == numpy.float64:
        return array.astype(numpy.float32)
    if array.dtype == numpy.int64:
        smaller = array.astype(numpy.int32)
        return smaller if numpy.array_equal(smaller, array) else array
    if array.dtype.kind in "SU":
        raise TypeError("strings and numbers are mixed")
    return array


def _first(value: Any) -> Any:
    """The first element of nested lists, or nothing at all."""
    while isinstance(value, (list, tuple)):
        if not value:
            return None
        value = value[0]
    return value
