"""A request to paste into a shell: the shortest way to see that a model answers."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from tfsrv._proto import pool

DEFAULT_SIGNATURE = "serving_default"  # saved_model/signature_constants.h
MOST_ELEMENTS = 32  # of all inputs, that are written out
MOST_DIMS = 16  # beyond what anybody writes, lists are no help

_INTERNAL = "__saved_model_"  # signatures that TensorFlow keeps for itself
_STRING, _BOOL = "DT_STRING", "DT_BOOL"
_FLOATS = ("DT_FLOAT", "DT_DOUBLE", "DT_HALF", "DT_BFLOAT16")


def command(address: str, model: str, signature_defs: Mapping[str, Any]) -> str | None:
    """A shell command that asks `model` at `address`; None if it has no signature to ask for.

    Dimensions that are open are 1. Inputs that would be long to write are left to be filled in.
    """
    names = sorted(name for name in signature_defs if not name.startswith(_INTERNAL))
    if not names:
        return None
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in names else names[0]
    words = [*_program(), "predict", address, model, _inputs(signature_defs[name])]
    if name != DEFAULT_SIGNATURE:
        words.append(f"--signature={name}")
    return shlex.join(words)


def _program() -> list[str]:
    """The words that run tfsrv, as it is installed here."""
    script = shutil.which("tfsrv")
    beside = os.path.join(os.path.dirname(sys.executable or ""), "tfsrv")
    if script is not None and os.path.realpath(script) == os.path.realpath(beside):
        return ["tfsrv"]
    return [sys.executable or "python", "-m", "tfsrv"]


def _inputs(signature_def: Any) -> str:
    """JSON with a value for each input."""
    shapes = {alias: _shape(info.tensor_shape) for alias, info in signature_def.inputs.items()}
    is_short = sum(math.prod(shape) for shape in shapes.values()) <= MOST_ELEMENTS
    values = {
        alias: _nested(_element(info.dtype), shapes[alias] if is_short else [1])
        for alias, info in sorted(signature_def.inputs.items())
    }
    text = json.dumps(values)
    return text if is_short else text.replace("[", "[...")


def _shape(shape: Any) -> list[int]:
    """Without a rank: one element, as a vector."""
    if shape.unknown_rank or len(shape.dim) > MOST_DIMS:
        return [1]
    return [dim.size if dim.size >= 0 else 1 for dim in shape.dim]


def _element(data_type: int) -> object:
    types = pool().FindEnumTypeByName("tensorflow.DataType").values_by_number
    name = types[data_type].name if data_type in types else ""
    if name == _STRING:
        return ""
    if name == _BOOL:
        return False
    return 1.0 if name in _FLOATS else 1


def _nested(element: object, shape: list[int]) -> object:
    for size in reversed(shape):
        element = [element] * size
    return element
