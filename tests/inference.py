"""Examples for the model of tests/inference_models.py, and what is answered to them.

    rows = [{"x": 1.0}, {"x": 2.0, "c": 3.0}]
    request = classification_request("inference", rows, signature="classify")
    assert classes(response) == classifications("classify", rows)

A row is the float features of one tf.Example. Expected values are those of float32 exactly as
long as the features are small multiples of 1/4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tfsrv._proto import message_class

Example: Any = message_class("tensorflow.Example")
Input: Any = message_class("tensorflow.serving.Input")
ClassificationRequest: Any = message_class("tensorflow.serving.ClassificationRequest")
RegressionRequest: Any = message_class("tensorflow.serving.RegressionRequest")
MultiInferenceRequest: Any = message_class("tensorflow.serving.MultiInferenceRequest")

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

LARGE_WIDTH = 250_000  # scores of a row of large_scores
LONG = 1 << 20  # letters of a class of long_class

Row = Mapping[str, float]
Class = tuple[str, float]
Task = tuple[str, str]  # the signature, and CLASSIFY or REGRESS
Result = tuple[str, Any]  # the signature, and what classes() or regressions() tells


# --- requests


def example(row: Row) -> Any:
    """A tf.Example with a float feature for each key."""
    made: Any = Example()
    for name, value in row.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def input_of(rows: Iterable[Row], context: Row | None = None) -> Any:
    """An Input of the kind that `context` asks for."""
    made: Any = Input()
    examples = [example(row) for row in rows]
    if context is None:
        made.example_list.SetInParent()
        made.example_list.examples.extend(examples)
    else:
        made.example_list_with_context.context.CopyFrom(example(context))
        made.example_list_with_context.examples.extend(examples)
    return made


def classification_request(model: str, rows: Iterable[Row], **options: Any) -> Any:
    """A ClassificationRequest; `signature`, `version`, `label` and `context` as options."""
    return _request(ClassificationRequest(), model, rows, **options)


def regression_request(model: str, rows: Iterable[Row], **options: Any) -> Any:
    """A RegressionRequest; options as above."""
    return _request(RegressionRequest(), model, rows, **options)


def multi_inference_request(
    model: str,
    tasks: Iterable[Task],
    rows: Iterable[Row],
    *,
    version: int | None = None,
    label: str | None = None,
    context: Row | None = None,
) -> Any:
    """A MultiInferenceRequest; each task has the same model, version and label."""
    request = MultiInferenceRequest(input=input_of(rows, context))
    for signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.CopyFrom(_spec(model, signature, version, label))
    return request


def _spec(model: str, signature: str, version: int | None, label: str | None) -> Any:
    spec: Any = message_class("tensorflow.serving.ModelSpec")(name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
    return spec


def _request(
    request: Any,
    model: str,
    rows: Iterable[Row],
    *,
    signature: str = "",
    version: int | None = None,
    label: str | None = None,
    context: Row | None = None,
) -> Any:
    request.model_spec.CopyFrom(_spec(model, signature, version, label))
    request.input.CopyFrom(input_of(rows, context))
    return request


# --- answers


def classes(response: Any) -> list[list[Class]]:
    """(label, score) of each class of each row of a ClassificationResponse."""
    found = response.result.classifications
    return [[(each.label, each.score) for each in row.classes] for row in found]


def regressions(response: Any) -> list[float]:
    """The values of a RegressionResponse."""
    return [each.value for each in response.result.regressions]


def results(response: Any) -> list[Result]:
    """The results of a MultiInferenceResponse."""
    return [(each.model_spec.signature_name, _result(each)) for each in response.results]


def _result(result: Any) -> Any:
    if result.WhichOneof("result") == "regression_result":
        return [each.value for each in result.regression_result.regressions]
    rows = result.classification_result.classifications
    return [[(each.label, each.score) for each in row.classes] for row in rows]


def v_of(row: Row, context: Row | None = None, version: int = 1) -> float:
    """What every output is made of. A feature of the row hides that of the context."""
    features = {"c": 0.0, **(context or {}), **row}
    return 2.0 * features["x"] + 0.5 * features["c"] + 100.0 * (version - 1)


def _both(v: float) -> list[Class]:
    return [(f"a{v:.2f}", v), (f"b{v:.2f}", -v)]


CLASSES: dict[str, Callable[[float], list[Class]]] = {
    "": _both,
    "serving_default": _both,
    "classify": _both,
    "classify_odd_method": _both,
    "classify_no_method": _both,
    "scores_only": lambda v: [("", v + 1), ("", v + 2)],
    "classes_only": lambda v: [(f"c{v:.2f}", 0.0), (f"d{v:.2f}", 0.0)],
    "three_classes": lambda v: [
        (f"e{v:.2f}", v + 3),
        (f"f{v:.2f}", v + 4),
        (f"g{v:.2f}", v + 5),
    ],
    "one_class": lambda v: [(f"h{v:.2f}", v + 6)],
    "no_classes": lambda v: [],
    "scores_and_more": lambda v: [("", v + 7), ("", v + 8)],
    "classify_other_inputs": lambda v: [(f"i{v:.2f}", v + 9)],
    "large_scores": lambda v: [("", v)] * LARGE_WIDTH,
    "long_class": lambda v: [("z" * LONG, 0.0)],
}
VALUES: dict[str, Callable[[float], float]] = {
    "regress": lambda v: v + 10,
    "regress_column": lambda v: v + 11,
    "regress_other_inputs": lambda v: v + 12,
    "regress_predict_method": lambda v: v + 10,
    "fails_for_negative": lambda v: v,
    "spin": lambda v: v,
}


def classifications(
    signature: str, rows: Sequence[Row], context: Row | None = None, version: int = 1
) -> list[list[Class]]:
    """What Classify answers, as classes() tells it."""
    return [CLASSES[signature](v_of(row, context, version)) for row in rows]


def values(
    signature: str, rows: Sequence[Row], context: Row | None = None, version: int = 1
) -> list[float]:
    """What Regress answers, as regressions() tells it."""
    return [VALUES[signature](v_of(row, context, version)) for row in rows]


def inferred(
    tasks: Iterable[Task], rows: Sequence[Row], context: Row | None = None, version: int = 1
) -> list[Result]:
    """What MultiInference answers, as results() tells it."""
    return [
        (
            signature,
            classifications(signature, rows, context, version)
            if method == CLASSIFY
            else values(signature, rows, context, version),
        )
        for signature, method in tasks
    ]
