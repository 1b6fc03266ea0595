"""Requests from numpy arrays, and numpy arrays from answers.

    request = predict_request("half_plus_two", {"x": numpy.float32([1, 2])})
    array(response.outputs["y"])

numpy knows no bfloat16 and no quantized types: tensor() takes their name, and an array of the
integers that stand for them on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy
from numpy.typing import NDArray

from tfsrv._proto import message_class

PredictRequest: Any = message_class("tensorflow.serving.PredictRequest")
PredictResponse: Any = message_class("tensorflow.serving.PredictResponse")
GetModelStatusRequest: Any = message_class("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse: Any = message_class("tensorflow.serving.GetModelStatusResponse")
TensorProto: Any = message_class("tensorflow.TensorProto")

Array = NDArray[Any]

# name in tests/models.py: number in types.proto, field of the values, numpy's type of the bits
DTYPES: dict[str, tuple[int, str, str]] = {
    "float": (1, "float_val", "float32"),
    "double": (2, "double_val", "float64"),
    "int32": (3, "int_val", "int32"),
    "uint8": (4, "int_val", "uint8"),
    "int16": (5, "int_val", "int16"),
    "int8": (6, "int_val", "int8"),
    "string": (7, "string_val", "object"),
    "complex64": (8, "scomplex_val", "complex64"),
    "int64": (9, "int64_val", "int64"),
    "bool": (10, "bool_val", "bool"),
    "qint8": (11, "int_val", "int8"),
    "quint8": (12, "int_val", "uint8"),
    "qint32": (13, "int_val", "int32"),
    "bfloat16": (14, "half_val", "uint16"),
    "qint16": (15, "int_val", "int16"),
    "quint16": (16, "int_val", "uint16"),
    "uint16": (17, "int_val", "uint16"),
    "complex128": (18, "dcomplex_val", "complex128"),
    "half": (19, "half_val", "uint16"),
    "uint32": (22, "uint32_val", "uint32"),
    "uint64": (23, "uint64_val", "uint64"),
}
BY_NUMBER = {number: (field, kind) for number, field, kind in DTYPES.values()}
BY_KIND = {"float16": "half", "float32": "float", "float64": "double", "object": "string"}


def tensor(values: Array, dtype: str = "", *, as_content: bool = False) -> Any:
    """`values` as a TensorProto, in typed fields or as content."""
    kind = str(values.dtype)
    number, field, bits = DTYPES[dtype or BY_KIND.get(kind, kind)]
    proto: Any = TensorProto(dtype=number)
    proto.tensor_shape.SetInParent()
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    if kind == "float16":
        values = values.view("uint16")
    assert values.dtype == bits
    if as_content:
        proto.tensor_content = content(values)
    else:
        getattr(proto, field).extend(parts(values).tolist())
    return proto


def content(values: Array) -> bytes:
    """What tensor_content holds: elements, or for strings all lengths and then all texts."""
    if values.dtype == object:
        texts = values.ravel().tolist()
        return b"".join(map(varint, map(len, texts))) + b"".join(texts)
    return values.tobytes()


def parts(values: Array) -> Array:
    """The elements one after the other, complex ones as two."""
    if values.dtype.kind == "c":
        return numpy.ascontiguousarray(values).reshape(-1).view(f"f{values.dtype.itemsize // 2}")
    return values.ravel()


def varint(value: int) -> bytes:
    """As protobuf writes whole numbers."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def array(proto: Any) -> Array:
    """What a TensorProto in an answer holds: as many values as its shape says, never fewer."""
    field, kind = BY_NUMBER[proto.dtype]
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_content:
        values = numpy.frombuffer(proto.tensor_content, dtype=kind)
    elif kind.startswith("complex"):
        values = numpy.array(getattr(proto, field), dtype=f"f{int(kind[7:]) // 16}").view(kind)
    else:
        values = numpy.array(list(getattr(proto, field)), dtype=kind)
    return values.reshape(shape)


def strings(*values: bytes | str) -> Array:
    return numpy.array([v.encode() if isinstance(v, str) else v for v in values], dtype=object)


def scalar(text: bytes) -> Array:
    """A string tensor of no dimensions."""
    values = numpy.empty((), dtype=object)
    values[()] = text
    return values


def predict_request(
    model: str,
    inputs: Mapping[str, Array | Any] | None = None,
    *,
    signature: str = "",
    version: int | None = None,
    label: str | None = None,
    output_filter: Iterable[str] = (),
) -> Any:
    """A PredictRequest; inputs are arrays, or TensorProtos already."""
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for alias, value in (inputs or {}).items():
        if isinstance(value, numpy.ndarray | numpy.generic):
            value = tensor(numpy.asarray(value))
        request.inputs[alias].CopyFrom(value)
    request.output_filter.extend(output_filter)
    return request


def floats(*values: float) -> Array:
    return numpy.array(values, dtype="float32")
