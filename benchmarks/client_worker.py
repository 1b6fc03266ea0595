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
import threading
import time
from collections.abc import Callable, Iterator
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
UNDER_WAY = 16  # calls at once, where there are several


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

    def start(values: Array, done: Callable[[Array | None], None]) -> None:
        future = client.predict_future(MODEL, {"x": values}, signature=SIGNATURE)
        future.add_done_callback(
            lambda future: done(None if future.exception() else future.result()["y"])
        )

    return many_under_way(start)


def tfsrv_tasks(address: str) -> RoundTrips:
    from tfsrv.client import AsyncClient

    loop = asyncio.new_event_loop()
    client = AsyncClient(address, timeout=SECONDS)

    async def ask(values: Array, numbers: Iterator[int]) -> list[Array]:
        for _ in numbers:  # which all tasks share
            answer = await client.predict(MODEL, {"x": values}, signature=SIGNATURE)
            if not same(answer["y"], values):
                return [answer["y"]]
        return []

    async def ask_all(values: Array, calls: int) -> list[Array]:
        numbers = iter(range(calls))
        found = await asyncio.gather(*(ask(values, numbers) for _ in range(UNDER_WAY)))
        return [answer for answers in found for answer in answers]

    return lambda values, calls: loop.run_until_complete(ask_all(values, calls))


def many_under_way(start: Callable[[Array, Callable[[Array | None], None]], None]) -> RoundTrips:
    """So many calls at once, with a callback for each answer; None for one that failed."""

    def run(values: Array, calls: int) -> list[Array]:
        free = threading.Semaphore(UNDER_WAY)
        wrong: list[Array] = []

        def done(answer: Array | None) -> None:
            if answer is None or not same(answer, values):
                wrong.append(numpy.zeros(0) if answer is None else answer)
            free.release()

        for _ in range(calls):
            free.acquire()
            start(values, done)
        for _ in range(UNDER_WAY):
            free.acquire()
        return wrong[:1]

    return run


class ServingApi:
    """tensorflow-serving-api's stub, with TensorFlow's own conversions."""

    def __init__(self, address: str) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channel = grpc.insecure_channel(address, options)
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._request_class = predict_pb2.PredictRequest
        self._tf = tf

    def request(self, values: Array) -> Any:
        request = self._request_class()
        request.model_spec.name = MODEL
        request.model_spec.signature_name = SIGNATURE
        request.inputs["x"].CopyFrom(self._tf.make_tensor_proto(values))
        return request

    def answer(self, response: Any) -> Array:
        answer: Array = self._tf.make_ndarray(response.outputs["y"])
        return answer


def serving_api(address: str) -> RoundTrips:
    api = ServingApi(address)
    return repeated(lambda values: api.answer(api.stub.Predict(api.request(values), SECONDS)))


def serving_api_futures(address: str) -> RoundTrips:
    api = ServingApi(address)

    def start(values: Array, done: Callable[[Array | None], None]) -> None:
        future = api.stub.Predict.future(api.request(values), SECONDS)
        future.add_done_callback(
            lambda future: done(None if future.exception() else api.answer(future.result()))
        )

    return many_under_way(start)


CLIENTS: dict[str, Callable[[str], RoundTrips]] = {
    "tfsrv": tfsrv,
    "channel": lambda address: tfsrv(address, "grpc"),
    "api": serving_api,
    "futures": tfsrv_futures,
    "tasks": tfsrv_tasks,
    "api_futures": serving_api_futures,
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
