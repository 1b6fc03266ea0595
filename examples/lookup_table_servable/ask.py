"""Asks for the legs of animals: python ask.py HOST:PORT cat spider worm"""

from __future__ import annotations

import sys
from typing import Any

import grpc

from tfsrv._proto import message_class


def main(address: str, *keys: str) -> None:
    request: Any = message_class("tensorflow.serving.PredictRequest")()
    request.model_spec.name = "legs"
    request.inputs["keys"].dtype = 7  # DT_STRING
    request.inputs["keys"].tensor_shape.dim.add(size=len(keys))
    request.inputs["keys"].string_val.extend(key.encode() for key in keys)
    response_class: Any = message_class("tensorflow.serving.PredictResponse")
    with grpc.insecure_channel(address) as channel:
        predict: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        outputs = response_class.FromString(predict(request.SerializeToString())).outputs
    for key, value, found in zip(
        keys, outputs["values"].float_val, outputs["found"].bool_val, strict=True
    ):
        print(f"{key}: {value:g}" if found else f"{key}: not in the table")


if __name__ == "__main__":
    main(*sys.argv[1:])
