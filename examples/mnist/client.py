"""Send the held-out digits to a server, many at a time, and count what it reads wrong.

    python examples/mnist/client.py --server=127.0.0.1:8500 --num_tests=1000 --concurrency=10
    python examples/mnist/client.py --server=127.0.0.1:8500 --classify

The first sends tensors to Predict, the second tf.Examples to Classify. A call that fails is an
error like a wrong answer; what failed is told, and the exit status is 1. Needs grpcio,
tensorflow-serving-api and scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

# The client library imports TensorFlow, which has much to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from digits import held_out_digits

SECONDS = 5.0  # for each call

# Sends one image and gives the future of the answer; and finds the digit in the answer.
Ask = Callable[[Any], Any]
Read = Callable[[Any], int]


class Results:
    """Counts answers, and lets so many calls be under way at once.

    Callbacks of gRPC run in threads of its own, hence the condition.
    """

    def __init__(self, concurrency: int) -> None:
        self.failures: Counter[str] = Counter()  # by what the call said
        self.wrong = 0
        self._concurrency = concurrency
        self._under_way = 0
        self._changed = threading.Condition()

    def begin(self) -> None:
        """Wait until one more call may be under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < self._concurrency)
            self._under_way += 1

    def end(self, is_right: bool, failure: str) -> None:
        """Count the answer of a call that had begun; `failure` says why there is none."""
        with self._changed:
            self._under_way -= 1
            if failure:
                self.failures[failure] += 1
            elif not is_right:
                self.wrong += 1
            self._changed.notify()

    def wait(self) -> None:
        """Wait until no call is under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way == 0)

    def errors(self) -> int:
        return self.wrong + self.failures.total()


def predict(stub: Any, model: str) -> tuple[Ask, Read]:
    """Ask with a tensor; the digit is the one with the highest score."""

    def ask(image: Any) -> Any:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = "predict_images"
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(image, shape=[1, len(image)]))
        return stub.Predict.future(request, SECONDS)

    def read(response: Any) -> int:
        scores = list(response.outputs["scores"].float_val)
        return scores.index(max(scores))

    return ask, read


def classify(stub: Any, model: str) -> tuple[Ask, Read]:
    """Ask with a tf.Example; the digit is the label with the highest score."""

    def ask(image: Any) -> Any:
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = "classify"
        example = request.input.example_list.examples.add()
        example.features.feature["image"].float_list.value.extend(image)
        return stub.Classify.future(request, SECONDS)

    def read(response: Any) -> int:
        classes = response.result.classifications[0].classes
        return int(max(classes, key=lambda each: each.score).label)

    return ask, read


def send_digits(ask: Ask, read: Read, count: int, concurrency: int) -> Results:
    """Send so many images, one a call, and wait for all answers."""
    images, labels = held_out_digits()
    results = Results(concurrency)

    def counting(label: int) -> Callable[[Any], None]:
        """What gRPC calls with a future that is done."""

        def count_answer(future: Any) -> None:
            is_right, failure = False, ""
            try:
                is_right = read(future.result()) == label
            except grpc.RpcError as error:
                failure = f"{error.code().name}: {error.details()}"
            except (IndexError, ValueError):
                failure = "no digit in the answer"
            results.end(is_right, failure)

        return count_answer

    for number in range(count):
        which = number % len(images)
        results.begin()
        ask(images[which]).add_done_callback(counting(int(labels[which])))
    results.wait()
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Send digits to a server, count the errors.")
    parser.add_argument("--server", required=True, help="HOST:PORT")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--num_tests", type=int, default=360, help="images to send")
    parser.add_argument("--concurrency", type=int, default=4, help="calls under way at once")
    parser.add_argument("--classify", action="store_true", help="tf.Examples to Classify")
    options = parser.parse_args(arguments)
    if options.num_tests < 1 or options.concurrency < 1:
        parser.error("--num_tests and --concurrency must be at least 1")

    with grpc.insecure_channel(options.server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        ask, read = (classify if options.classify else predict)(stub, options.model)
        results = send_digits(ask, read, options.num_tests, options.concurrency)
    for failure, times in results.failures.most_common():
        print(f"{times} × {failure}", file=sys.stderr)
    print(f"Inference error rate: {results.errors() / options.num_tests:.1%}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
