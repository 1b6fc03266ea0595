"""Requests of every kind, at random, for models that compute each row by itself.

All numbers that are computed with are small and whole, so that sums are exact in whatever order
TensorFlow adds: answers can be compared bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from tests.conftest import ROOT
from tests.functional.messages import DTYPES, Array, predict_request, tensor

CONFORMANCE = ROOT / "tests" / "conformance" / "models"
MOST_ROWS = 7


@dataclass(frozen=True)
class Asked:
    """A signature: its inputs as (dtype, what rows may look like), and its outputs.

    ANY stands for tensors of any rank, None for a scalar.
    """

    model: str
    signature: str
    inputs: dict[str, tuple[str, Sequence[tuple[int, ...] | None]]]
    outputs: tuple[str, ...]


ANY: Sequence[tuple[int, ...] | None] = ((), (2,), (3,), (0,), (2, 1, 2), None)
VECTOR: Sequence[tuple[int, ...] | None] = ((),)

SIGNATURES = [
    Asked("half_plus_two", "serving_default", {"x": ("float", [(1,)])}, ("y",)),
    Asked("half_plus_two", "", {"x": ("float", [(1,)])}, ("y",)),
    Asked("half_plus_two", "flat", {"x": ("float", VECTOR)}, ("y",)),
    Asked("odd", "empty", {"x": ("float", VECTOR)}, ("e",)),
    Asked("odd", "twice", {"x": ("float", VECTOR)}, ("a", "b")),
    Asked("odd", "positive", {"x": ("int32", VECTOR)}, ("y",)),
    Asked("odd", "rowsum", {"x": ("float", [(3,), (1,), (5,)])}, ("s",)),
    Asked("odd", "mean", {"x": ("float", VECTOR)}, ("mean",)),
    Asked("odd", "scaled", {"scale": ("float", [None]), "x": ("float", [(3,)])}, ("y",)),
    Asked("multi", "only", {"ids": ("int32", [(2,)])}, ("ids",)),
    Asked(
        "multi",
        "serving_default",
        {"weight": ("float", VECTOR), "label": ("string", VECTOR), "ids": ("int32", [(2,)])},
        ("big", "upper", "raw_bytes", "ids_out", "total"),
    ),
    Asked("fails_for_negative", "", {"x": ("float", VECTOR)}, ("y",)),
    Asked("several_signatures", "rows", {"x": ("float", [(2,)])}, ("sum", "first")),
    Asked("lookup_table", "", {"word": ("string", VECTOR)}, ("id",)),
    Asked(
        "sum_and_product", "", {"a": ("float", VECTOR), "b": ("float", VECTOR)}, ("sum", "product")
    ),
    Asked("default_inputs", "", {"x": ("float", VECTOR)}, ("y",)),
    Asked("string_identity", "lengths", {"x": ("string", ANY)}, ("length",)),
    *(Asked("identity", dtype, {"x": (dtype, ANY)}, ("y",)) for dtype in DTYPES),
]


def model_paths(models: Path) -> dict[str, Path]:
    """Where the models are; `models` is the folder of tests/models.py's."""
    return {
        name: CONFORMANCE / name if (CONFORMANCE / name).exists() else models / name
        for name in {asked.model for asked in SIGNATURES}
    }


class Mixer:
    """Requests at random; the same again from the same seed.

    Not `ragged`: rows of one signature and rank all have the same shape.
    """

    def __init__(self, seed: int, *, ragged: bool = True) -> None:
        self._random = random.Random(seed)
        self._bits = numpy.random.default_rng(seed)
        self._ragged = ragged

    def requests(self, count: int) -> list[bytes]:
        return [self._request() for _ in range(count)]

    def _request(self) -> bytes:
        pick = self._random
        asked = pick.choice(SIGNATURES)
        rows = pick.choice([1, 1, 1, 1, 2, 3, MOST_ROWS, 0])
        inputs = {
            alias: self._tensor(dtype, rows, shapes)
            for alias, (dtype, shapes) in asked.inputs.items()
        }
        outputs = pick.sample(asked.outputs, pick.randint(0, len(asked.outputs)))
        request = predict_request(
            asked.model, inputs, signature=asked.signature, output_filter=outputs
        )
        if pick.random() < 0.08:
            self._spoil(request)
        message: bytes = request.SerializeToString()
        return message

    def _tensor(self, dtype: str, rows: int, shapes: Sequence[tuple[int, ...] | None]) -> Any:
        pick = self._random
        if not self._ragged:
            shapes = list({None if s is None else len(s): s for s in shapes}.values())
            shapes = [s for s in shapes if s != (0,)]
        shape = pick.choice(shapes)
        if pick.random() < 0.03:
            rows += 1  # other inputs have fewer
        values = self._values(dtype, () if shape is None else (rows, *shape))
        proto = tensor(values, dtype, as_content=pick.random() < 0.5)
        in_fields = not proto.tensor_content and not dtype.startswith("complex")
        if in_fields and values.size > 1 and pick.random() < 0.2:
            del getattr(proto, DTYPES[dtype][1])[1:]  # one value for all
        return proto

    def _values(self, dtype: str, shape: tuple[int, ...]) -> Array:
        pick = self._random
        kind = numpy.dtype(DTYPES[dtype][2])
        count = int(numpy.prod(shape))
        if dtype == "string":
            sizes = [0, 1, 5, 15, 16, 22, 23, 24, 300, 70_000 if pick.random() < 0.02 else 50]
            words = [b"two", b"zero", "ü☃".encode(), b"\0\xff"]
            texts = [
                pick.choice(words) if pick.random() < 0.4 else bytes([pick.randrange(256)]) * size
                for size in pick.choices(sizes, k=count)
            ]
            values = numpy.empty(count, object)
            values[:] = texts
            return values.reshape(shape)
        if dtype == "float":
            low = -20 if pick.random() < 0.15 else 1
            return self._bits.integers(low, 100, shape).astype("float32")
        if dtype == "int32":
            return self._bits.integers(-2 if pick.random() < 0.15 else 1, 1000, shape, "int32")
        if dtype == "bool":
            return self._bits.integers(0, 2, shape).astype("bool")
        # Whatever the bits mean: they only pass through.
        raw = self._bits.integers(0, 256, count * kind.itemsize, "uint8")
        return numpy.frombuffer(raw.tobytes(), kind).reshape(shape)

    def _spoil(self, request: Any) -> None:
        """Make it one that is, or may be, refused."""
        pick = self._random
        alias = pick.choice(sorted(request.inputs))
        proto = request.inputs[alias]
        kind = pick.randrange(8)
        if kind == 0:
            proto.dtype = pick.choice([1, 3, 7, 9])
        elif kind == 1:
            proto.tensor_content += b"?"
        elif kind == 2:
            proto.tensor_content = proto.tensor_content[:-1]
        elif kind == 3:
            proto.tensor_shape.dim.add(size=pick.choice([1, 2, -1, 2**40]))
        elif kind == 4:
            request.inputs["more"].CopyFrom(proto)
        elif kind == 5:
            del request.inputs[alias]
        elif kind == 6:
            request.output_filter.append(pick.choice(["none", *request.output_filter]))
        else:
            proto.float_val.extend([1.0] * 20)
