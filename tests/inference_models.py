"""Writes the SavedModel of tests of Classify, Regress and MultiInference. Imports TensorFlow.

    python tests/inference_models.py FOLDER

The fixture `inference_models` in tests/conftest.py gives the folder; tests/inference.py makes
examples for it and says what is answered. One model, `inference`, with versions 1 and 2, written
the way of TensorFlow 1, so that method names and shapes may be whatever a test wants.

A signature takes serialized tf.Examples as `inputs` [n] with the float features "x", which has to
be there, and "c", which is 0 where it is not. With

    v = 2 x + c / 2 + 100 (version − 1)

and "v" in a label with two decimals ("a4.25"), the outputs are, in columns:

| signature | outputs |
|---|---|
| serving_default | the tensors of `classify` |
| classify | classes [n, 2] = a‹v›, b‹v›; scores [n, 2] = v, −v |
| scores_only | scores [n, 2] = v + 1, v + 2 |
| classes_only | classes [n, 2] = c‹v›, d‹v› |
| three_classes | classes [n, 3] = e‹v›, f‹v›, g‹v›; scores [n, 3] = v + 3, v + 4, v + 5 |
| one_class | classes [n, 1] = h‹v›; scores [n, 1] = v + 6 |
| no_classes | classes [n, 0]; scores [n, 0] |
| scores_and_more | scores [n, 2] = v + 7, v + 8; more [n] = v, which Classify has no use for |
| classify_other_inputs | from another placeholder: classes [n, 1] = i‹v›; scores [n, 1] = v + 9 |
| classify_odd_method | as `classify`; the method name is "odd/method" |
| classify_no_method | as `classify`; the method name is "" |
| regress | outputs [n] = v + 10 |
| regress_column | outputs [n, 1] = v + 11 |
| regress_other_inputs | from that placeholder too: outputs [n] = v + 12 |
| regress_predict_method | as `regress`; the method name is that of Predict |
| large_scores | scores [n, 250000] = v in each |
| long_class | classes [n, 1] = 1 MiB of the letter "z" |
| fails_for_negative | outputs [n] = v; INVALID_ARGUMENT "x must not be negative" if an x is |
| spin | outputs [n] = v, after a loop that computes for as many seconds as the largest x |

Wrong ones for Classify, with its method name:

| signature | outputs |
|---|---|
| scores_vector | scores [n] = v |
| classes_vector | classes [n] = a‹v› |
| scores_cube | scores [n, 1, 1] = v |
| scores_scalar | scores [] = 1 |
| classes_int64 | classes [n, 2] int64; scores as in `classify` |
| scores_double | classes as in `classify`; scores [n, 2] double |
| widths_differ | classes [n, 3]; scores [n, 2] |
| classes_batch | classes [n + 1, 2]; scores [n, 2] |
| scores_batch | classes [n, 2]; scores [n + 1, 2] |
| both_batches | classes [n + 1, 2]; scores [n + 1, 2] |
| one_row | scores [1, 2] = 1, 2 whatever n is |
| two_inputs | as `classify`, with inputs `inputs` and `more` (that other placeholder) |
| no_inputs_key | as `classify`, but the input is `examples` |
| no_inputs | nothing → scores [1, 2] = 1, 2 |
| no_outputs | none |
| three_outputs | classes, scores as in `classify`; more [n] = v |
| outputs_misnamed | labels, values: the classes and scores of `classify` |
| output_misnamed | values: the scores of `classify` |
| float_inputs | `inputs` [n] float → scores [n, 1] = inputs + 1 |

Wrong ones for Regress, with its method name:

| signature | outputs |
|---|---|
| regress_wide | outputs [n, 2] = v, −v |
| regress_cube | outputs [n, 1, 1] = v |
| regress_scalar | outputs [] = 1 |
| regress_batch | outputs [n + 1] = v |
| regress_column_batch | outputs [n + 1, 1] = v |
| regress_one_row | outputs [1] = 1 whatever n is |
| regress_int64 | outputs [n] int64 |
| regress_double | outputs [n] double |
| regress_string | outputs [n] string = a‹v› |
| regress_two_inputs | as `regress`, with inputs `inputs` and `more` |
| regress_no_inputs_key | as `regress`, but the input is `examples` |
| regress_no_inputs | nothing → outputs [1] = 1 |
| regress_no_outputs | none |
| regress_two_outputs | outputs [n] = v; more [n] = v |
| regress_output_misnamed | values [n] = v |
| regress_float_inputs | `inputs` [n] float → outputs [n] = inputs + 1 |
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from models import PREDICT, save_v1, tf, tf1

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

LARGE_WIDTH = 250_000
LONG = 1 << 20

Tensors = dict[str, Any]
Signatures = dict[str, tuple[Tensors, Tensors]]


def parsed(examples: Any, version: int) -> tuple[Any, Any]:
    """The x and v of serialized examples, each [n]."""
    features = tf1.io.parse_example(
        examples,
        {
            "x": tf1.FixedLenFeature([], tf.float32),
            "c": tf1.FixedLenFeature([], tf.float32, default_value=0.0),
        },
    )
    x = features["x"]
    return x, 2.0 * x + 0.5 * features["c"] + 100.0 * (version - 1)


def columns(*values: Any) -> Any:
    return tf.stack(values, axis=1)


def labels(v: Any, letters: str) -> Any:
    """[n, number of letters]: each letter before v."""
    text = tf.strings.as_string(v, precision=2)
    return columns(*(tf.strings.join([letter, text]) for letter in letters))


def scores(v: Any, *offsets: float) -> Any:
    return columns(*(v + offset for offset in offsets))


def and_one_more(rows: Any) -> Any:
    """The rows and the first of them again."""
    return tf.concat([rows, rows[:1]], 0)


class Inference:
    """The tensors that signatures share, in the graph that is being made."""

    def __init__(self, version: int) -> None:
        self.examples = tf1.placeholder(tf.string, [None], name="tf_example")
        self.others = tf1.placeholder(tf.string, [None], name="other_tf_example")
        self.x, self.v = parsed(self.examples, version)
        _, self.other_v = parsed(self.others, version)
        self.numbers = tf1.placeholder(tf.float32, [None], name="numbers")
        self.inputs = {"inputs": self.examples}
        self.classes = labels(self.v, "ab")
        self.scores = columns(self.v, -self.v)
        self.both = {"classes": self.classes, "scores": self.scores}

    def classifying(self) -> Signatures:
        inputs, v, other_v = self.inputs, self.v, self.other_v
        nothing = tf.shape(v)[:1] * [1, 0]
        long = tf.strings.reduce_join(tf.fill([LONG // 1024], "z" * 1024))
        three = {"classes": labels(v, "efg"), "scores": scores(v, 3.0, 4.0, 5.0)}
        other = {"classes": labels(other_v, "i"), "scores": scores(other_v, 9.0)}
        return {
            "serving_default": (inputs, self.both),
            "classify": (inputs, self.both),
            "scores_only": (inputs, {"scores": scores(v, 1.0, 2.0)}),
            "classes_only": (inputs, {"classes": labels(v, "cd")}),
            "three_classes": (inputs, three),
            "one_class": (inputs, {"classes": labels(v, "h"), "scores": scores(v, 6.0)}),
            "no_classes": (inputs, {"classes": tf.fill(nothing, ""), "scores": tf.zeros(nothing)}),
            "scores_and_more": (inputs, {"scores": scores(v, 7.0, 8.0), "more": v}),
            "classify_other_inputs": ({"inputs": self.others}, other),
            "classify_odd_method": (inputs, self.both),
            "classify_no_method": (inputs, self.both),
            "large_scores": (inputs, {"scores": tf.repeat(v[:, None], LARGE_WIDTH, axis=1)}),
            "long_class": (inputs, {"classes": tf.fill([tf.size(v), 1], long)}),
        }

    def regressing(self) -> Signatures:
        inputs, v = self.inputs, self.v
        with tf.control_dependencies([tf1.assert_non_negative(self.x, message=NEGATIVE)]):
            checked = tf.identity(v)
        results = {
            "regress": v + 10.0,
            "regress_column": scores(v, 11.0),
            "regress_predict_method": v + 10.0,
            "fails_for_negative": checked,
            "spin": self.spun(),
        }
        signatures: Signatures = {name: (inputs, {"outputs": y}) for name, y in results.items()}
        signatures["regress_other_inputs"] = (
            {"inputs": self.others},
            {"outputs": self.other_v + 12.0},
        )
        return signatures

    def spun(self) -> Any:
        until = tf.timestamp() + tf.cast(tf.reduce_max(self.x), tf.float64)
        last = tf.while_loop(lambda now: now < until, lambda _: tf.timestamp(), [tf.timestamp()])
        with tf.control_dependencies(tf.nest.flatten(last)):
            return tf.identity(self.v)

    def wrongly_classifying(self) -> Signatures:
        v = self.v
        two_inputs = {"inputs": self.examples, "more": self.others}
        outputs: dict[str, Tensors] = {
            "scores_vector": {"scores": v},
            "classes_vector": {"classes": self.classes[:, 0]},
            "scores_cube": {"scores": v[:, None, None]},
            "scores_scalar": {"scores": tf.constant(1.0)},
            "classes_int64": {**self.both, "classes": tf.cast(self.scores, tf.int64)},
            "scores_double": {**self.both, "scores": tf.cast(self.scores, tf.float64)},
            "widths_differ": {**self.both, "classes": labels(v, "abc")},
            "classes_batch": {**self.both, "classes": and_one_more(self.classes)},
            "scores_batch": {**self.both, "scores": and_one_more(self.scores)},
            "both_batches": {key: and_one_more(rows) for key, rows in self.both.items()},
            "one_row": {"scores": tf.constant([[1.0, 2.0]])},
            "no_outputs": {},
            "three_outputs": {**self.both, "more": v},
            "outputs_misnamed": {"labels": self.classes, "values": self.scores},
            "output_misnamed": {"values": self.scores},
        }
        signatures: Signatures = {name: (self.inputs, made) for name, made in outputs.items()}
        return signatures | {
            "two_inputs": (two_inputs, self.both),
            "no_inputs_key": ({"examples": self.examples}, self.both),
            "no_inputs": ({}, {"scores": tf.constant([[1.0, 2.0]])}),
            "float_inputs": ({"inputs": self.numbers}, {"scores": scores(self.numbers, 1.0)}),
        }

    def wrongly_regressing(self) -> Signatures:
        v = self.v
        two_inputs = {"inputs": self.examples, "more": self.others}
        results = {
            "regress_wide": self.scores,
            "regress_cube": v[:, None, None],
            "regress_scalar": tf.constant(1.0),
            "regress_batch": and_one_more(v),
            "regress_column_batch": and_one_more(v[:, None]),
            "regress_one_row": tf.constant([1.0]),
            "regress_int64": tf.cast(v, tf.int64),
            "regress_double": tf.cast(v, tf.float64),
            "regress_string": self.classes[:, 0],
        }
        signatures: Signatures = {n: (self.inputs, {"outputs": y}) for n, y in results.items()}
        return signatures | {
            "regress_two_inputs": (two_inputs, {"outputs": v + 10.0}),
            "regress_no_inputs_key": ({"examples": self.examples}, {"outputs": v + 10.0}),
            "regress_no_inputs": ({}, {"outputs": tf.constant([1.0])}),
            "regress_no_outputs": (self.inputs, {}),
            "regress_two_outputs": (self.inputs, {"outputs": v, "more": v}),
            "regress_output_misnamed": (self.inputs, {"values": v}),
            "regress_float_inputs": ({"inputs": self.numbers}, {"outputs": self.numbers + 1.0}),
        }


NEGATIVE = "x must not be negative"
METHODS = {
    "classify_odd_method": "odd/method",
    "classify_no_method": "",
    "regress_predict_method": PREDICT,
}


def inference(folder: Path, version: int) -> None:
    methods: dict[str, str] = {}

    def build() -> Signatures:
        tensors = Inference(version)
        classifying = tensors.classifying() | tensors.wrongly_classifying()
        regressing = tensors.regressing() | tensors.wrongly_regressing()
        methods.update(dict.fromkeys(classifying, CLASSIFY) | dict.fromkeys(regressing, REGRESS))
        methods.update(METHODS)
        return classifying | regressing

    save_v1(folder, build, methods)


def write_all(root: Path) -> None:
    for version in (1, 2):
        inference(root / "inference" / str(version), version)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
