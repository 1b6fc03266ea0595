"""Classify, Regress and MultiInference in batches: with each other and Predict, and as without."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.functional.batched import (
    FLAGS,
    arrived,
    batched_model,
    patient,
)
from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Client, Launched, client
from tests.functional.messages import PredictRequest, array, predict_request, strings
from tests.functional.test_batching_mix import PARAMETERS, comparable
from tests.inference import (
    CLASSES,
    CLASSIFY,
    REGRESS,
    VALUES,
    Row,
    Task,
    classes,
    classification_request,
    classifications,
    example,
    inferred,
    multi_inference_request,
    regression_request,
    regressions,
    results,
    values,
)

SPLITTING = "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }"

# Each test has models of its own, since requests that wait are found by the next ones.
MODELS: dict[str, str] = {
    "classify": patient(4),
    "twins": patient(4),
    "regress": patient(4),
    "multi": patient(4),
    "different": patient(2),
    "contexts": patient(2),
    "bad_example": patient(4),
    "other_rows": patient(2),
    "split": patient(10, SPLITTING),
    "split_other_rows": patient(10, SPLITTING),
    "allowed": "max_batch_size { value: 4 } allowed_batch_sizes: [2, 4]",
    "padded": patient(4, "pad_variable_length_inputs: true"),
    "too_large": patient(4),
    "wrong": "",
    "numbers": patient(4),
    "deadline": patient(4),
}


@pytest.fixture(scope="module")
def server(
    inference_models: Path, transport: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("batched")
    paths = {
        name: batched_model(folder / name, inference_models / "inference", parameters)
        for name, parameters in MODELS.items()
    }
    with serving(paths, f"--grpc_transport={transport}", *FLAGS) as server:
        yield server


@pytest.fixture
def ask(server: Launched) -> Iterator[Client]:
    with client(server.address()) as ask:
        yield ask


def row(x: float) -> Row:
    return {"x": x, "c": x + 1}


def bytes_of(row: Row) -> bytes:
    return bytes(example(row).SerializeToString())


def predicting(model: str, signature: str, *rows: Row) -> Any:
    """A PredictRequest with the same examples as strings."""
    examples = strings(*map(bytes_of, rows))
    return predict_request(model, {"inputs": examples}, signature=signature)


def send(ask: Client, *requests: Any) -> list[Any]:
    """Send requests of any kind, in this order; they have arrived when this returns."""
    arrived(ask)
    futures = [future_of(ask, request, None) for request in requests]
    arrived(ask)
    return futures


def future_of(ask: Client, request: Any, timeout: float | None = SECONDS) -> Any:
    if isinstance(request, PredictRequest):
        return ask.predict_future(request, timeout)
    return ask.infer_future(request, timeout)


def error(future: Any) -> tuple[str, str]:
    raised = future.exception(SECONDS)
    assert raised is not None, "there is no error"
    return raised.code().name, raised.details()


# --- batches form


def test_classify_and_predict_run_together(ask: Client) -> None:
    rows = [row(x) for x in range(4)]
    futures = send(
        ask,
        classification_request("classify", rows[:1], signature="classify"),
        predicting("classify", "classify", rows[1]),
        classification_request("classify", rows[2:3], signature="classify"),
    )
    assert not any(future.done() for future in futures)
    futures += send(ask, predicting("classify", "classify", rows[3]))
    answers = [future.result(SECONDS) for future in futures]
    expected = classifications("classify", rows)
    assert classes(answers[0]) == expected[:1]
    assert classes(answers[2]) == expected[2:3]
    for i in (1, 3):
        scores = array(answers[i].outputs["scores"]).tolist()
        assert scores == [[score for _, score in expected[i]]]


def test_signatures_of_the_same_tensors_run_together(ask: Client) -> None:
    names = ["", "classify", "classify_odd_method", "classify_no_method"]
    rows = [row(x) for x in range(4)]
    requests = [
        classification_request("twins", [rows[i]], signature=name) for i, name in enumerate(names)
    ]
    futures = send(ask, *requests[:3])
    assert not any(future.done() for future in futures)
    futures += send(ask, requests[3])
    for future, name, each in zip(futures, names, rows, strict=True):
        answer = future.result(SECONDS)
        assert classes(answer) == classifications("classify", [each])
        assert answer.model_spec.signature_name == (name or "serving_default")


def test_regress_and_predict_run_together(ask: Client) -> None:
    rows = [row(x) for x in range(4)]
    futures = send(
        ask,
        regression_request("regress", rows[:2], signature="regress"),
        predicting("regress", "regress", rows[2]),
    )
    assert not any(future.done() for future in futures)
    futures += send(ask, regression_request("regress", rows[3:], signature="regress"))
    answers = [future.result(SECONDS) for future in futures]
    expected = values("regress", rows)
    assert regressions(answers[0]) == expected[:2]
    assert array(answers[1].outputs["outputs"]).tolist() == expected[2:3]
    assert regressions(answers[2]) == expected[3:]


TASKS: list[Task] = [
    ("classify", CLASSIFY),
    ("regress_other_inputs", REGRESS),
    ("scores_only", CLASSIFY),
]


def test_tasks_of_several_requests_run_together_in_whatever_order(ask: Client) -> None:
    rows = [row(x) for x in range(4)]
    orders = [TASKS, TASKS[::-1], [TASKS[1], TASKS[2], TASKS[0]]]
    sent = [rows[:2], rows[2:3], rows[3:]]
    requests = [
        multi_inference_request("multi", tasks, some)
        for tasks, some in zip(orders, sent, strict=True)
    ]
    futures = send(ask, *requests[:2])
    assert not any(future.done() for future in futures)
    futures += send(ask, requests[2])
    for future, tasks, some in zip(futures, orders, sent, strict=True):
        assert results(future.result(SECONDS)) == inferred(tasks, some)


def test_different_tasks_do_not_run_together(ask: Client) -> None:
    first = multi_inference_request("different", TASKS[:2], [row(1)])
    second = multi_inference_request("different", TASKS[1:], [row(2)])
    futures = send(ask, first, second)
    assert not any(future.done() for future in futures)
    futures += send(ask, first, second)
    for future, tasks, x in zip(futures, [TASKS[:2], TASKS[1:]] * 2, [1, 2] * 2, strict=True):
        assert results(future.result(SECONDS)) == inferred(tasks, [row(x)])


def test_contexts_stay_with_their_own_examples(ask: Client) -> None:
    futures = send(
        ask,
        regression_request("contexts", [{"x": 1}], signature="regress", context={"c": 8.0}),
        regression_request("contexts", [{"x": 2}], signature="regress"),
    )
    assert [regressions(future.result(SECONDS)) for future in futures] == [
        values("regress", [{"x": 1}], {"c": 8.0}),
        values("regress", [{"x": 2}]),
    ]


# --- and change nothing


def test_one_bad_example_fails_its_own_request(ask: Client) -> None:
    bad = classification_request("bad_example", [{"c": 1.0}], signature="classify")
    good = [classification_request("bad_example", [row(x)], signature="classify") for x in range(3)]
    futures = send(ask, good[0], bad, *good[1:])
    code, text = error(futures[1])
    assert code == "INVALID_ARGUMENT"
    assert "Feature: x (data type: float) is required but could not be found." in text
    for x, future in enumerate([futures[0], *futures[2:]]):
        assert classes(future.result(SECONDS)) == classifications("classify", [row(x)])


@pytest.mark.parametrize("rows", [1, 2])
def test_outputs_of_other_rows_are_told_as_without_batching(ask: Client, rows: int) -> None:
    some = [row(x) for x in range(rows)]
    told = {
        "classes_batch": "Expected classes output batch size of {}. Got: {}",
        "scores_batch": "Expected scores output batch size of {}. Got: {}",
        "both_batches": "Expected classes output batch size of {}. Got: {}",
        "regress_batch": "Input batch size did not match output batch size: {} vs. {}",
        "regress_column_batch": "Input batch size did not match output batch size: {} vs. {}",
    }
    for name, text in told.items():
        request = regression_request if "regress" in name else classification_request
        requests = [request("other_rows", some, signature=name)] * (2 // rows)
        for future in send(ask, *requests):
            expected = ("INVALID_ARGUMENT", text.format(rows, rows + 1))
            assert error(future) == expected
    one = [row(1)]
    futures = send(ask, *[classification_request("other_rows", one, signature="one_row")] * 2)
    for future in futures:
        assert classes(future.result(SECONDS)) == [[("", 1.0), ("", 2.0)]]


def test_the_rows_of_a_large_request_are_split_and_put_together(ask: Client) -> None:
    rows = [row(x) for x in range(8)]  # twice four: none waits for others
    request = classification_request("split", rows, signature="three_classes")
    assert classes(ask.infer(request)) == classifications("three_classes", rows)
    request = multi_inference_request("split", TASKS, rows, context={"c": 2.0})
    assert results(ask.infer(request)) == inferred(TASKS, rows, {"c": 2.0})
    large = classification_request("split", rows, signature="large_scores")
    answer = ask.infer(large)
    assert [each.classes[-1].score for each in answer.result.classifications] == values(
        "fails_for_negative", rows
    )


def test_outputs_of_other_rows_are_told_though_the_request_was_split(ask: Client) -> None:
    rows = [row(x) for x in range(8)]
    request = classification_request("split_other_rows", rows, signature="both_batches")
    assert error(ask.infer_future(request)) == (
        "INVALID_ARGUMENT",
        "Expected classes output batch size of 8. Got: 9",
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_rows_of_padding_are_in_no_answer(ask: Client, count: int) -> None:
    rows = [row(x) for x in range(count)]
    request = classification_request("allowed", rows, signature="classify")
    assert classes(ask.infer(request)) == classifications("classify", rows)
    request = regression_request("allowed", rows, signature="regress_column")
    assert regressions(ask.infer(request)) == values("regress_column", rows)
    assert results(ask.infer(multi_inference_request("allowed", TASKS, rows))) == inferred(
        TASKS, rows
    )


def test_examples_are_never_padded(ask: Client) -> None:
    rows: list[Row] = [{"x": 1}, {"x": 2, "c": 3, "much more": 4.0}, {"x": 3}, {"x": 4}]
    requests = [classification_request("padded", [each], signature="classify") for each in rows]
    for future, each in zip(send(ask, *requests), rows, strict=True):
        assert classes(future.result(SECONDS)) == classifications("classify", [each])


def test_more_examples_than_a_batch_has_rows_are_refused(ask: Client) -> None:
    rows = [row(x) for x in range(5)]
    text = "Task size 5 is larger than maximum input batch size 4"
    for request in (
        classification_request("too_large", rows, signature="classify"),
        regression_request("too_large", rows, signature="regress"),
        multi_inference_request("too_large", TASKS, rows),
    ):
        assert error(ask.infer_future(request)) == ("INVALID_ARGUMENT", text)


def test_an_input_of_numbers_is_told_as_without_batching(ask: Client) -> None:
    text = "Expects arg[0] to be float but string is provided"
    for request in (
        classification_request("numbers", [row(1)], signature="float_inputs"),
        multi_inference_request("numbers", [("regress_float_inputs", REGRESS)], [row(1)]),
        multi_inference_request("numbers", [*TASKS, ("float_inputs", CLASSIFY)], [row(1)]),
    ):
        assert error(ask.infer_future(request)) == ("INVALID_ARGUMENT", text)


def test_a_deadline_takes_a_request_out_of_its_batch(ask: Client) -> None:
    rows = [row(x) for x in range(3)]
    late = ask.infer_future(classification_request("deadline", rows[:1], signature="classify"), 0.2)
    assert late.exception(SECONDS).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    futures = send(ask, classification_request("deadline", rows, signature="classify"))
    assert not futures[0].done()  # it does not count any more
    futures += send(ask, classification_request("deadline", rows[:1], signature="classify"))
    assert classes(futures[0].result(SECONDS)) == classifications("classify", rows)
    assert classes(futures[1].result(SECONDS)) == classifications("classify", rows[:1])


# --- a mix, compared


LARGE = {"large_scores", "long_class", "spin"}
WRONG = ("scores_vector", "widths_differ", "classes_batch", "both_batches", "one_row", "nosuch")


class Mixer:
    """Requests for all methods at random; the same again from the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def requests(self, count: int) -> list[Any]:
        return [self._request() for _ in range(count)]

    def _request(self) -> Any:
        pick = self._random
        classifying = [*(CLASSES.keys() - LARGE - {""}), *WRONG]
        regressing = [*(VALUES.keys() - LARGE), "regress_batch", "regress_one_row"]
        classifying.sort()
        regressing.sort()
        method = pick.randrange(4)
        rows = self._rows()
        context = {"c": 3.0} if pick.random() < 0.2 else None
        if method == 0:
            name = pick.choice(classifying)
            return classification_request("inference", rows, signature=name, context=context)
        if method == 1:
            name = pick.choice(regressing)
            return regression_request("inference", rows, signature=name, context=context)
        if method == 2:
            some = pick.sample(classifying, pick.randint(0, 3))
            tasks = [(name, CLASSIFY) for name in some]
            tasks += [(name, REGRESS) for name in pick.sample(regressing, pick.randint(0, 2))]
            pick.shuffle(tasks)
            return multi_inference_request("inference", tasks, rows, context=context)
        return predicting("inference", pick.choice(sorted(CLASSES.keys() - LARGE)), *rows)

    def _rows(self) -> list[Row]:
        pick = self._random
        rows = [
            row(pick.randrange(-2 if pick.random() < 0.1 else 0, 9)) for _ in range(self._size())
        ]
        if pick.random() < 0.05 and rows:
            rows[pick.randrange(len(rows))] = {"c": 1.0}  # x is missing
        return rows

    def _size(self) -> int:
        return self._random.choice([1, 1, 1, 1, 2, 3, 7, 0])


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_every_answer_is_as_without_batching(
    inference_models: Path, tmp_path: Path, parameters: str
) -> None:
    paths = {"inference": inference_models / "inference"}
    flags = ["--enable_batching"]
    text = PARAMETERS[parameters]
    if text is not None:
        file = tmp_path / "batching.config"
        file.write_text(text + " max_enqueued_batches { value: 1000 }")
        flags.append(f"--batching_parameters_file={file}")
    requests = Mixer(sum(parameters.encode())).requests(600)
    with serving(paths) as server, client(server.address()) as alone:
        expected = [answer(future_of(alone, request)) for request in requests]
    with serving(paths, *flags) as server, ExitStack() as stack:
        asks = [stack.enter_context(client(server.address())) for _ in range(3)]
        futures = [future_of(asks[i % 3], request) for i, request in enumerate(requests)]
        found = [answer(future) for future in futures]
    assert [
        (request, ours, theirs)
        for request, ours, theirs in zip(requests, found, expected, strict=True)
        if ours != theirs
    ] == []
    codes = Counter(code for code, _ in expected)
    assert codes["OK"] > 200
    assert codes["INVALID_ARGUMENT"] > 100


def answer(future: Any) -> tuple[str, str | bytes]:
    raised = future.exception(SECONDS)
    if raised is not None:
        return raised.code().name, comparable(raised.details())
    return "OK", future.result().SerializeToString(deterministic=True)
