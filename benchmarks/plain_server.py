"""What people write today: grpc.aio, tensorflow-serving-api's messages, tf.saved_model.load.

    python benchmarks/plain_server.py --model_name=NAME --model_base_path=DIR --port=0

Serves version directory 1 only, and answers Predict only.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import tensorflow as tf
import uvloop
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
)

VERSION = 1
UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Keeps the loaded model, because its functions are gone when it is."""

    def __init__(self, name: str, base_path: str) -> None:
        self.name = name
        self.model = tf.saved_model.load(str(Path(base_path) / str(VERSION)))

    async def Predict(self, request: Any, context: Any) -> Any:
        if request.model_spec.name != self.name:
            message = f"Servable not found for request: Latest({request.model_spec.name})"
            await context.abort(grpc.StatusCode.NOT_FOUND, message)
        signature_name = request.model_spec.signature_name or "serving_default"
        signature = self.model.signatures[signature_name]
        inputs = {
            alias: tf.constant(tf.make_ndarray(tensor)) for alias, tensor in request.inputs.items()
        }
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = VERSION
        response.model_spec.signature_name = signature_name
        for alias, tensor in signature(**inputs).items():
            response.outputs[alias].CopyFrom(tf.make_tensor_proto(tensor.numpy()))
        return response


async def serve(service: PredictionService, port: int) -> None:
    server = grpc.aio.server(options=UNLIMITED)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name", required=True)
    parser.add_argument("--model_base_path", required=True)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    arguments = parser.parse_args()
    service = PredictionService(arguments.model_name, arguments.model_base_path)
    uvloop.install()
    asyncio.run(serve(service, arguments.port))


if __name__ == "__main__":
    main()
