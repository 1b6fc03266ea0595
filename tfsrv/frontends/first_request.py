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

from tfsrv.frontends.example_requests import example_shape, example_tensor
from tfsrv.frontends.signatures import DEFAULT_SIGNATURE, Signature, read_signatures

MOST_ELEMENTS = 32  # of all inputs, that are written out


def command(address: str, model: str, signature_defs: Mapping[str, Any]) -> str | None:
    """A shell command that asks `model` at `address`; None if it has no signature to ask for.

    Dimensions that are open are 1. Inputs that would be long to write are left to be filled in.
    """
    signatures = read_signatures(signature_defs)
    if not signatures:
        return None
    name, signature = next(iter(signatures.items()))
    words = [*_program(), "predict", address, model, _inputs(signature)]
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


def _inputs(signature: Signature) -> str:
    """JSON with a value for each input."""
    shapes = {alias: example_shape(spec.shape) for alias, spec in signature.inputs.items()}
    is_short = sum(math.prod(shape) for shape in shapes.values()) <= MOST_ELEMENTS
    members = []
    for alias, spec in signature.inputs.items():
        tensor = example_tensor(spec.dtype, shapes[alias] if is_short else (1,))
        members.append(f"{json.dumps(alias)}: {tensor}")
    text = f"{{{', '.join(members)}}}"
    return text if is_short else text.replace("[", "[...")
