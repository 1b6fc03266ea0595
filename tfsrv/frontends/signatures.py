"""The signatures of models as people and their tools read them: plain values, no protobuf."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from tfsrv._proto import pool
from tfsrv._servable import NativeServable
from tfsrv.errors import ServingError

if TYPE_CHECKING:
    from tfsrv._servable import ServableHandle

# Of TensorFlow's cc/saved_model/signature_constants.h.
DEFAULT_SIGNATURE = "serving_default"
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

_INTERNAL = "__saved_model_"  # signatures that TensorFlow keeps for itself

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class TensorSpec:
    """An input or an output.

    `dtype` is TensorFlow's short name, such as "float" or "int64". A dimension that is open is
    None, and so is a shape whose rank is.
    """

    dtype: str
    shape: Shape | None


@dataclass(frozen=True)
class Signature:
    """What a signature declares. `method` may be anything, or nothing."""

    method: str = ""
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)


Signatures = Mapping[str, Signature]


def read_signatures(signature_defs: Mapping[str, Any]) -> Signatures:
    """Those that can be asked for, the default one first and the others by name."""
    names = [name for name in signature_defs if not name.startswith(_INTERNAL)]
    names.sort(key=lambda name: (name != DEFAULT_SIGNATURE, name))
    return MappingProxyType({name: read_signature(signature_defs[name]) for name in names})


def read_signature(signature_def: Any) -> Signature:
    """What a SignatureDef says. Inputs and outputs are in the order of their names."""
    return Signature(
        signature_def.method_name,
        {alias: _spec(info) for alias, info in sorted(signature_def.inputs.items())},
        {alias: _spec(info) for alias, info in sorted(signature_def.outputs.items())},
    )


def _spec(info: Any) -> TensorSpec:
    shape = info.tensor_shape
    if info.WhichOneof("encoding") == "composite_tensor" or shape.unknown_rank:
        return TensorSpec(_dtype(info.dtype), None)
    sizes = tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)
    return TensorSpec(_dtype(info.dtype), sizes)


def _dtype(number: int) -> str:
    """DT_FLOAT is "float", as DataTypeString in framework/types.cc has it."""
    types = pool().FindEnumTypeByName("tensorflow.DataType").values_by_number
    if number not in types:
        return f"type {number}"
    name: str = types[number].name
    return name.removeprefix("DT_").lower()


class ServingMap(Protocol):
    """What is needed of `tfsrv._serving_map.ServingMap`."""

    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> ServableHandle: ...


class ServedSignatures:
    """The signatures of what is loaded. Any thread may call.

    Those of a SavedModel are read once and kept as long as its session. Those of a servable in
    Python are asked of it each time: that may take long, so that it belongs on no loop.
    """

    def __init__(self, serving_map: ServingMap) -> None:
        self._serving_map = serving_map
        self._kept: weakref.WeakKeyDictionary[NativeServable, Signatures] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, name: str, version: int) -> Signatures | None:
        """None if the version is not loaded, or does not say which signatures it has."""
        try:
            handle = self._serving_map.acquire(name, version)
        except ServingError:
            return None
        with handle:
            servable = handle.servable
            if not isinstance(servable, NativeServable):
                return _told_by(servable)
            kept = self._kept.get(servable)
            if kept is None:
                kept = self._kept[servable] = _told_by(servable) or MappingProxyType({})
            return kept


def _told_by(servable: object) -> Signatures | None:
    signature_defs: Mapping[str, Any] | None = getattr(servable, "signature_defs", None)
    return None if signature_defs is None else read_signatures(signature_defs)
