"""tf.Examples as Classify and Regress take them.

An example is a mapping of features to their values, or a serialized tensorflow.Example, or such a
message. It is sent as it is: the server tells of bytes that are none.

    {"age": 31, "name": "Ann", "scores": [0.5, 1.0]}

bool and int are int64_list, float is float_list, str and bytes are bytes_list; an empty list is a
feature without a kind. See tensorflow/core/example/feature.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy

from tfsrv.client.values import as_array


class Serializable(Protocol):
    """A protobuf message of whatever pool."""

    def SerializeToString(self) -> bytes: ...


Example = Mapping[str, object] | bytes | Serializable


def serialized(example: Example) -> bytes:
    """The bytes of a tensorflow.Example. TypeError or ValueError for values that it cannot have."""
    if isinstance(example, bytes):
        return example
    if not isinstance(example, Mapping):
        if not hasattr(example, "SerializeToString"):
            raise TypeError(f"an example is a mapping or bytes, not a {type(example).__name__}")
        return example.SerializeToString()
    from tfsrv._proto import message_class

    message: Any = message_class("tensorflow.Example")()
    for name, values in example.items():
        try:
            _set(message.features.feature[name], values)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"feature {name!r}: {error}") from None
    serialized_message: bytes = message.SerializeToString(deterministic=True)
    return serialized_message


def _set(feature: Any, values: object) -> None:
    array = as_array(values).reshape(-1)
    kind = array.dtype.kind
    if not array.size and isinstance(values, (list, tuple)):
        return
    if kind in "OSUT":
        feature.bytes_list.value.extend(map(_text, array.tolist()))
    elif kind in "bui":
        feature.int64_list.value.extend(array.astype(numpy.int64).tolist())
    elif kind == "f" or array.dtype.type.__module__ == "ml_dtypes":
        feature.float_list.value.extend(array.astype(numpy.float32).tolist())
    else:
        raise TypeError(f"an example has no values of {array.dtype}")


def _text(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError(f"an element is no string but a {type(value).__name__}")


def input_of(examples: Iterable[Example], context: Example | None) -> bytes:
    """A serialized tensorflow.serving.Input: the examples, and what is common to all of them.

    TypeError or ValueError for what cannot be sent.
    """
    if isinstance(examples, (Mapping, str, bytes)) or hasattr(examples, "SerializeToString"):
        raise TypeError("examples are several: give a list, of one example too")
    content = b"".join(block(1, serialized(example)) for example in examples)
    if context is None:
        return block(1, content)  # example_list
    return block(2, content + block(2, serialized(context)))  # example_list_with_context


def block(field: int, content: bytes) -> bytes:
    """A field of protobuf's wire format whose content has a length."""
    return bytes((field << 3 | 2,)) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    pieces = bytearray()
    while value >= 0x80:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    pieces.append(value)
    return bytes(pieces)
