"""Predict, from bytes to bytes, with real models and without a transport."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import resource
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop

from tests.conftest import ROOT, tensorflow_version
from tfsrv._budget import in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._memory import live_blocks
from tfsrv._proto import message_class
from tfsrv._serving_map import ServingMap
from tfsrv._session import SavedModelSession
from tfsrv._workers import WorkerPool
from tfsrv.errors import Code, ServingError
from tfsrv.handlers._predict import PredictMethod

pytestmark = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")

CONFORMANCE = ROOT / "tests" / "conformance"
MODELS = {"half_plus_two": (1, 2, 5), "dtypes": (1,), "multi": (7,), "odd": (3,)}
LABELS = {"half_plus_two": {"stable": 2, "canary": 5}}
PredictRequest = message_class("tensorflow.serving.PredictRequest")
PredictResponse = message_class("tensorflow.serving.PredictResponse")
DT_FLOAT, DT_STRING, DT_BOOL = 1, 7, 10


def conformance_cases() -> list[Any]:
    """What TensorFlow Serving 2.20 answered to Predict."""
    with open(CONFORMANCE / "cases.jsonl", encoding="utf-8") as file:
        cases = [json.loads(line) for line in file]
    return [
        case
        for case in cases
        if case["server"] == "plain" and case["method"].endswith("PredictionService/Predict")
    ]


class Predictor:
    """A serving map with loaded models, workers and a loop, and Predict on them."""

    def __init__(self, models: dict[str, dict[int, SavedModelSession]], **options: Any) -> None:
        self.serving_map = ServingMap()
        self.workers = WorkerPool()
        self.workers.start()
        self.loop = uvloop.new_event_loop()
        self.call_loop = CallLoop(self.loop)
        self.method = PredictMethod(self.serving_map, self.workers, **options)
        self.serving_map.publish(models, {n: v for n, v in LABELS.items() if n in models})

    def run(self, test: Callable[[], Awaitable[Any]]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(test(), 60))

    def ask(self, request: bytes) -> bytes:
        """The answer; raises ServingError."""
        answer: bytes = self.run(lambda: self.call_loop.invoke(self.method, request))
        return answer

    def close(self) -> None:
        self.serving_map.publish({})
        assert self.workers.stop()
        self.call_loop.close()
        self.loop.close()


@pytest.fixture(scope="module")
def predictor() -> Iterator[Predictor]:
    sessions = {
        name: {
            version: SavedModelSession.load(
                str(CONFORMANCE / "models" / name / str(version)), name=name, version=version
            )
            for version in versions
        }
        for name, versions in MODELS.items()
    }
    made = Predictor(sessions)
    yield made
    made.close()


def request_of(**inputs: Any) -> Any:
    """A request to half_plus_two."""
    request: Any = PredictRequest()
    request.model_spec.name = "half_plus_two"
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(value)
    return request


def vector(size: int, **values: Any) -> Any:
    request: Any = PredictRequest()
    tensor = request.inputs["x"]
    tensor.dtype = DT_FLOAT
    tensor.tensor_shape.dim.add(size=size)
    for field, value in values.items():
        getattr(tensor, field).extend(value)
    return tensor


def without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", text)


@pytest.mark.parametrize("case", conformance_cases(), ids=lambda case: str(case["id"]))
def test_answers_what_tensorflow_serving_answers(predictor: Predictor, case: Any) -> None:
    want = case["answer"]
    got = outcome(predictor, base64.b64decode(case["request"]))
    if want["code"] == "OK":
        expected = PredictResponse.FromString(base64.b64decode(want["response"]))
        assert got == (Code.OK, expected)
    else:
        details = want["details"].removesuffix("...TRUNCATED")
        assert got == (Code[want["code"]], without_addresses(details))


def outcome(predictor: Predictor, request: bytes) -> tuple[Code, Any]:
    """The code, and the response or as much of the error's text as gRPC clients get."""
    try:
        return Code.OK, PredictResponse.FromString(predictor.ask(request))
    except ServingError as error:
        told = error.message.encode()[:1024].decode("utf-8", "ignore")
        return Code(error.code), without_addresses(told)


def refusal(predictor: Predictor, request: Any) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        predictor.ask(request.SerializeToString())
    return Code(caught.value.code), caught.value.message


def test_unknown_output_is_refused_without_making_the_tensors(predictor: Predictor) -> None:
    elements = 1 << 28  # a gigabyte in memory, some bytes in the request
    request = request_of(x=vector(elements, float_val=[1.0]))
    request.output_filter.append("nope")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, message = refusal(predictor, request)
    assert (code, message[:49]) == (
        Code.INVALID_ARGUMENT,
        "output tensor alias not found in signature: nope ",
    )
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert kilobytes < 4 * elements // 1024 // 2


@pytest.mark.parametrize(
    ("dtype", "content"),
    [(DT_BOOL, b"\0\2"), (DT_STRING, b"\1\1a"), (DT_STRING, b"\1\1abc"), (DT_FLOAT, b"abc")],
    ids=["no_bools", "too_few_strings", "too_many_strings", "no_floats"],
)
def test_bad_content_is_told_before_an_unknown_output(
    predictor: Predictor, dtype: int, content: bytes
) -> None:
    tensor = vector(2)
    tensor.dtype = dtype
    tensor.tensor_content = content
    request = request_of(x=tensor)
    request.output_filter.append("nope")
    assert refusal(predictor, request) == (Code.INVALID_ARGUMENT, "tensor parsing error: x")


def test_good_content_is_not_refused_before_an_unknown_output(predictor: Predictor) -> None:
    for dtype, content in ((DT_BOOL, b"\0\1"), (DT_STRING, b"\1\1ab"), (DT_FLOAT, bytes(8))):
        tensor = vector(2)
        tensor.dtype = dtype
        tensor.tensor_content = content
        request = request_of(x=tensor)
        request.output_filter.append("nope")
        assert refusal(predictor, request)[1].startswith("output tensor alias not found")


@pytest.mark.parametrize("count", [5, 17, 150])
def test_wrong_inputs_are_told_in_their_order(predictor: Predictor, count: int) -> None:
    names = [f"n{i:03}" for i in range(count)]
    request = request_of(**{name: vector(1) for name in reversed(names)}, x=vector(1))
    code, message = refusal(predictor, request)
    told, extra = ",".join([*names, "x"]), ",".join(names)
    assert code == Code.INVALID_ARGUMENT
    assert message == (
        f"input size does not match signature: {count + 1}!=1 len({{{told}}}) != len({{x}}). "
        f"Sent extra: {{{extra}}}. Missing but required: {{}}."
    )


def test_an_error_does_not_repeat_names_of_megabytes(predictor: Predictor) -> None:
    request = request_of(x=vector(1))
    request.model_spec.name = "n" * (4 << 20)
    code, message = refusal(predictor, request)
    assert code == Code.NOT_FOUND
    assert message.startswith("Servable not found for request: Latest(nnn")
    assert len(message) < 1 << 17


def test_requests_give_back_all_that_they_took(predictor: Predictor) -> None:
    many = request_of(**{f"n{i}": vector(1) for i in range(3000)}).SerializeToString()
    large = request_of(x=vector(1 << 20, float_val=[1.0]))
    blocks = live_blocks()
    predictor.ask(large.SerializeToString())
    large.output_filter.append("nope")
    for bad in (many, large.SerializeToString(), many[:-3]):
        with pytest.raises(ServingError):
            predictor.ask(bad)
    assert in_flight_bytes() == 0
    assert live_blocks() == blocks


def test_tensors_expand_to_the_size_of_a_message_at_most(predictor: Predictor) -> None:
    limited = PredictMethod(predictor.serving_map, predictor.workers, max_message_bytes=4000)
    fits = request_of(x=vector(1000, float_val=[1.0])).SerializeToString()
    predictor.run(lambda: predictor.call_loop.invoke(limited, fits))
    over = request_of(x=vector(1001, float_val=[1.0])).SerializeToString()
    with pytest.raises(ServingError) as caught:
        predictor.run(lambda: predictor.call_loop.invoke(limited, over))
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
