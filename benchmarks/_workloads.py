"""What is asked of a server, and what is right as an answer.

Models, requests and answers are written once by make_models.py, in a process of its own because
it imports TensorFlow; this module only reads them. Answers are compared by a small reader of
protobuf's wire format written here, so that nothing of the server under test judges itself.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parent.parent
MAKER = Path(__file__).with_name("make_models.py")
MAKER_SOURCES = (
    MAKER,
    ROOT / "tests" / "models.py",
    ROOT / "tests" / "inference_models.py",
)
PREDICT = "/tensorflow.serving.PredictionService/Predict"
PREFIX_SIZE = 5  # bytes before each gRPC message: compressed or not, and the length

Fields: TypeAlias = Iterator[tuple[int, "int | bytes"]]


@dataclass(frozen=True)
class Workload:
    """One request to one model. `request` and `response` are messages without gRPC's prefix."""

    name: str
    model: str
    model_base_path: Path
    request: bytes
    response: bytes
    input_tensor: str
    output_tensor: str
    path: str = PREDICT  # of the RPC

    @property
    def body(self) -> bytes:
        """The request as it goes into DATA frames."""
        return framed(self.request)

    def is_right(self, answer: bytes) -> bool:
        """Whether `answer` says the same as the right response; how it is encoded is free."""
        if answer == self.response:
            return True
        if self.path != PREDICT:
            return False
        try:
            return meaning(answer) == meaning(self.response)
        except ValueError:
            return False


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def models_directory() -> Path:
    """The models for this TensorFlow, in the repository's build/; made if missing."""
    version = tensorflow_version()
    sources = b"".join(path.read_bytes() for path in MAKER_SOURCES)
    digest = hashlib.sha256(sources).hexdigest()[:12]
    directory = ROOT / "build" / "benchmarks" / f"{version}-{digest}"
    if directory.exists():
        return directory
    print(f"writing models to {directory}", file=sys.stderr)
    unfinished = directory.with_name(f"{directory.name}.{os.getpid()}")
    made = subprocess.run(
        [sys.executable, str(MAKER), str(unfinished)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise SystemExit(f"{MAKER.name} failed:\n{made.stderr[-2000:]}")
    unfinished.rename(directory)
    return directory


def tensorflow_version() -> str:
    """The installed TensorFlow, by its metadata: importing it takes seconds."""
    for package in ("tensorflow-cpu", "tensorflow"):
        try:
            return f"{package}-{importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    raise SystemExit("TensorFlow is not installed: pip install tensorflow-cpu")


def load_workload(name: str) -> Workload:
    directory = models_directory()
    requests = directory / "requests"
    names = json.loads((requests / f"{name}.json").read_text())
    return Workload(
        name=name,
        model=names["model"],
        model_base_path=directory / "models" / names["model"],
        request=(requests / f"{name}.request").read_bytes(),
        response=(requests / f"{name}.response").read_bytes(),
        input_tensor=names["input"],
        output_tensor=names["output"],
        path=names.get("path", PREDICT),
    )


def meaning(response: bytes) -> tuple[object, object]:
    """Outputs by alias, and the model spec, of a serialized PredictResponse."""
    outputs: dict[bytes, object] = {}
    spec: object = None
    for number, value in fields(response):
        if number == 1 and isinstance(value, bytes):  # a map entry of outputs
            entry = dict(fields(value))
            key, tensor = entry.get(1, b""), entry.get(2, b"")
            if not isinstance(key, bytes) or not isinstance(tensor, bytes):
                raise ValueError("an entry of outputs that is none")
            outputs[key] = tensor_meaning(tensor)
        elif number == 2 and isinstance(value, bytes):
            spec = sorted(fields(value), key=lambda field: field[0])
        else:
            raise ValueError(f"field {number} in a PredictResponse")
    return outputs, spec


def tensor_meaning(tensor: bytes) -> object:
    """Dtype, shape and values; floats are the same in tensor_content and in float_val."""
    dtype: object = None
    shape: list[object] = []
    content = b""
    strings: list[object] = []
    for number, value in fields(tensor):
        if number == 1:
            dtype = value
        elif number == 2 and isinstance(value, bytes):
            shape += [list(fields(dim)) for _, dim in fields(value) if isinstance(dim, bytes)]
        elif number in (4, 5) and isinstance(value, bytes):  # tensor_content, float_val
            content += value
        elif number == 8:
            strings.append(value)
        elif value:  # a version number of 0 is no news
            raise ValueError(f"field {number} in a TensorProto")
    return dtype, shape, content, strings


def fields(message: bytes) -> Fields:
    """Field number and value of everything in a message, on protobuf's wire format.

    Raises ValueError for what is not a message. Fixed-size values come as bytes.
    """
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        wire_type = tag & 7
        if wire_type == 0:
            value, position = read_varint(message, position)
            yield tag >> 3, value
            continue
        if wire_type == 2:
            size, position = read_varint(message, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + size > len(message):
            raise ValueError("cut off within a field")
        yield tag >> 3, message[position : position + size]
        position += size


def read_varint(message: bytes, position: int) -> tuple[int, int]:
    """A number of up to ten bytes, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("cut off within a number")
