"""Writes the benchmarks' SavedModels, requests and right answers.

Runs in a process of its own, because it imports TensorFlow. Below the directory it gets:

    models/NAME/1/          a SavedModel, from tests/models.py, which tells what each does
    requests/NAME.request   a serialized PredictRequest, as tensorflow-serving-api writes it
    requests/NAME.response  the PredictResponse that TensorFlow Serving would answer
    requests/NAME.json      model, and the names of its first input and output tensor
    versions/NAME/N/        SavedModels of y = x / 2 + offset: what bench_lifecycle.py swaps
    versions/NAME.json      the offsets, in the order of N

The model `inference` is that of tests/inference_models.py; its requests are `classify` and
`regress`, and the same as PredictRequests `classify.predict` and `regress.predict`.

One model more is `mixed`, which has others as signatures; the requests to those are mixed.NAME.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.tools import saved_model_utils
from tensorflow_serving.apis import classification_pb2, predict_pb2, regression_pb2

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_SIGNATURE = "serving_default"
LONG_SECONDS = 30.0  # what the request to spinner asks for
LARGE_VARIABLES = 10
LARGE_SHAPE = (1250, 1000)  # of floats: 5 MB each
# On one core at some 30 GFLOPS:
CALIBRATED_SIDE = 256
CALIBRATED_ONCE = 12  # products of squares: 2 ms
CALIBRATED_EACH = 110  # products with each row: 0.05 ms

Inputs = dict[str, np.ndarray[Any, Any]]


def floats(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def requests() -> dict[str, tuple[Inputs, Inputs]]:
    """Inputs and right outputs, by model."""
    row = np.arange(100, dtype=np.float32).reshape(1, 100)
    words = np.array([b"value number %d" % number for number in range(8)], object)
    pixels = np.linspace(0, 1, 224 * 224 * 3, dtype=np.float32).reshape(1, -1)
    return {
        "half_plus_two": ({"x": floats(1)}, {"y": floats(2.5)}),
        "four_inputs": (
            {name: row * factor for factor, name in enumerate("abcd", 1)},
            {"sum": row * 10},
        ),
        "string_identity": ({"x": words}, {"y": words}),
        "identity_image": ({"x": pixels}, {"y": pixels}),
        "slow": ({"x": floats(1)}, {"y": floats(1)}),
        "calibrated": ({"x": floats(1)}, {"y": floats(2.5)}),
        "spinner": ({"seconds": floats(LONG_SECONDS)}, {"y": np.float32(LONG_SECONDS)}),
    }


MIXED = ("half_plus_two", "slow", "spinner")


class Writer:
    """Writes into one directory; see the module's text for what goes where."""

    def __init__(self, directory: Path) -> None:
        self.models = directory / "models"
        self.requests = directory / "requests"
        self.requests.mkdir(parents=True)
        self.versions = directory / "versions"

    def write_models(self, names: list[str]) -> None:
        sys.path.insert(0, str(ROOT))
        tests_models = importlib.import_module("tests.models")
        for name in names:
            if name == "calibrated":
                tests_models.save(self.models / name / "1", calibrated(tests_models))
                continue
            getattr(tests_models, name)(self.models / name)
            for version in (self.models / name).iterdir():
                if version.name != "1":
                    shutil.rmtree(version)  # the latest is served, and answers by version 1
        mixed = tf.Module()
        mixed.parts = {name: tf.saved_model.load(str(self.models / name / "1")) for name in MIXED}
        signatures = {name: mixed.parts[name].signatures[DEFAULT_SIGNATURE] for name in MIXED}
        tf.saved_model.save(mixed, str(self.models / "mixed" / "1"), signatures=signatures)

    def write_versions(self) -> None:
        """Models of which each version answers something else."""
        tests_models = importlib.import_module("tests.models")
        tests_models.half_plus_two(self.versions / "half_plus_two")
        self._write_offsets("half_plus_two", [2.0, 3.0, 4.0])
        for version in (1, 2):
            module = large_module(tests_models, float(version))
            folder = self.versions / "large" / str(version)
            tests_models.save(folder, module.predict, module)
        self._write_offsets("large", [LARGE_VARIABLES * 1.0, LARGE_VARIABLES * 2.0])

    def _write_offsets(self, name: str, offsets: list[float]) -> None:
        (self.versions / f"{name}.json").write_text(json.dumps(offsets))

    def write_inference(self) -> None:
        """One small Example for Classify, and one for Regress."""
        sys.path.insert(0, str(ROOT / "tests"))
        importlib.import_module("inference_models").inference(
            self.models / "inference" / "1", version=1
        )
        example = tf.train.Example()
        example.features.feature["x"].float_list.value.append(1.5)
        example.features.feature["c"].float_list.value.append(4.0)
        classified = classification_pb2.ClassificationResponse()
        row = classified.result.classifications.add()
        row.classes.add(label="a5.00", score=5.0)
        row.classes.add(label="b5.00", score=-5.0)
        regressed = regression_pb2.RegressionResponse()
        regressed.result.regressions.add(value=15.0)
        for name, request, response, path in (
            ("classify", classification_pb2.ClassificationRequest(), classified, "Classify"),
            ("regress", regression_pb2.RegressionRequest(), regressed, "Regress"),
        ):
            request.model_spec.name = response.model_spec.name = "inference"
            request.model_spec.signature_name = response.model_spec.signature_name = name
            response.model_spec.version.value = 1
            request.input.example_list.examples.append(example)
            inputs = {"inputs": np.array([example.SerializeToString()], object)}
            self.write_request(f"{name}.predict", "inference", name, inputs, {})
            facts = json.loads((self.requests / f"{name}.predict.json").read_text())
            facts["path"] = f"/tensorflow.serving.PredictionService/{path}"
            (self.requests / f"{name}.request").write_bytes(request.SerializeToString())
            (self.requests / f"{name}.response").write_bytes(response.SerializeToString())
            (self.requests / f"{name}.json").write_text(json.dumps(facts))

    def write_request(
        self, name: str, model: str, signature: str, inputs: Inputs, outputs: Inputs
    ) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        if signature != DEFAULT_SIGNATURE:
            request.model_spec.signature_name = signature
        for alias, array in inputs.items():
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(array))
        response = predict_pb2.PredictResponse()
        response.model_spec.name = model
        response.model_spec.version.value = 1
        response.model_spec.signature_name = signature
        for alias, array in outputs.items():
            response.outputs[alias].CopyFrom(tensor_in_typed_fields(array))
        meta_graph = saved_model_utils.get_meta_graph_def(str(self.models / model / "1"), "serve")
        definition = meta_graph.signature_def[signature]
        facts = {
            "model": model,
            "input": next(iter(definition.inputs.values())).name,
            "output": next(iter(definition.outputs.values())).name,
        }
        (self.requests / f"{name}.request").write_bytes(request.SerializeToString())
        (self.requests / f"{name}.response").write_bytes(response.SerializeToString())
        (self.requests / f"{name}.json").write_text(json.dumps(facts))


def tensor_in_typed_fields(array: np.ndarray[Any, Any]) -> Any:
    """The TensorProto with its values where TensorFlow Serving puts them in an answer."""
    tensor = tf.make_tensor_proto(array)
    if tensor.dtype == types_pb2.DT_FLOAT:
        tensor.ClearField("tensor_content")
        del tensor.float_val[:]
        tensor.float_val.extend(array.flatten().tolist())
    return tensor


def calibrated(tests_models: Any) -> Any:
    """y = x / 2 + 2 after loops of products that take some 2 ms, and 0.05 ms more for each row."""

    def loop(times: int, matrix: Any) -> Any:
        factor = tf.fill([CALIBRATED_SIDE, CALIBRATED_SIDE], 1.0 / CALIBRATED_SIDE)
        return tf.while_loop(
            lambda done, _: done < times,
            lambda done, product: (done + 1, tf.matmul(product, factor)),
            [0, matrix],
            shape_invariants=[tf.TensorShape([]), tf.TensorShape([None, CALIBRATED_SIDE])],
        )[1]

    def predict(x: Any) -> dict[str, Any]:
        side = CALIBRATED_SIDE
        once = loop(CALIBRATED_ONCE, tf.fill([side, side], tf.reduce_max(x)))
        each = loop(CALIBRATED_EACH, tf.repeat(x[:, None], side, axis=1))
        # Always 0, which the graph's optimizer does not know.
        nothing = tf.minimum(tf.abs(once[0, 0]), 0.0) + tf.minimum(tf.abs(each[:, 0]), 0.0)
        return {"y": x * 0.5 + 2.0 + nothing}

    return tests_models.function(tests_models.spec("x"))(predict)


def large_module(tests_models: Any, value: float) -> Any:
    """y = x / 2 + the largest of each variable, so that a request reads all 50 MB of them."""
    module = tf.Module()
    module.parts = [tf.Variable(tf.fill(LARGE_SHAPE, value)) for _ in range(LARGE_VARIABLES)]

    def predict(x: Any) -> dict[str, Any]:
        return {"y": x * 0.5 + tf.add_n([tf.reduce_max(part) for part in module.parts])}

    module.predict = tests_models.function(tests_models.spec("x"))(predict)
    return module


def main() -> None:
    writer = Writer(Path(sys.argv[1]))
    wanted = requests()
    writer.write_models([*wanted, "identity"])  # which bench_client.py asks with its own requests
    writer.write_versions()
    writer.write_inference()
    for name, (inputs, outputs) in wanted.items():
        writer.write_request(name, name, DEFAULT_SIGNATURE, inputs, outputs)
    for name in MIXED:
        writer.write_request(f"mixed.{name}", "mixed", name, *wanted[name])


if __name__ == "__main__":
    main()
