"""Classify, Regress and MultiInference on a session: what is counted, queued and let go of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.inference import (
    CLASSIFY,
    REGRESS,
    Row,
    Task,
    classification_request,
    inferred,
    multi_inference_request,
    regression_request,
    results,
)
from tests.integration.test_batched_predict import until
from tests.integration.test_predict import Predictor
from tests.unit.waiting import eventually
from tfsrv._budget import in_flight_bytes
from tfsrv._memory import live_blocks
from tfsrv._proto import message_class
from tfsrv._session import SavedModelSession
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.errors import Code, ServingError
from tfsrv.handlers._inference import ClassifyMethod, MultiInferenceMethod, RegressMethod
from tfsrv.metrics import snapshot

ROWS: list[Row] = [{"x": 1.0, "c": 2.0}, {"x": 0.5}]
TASKS: list[Task] = [
    ("classify", CLASSIFY),
    ("regress_other_inputs", REGRESS),
    ("one_class", CLASSIFY),
]
AN_HOUR = 3_600_000_000
METHODS = {
    "ClassificationRequest": ClassifyMethod,
    "RegressionRequest": RegressMethod,
    "MultiInferenceRequest": MultiInferenceMethod,
}
MultiInferenceResponse: Any = message_class("tensorflow.serving.MultiInferenceResponse")


class Inferrer(Predictor):
    """The methods on one model, `m` in version 1."""

    def __init__(self, session: SavedModelSession) -> None:
        super().__init__({"m": {1: session}})
        self.session = session
        self.methods = {
            name: method(self.serving_map, self.workers) for name, method in METHODS.items()
        }

    async def infer(self, request: Any) -> bytes:
        method = self.methods[type(request).__name__]
        answer: bytes = await self.call_loop.invoke(method, request.SerializeToString())
        return answer

    def infer_all(self, *requests: Any) -> list[Any]:
        """Answers or errors of requests that were made at once."""

        async def ask() -> list[Any]:
            calls = (self.infer(request) for request in requests)
            return await asyncio.gather(*calls, return_exceptions=True)

        answers: list[Any] = self.run(ask)
        return answers


@contextmanager
def inferring(models: Path, **batching: Any) -> Iterator[Inferrer]:
    """A session of the model. Nothing may be left of it."""
    session = SavedModelSession.load(
        str(models / "inference" / "1"),
        name="m",
        version=1,
        batching=BatchingParameters(**batching) if batching else None,
    )
    made = Inferrer(session)
    try:
        yield made
    finally:
        made.close()
        session.close()
    assert in_flight_bytes() == 0
    eventually(lambda: live_blocks() == 0)


def multi(*tasks: Task, rows: list[Row] = ROWS) -> Any:
    return multi_inference_request("m", tasks or TASKS, rows)


def counted() -> dict[tuple[str, str], dict[Code, int]]:
    """Answers of the model so far, by method and signature."""
    return {
        (each.method, each.signature_name): dict(each.codes)
        for each in snapshot()
        if (each.model_name, each.version) == ("m", 1)
    }


def news(before: dict[tuple[str, str], dict[Code, int]]) -> dict[tuple[str, str, str], int]:
    found = {}
    for (method, signature), codes in counted().items():
        for code, count in codes.items():
            more = count - before.get((method, signature), {}).get(code, 0)
            if more:
                found[method, signature, code.name] = more
    return found


def test_requests_are_counted_by_method_and_signature(inference_models: Path) -> None:
    with inferring(inference_models) as model:
        before = counted()
        model.infer_all(
            classification_request("m", ROWS, signature="classify"),
            classification_request("m", ROWS),
            classification_request("m", [], signature="classify"),
            classification_request("m", ROWS, signature="widths_differ"),
            regression_request("m", ROWS, signature="regress"),
            multi(),
            multi(("regress", REGRESS)),
            multi(("nope", REGRESS)),
        )
        assert news(before) == {
            ("Classify", "classify", "OK"): 1,
            ("Classify", "serving_default", "OK"): 1,
            ("Classify", "classify", "INVALID_ARGUMENT"): 1,
            ("Classify", "widths_differ", "INVALID_ARGUMENT"): 1,
            ("Regress", "regress", "OK"): 1,
            ("MultiInference", "", "OK"): 2,
            ("MultiInference", "", "INVALID_ARGUMENT"): 1,
        }


def sizes(model: Inferrer) -> dict[str, Any]:
    """How many batches there were of which sizes, by the queue."""
    queues = model.session.describe_batching()
    return {name: queue["sizes"] for name, queue in queues.items()}


def test_tasks_share_a_queue_of_the_whole_model(inference_models: Path) -> None:
    with inferring(inference_models, max_batch_size=6, batch_timeout_micros=AN_HOUR) as model:
        orders = [TASKS, TASKS[::-1], TASKS[1:] + TASKS[:1]]
        answers = model.infer_all(*(multi(*tasks) for tasks in orders))
        for answer, tasks in zip(answers, orders, strict=True):
            assert results(MultiInferenceResponse.FromString(answer)) == inferred(tasks, ROWS)
        eventually(lambda: sizes(model) == {"": {4: 1}})  # a batch is counted after its answers


def test_one_task_is_in_the_queue_of_its_signature(inference_models: Path) -> None:
    with inferring(inference_models, max_batch_size=6, batch_timeout_micros=AN_HOUR) as model:
        requests = [
            multi(("classify", CLASSIFY)),
            classification_request("m", ROWS, signature="classify"),
            classification_request("m", ROWS),
        ]
        assert all(isinstance(answer, bytes) for answer in model.infer_all(*requests))
        # In the queue of the first of the signatures with these tensors.
        eventually(lambda: [*sizes(model).values()] == [{4: 1}])
        (queue,) = model.session.describe_batching().values()
        assert (queue["batches"], queue["requests"], queue["rows"]) == (1, 3, 6)


def waiting_for(model: Inferrer, then: Callable[[asyncio.Future[bytes]], Any]) -> bytes | None:
    """Ask for tasks, do something when they wait in a batch, and give the answer."""

    async def ask() -> bytes | None:
        asking = asyncio.ensure_future(model.infer(multi()))
        await until(lambda: bool(model.session.describe_batching().get("", {}).get("waiting_rows")))
        then(asking)
        return await asking

    answer: bytes | None = model.run(ask)
    return answer


def test_tasks_that_wait_run_when_nobody_new_comes(inference_models: Path) -> None:
    with inferring(inference_models, max_batch_size=6, batch_timeout_micros=AN_HOUR) as model:
        answer = waiting_for(model, lambda _: model.session.hurry())
        assert answer is not None
        assert results(MultiInferenceResponse.FromString(answer)) == inferred(TASKS, ROWS)


def test_tasks_that_nobody_waits_for_are_swept(inference_models: Path) -> None:
    with inferring(inference_models, max_batch_size=6, batch_timeout_micros=AN_HOUR) as model:
        with pytest.raises(asyncio.CancelledError):
            waiting_for(model, lambda asking: asking.cancel())
        model.session.sweep()
        eventually(
            lambda: model.session.describe_batching()[""]["refused_unwanted"] == 1,
        )


def test_a_model_is_closed_though_tasks_were_never_asked_for(inference_models: Path) -> None:
    with inferring(inference_models, max_batch_size=2) as model:
        assert model.session.describe_batching() == {}
        model.session.hurry()
        model.session.sweep()


@pytest.mark.parametrize("rows", [0, 1])
def test_what_fails_leaves_nothing(inference_models: Path, rows: int) -> None:
    with inferring(inference_models) as model:
        bad: list[Row] = [{"c": 1.0}] * rows
        for error in model.infer_all(
            multi(rows=bad),
            classification_request("m", bad, signature="classify", context={"c": 1.0}),
            regression_request("m", bad, signature="regress_wide"),
        ):
            assert isinstance(error, ServingError)
            assert error.code is Code.INVALID_ARGUMENT
