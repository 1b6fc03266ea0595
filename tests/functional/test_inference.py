"""Classify, Regress and MultiInference: right answers, and what is refused with which text.

Rules and texts are those of TensorFlow Serving's servables/tensorflow/{classifier,regressor,
multi_inference}.cc; the model is that of tests/inference_models.py.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest
from google.protobuf import text_format

from tests.functional.conftest import serving
from tests.functional.gated_model import GatedModel
from tests.functional.launching import SECONDS, Client, Launched, client, until
from tests.functional.messages import array, floats, predict_request, strings
from tests.functional.serving_api import Examples, ServingApi
from tests.functional.sites import AVAILABLE, LOADING
from tests.functional.test_predict_errors import mutated
from tests.graphs import FLOAT, STRING, Graph
from tests.inference import (
    CLASSES,
    CLASSIFY,
    LARGE_WIDTH,
    REGRESS,
    VALUES,
    ClassificationRequest,
    MultiInferenceRequest,
    RegressionRequest,
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
from tests.inference_wire import RAW
from tfsrv._proto import message_class, pool

ROWS: list[Row] = [{"x": 0.25, "c": 3.0}, {"x": 0.5}]
MODEL = "inference"
LABELS = (
    "model_version_policy { all {} } "
    'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'
)
METHODS = (CLASSIFY, REGRESS)
REQUESTS = {CLASSIFY: classification_request, REGRESS: regression_request}
KINDS = ("classify", "regress", "multi")


def served(models: Path, inference_models: Path) -> dict[str, Path]:
    names = ("half_plus_two", "identity")
    return {MODEL: inference_models / MODEL} | {name: models / name for name in names}


@pytest.fixture(scope="module")
def server(models: Path, inference_models: Path, transport: str) -> Iterator[Launched]:
    flag = f"--grpc_transport={transport}"
    with serving(served(models, inference_models), flag, texts={MODEL: LABELS}) as server:
        with client(server.address()) as ask:
            until(lambda: ask.states(MODEL) == [AVAILABLE, AVAILABLE])
        yield server


def request_of(method: str, signature: str = "", rows: Any = ROWS, **options: Any) -> Any:
    """A ClassificationRequest or a RegressionRequest."""
    return REQUESTS[method](MODEL, rows, signature=signature, **options)


def multi(*tasks: Task, rows: Any = ROWS, **options: Any) -> Any:
    return multi_inference_request(MODEL, tasks, rows, **options)


def of_kind(kind: str, signature: str = "", rows: Any = ROWS, **options: Any) -> Any:
    """A request of one of KINDS, each of which classifies or regresses with that signature."""
    if kind == "multi":
        return multi((signature, CLASSIFY), rows=rows, **options)
    return request_of(CLASSIFY if kind == "classify" else REGRESS, signature, rows, **options)


def refusal(ask: Client, request: Any) -> tuple[str, str]:
    error = ask.infer_future(request).exception()
    assert error is not None, "there is no error"
    return error.code().name, error.details()


def spec_of(response: Any) -> tuple[str, int, str]:
    spec = response.model_spec
    return spec.name, spec.version.value, spec.signature_name


# --- right answers


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("signature", sorted(CLASSES))
def test_classes_and_scores_are_those_of_the_model(
    ask: Client, signature: str, version: int
) -> None:
    response = ask.infer(request_of(CLASSIFY, signature, version=version))
    assert classes(response) == classifications(signature, ROWS, version=version)
    assert spec_of(response) == (MODEL, version, signature or "serving_default")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("signature", sorted(VALUES))
def test_values_are_those_of_the_model(ask: Client, signature: str, version: int) -> None:
    response = ask.infer(request_of(REGRESS, signature, version=version))
    assert regressions(response) == values(signature, ROWS, version=version)
    assert spec_of(response) == (MODEL, version, signature)


@pytest.mark.parametrize("count", [1, 2, 100, 1000])
def test_any_number_of_examples_is_answered_in_their_order(ask: Client, count: int) -> None:
    rows = [{"x": i / 4, "c": i % 7} for i in range(count)]
    assert classes(ask.infer(request_of(CLASSIFY, "classify", rows))) == classifications(
        "classify", rows, version=2
    )
    assert regressions(ask.infer(request_of(REGRESS, "regress", rows))) == values(
        "regress", rows, version=2
    )


def test_answers_are_the_bytes_that_protobuf_writes(ask: Client) -> None:
    """0.0 and empty labels are left out, -0.0 is not."""
    rows = [{"x": 0.0}, {"x": -3.0, "c": 1.5}, {"x": -5.0}]
    for signature in ("classify", "scores_only", "classes_only", "no_classes", "one_class"):
        call = ask.channel.unary_unary("/tensorflow.serving.PredictionService/Classify")
        data = call(
            request_of(CLASSIFY, signature, rows, version=1).SerializeToString(), timeout=SECONDS
        )
        expected: Any = message_class("tensorflow.serving.ClassificationResponse")()
        expected.model_spec.name = MODEL
        expected.model_spec.version.value = 1
        expected.model_spec.signature_name = signature
        expected.result.SetInParent()
        for row in classifications(signature, rows):
            made = expected.result.classifications.add()
            for label, score in row:
                made.classes.add(label=label, score=score)
        assert data == expected.SerializeToString()


@pytest.mark.parametrize("label", ["stable", "canary"])
def test_a_label_chooses_the_version(ask: Client, label: str) -> None:
    version = {"stable": 1, "canary": 2}[label]
    assert ask.infer(request_of(CLASSIFY, label=label)).model_spec.version.value == version
    assert regressions(ask.infer(request_of(REGRESS, "regress", label=label))) == values(
        "regress", ROWS, version=version
    )
    (result,) = ask.infer(multi(("classify", CLASSIFY), label=label)).results
    assert result.model_spec.version.value == version
    assert not result.model_spec.version_label


def test_a_context_is_merged_into_each_example(ask: Client) -> None:
    rows: list[Row] = [{"x": 1.0}, {"x": 2.0, "c": 5.0}, {"c": 7.0}, {}]
    context = {"x": 3.0, "c": 4.0}
    for signature in ("classify", "classify_other_inputs"):
        response = ask.infer(request_of(CLASSIFY, signature, rows, context=context))
        assert classes(response) == classifications(signature, rows, context, version=2)
    response = ask.infer(request_of(REGRESS, "regress", rows, context=context))
    assert regressions(response) == values("regress", rows, context, version=2)
    tasks = (("classify", CLASSIFY), ("regress_other_inputs", REGRESS))
    response = ask.infer(multi(*tasks, rows=rows, context=context))
    assert results(response) == inferred(tasks, rows, context, version=2)


def test_an_empty_context_changes_nothing(ask: Client) -> None:
    response = ask.infer(request_of(CLASSIFY, "classify", context={}))
    assert classes(response) == classifications("classify", ROWS, version=2)


def test_contexts_merge_and_the_kind_that_came_last_counts(ask: Client) -> None:
    request = RAW[False]()
    request.model_spec.name = MODEL
    request.model_spec.signature_name = "regress"
    head = request.SerializeToString()

    def asked(*inputs: bytes) -> list[float]:
        future = ask.call_future("Regress", "RegressionResponse", head + b"".join(inputs))
        return regressions(future.result())

    def contextual(contexts: list[Row], rows: list[Row]) -> bytes:
        made = RAW[False]()
        listed = made.input.example_list_with_context
        listed.context.extend(example(row).SerializeToString() for row in contexts)
        listed.examples.extend(example(row).SerializeToString() for row in rows)
        return bytes(made.SerializeToString())

    def plain(*rows: Row) -> bytes:
        made = RAW[False]()
        made.input.example_list.examples.extend(example(r).SerializeToString() for r in rows)
        return bytes(made.SerializeToString())

    def expected(*rows: Row) -> list[float]:
        return values("regress", rows, version=2)

    assert asked(contextual([{"x": 1}, {"c": 2}, {"x": 3}], [{}])) == expected({"x": 3, "c": 2})
    assert asked(contextual([{"x": 1}], [{}]), contextual([{"c": 4}], [{"x": 5}])) == expected(
        {"x": 1, "c": 4}, {"x": 5, "c": 4}
    )
    assert asked(plain({"x": 1}), plain({"x": 2})) == expected({"x": 1}, {"x": 2})
    assert asked(contextual([{"c": 1}], [{"x": 1}]), plain({"x": 2})) == expected({"x": 2})
    assert asked(plain({"x": 2}), contextual([{"c": 1}], [{"x": 1}])) == expected({"x": 1, "c": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_fields_are_ignored_also_where_a_reader_could_stumble(
    ask: Client, kind: str
) -> None:
    """Field 8 of a list is what a TensorProto has its strings in; groups are obsolete."""
    rows = b"".join(b"\x0a" + bytes([len(e)]) + e for e in (bytes_of(row) for row in ROWS))
    signature = "classify" if kind != "regress" else "regress"
    head = of_kind(kind, signature, rows=[])
    head.ClearField("input")
    for odd in (b"\x42\x03abc", b"\xc2\x00\x01x", b"\x1b\x08\x01\x1c", b"\x40\x07"):
        listed = odd + rows + odd
        whole = head.SerializeToString() + field(2, field(1, listed) + b"\x1b\x1c")
        method, response = {
            "classify": ("Classify", "ClassificationResponse"),
            "regress": ("Regress", "RegressionResponse"),
            "multi": ("MultiInference", "MultiInferenceResponse"),
        }[kind]
        answer = ask.call_future(method, response, whole).result()
        if kind == "multi":
            assert results(answer) == inferred([(signature, CLASSIFY)], ROWS, version=2)
        elif kind == "classify":
            assert classes(answer) == classifications(signature, ROWS, version=2)
        else:
            assert regressions(answer) == values(signature, ROWS, version=2)


def bytes_of(row: Row) -> bytes:
    return bytes(example(row).SerializeToString())


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


# --- models, versions and signatures


@pytest.mark.parametrize("kind", KINDS)
def test_models_and_versions_are_refused_as_by_predict(ask: Client, kind: str) -> None:
    def refused(**options: Any) -> tuple[str, str]:
        return refusal(ask, named(kind, **options))

    empty = "ModelSpec has no name specified."
    assert refused(name="") == ("INVALID_ARGUMENT", empty)
    assert refused(name="nosuch") == (
        "NOT_FOUND",
        "Servable not found for request: Latest(nosuch)",
    )
    assert refused(version=7) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(inference, 7)",
    )
    assert refused(label="nope") == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: nope",
    )
    request = named(kind)
    if kind == "multi":
        request.tasks[0].ClearField("model_spec")
        assert refusal(ask, request) == ("INVALID_ARGUMENT", empty)
        request.ClearField("tasks")
        assert refusal(ask, request) == ("INVALID_ARGUMENT", empty)
    else:
        request.ClearField("model_spec")
        assert refusal(ask, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def named(kind: str, name: str = MODEL, **options: Any) -> Any:
    request = of_kind(kind, "classify" if kind != "regress" else "regress", **options)
    spec = request.tasks[0].model_spec if kind == "multi" else request.model_spec
    spec.name = name
    return request


def test_an_unknown_signature_is_refused_with_its_name(ask: Client) -> None:
    text = "No signature was found with the name: nöpe"
    for method in METHODS:
        assert refusal(ask, request_of(method, "nöpe")) == ("INVALID_ARGUMENT", text)
        assert refusal(ask, multi(("nöpe", method))) == (
            "INVALID_ARGUMENT",
            "Requested signature not found in model graph: nöpe",
        )
        # The default's name is told where none was said.
        request = REQUESTS[method]("identity", ROWS)
        assert refusal(ask, request) == (
            "INVALID_ARGUMENT",
            "No signature was found with the name: serving_default",
        )


SHAPE = "Expected Tensor shape: [batch_size num_classes] but got "
VECTOR = "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
NO_CLASSES = (
    'Expected classification signature outputs to contain at least one of "classes" or "scores".'
    " Signature was: {debug}"
)
WRONG: dict[str, dict[str, str]] = {
    CLASSIFY: {
        "scores_vector": SHAPE + "[2]",
        "classes_vector": SHAPE + "[2]",
        "scores_cube": SHAPE + "[2,1,1]",
        "scores_scalar": SHAPE + "[]",
        "classes_int64": "Expected classes Tensor of DT_STRING. Got: DT_INT64",
        "scores_double": "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
        "widths_differ": "Tensors class and score should match in dim_size(1). Got 3 vs. 2",
        "classes_batch": "Expected classes output batch size of 2. Got: 3",
        "scores_batch": "Expected scores output batch size of 2. Got: 3",
        "both_batches": "Expected classes output batch size of 2. Got: 3",
        "one_row": "Expected scores output batch size of 2. Got: 1",
        "two_inputs": "Expected one input Tensor.",
        "no_inputs": "Expected one input Tensor.",
        "no_inputs_key": "No classification inputs found in SignatureDef: {debug}",
        "no_outputs": "Expected one or two output Tensors, found 0",
        "three_outputs": "Expected one or two output Tensors, found 3",
        "outputs_misnamed": NO_CLASSES,
        "output_misnamed": NO_CLASSES,
        "regress": NO_CLASSES,
    },
    REGRESS: {
        "regress_wide": VECTOR + "[2,2]",
        "regress_cube": VECTOR + "[2,1,1]",
        "regress_scalar": VECTOR + "[]",
        "regress_batch": "Input batch size did not match output batch size: 2 vs. 3",
        "regress_column_batch": "Input batch size did not match output batch size: 2 vs. 3",
        "regress_one_row": "Input batch size did not match output batch size: 2 vs. 1",
        "regress_int64": "Expected output Tensor of DT_FLOAT.  Got: DT_INT64",
        "regress_double": "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE",
        "regress_string": "Expected output Tensor of DT_FLOAT.  Got: DT_STRING",
        "regress_two_inputs": "Expected one input Tensor.",
        "regress_no_inputs": "Expected one input Tensor.",
        "regress_no_inputs_key": "No regression inputs found in SignatureDef: {debug}",
        "regress_no_outputs": "Expected one output Tensor.",
        "regress_two_outputs": "Expected one output Tensor.",
        "regress_output_misnamed": "No regression outputs found in SignatureDef: {debug}",
        "classify": "Expected one output Tensor.",
        "scores_only": "No regression outputs found in SignatureDef: {debug}",
    },
}
CASES = [(method, signature) for method in METHODS for signature in WRONG[method]]


@pytest.fixture(scope="module")
def signature_defs(inference_models: Path) -> Any:
    saved: Any = message_class("tensorflow.SavedModel")()
    saved.ParseFromString((inference_models / MODEL / "2" / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0].signature_def


def expected_text(method: str, signature: str, signature_defs: Any) -> str:
    """As it reaches a client: cut at 1,024 bytes."""
    text = WRONG[method][signature]
    if "{debug}" in text:
        debug = text_format.MessageToString(signature_defs[signature], descriptor_pool=pool())
        text = text.replace("{debug}", debug)
    return text if len(text) <= 1024 else text[:1024] + "...TRUNCATED"


@pytest.mark.parametrize(("method", "signature"), CASES)
def test_signatures_and_outputs_that_do_not_fit_are_told(
    ask: Client, signature_defs: Any, method: str, signature: str
) -> None:
    expected = ("INVALID_ARGUMENT", expected_text(method, signature, signature_defs))
    assert refusal(ask, request_of(method, signature)) == expected
    assert refusal(ask, multi((signature, method))) == expected
    good = ("one_class", CLASSIFY)
    assert refusal(ask, multi(good, (signature, method))) == expected
    assert refusal(ask, multi((signature, method), good)) == expected


def test_what_is_wrong_for_two_examples_may_be_right_for_one(ask: Client) -> None:
    row = ROWS[:1]
    response = ask.infer(request_of(CLASSIFY, "one_row", row))
    assert classes(response) == [[("", 1.0), ("", 2.0)]]
    assert regressions(ask.infer(request_of(REGRESS, "regress_one_row", row))) == [1.0]


@pytest.mark.parametrize(
    ("method", "name"), [(CLASSIFY, "float_inputs"), (REGRESS, "regress_float_inputs")]
)
def test_an_input_of_numbers_is_told_by_the_run(ask: Client, method: str, name: str) -> None:
    text = "Expects arg[0] to be float but string is provided"
    requests = [
        request_of(method, name),
        multi((name, method)),
        multi((name, method), ("classify", CLASSIFY)),
        multi(("classify", CLASSIFY), (name, method)),
    ]
    for request in requests:
        assert refusal(ask, request) == ("INVALID_ARGUMENT", text)


def test_an_input_of_numbers_is_told_though_nothing_could_be_joined_with_it(
    tmp_path: Path, transport: str
) -> None:
    """The model has one signature only that takes examples. Names are in order."""
    graph = Graph()
    text = graph.add("a_text", "Placeholder", dtype=STRING)
    number = graph.add("b_number", "Placeholder", dtype=FLOAT)
    parsed = graph.add("parsed", "StringToNumber", text, out_type=FLOAT)
    same = graph.add("same", "Identity", number, T=FLOAT)
    graph.sign("texts", {"inputs": text}, {"outputs": parsed}).inputs["inputs"].dtype = STRING
    graph.sign("numbers", {"inputs": number}, {"outputs": same})
    graph.save(tmp_path / "m" / "1")
    flag = f"--grpc_transport={transport}"
    tasks = [("texts", REGRESS), ("numbers", REGRESS)]
    with serving({"m": tmp_path / "m"}, flag) as server, client(server.address()) as ask:
        for each in (tasks, tasks[::-1]):
            assert refusal(ask, multi_inference_request("m", each, ROWS)) == (
                "INVALID_ARGUMENT",
                "Expects arg[1] to be float but string is provided",
            )
            assert refusal(ask, multi_inference_request("m", each, [])) == (
                "INVALID_ARGUMENT",
                "Input is empty.",
            )


def test_method_names_are_checked_if_the_flag_says_so(
    models: Path, inference_models: Path, transport: str
) -> None:
    flags = ("--enable_signature_method_name_check", f"--grpc_transport={transport}")
    classify = "Expected classification signature method_name to be tensorflow/serving/classify."
    regress = "Expected regression signature method_name to be tensorflow/serving/regress."
    wrong = [
        (CLASSIFY, "classify_odd_method", f"{classify} Was: odd/method"),
        (CLASSIFY, "classify_no_method", f"{classify} Was: "),
        (CLASSIFY, "regress", f"{classify} Was: tensorflow/serving/regress"),
        (REGRESS, "regress_predict_method", f"{regress} Was: tensorflow/serving/predict"),
        (REGRESS, "classify", f"{regress} Was: tensorflow/serving/classify"),
    ]
    with (
        serving({MODEL: inference_models / MODEL}, *flags) as server,
        client(server.address()) as ask,
    ):
        for method, signature, text in wrong:
            assert refusal(ask, request_of(method, signature)) == ("INVALID_ARGUMENT", text)
            assert refusal(ask, multi((signature, method))) == ("INVALID_ARGUMENT", text)
        assert classes(ask.infer(request_of(CLASSIFY, "classify"))) == classifications(
            "classify", ROWS, version=2
        )
        tasks = (("classify", CLASSIFY), ("regress", REGRESS))
        assert results(ask.infer(multi(*tasks))) == inferred(tasks, ROWS, version=2)


# --- examples


@pytest.mark.parametrize("kind", KINDS)
def test_no_examples_are_refused_after_the_signature(ask: Client, kind: str) -> None:
    signature = "classify" if kind != "regress" else "regress"
    empty = ("INVALID_ARGUMENT", "Input is empty.")
    assert refusal(ask, of_kind(kind, signature, rows=[])) == empty
    assert refusal(ask, of_kind(kind, signature, rows=[], context={"x": 1.0})) == empty
    request = of_kind(kind, signature)
    request.ClearField("input")
    assert refusal(ask, request) == empty
    request.input.SetInParent()
    assert refusal(ask, request) == empty
    assert refusal(ask, of_kind(kind, "nosuch", rows=[])) != empty


@pytest.mark.parametrize("kind", KINDS)
def test_examples_that_do_not_parse_are_told_by_the_graph(ask: Client, kind: str) -> None:
    signature = "classify" if kind != "regress" else "regress"
    good = bytes_of({"x": 1.0})
    head = of_kind(kind, signature)
    head.ClearField("input")
    made = RAW[False]()
    made.input.example_list.examples.extend([good, b"\xff\xff"])
    method, response = {
        "classify": ("Classify", "ClassificationResponse"),
        "regress": ("Regress", "RegressionResponse"),
        "multi": ("MultiInference", "MultiInferenceResponse"),
    }[kind]
    data = head.SerializeToString() + made.SerializeToString()
    error = ask.call_future(method, response, data).exception()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("Could not parse example input, value: '")
    # Required by the graph, and not there:
    code, text = refusal(ask, of_kind(kind, signature, rows=[{"c": 1.0}]))
    assert code == "INVALID_ARGUMENT"
    assert "Feature: x (data type: float) is required but could not be found." in text


@pytest.mark.parametrize("name", ["Classify", "Regress", "MultiInference"])
def test_bytes_that_are_no_request_are_refused(ask: Client, name: str) -> None:
    message, response = {
        "Classify": ("ClassificationRequest", "ClassificationResponse"),
        "Regress": ("RegressionRequest", "RegressionResponse"),
        "MultiInference": ("MultiInferenceRequest", "MultiInferenceResponse"),
    }[name]
    for data in (b"\x0a", b"\xff", b"\x0b", b"\x12\x05\x0a\x03\x0a\x09\x01"):
        error = ask.call_future(name, response, data).exception()
        assert (error.code().name, error.details()) == (
            "INTERNAL",
            f"Failed to parse the {message}.",
        )


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_requests_get_an_error_or_an_answer_and_hurt_nobody(ask: Client, kind: str) -> None:
    signature = "classify" if kind != "regress" else "regress"
    options: list[dict[str, Any]] = [{}, {"context": {"c": 2.0}}]
    chance = random.Random(kind)
    message, method, response = {
        "classify": (ClassificationRequest, "Classify", "ClassificationResponse"),
        "regress": (RegressionRequest, "Regress", "RegressionResponse"),
        "multi": (MultiInferenceRequest, "MultiInference", "MultiInferenceResponse"),
    }[kind]
    codes = {"OK", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}
    seen: dict[str, int] = dict.fromkeys(codes, 0)
    for some in options:
        valid = of_kind(kind, signature, **some).SerializeToString()
        data = [mutated(chance, valid) for _ in range(400)]
        data += [valid[:size] for size in range(len(valid))]
        for each, future in [(each, ask.call_future(method, response, each)) for each in data]:
            error = future.exception()
            code = "OK" if error is None else error.code().name
            assert code in codes, (each.hex(), error)
            seen[code] += 1
            if code == "INTERNAL":  # what protobuf reads is not refused as unreadable
                with pytest.raises(Exception, match=r"(?i)pars"):
                    message.FromString(each)
    assert seen["OK"] > 10
    assert seen["INTERNAL"] > 100
    assert classes(ask.infer(request_of(CLASSIFY, "classify"))) == classifications(
        "classify", ROWS, version=2
    )


# --- much


def test_a_hundred_thousand_examples_in_one_call(ask: Client) -> None:
    rows = [{"x": i % 1000 / 4} for i in range(100_000)]
    assert regressions(ask.infer(request_of(REGRESS, "regress", rows))) == values(
        "regress", rows, version=2
    )
    found = classes(ask.infer(request_of(CLASSIFY, "one_class", rows)))
    assert found == classifications("one_class", rows, version=2)


def test_a_context_that_would_make_a_hundred_gigabytes_is_refused(
    server: Launched, ask: Client
) -> None:
    for signature, method in (("classify", CLASSIFY), ("regress", REGRESS)):
        request = with_long_context(request_of(method, signature, []), 1 << 20, 100_000)
        ask.infer_future(request).exception()  # what is kept for the next one is there by now
        server.forget_peak_memory()
        before = server.memory_bytes()
        assert refusal(ask, request) == (
            "RESOURCE_EXHAUSTED",
            "The request's examples are larger than a message may be.",
        )
        assert server.peak_memory_bytes() - before < 50_000_000


@pytest.mark.parametrize(
    ("method", "signature", "text"),
    [
        (CLASSIFY, "nosuch", "No signature was found with the name: nosuch"),
        (REGRESS, "two_inputs", "Expected one input Tensor."),
    ],
)
def test_nothing_is_joined_for_a_signature_that_cannot_take_it(
    server: Launched, ask: Client, method: str, signature: str, text: str
) -> None:
    request = with_long_context(request_of(method, signature, []), 60_000, 10_000)  # 600 MB
    refusal(ask, request)
    server.forget_peak_memory()
    before = server.memory_bytes()
    assert refusal(ask, request) == ("INVALID_ARGUMENT", text)
    assert server.peak_memory_bytes() - before < 50_000_000


def test_nothing_is_joined_for_tasks_that_cannot_be_done(server: Launched, ask: Client) -> None:
    tasks = [("regress", REGRESS), ("regress", REGRESS)]
    request = with_long_context(multi(*tasks, rows=[]), 60_000, 10_000)
    refusal(ask, request)
    server.forget_peak_memory()
    before = server.memory_bytes()
    assert refusal(ask, request) == (
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: regress",
    )
    assert server.peak_memory_bytes() - before < 50_000_000


def with_long_context(request: Any, size: int, examples: int) -> Any:
    """A context with a feature of so many bytes, and so many examples of a few."""
    listed = request.input.example_list_with_context
    listed.context.features.feature["text"].bytes_list.value.append(bytes(size))
    listed.context.features.feature["x"].float_list.value.append(2.5)
    for _ in range(examples):
        listed.examples.add()
    return request


def test_a_context_that_makes_much_does_not_hold_others_up(server: Launched, ask: Client) -> None:
    large = with_long_context(request_of(REGRESS, "regress", []), 30_000, 10_000)
    half_plus_two = predict_request("half_plus_two", {"x": floats(1)})
    with client(server.address()) as other:
        other.predict(half_plus_two)
        future = ask.infer_future(large)
        answered = 0
        while not future.done():
            other.predict(half_plus_two)
            answered += 1
    assert regressions(future.result()) == [115.0] * 10_000
    assert answered > 5


def test_a_context_that_makes_more_than_may_be_in_flight_is_refused(
    inference_models: Path, transport: str
) -> None:
    flags = ("--max_in_flight_bytes=20000000", f"--grpc_transport={transport}")
    text = ("RESOURCE_EXHAUSTED", "Too many bytes are in flight (--max_in_flight_bytes).")
    with (
        serving({MODEL: inference_models / MODEL}, *flags) as server,
        client(server.address()) as ask,
    ):
        assert (
            refusal(ask, with_long_context(request_of(REGRESS, "regress", []), 30_000, 1000))
            == text
        )
        # It is there twice, joined and as a tensor: each counts once.
        good = with_long_context(request_of(REGRESS, "regress", []), 30_000, 300)
        assert regressions(ask.infer(good)) == [115.0] * 300
        for _ in range(5):  # and all is given back
            assert regressions(ask.infer(good)) == [115.0] * 300


def test_large_answers_come_whole(ask: Client) -> None:
    rows = [{"x": i / 4} for i in range(6)]
    response = ask.infer(request_of(CLASSIFY, "large_scores", rows))
    found = [{each.score for each in row.classes} for row in response.result.classifications]
    assert found == [{v} for v in values("fails_for_negative", rows, version=2)]
    assert {len(row.classes) for row in response.result.classifications} == {LARGE_WIDTH}
    response = ask.infer(request_of(CLASSIFY, "long_class", rows))
    assert classes(response) == classifications("long_class", rows)


def test_an_answer_of_more_than_two_gigabytes_is_refused(ask: Client) -> None:
    rows: list[Row] = [{"x": 1.0}] * 1300
    assert refusal(ask, request_of(CLASSIFY, "large_scores", rows)) == (
        "INTERNAL",
        "The response is larger than a message may be.",
    )


# --- time


def test_the_deadline_is_answered_while_the_run_goes_on(server: Launched, ask: Client) -> None:
    rows: list[Row] = [{"x": 60.0}]
    requests = [
        request_of(REGRESS, "spin", rows),
        multi(("spin", REGRESS), rows=rows),
        multi(("classify", CLASSIFY), ("spin", REGRESS), rows=rows),
    ]
    for request in requests:
        error = ask.infer_future(request, 0.3).exception()
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: not is_busy(server))
    assert regressions(ask.infer(request_of(REGRESS, "spin"))) == values("spin", ROWS, version=2)


def test_what_was_cancelled_in_the_queue_does_not_run(server: Launched, ask: Client) -> None:
    rows: list[Row] = [{"x": 0.25}]
    futures = [ask.infer_future(request_of(REGRESS, "spin", rows)) for _ in range(200)]
    for future in futures[20:]:
        future.cancel()
    for future in futures[:20]:
        assert regressions(future.result()) == values("spin", rows, version=2)
    until(lambda: not is_busy(server))


def is_busy(server: Launched) -> bool:
    before = server.cpu_seconds()
    time.sleep(0.3)
    return server.cpu_seconds() - before > 0.1


def test_a_request_for_a_model_that_is_loading_waits_for_it(tmp_path: Path, transport: str) -> None:
    gated = GatedModel(tmp_path / "gated")
    flag = f"--grpc_transport={transport}"
    with (
        serving({"gated": gated.path}, flag, ready=False) as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states("gated") == [LOADING])
        futures = [
            ask.infer_future(request)
            for request in (
                classification_request("gated", ROWS),
                regression_request("gated", ROWS, context={"c": 1.0}),
                multi_inference_request("gated", [("", CLASSIFY), ("", REGRESS)], ROWS),
            )
        ]
        assert ask.states("gated") == [LOADING]
        assert not any(future.done() for future in futures)
        gated.open()
        texts = [future.exception().details() for future in futures]
        assert texts[0].startswith("No classification inputs found in SignatureDef: inputs {")
        assert texts[1].startswith("No regression inputs found in SignatureDef: inputs {")
        assert texts[2].startswith("No classification inputs found in SignatureDef: inputs {")
        until(lambda: ask.states("gated") == [AVAILABLE])


# --- MultiInference


GOOD: list[Task] = [
    *(
        (name, CLASSIFY)
        for name in sorted(CLASSES)
        if name not in ("", "large_scores", "long_class")
    ),
    *((name, REGRESS) for name in sorted(VALUES) if name not in ("spin", "fails_for_negative")),
]


@pytest.mark.parametrize("version", [1, 2])
def test_results_come_in_the_order_of_the_tasks(ask: Client, version: int) -> None:
    for tasks in (GOOD, GOOD[::-1]):
        response = ask.infer(multi(*tasks, version=version))
        assert results(response) == inferred(tasks, ROWS, version=version)
        specs = {(each.model_spec.name, each.model_spec.version.value) for each in response.results}
        assert specs == {(MODEL, version)}


@pytest.mark.parametrize("task", GOOD)
def test_one_task_is_answered_as_by_its_method(ask: Client, task: Task) -> None:
    assert results(ask.infer(multi(task))) == inferred([task], ROWS, version=2)


def test_the_default_signature_of_a_task_is_told(ask: Client) -> None:
    response = ask.infer(multi(("", CLASSIFY), ("regress", REGRESS)))
    names = [each.model_spec.signature_name for each in response.results]
    assert names == ["serving_default", "regress"]


def test_signatures_that_are_not_asked_for_do_not_take_part(
    inference_models: Path, transport: str
) -> None:
    """However many different sets were asked for before: some fail for these examples."""
    rows: list[Row] = [{"x": -2.0}, {"x": 1.0}]
    flag = f"--grpc_transport={transport}"
    with (
        serving({MODEL: inference_models / MODEL}, flag) as server,
        client(server.address()) as ask,
    ):
        sets = [*itertools.combinations(GOOD, 2), *itertools.combinations(GOOD[:6], 3)]
        assert len(sets) > 50
        for tasks in sets:
            assert results(ask.infer(multi(*tasks, rows=rows))) == inferred(tasks, rows, version=2)
        for name in (name for name in VALUES if name != "fails_for_negative"):
            tasks = (("fails_for_negative", REGRESS), (name, REGRESS))
            code, text = refusal(ask, multi(*tasks, rows=rows))
            assert code == "INVALID_ARGUMENT"
            assert "x must not be negative" in text
        tasks = (("fails_for_negative", REGRESS), ("classify", CLASSIFY))
        assert results(ask.infer(multi(*tasks))) == inferred(tasks, ROWS, version=2)


MULTI_ERRORS: dict[str, tuple[list[Task], str, str]] = {
    "duplicate": (
        [("classify", CLASSIFY), ("regress", REGRESS), ("classify", CLASSIFY)],
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: classify",
    ),
    "duplicate_with_another_method": (
        [("classify", CLASSIFY), ("classify", REGRESS)],
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: classify",
    ),
    "duplicate_default": (
        [("", CLASSIFY), ("serving_default", CLASSIFY)],
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: serving_default",
    ),
    "unknown_signature": (
        [("classify", CLASSIFY), ("nope", "odd")],
        "INVALID_ARGUMENT",
        "Requested signature not found in model graph: nope",
    ),
    "unsupported_method": (
        [("classify", "tensorflow/serving/predict")],
        "UNIMPLEMENTED",
        "Unsupported signature method_name: tensorflow/serving/predict",
    ),
    "no_method": ([("classify", "")], "UNIMPLEMENTED", "Unsupported signature method_name: "),
    "the_first_error_is_told": (
        [("classify", "nope"), ("nope", CLASSIFY)],
        "UNIMPLEMENTED",
        "Unsupported signature method_name: nope",
    ),
    "unfit_before_unknown": (
        [("regress", CLASSIFY), ("nope", CLASSIFY)],
        "INVALID_ARGUMENT",
        "Expected classification signature outputs",
    ),
}


@pytest.mark.parametrize("case", MULTI_ERRORS)
def test_tasks_that_cannot_be_done_are_told(ask: Client, case: str) -> None:
    tasks, code, text = MULTI_ERRORS[case]
    found = refusal(ask, multi(*tasks))
    if case == "unfit_before_unknown":
        found = found[0], found[1][: len(text)]
    assert found == (code, text)
    assert refusal(ask, multi(*tasks, rows=[]))[0] == code  # before "Input is empty."


def test_tasks_must_have_one_model_by_name(ask: Client) -> None:
    request = multi(("classify", CLASSIFY), ("regress", REGRESS))
    request.tasks[1].model_spec.name = "half_plus_two"
    assert refusal(ask, request) == (
        "INVALID_ARGUMENT",
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    )
    request.tasks[1].model_spec.ClearField("name")
    assert refusal(ask, request) == (
        "INVALID_ARGUMENT",
        "Found ModelSpec with an empty model name.",
    )


def test_versions_of_other_tasks_than_the_first_mean_nothing(ask: Client) -> None:
    tasks = (("classify", CLASSIFY), ("regress", REGRESS))
    request = multi(*tasks)
    request.tasks[0].model_spec.version.value = 1
    request.tasks[1].model_spec.version.value = 77
    response = ask.infer(request)
    assert results(response) == inferred(tasks, ROWS, version=1)
    assert [each.model_spec.version.value for each in response.results] == [1, 1]


# --- with Predict


def test_predict_takes_the_same_signatures(ask: Client) -> None:
    examples = strings(*(bytes_of(row) for row in ROWS))
    request = predict_request(MODEL, {"inputs": examples}, signature="classify")
    outputs = ask.predict(request).outputs
    expected = classifications("classify", ROWS, version=2)
    labels = [[label.encode() for label, _ in row] for row in expected]
    assert array(outputs["classes"]).tolist() == labels
    assert array(outputs["scores"]).tolist() == [[score for _, score in row] for row in expected]


# --- tensorflow-serving-api


def random_rows(chance: random.Random) -> tuple[Row, ...]:
    """Floats whose sums are exact, in whatever order TensorFlow adds."""
    rows: list[Row] = []
    for _ in range(chance.choice([1, 2, 5, 30])):
        made = {"x": chance.randrange(-4000, 4000) / 4 if chance.random() < 0.8 else 0.0}
        if chance.random() < 0.5:
            made["c"] = float(chance.randrange(-(2**18), 2**18))
        rows.append(made)
    return tuple(rows)


def as_inferred(outputs: dict[str, Any], method: str) -> list[Any]:
    """What a run's outputs become in an answer."""
    if method == REGRESS:
        return [float(value) for value in outputs["outputs"].ravel()]
    columns = [outputs[key] for key in ("classes", "scores") if key in outputs]
    labels = outputs.get("classes", numpy.full(columns[0].shape, b""))
    scores = outputs.get("scores", numpy.zeros(columns[0].shape))
    return [
        [(label.decode(), float(score)) for label, score in zip(*row, strict=True)]
        for row in zip(labels, scores, strict=True)
    ]


def test_clients_of_tensorflow_serving_get_what_the_model_computes(
    server: Launched, serving_api: ServingApi, inference_models: Path
) -> None:
    chance = random.Random(5)
    asked: dict[str, list[Examples]] = {"Classify": [], "Regress": [], "MultiInference": []}
    for _ in range(40):
        context = {"c": 3.0} if chance.random() < 0.3 else None
        for method, count in (("Classify", 1), ("Regress", 1), ("MultiInference", 4)):
            pick = [
                task
                for task in GOOD
                if method == "MultiInference"
                or (task[1] == (CLASSIFY if method == "Classify" else REGRESS))
            ]
            tasks = tuple(chance.sample(pick, count))
            asked[method].append(Examples(MODEL, random_rows(chance), tasks, context))
    calls = {
        "Classify": serving_api.classify,
        "Regress": serving_api.regress,
        "MultiInference": serving_api.multi_inference,
    }
    path = str(inference_models / MODEL / "2")
    for method, some in asked.items():
        found = calls[method](server.address(), *some)
        expected = serving_api.run_saved_model(path, *some)
        for each, answer, outputs in zip(some, found, expected, strict=True):
            assert answer.code == "OK", answer.details
            assert answer.results == tuple(
                ((MODEL, 2, name), as_inferred(one, kind))
                for (name, kind), one in zip(each.tasks, outputs, strict=True)
            )


def test_clients_of_tensorflow_serving_get_its_errors(
    server: Launched, serving_api: ServingApi
) -> None:
    asked = Examples(MODEL, ({"x": 1.0},), (("nope", CLASSIFY),))
    (answer,) = serving_api.classify(server.address(), asked)
    assert (answer.code, answer.details) == (
        "INVALID_ARGUMENT",
        "No signature was found with the name: nope",
    )
    (answer,) = serving_api.multi_inference(server.address(), asked)
    assert (answer.code, answer.details) == (
        "INVALID_ARGUMENT",
        "Requested signature not found in model graph: nope",
    )
