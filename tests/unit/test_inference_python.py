"""Classify, Regress and MultiInference on servables that are Python objects."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy
import pytest
from google.protobuf import text_format

from tests.inference import (
    CLASSIFY,
    REGRESS,
    Row,
    classes,
    classification_request,
    example,
    multi_inference_request,
    regression_request,
    regressions,
    results,
)
from tests.inference_wire import RawClassificationResponse
from tests.unit.test_predict_python import Servable, Site, until
from tests.unit.waiting import DEADLINE_SECONDS
from tfsrv._budget import set_max_in_flight_bytes
from tfsrv._proto import message_class, pool
from tfsrv.errors import Code, ServingError
from tfsrv.handlers._inference import ClassifyMethod, MultiInferenceMethod, RegressMethod
from tfsrv.metrics import snapshot

ROWS: list[Row] = [{"x": 1.0}, {"x": 2.0}]
LABELS = numpy.array([["a", "b"], ["c", "d"]], object)
SCORES = numpy.array([[1, 2], [3, 4]], "float32")
VALUES = numpy.array([5, 6], "float32")

Answer = Callable[[Mapping[str, Any]], Any]

METHODS: dict[str, tuple[Any, str]] = {
    "ClassificationRequest": (ClassifyMethod, "ClassificationResponse"),
    "RegressionRequest": (RegressMethod, "RegressionResponse"),
    "MultiInferenceRequest": (MultiInferenceMethod, "MultiInferenceResponse"),
}


def site_for(servable: object, request: Any, **options: Any) -> Site:
    """A site for the method that the request is for."""
    method, response = METHODS[type(request).__name__]
    options.setdefault("response", message_class(f"tensorflow.serving.{response}"))
    return Site(servable, method=method, **options)


def answer(servable: object, request: Any, **options: Any) -> Any:
    """What one request gets."""
    got: list[Any] = []

    async def test(site: Site) -> None:
        got.append(await site.ask(request))

    site_for(servable, request, **options).run(test)
    return got[0]


def refusal(servable: object, request: Any, **options: Any) -> tuple[Code, str]:
    got: list[tuple[Code, str]] = []

    async def test(site: Site) -> None:
        got.append(await site.refusal(request))

    site_for(servable, request, **options).run(test)
    return got[0]


def returning(**outputs: Any) -> Servable:
    return Servable(lambda inputs: outputs)


def classify(rows: Any = ROWS, **options: Any) -> Any:
    return classification_request("m", rows, **options)


def regress(rows: Any = ROWS, **options: Any) -> Any:
    return regression_request("m", rows, **options)


def multi(*tasks: tuple[str, str], rows: Any = ROWS, **options: Any) -> Any:
    return multi_inference_request("m", tasks, rows, **options)


def signature_def(inputs: str, outputs: str, method_name: str) -> Any:
    made: Any = message_class("tensorflow.SignatureDef")(method_name=method_name)
    for alias in inputs.split():
        made.inputs[alias].dtype = 7
    for alias in outputs.split():
        made.outputs[alias].dtype = 1
    return made


class Signed(Servable):
    """Has signatures of all kinds, and answers with all that there is."""

    signature_defs: ClassVar[dict[str, Any]] = {
        "classify": signature_def("inputs", "classes scores", CLASSIFY),
        "regress": signature_def("inputs", "outputs", REGRESS),
        "odd": signature_def("inputs", "classes", "odd"),
        "two": signature_def("inputs more", "outputs", REGRESS),
        "keys": signature_def("keys", "outputs", REGRESS),
        "labels": signature_def("inputs", "labels", CLASSIFY),
    }

    def __init__(self) -> None:
        super().__init__(lambda inputs: {"classes": LABELS, "scores": SCORES, "outputs": VALUES})


# --- what is right


def test_the_servable_gets_the_examples_and_its_arrays_are_the_answer() -> None:
    seen: list[Mapping[str, Any]] = []

    def predict(inputs: Mapping[str, Any]) -> Any:
        seen.append(dict(inputs))
        return {"classes": LABELS, "scores": SCORES, "more": SCORES}

    servable = Servable(predict)
    response = answer(servable, classify(signature="s"))
    assert classes(response) == [[("a", 1), ("b", 2)], [("c", 3), ("d", 4)]]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 3, "s")
    assert servable.asked == [("s", ())]
    (inputs,) = seen
    assert list(inputs) == ["inputs"]
    assert inputs["inputs"].tolist() == [example(row).SerializeToString() for row in ROWS]


def test_a_context_is_before_each_example() -> None:
    seen: list[list[bytes]] = []

    def predict(inputs: Mapping[str, Any]) -> Any:
        seen.append(inputs["inputs"].tolist())
        return {"outputs": VALUES}

    answer(Servable(predict), regress(context={"c": 1.0}))
    context = example({"c": 1.0}).SerializeToString()
    assert seen == [[context + example(row).SerializeToString() for row in ROWS]]


def test_only_classes_or_only_scores_are_an_answer() -> None:
    assert classes(answer(returning(classes=LABELS), classify())) == [
        [("a", 0), ("b", 0)],
        [("c", 0), ("d", 0)],
    ]
    assert classes(answer(returning(scores=SCORES), classify())) == [
        [("", 1), ("", 2)],
        [("", 3), ("", 4)],
    ]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_values_may_be_a_column(shape: tuple[int, ...]) -> None:
    response = answer(returning(outputs=VALUES.reshape(shape)), regress())
    assert regressions(response) == [5, 6]
    assert response.model_spec.signature_name == "serving_default"


def test_arrays_of_any_layout_are_answered() -> None:
    scores = numpy.asfortranarray(SCORES.astype(">f4"))
    labels = numpy.array([[b"a", b"b"], [b"c", b"d"]])[:, ::-1]
    response = answer(returning(classes=labels, scores=scores[::-1]), classify())
    assert classes(response) == [[("b", 3), ("a", 4)], [("d", 1), ("c", 2)]]


def test_each_task_is_asked_for_with_arrays_of_its_own() -> None:
    seen: list[Any] = []

    def predict(inputs: Mapping[str, Any]) -> Any:
        assert all(isinstance(text, bytes) for text in inputs["inputs"])
        seen.append(inputs["inputs"])
        inputs["inputs"][:] = None  # it is the servable's
        return {"classes": LABELS, "scores": SCORES + len(seen), "outputs": VALUES + len(seen)}

    servable = Servable(predict)
    response = answer(servable, multi(("r", REGRESS), ("", CLASSIFY), ("q", REGRESS)))
    assert results(response) == [
        ("r", [6, 7]),
        ("serving_default", [[("a", 3), ("b", 4)], [("c", 5), ("d", 6)]]),
        ("q", [8, 9]),
    ]
    assert servable.asked == [("r", ()), ("serving_default", ()), ("q", ())]
    assert {each.model_spec.version.value for each in response.results} == {3}


def test_signatures_are_asked_as_they_are_defined() -> None:
    assert regressions(answer(Signed(), regress(signature="regress"))) == [5, 6]
    tasks = (("regress", REGRESS), ("classify", CLASSIFY), ("odd", CLASSIFY))
    assert [name for name, _ in results(answer(Signed(), multi(*tasks)))] == [
        "regress",
        "classify",
        "odd",
    ]


LENGTHS = [0, 1, 120, 121, 126, 127, 128, 129, 16377, 16378, 16383, 16384]


@pytest.mark.parametrize("width", [0, 1, 2, 18, 19, 64, 300])
def test_answers_are_the_bytes_that_protobuf_writes(width: int) -> None:
    """Zeros and empty labels are left out, labels need not be text, and sizes may be any."""
    floats = [0.0, -0.0, 1.5, float("nan"), float("inf"), -1e-45, 3e38]
    rows: list[Row] = [{}] * len(LENGTHS)
    labels = numpy.empty((len(rows), width), object)
    scores = numpy.empty((len(rows), width), "float32")
    expected = RawClassificationResponse()
    expected.result.SetInParent()
    for i, length in enumerate(LENGTHS):
        made = expected.result.classifications.add()
        for j in range(width):
            labels[i, j] = b"\xff" * (length if j % 3 == 0 else j % 5)
            scores[i, j] = floats[(i + j) % len(floats)]
            made.classes.add(label=labels[i, j], score=scores[i, j])
    expected.model_spec.name = "m"
    expected.model_spec.version.value = 3
    expected.model_spec.signature_name = "serving_default"
    response = answer(returning(classes=labels, scores=scores), classify(rows), response=Bytes)
    assert response == expected.SerializeToString()


class Bytes:
    """For a response that is looked at byte by byte."""

    @staticmethod
    def FromString(data: bytes) -> bytes:
        return data


# --- what is wrong


SHAPE = "Expected Tensor shape: [batch_size num_classes] but got "
VECTOR = "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
CLASSES: dict[str, tuple[dict[str, Any], str]] = {
    "scores_vector": ({"scores": SCORES[0]}, SHAPE + "[2]"),
    "scores_scalar": ({"scores": numpy.float32(1)}, SHAPE + "[]"),
    "classes_cube": ({"classes": LABELS[:, :, None]}, SHAPE + "[2,2,1]"),
    "classes_double": (
        {"classes": numpy.float64(SCORES)},
        "Expected classes Tensor of DT_STRING. Got: DT_DOUBLE",
    ),
    "scores_double": (
        {"scores": numpy.float64(SCORES)},
        "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
    ),
    "scores_string": ({"scores": LABELS}, "Expected scores Tensor of DT_FLOAT. Got: DT_STRING"),
    "one_row": ({"scores": SCORES[:1]}, "Expected scores output batch size of 2. Got: 1"),
    "no_rows": ({"classes": LABELS[:0]}, "Expected classes output batch size of 2. Got: 0"),
    "widths": (
        {"classes": LABELS[:, :1], "scores": SCORES},
        "Tensors class and score should match in dim_size(1). Got 1 vs. 2",
    ),
    "neither": ({"outputs": VALUES}, 'The servable returned neither "classes" nor "scores".'),
}
REGRESSIONS: dict[str, tuple[dict[str, Any], str]] = {
    "wide": ({"outputs": SCORES}, VECTOR + "[2,2]"),
    "scalar": ({"outputs": numpy.float32(1)}, VECTOR + "[]"),
    "one_row": (
        {"outputs": VALUES[:1]},
        "Input batch size did not match output batch size: 2 vs. 1",
    ),
    "int32": (
        {"outputs": numpy.int32(VALUES)},
        "Expected output Tensor of DT_FLOAT.  Got: DT_INT32",
    ),
    "none": ({"classes": LABELS}, 'The servable returned no "outputs".'),
}


@pytest.mark.parametrize("case", CLASSES)
def test_arrays_that_are_no_classes_are_told(case: str) -> None:
    outputs, text = CLASSES[case]
    assert refusal(returning(**outputs), classify()) == (Code.INVALID_ARGUMENT, text)
    request = multi(("a", REGRESS), ("b", CLASSIFY))
    outputs = {"outputs": VALUES, **outputs}
    assert refusal(returning(**outputs), request) == (Code.INVALID_ARGUMENT, text)


@pytest.mark.parametrize("case", REGRESSIONS)
def test_arrays_that_are_no_values_are_told(case: str) -> None:
    outputs, text = REGRESSIONS[case]
    assert refusal(returning(**outputs), regress()) == (Code.INVALID_ARGUMENT, text)
    request = multi(("a", CLASSIFY), ("b", REGRESS))
    outputs = {"classes": LABELS, **outputs}
    assert refusal(returning(**outputs), request) == (Code.INVALID_ARGUMENT, text)


def test_what_is_no_mapping_of_arrays_is_told() -> None:
    servable = Servable(lambda inputs: 3)
    text = "The servable returned no mapping of arrays, but int"
    for request in (classify(), regress(), multi(("", CLASSIFY))):
        assert refusal(servable, request) == (Code.INTERNAL, text)
    servable = returning(classes=numpy.array([[None, "b"], ["c", "d"]], object), outputs=None)
    assert refusal(servable, classify()) == (
        Code.INTERNAL,
        "The servable's output 'outputs' is no array, but NoneType",
    )


def test_elements_and_types_that_cannot_be_sent_are_told_with_the_output() -> None:
    labels = numpy.array([[None, "b"], ["c", "d"]], object)
    for request in (classify(), multi(("a", CLASSIFY))):
        assert refusal(returning(classes=labels), request) == (
            Code.INTERNAL,
            "The servable's output classes has an element that is no string: NoneType",
        )
        assert refusal(returning(scores=numpy.zeros((2, 2), "M8[s]")), request) == (
            Code.INTERNAL,
            "The servable's output scores has a type that a TensorProto cannot carry:"
            " datetime64[s]",
        )


def test_what_the_servable_raises_is_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(inputs: Mapping[str, Any]) -> Any:
        raise ServingError(Code.UNAVAILABLE, "not now")

    def fail(inputs: Mapping[str, Any]) -> Any:
        raise ValueError("by mistake")

    for request, method in (
        (classify(), "Classify"),
        (regress(), "Regress"),
        (multi(("", CLASSIFY)), "MultiInference"),
    ):
        assert refusal(Servable(refuse), request) == (Code.UNAVAILABLE, "not now")
        caplog.clear()
        assert refusal(Servable(fail), request) == (Code.INTERNAL, "ValueError: by mistake")
        assert caplog.records[0].message == f"{method} on m version 3 raised ValueError"
        assert refusal(object(), request) == (
            Code.FAILED_PRECONDITION,
            f"The servable cannot answer {method}.",
        )


def test_no_examples_are_refused_before_the_servable_is_asked() -> None:
    servable = Signed()
    for request in (
        classify([], signature="classify"),
        regress([], signature="regress", context={"x": 1.0}),
        multi(("classify", CLASSIFY), ("regress", REGRESS), rows=[]),
    ):
        assert refusal(servable, request) == (Code.INVALID_ARGUMENT, "Input is empty.")
    assert servable.asked == []


def debug(name: str) -> str:
    return text_format.MessageToString(Signed.signature_defs[name], descriptor_pool=pool())


def test_signatures_that_do_not_fit_are_refused_before_the_servable_is_asked() -> None:
    servable = Signed()
    labels = (
        'Expected classification signature outputs to contain at least one of "classes" or'
        f' "scores". Signature was: {debug("labels")}'
    )
    wrong = [
        ("two", REGRESS, "Expected one input Tensor."),
        ("classify", REGRESS, "Expected one output Tensor."),
        ("keys", REGRESS, f"No regression inputs found in SignatureDef: {debug('keys')}"),
        ("keys", CLASSIFY, f"No classification inputs found in SignatureDef: {debug('keys')}"),
        ("labels", CLASSIFY, labels),
    ]
    for name, method, text in wrong:
        request = classify if method == CLASSIFY else regress
        expected = (Code.INVALID_ARGUMENT, text)
        assert refusal(servable, request(signature=name)) == expected
        assert refusal(servable, multi((name, method))) == expected
        assert refusal(servable, multi(("odd", CLASSIFY), (name, method))) == expected
    for request in (classify, regress):
        assert refusal(servable, request(signature="nöpe")) == (
            Code.INVALID_ARGUMENT,
            "No signature was found with the name: nöpe",
        )
    assert servable.asked == []


def test_method_names_are_checked_if_the_server_is_told_to() -> None:
    options = {"signature_method_name_check": True}
    text = (
        "Expected classification signature method_name to be tensorflow/serving/classify. Was: odd"
    )
    for request in (classify(signature="odd"), multi(("odd", CLASSIFY))):
        assert refusal(Signed(), request, **options) == (Code.INVALID_ARGUMENT, text)
    assert classes(answer(Signed(), classify(signature="classify"), **options))


def test_tasks_that_cannot_be_done_are_told() -> None:
    servable = Signed()
    wrong = [
        (("classify", CLASSIFY), ("nope", CLASSIFY)),
        (("classify", CLASSIFY), ("classify", REGRESS)),
    ]
    texts = [
        "Requested signature not found in model graph: nope",
        "Duplicate evaluation of signature: classify",
    ]
    for tasks, text in zip(wrong, texts, strict=True):
        assert refusal(servable, multi(*tasks)) == (Code.INVALID_ARGUMENT, text)
    assert refusal(servable, multi(("classify", "odd"))) == (
        Code.UNIMPLEMENTED,
        "Unsupported signature method_name: odd",
    )
    request = multi(("classify", CLASSIFY), ("regress", REGRESS))
    request.tasks[1].model_spec.name = "n"
    assert refusal(servable, request) == (
        Code.INVALID_ARGUMENT,
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    )
    assert servable.asked == []


def test_a_servable_is_not_asked_for_ever_for_one_request() -> None:
    servable = returning(outputs=VALUES)
    tasks = [(f"s{i}", REGRESS) for i in range(257)]
    assert len(results(answer(servable, multi(*tasks[:256])))) == 256
    assert refusal(servable, multi(*tasks)) == (
        Code.INVALID_ARGUMENT,
        "The request has more than 256 tasks.",
    )
    assert len(servable.asked) == 256


def test_names_that_are_too_long_are_those_of_no_signature() -> None:
    long = "s" * 70_000
    for request, text in (
        (classify(signature=long), "No signature was found with the name: s"),
        (multi((long, CLASSIFY)), "Requested signature not found in model graph: s"),
        (multi(("a", CLASSIFY), (long, CLASSIFY)), "Requested signature not found in model"),
    ):
        code, told = refusal(returning(classes=LABELS), request)
        assert (code, told[: len(text)]) == (Code.INVALID_ARGUMENT, text)


# --- limits, time, counters


def test_a_response_that_would_be_too_large_is_refused_before_it_is_copied() -> None:
    rows = 2
    for outputs in (
        {"scores": numpy.broadcast_to(numpy.float32(1), (rows, 2**40))},
        {"classes": numpy.broadcast_to(numpy.array("a", object), (rows, 2**40))},
    ):
        assert refusal(returning(**outputs), classify()) == (
            Code.INTERNAL,
            "The response is larger than a message may be.",
        )


def test_examples_and_answers_count_as_bytes_in_flight() -> None:
    text = "Too many bytes are in flight (--max_in_flight_bytes)."
    set_max_in_flight_bytes(500_000)
    try:
        servable = returning(outputs=VALUES)
        big = regress()
        feature = big.input.example_list.examples[0].features.feature["text"]
        feature.bytes_list.value.append(bytes(600_000))
        assert refusal(servable, big) == (Code.RESOURCE_EXHAUSTED, text)
        assert servable.asked == []
        scores = numpy.ones((2, 100_000), "float32")
        assert refusal(returning(scores=scores), classify()) == (Code.RESOURCE_EXHAUSTED, text)
        # One task's examples at a time: each is let go of before the next.
        feature.bytes_list.value[0] = bytes(200_000)
        request = multi(*((f"s{i}", REGRESS) for i in range(20)))
        request.input.CopyFrom(big.input)
        assert len(results(answer(servable, request))) == 20
    finally:
        set_max_in_flight_bytes(2**63 - 1)


def test_tasks_that_nobody_waits_for_any_more_are_not_asked_for() -> None:
    gate = threading.Event()
    began = threading.Event()

    def wait(inputs: Mapping[str, Any]) -> Any:
        began.set()
        assert gate.wait(DEADLINE_SECONDS)
        return {"outputs": VALUES}

    servable = Servable(wait)

    async def test(site: Site) -> None:
        code, _ = await site.refusal(multi(("a", REGRESS), ("b", REGRESS)), 0.2)
        assert code is Code.DEADLINE_EXCEEDED
        assert began.is_set()
        gate.set()
        await until(lambda: site.calls.held_by_workers == 0)

    site_for(servable, multi()).run(test)
    assert servable.asked == [("a", ())]


def test_calls_are_counted_by_method_and_by_signatures_that_there_are() -> None:
    before = counts()
    answer(Signed(), classify(signature="classify"))
    answer(Signed(), multi(("classify", CLASSIFY)))
    answer(returning(outputs=VALUES), regress(signature="made up"))
    refusal(Signed(), regress(signature="nope"))
    assert {key: n - before.get(key, 0) for key, n in counts().items()} == {
        **dict.fromkeys(before, 0),
        ("Classify", "classify"): 1,
        ("MultiInference", ""): 1,
        ("Regress", ""): 2,
    }


def counts() -> dict[tuple[str, str], int]:
    """Calls of the model so far, by method and signature."""
    return {
        (each.method, each.signature_name): sum(each.codes.values())
        for each in snapshot()
        if (each.model_name, each.version) == ("m", 3) and each.method != "Predict"
    }
