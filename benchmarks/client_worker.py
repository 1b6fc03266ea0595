"""One client of bench_client.py in a process of its own, so that its processor time can be told.

    python benchmarks/client_worker.py tfsrv 127.0.0.1:8500

Reads lines of JSON {"shape": [1, 1000], "calls": 100} from stdin, makes that many round trips of
floats with the model `identity`, checks each answer, and writes a line with the processor time of
all its threads, the time that passed, and a wrong answer if there was one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy
from numpy.typing import NDArray

Array = NDArray[Any]
RoundTrips = Callable[[Array, int], list[Array]]
"""Sends an array so many times, and gives a wrong answer if there is one."""

MODEL = "identity"
SIGNATURE = "float"
SECONDS = 60.0


def repeated(ask: Callable[[Array], Array]) -> RoundTrips:
    """One call after the other."""

    def run(values: Array, calls: int) -> list[Array]:
        wrong = [answer for _ in range(calls) if not same(answer := ask(values), values)]
        return wrong[:1]

    return run


def same(answer: Array, values: Array) -> bool:
    return bool(
        answer.dtype == values.dtype
        and answer.shape == values.shape
        and answer[0, 0] == values[0, 0]
        and answer[-1, -1] == values[-1, -1]
    )


def tfsrv(address: str, transport: Any = "auto") -> RoundTrips:
    from tfsrv.client import Client

    client = Client(address, timeout=SECONDS, transport=transport)
    return repeated(lambda values: client.predict(MODEL, {"x": values}, signature=SIGNATURE)["y"])


def tfsrv_futures(address: str) -> RoundTrips:
    from tfsrv.client import Client

    client = Client(address, timeout=SECONDS)
    return repeated(
        lambda values: client.predict_future(MODEL, {"x": values}, signature=SIGNATURE).result()[
            "y"
        ]
    )


def tfsrv_asyncio(address: str) -> RoundTrips:
    from tfsrv.client import AsyncClient

    loop = asyncio.new_event_loop()
    client = AsyncClient(address, timeout=SECONDS)

    async def ask(values: Array, calls: int) -> list[Array]:
        for _ in range(calls):
            answer = await client.predict(MODEL, {"x": values}, signature=SIGNATURE)
            if not same(answer["y"], values):
                return [answer["y"]]
        return []

    return lambda values, calls: loop.run_until_complete(ask(values, calls))


def serving_api(address: str) -> RoundTrips:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    channel = grpc.insecure_channel(address, options)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def ask(values: Array) -> Array:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL
        request.model_spec.signature_name = SIGNATURE
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(values))
        response = stub.Predict(request, SECONDS)
        answer: Array = tf.make_ndarray(response.outputs["y"])
        return answer

    return repeated(ask)


CLIENTS: dict[str, Callable[[str], RoundTrips]] = {
    "tfsrv": tfsrv,
    "channel": lambda address: tfsrv(address, "grpc"),
    "futures": tfsrv_futures,
    "asyncio": tfsrv_asyncio,
    "api": serving_api,
}


def main() -> None:
    kind, address = sys.argv[1:]
    run = CLIENTS[kind](address)
    random = numpy.random.default_rng(1)
    for line in sys.stdin:
        order = json.loads(line)
        values = random.random(order["shape"], numpy.float32)
        cpu, began = time.process_time(), time.perf_counter()
        wrong = run(values, order["calls"])
        told = {
            "cpu": time.process_time() - cpu,
            "seconds": time.perf_counter() - began,
            "wrong": str(wrong[0])[:200] if wrong else "",
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
