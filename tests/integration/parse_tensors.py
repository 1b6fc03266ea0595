"""Let TensorFlow itself parse TensorProtos: run by test_tensor.py in a process of its own.

Standard input: pairs of a 4-byte length and a serialized TensorProto. Standard output, for each:
a 4-byte length and the tensor's memory, or -1 if TensorFlow refuses it. Strings are written as
TensorFlow's own list of strings (tensor_content).
"""

from __future__ import annotations

import os
import struct
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow.core.framework import tensor_pb2


def parse(serialized: bytes) -> bytes | None:
    proto = tensor_pb2.TensorProto.FromString(serialized)
    try:
        dtype = tf.as_dtype(proto.dtype)
        parsed = tf.io.parse_tensor(serialized, dtype)
    except (tf.errors.InvalidArgumentError, TypeError):
        return None
    if dtype == tf.string:
        flat = tf.reshape(parsed, [-1]).numpy()
        return bytes(tensor_pb2.TensorProto(string_val=list(flat)).SerializeToString())
    return bytes(parsed.numpy().tobytes())


def main() -> None:
    data = sys.stdin.buffer.read()
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from("<i", data, at)
        result = parse(data[at + 4 : at + 4 + size])
        at += 4 + size
        sys.stdout.buffer.write(struct.pack("<i", -1 if result is None else len(result)))
        sys.stdout.buffer.write(result or b"")


if __name__ == "__main__":
    main()
