"""A request to paste into a shell: the shortest way to see that a model answers."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from tfsrv._proto import message_class

DEFAULT_SIGNATURE = "serving_default"  # saved_model/signature_constants.h
_DT_FLOAT = 1


def command(address: str, model: str, signature_defs: Mapping[str, Any]) -> str | None:
    """A shell command that asks `model` at `address`; None if it has no signature to ask for.

    It needs only what tfsrv itself needs. Tensors are given by dtype and shape, dimensions that
    are open as 1, and are zeros or empty strings then, whatever their type.
    """
    name = (
        DEFAULT_SIGNATURE
        if DEFAULT_SIGNATURE in signature_defs
        else min(signature_defs, default="")
    )
    if not name:
        return None
    request = _request_text(model, name, signature_defs[name])
    code = (
        "import grpc; from tfsrv._proto import *; "
        'print(message_class("tensorflow.serving.PredictResponse").FromString('
        f"grpc.insecure_channel({json.dumps(address)})"
        '.unary_unary("/tensorflow.serving.PredictionService/Predict")('
        f'parse_text("tensorflow.serving.PredictRequest", {json.dumps(request)}, "request")'
        ".SerializeToString())))"
    )
    return f"{shlex.quote(sys.executable or 'python')} -c {shlex.quote(code)}"


def _request_text(model: str, signature_name: str, signature_def: Any) -> str:
    request: Any = message_class("tensorflow.serving.PredictRequest")()
    request.model_spec.name = model
    if signature_name != DEFAULT_SIGNATURE:
        request.model_spec.signature_name = signature_name
    for alias, info in signature_def.inputs.items():
        tensor = request.inputs[alias]
        tensor.dtype = info.dtype
        for dim in info.tensor_shape.dim:
            tensor.tensor_shape.dim.add(size=dim.size if dim.size >= 0 else 1)
        if info.dtype == _DT_FLOAT:
            tensor.float_val.append(1.0)
    return _one_line(request)


def _one_line(message: Any) -> str:
    from google.protobuf import text_format

    text: str = text_format.MessageToString(message, as_one_line=True)
    return text
