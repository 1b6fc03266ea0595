"""Writes the SavedModels that the tests serve. Runs in a process of its own: it imports TensorFlow.

    python tests/models.py FOLDER

The fixture `models` in tests/conftest.py gives the folder. All models have version 1 unless told
otherwise; a signature is `serving_default` unless named. [n] is a vector of any length, [*] any
shape at all. Inputs and outputs are float32 unless told otherwise.

| model | signature: inputs → outputs |
|---|---|
| half_plus_two, versions 1, 2, 3 | x [n] → y = x / 2 + 1 + version (so version 1 adds two); two variables |
| half_plus_two_v1 | written by TensorFlow 1's builder: x [n] → y = x / 2 + 2; `regress_x_to_y` and `classify_x_to_y`: tf.Examples with a feature "x" |
| keras_dense | exported by Keras 3: x [n, 3] → output_0 [n, 2] = the sum of the row, twice the sum |
| several_signatures | x [n] → y = x; `double`: x [n] → y = 2 x; `negate`: x [n] → y = −x; `rows`: x [n, 2] → sum [n], first [n] |
| string_identity | x [*] string → y [*] string; `lengths`: x [*] string → length [*] int32, in bytes |
| lookup_table | word [n] string → id [n] int64: zero → 0, one → 1, two → 2, others → −1; the words are an asset |
| identity | one signature for each dtype, named as in DT_... but in lower case (`float`, `qint8`, `string` ...): x [*] → y [*] |
| identity_image | x [n, 150528] → y, the same |
| assign_then_read | `assign`: x [*] → size int32, keeps x in a variable; `read`: nothing → y [*], what was assigned, or 0 of shape [1] |
| default_inputs | x [n], scale [] = 2, offset [] = 1 → y = x scale + offset; scale and offset have defaults in the signature |
| wrong_default | as default_inputs, but the default of scale is an int32 and offset has none |
| sum_and_product | a [n], b [n] → sum, product |
| four_inputs | a, b, c, d, each [1, 100] → sum [1, 100] |
| counter | no serving_default. `get_counter`, `incr_counter`, `reset_counter`: nothing → output []; `incr_counter_by`: delta [] → output [] |
| slow | about 20 ms of matrix products, no loop: x [n] → y [n], the largest value of x each time |
| spinner | a loop that computes for as many seconds: seconds [*] → y [] = the largest of them |
| sleeper | no loop, and waits without computing: seconds [*] → y [] = the largest of them |
| blocker | waits for ever for something that never comes: x [*] → y [*] |
| fails_for_negative | x [n] → y = x; INVALID_ARGUMENT "x must not be negative" if a value is |
| probe, versions 1, 2 | tells what ran together: x [n] → y = x, together [n] string = all values of x in the run, as whole numbers ("1,2,3"), run [n] int64 = the number of the run; `plus_one`: x [n] → y = x + 1, together [n]; `inner`: x [n, m] → y = x, together [n]; `gated`: gate [n] string, x [n] → as serving_default, after "ran" was written into the file of each gate that is not "" |
| wide | eight branches that can run side by side: x [n] → y [n], the largest value of x each time |
| odd_method_names | x [n] → y = x / 2 + 2, but the method name is "odd/method"; `no_method_name`: the same with none; `predict`: the same with the right one |
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

tf1 = tf.compat.v1
Signature = meta_graph_pb2.SignatureDef

PREDICT = "tensorflow/serving/predict"
ANY_SHAPE = tf.TensorShape(None)

DTYPES = {
    "half": tf.float16,
    "bfloat16": tf.bfloat16,
    "float": tf.float32,
    "double": tf.float64,
    "complex64": tf.complex64,
    "complex128": tf.complex128,
    "int8": tf.int8,
    "int16": tf.int16,
    "int32": tf.int32,
    "int64": tf.int64,
    "uint8": tf.uint8,
    "uint16": tf.uint16,
    "uint32": tf.uint32,
    "uint64": tf.uint64,
    "bool": tf.bool,
    "string": tf.string,
    "qint8": tf.qint8,
    "quint8": tf.quint8,
    "qint16": tf.qint16,
    "quint16": tf.quint16,
    "qint32": tf.qint32,
}


def spec(name: str, shape: Any = (None,), dtype: Any = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name=name)


def function(*inputs: tf.TensorSpec) -> Callable[[Callable[..., Any]], Any]:
    """A tf.function for tensors of just these kinds."""
    return tf.function(input_signature=list(inputs))


def save(folder: Path, signatures: dict[str, Any] | Any, module: tf.Module | None = None) -> None:
    """Write a SavedModel the way of TensorFlow 2."""
    if not isinstance(signatures, dict):
        signatures = {"serving_default": signatures}
    module = module or tf.Module()
    # A function is found by the loader only where the module owns it.
    module.signature_functions = list(signatures.values())
    tf.saved_model.save(module, str(folder), signatures=signatures)


def save_v1(
    folder: Path,
    build: Callable[[], dict[str, tuple[dict[str, Any], dict[str, Any]]]],
    methods: dict[str, str] | None = None,
) -> None:
    """Write a SavedModel the way of TensorFlow 1.

    `build` makes a graph and tells its signatures, each as (inputs, outputs).
    """
    with tf.Graph().as_default(), tf1.Session() as session:
        signatures = {
            name: tf1.saved_model.build_signature_def(
                inputs={key: tf1.saved_model.build_tensor_info(t) for key, t in inputs.items()},
                outputs={key: tf1.saved_model.build_tensor_info(t) for key, t in outputs.items()},
                method_name=(methods or {}).get(name, PREDICT),
            )
            for name, (inputs, outputs) in build().items()
        }
        session.run([tf1.global_variables_initializer(), tf1.tables_initializer()])
        builder = tf1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session, [tf1.saved_model.tag_constants.SERVING], signature_def_map=signatures
        )
        builder.save()


def edit_signatures(folder: Path, edit: Callable[[Any], None]) -> None:
    """Change a written model's map of signatures by hand."""
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(model.meta_graphs[0].signature_def)
    path.write_bytes(model.SerializeToString(deterministic=True))


class HalfPlus(tf.Module):
    """y = x / 2 + offset"""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.factor = tf.Variable(0.5)
        self.offset = tf.Variable(offset)

    @function(spec("x"))
    def predict(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * self.factor + self.offset}


def half_plus_two(model: Path) -> None:
    for version in (1, 2, 3):
        module = HalfPlus(1.0 + version)
        save(model / str(version), module.predict, module)


def half_plus_two_v1(model: Path) -> None:
    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        examples = tf1.placeholder(tf.string, [None], name="tf_example")
        features = tf1.io.parse_example(examples, {"x": tf1.FixedLenFeature([1], tf.float32)})
        factor = tf1.get_variable("a", initializer=0.5, use_resource=False)
        offset = tf1.get_variable("b", initializer=2.0, use_resource=False)
        x = tf1.placeholder(tf.float32, [None], name="x")
        y = tf.add(tf.multiply(factor, x), offset, name="y")
        scores = tf.add(tf.multiply(factor, features["x"]), offset)
        return {
            "serving_default": ({"x": x}, {"y": y}),
            "regress_x_to_y": ({"inputs": examples}, {"outputs": scores}),
            "classify_x_to_y": ({"inputs": examples}, {"scores": scores}),
        }

    save_v1(
        model / "1",
        build,
        {
            "regress_x_to_y": "tensorflow/serving/regress",
            "classify_x_to_y": "tensorflow/serving/classify",
        },
    )


def keras_dense(model: Path) -> None:
    layers = [
        tf.keras.Input((3,), name="x"),
        tf.keras.layers.Dense(2, use_bias=False, name="dense"),
    ]
    network = tf.keras.Sequential(layers)
    network.layers[-1].set_weights([numpy.array([[1.0, 2.0]] * 3)])
    network.export(str(model / "1"), verbose=False)


def several_signatures(model: Path) -> None:
    @function(spec("x"))
    def same(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.identity(x)}

    @function(spec("x"))
    def double(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": 2.0 * x}

    @function(spec("x"))
    def negate(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": -x}

    @function(spec("x", (None, 2)))
    def rows(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": tf.reduce_sum(x, 1), "first": x[:, 0]}

    signatures = {"serving_default": same, "double": double, "negate": negate, "rows": rows}
    save(model / "1", signatures)


def string_identity(model: Path) -> None:
    @function(spec("x", ANY_SHAPE, tf.string))
    def same(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.identity(x)}

    @function(spec("x", ANY_SHAPE, tf.string))
    def lengths(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"length": tf.strings.length(x)}

    save(model / "1", {"serving_default": same, "lengths": lengths})


def lookup_table(model: Path) -> None:
    words = model / "words.txt"
    words.parent.mkdir(parents=True)
    words.write_text("zero\none\ntwo\n")
    initializer = tf.lookup.TextFileInitializer(
        str(words),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(initializer, default_value=-1)

    @function(spec("word", (None,), tf.string))
    def look_up(word: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"id": module.table.lookup(word)}

    save(model / "1", look_up, module)
    words.unlink()  # the version must do with its own copy


def identity(model: Path) -> None:
    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        inputs = {name: tf1.placeholder(dtype, None) for name, dtype in DTYPES.items()}
        return {name: ({"x": x}, {"y": tf.identity(x)}) for name, x in inputs.items()}

    save_v1(model / "1", build)


def identity_image(model: Path) -> None:
    @function(spec("x", (None, 150528)))
    def same(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.identity(x)}

    save(model / "1", same)


def assign_then_read(model: Path) -> None:
    # TensorFlow 1's way: no function call stands between the fed tensor and the assignment, so
    # the variable keeps the very memory that was fed.
    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        kept = tf1.Variable(tf.zeros([1]), shape=ANY_SHAPE, validate_shape=False, use_resource=True)
        x = tf1.placeholder(tf.float32, None)
        assign = tf.raw_ops.AssignVariableOp(resource=kept.handle, value=x)
        with tf.control_dependencies([assign]):
            size = tf.size(x)
        return {"assign": ({"x": x}, {"size": size}), "read": ({}, {"y": kept.read_value()})}

    save_v1(model / "1", build)


def scale_and_offset(folder: Path, defaults: dict[str, Any]) -> None:
    @function(spec("x"), spec("scale", ()), spec("offset", ()))
    def predict(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * scale + offset}

    save(folder, predict)

    def add_defaults(signatures: Any) -> None:
        for name, value in defaults.items():
            signatures["serving_default"].defaults[name].CopyFrom(tf.make_tensor_proto(value))

    edit_signatures(folder, add_defaults)


def default_inputs(model: Path) -> None:
    scale_and_offset(model / "1", {"scale": 2.0, "offset": 1.0})


def wrong_default(model: Path) -> None:
    scale_and_offset(model / "1", {"scale": 2})


def sum_and_product(model: Path) -> None:
    @function(spec("a"), spec("b"))
    def predict(a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": a + b, "product": a * b}

    save(model / "1", predict)


def four_inputs(model: Path) -> None:
    @function(*(spec(name, (1, 100)) for name in "abcd"))
    def predict(a: tf.Tensor, b: tf.Tensor, c: tf.Tensor, d: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sum": a + b + c + d}

    save(model / "1", predict)


class Counter(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = tf.Variable(0.0)

    @function()
    def get(self) -> dict[str, tf.Tensor]:
        return {"output": self.count.read_value()}

    @function()
    def increment(self) -> dict[str, tf.Tensor]:
        return {"output": self.count.assign_add(1.0)}

    @function()
    def reset(self) -> dict[str, tf.Tensor]:
        return {"output": self.count.assign(0.0)}

    @function(spec("delta", ()))
    def increment_by(self, delta: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"output": self.count.assign_add(delta)}


def counter(model: Path) -> None:
    module = Counter()
    signatures = {
        "get_counter": module.get,
        "incr_counter": module.increment,
        "reset_counter": module.reset,
        "incr_counter_by": module.increment_by,
    }
    save(model / "1", signatures, module)


SIDE = 256  # of square matrices; a power of two keeps the products below exact
SLOW_PRODUCTS = 130  # 20 ms on two cores with AVX-512


def multiply_often(value: tf.Tensor, times: int) -> tf.Tensor:
    """`value`, a scalar, after as many products of SIDE × SIDE matrices."""
    factor = tf.fill([SIDE, SIDE], 1.0 / SIDE)
    matrix = tf.fill([SIDE, SIDE], value)
    for _ in range(times):
        matrix = tf.matmul(matrix, factor)
    return matrix[0, 0]


def slow(model: Path) -> None:
    @function(spec("x"))
    def predict(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.fill(tf.shape(x), multiply_often(tf.reduce_max(x), times=SLOW_PRODUCTS))}

    save(model / "1", predict)


def spinner(model: Path) -> None:
    @function(spec("seconds", ANY_SHAPE))
    def predict(seconds: tf.Tensor) -> dict[str, tf.Tensor]:
        longest = tf.reduce_max(seconds)
        until = tf.timestamp() + tf.cast(longest, tf.float64)
        tf.while_loop(lambda now: now < until, lambda now: [tf.timestamp()], [tf.timestamp()])
        return {"y": longest}

    save(model / "1", predict)


def sleeper(model: Path) -> None:
    @function(spec("seconds", ANY_SHAPE))
    def predict(seconds: tf.Tensor) -> dict[str, tf.Tensor]:
        longest = tf.reduce_max(seconds)
        one = tf.data.Dataset.from_tensors(longest)
        slept = tf.raw_ops.SleepDataset(
            input_dataset=one._variant_tensor,
            sleep_microseconds=tf.cast(longest * 1e6, tf.int64),
            output_types=[tf.float32],
            output_shapes=[()],
        )
        # Without take() it would sleep a second time, to find that there is nothing more.
        taken = tf.raw_ops.TakeDataset(
            input_dataset=slept, count=1, output_types=[tf.float32], output_shapes=[()]
        )
        (y,) = tf.raw_ops.DatasetToSingleElement(
            dataset=taken, output_types=[tf.float32], output_shapes=[()]
        )
        return {"y": y}

    save(model / "1", predict)


def blocker(model: Path) -> None:
    def build() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        x = tf1.placeholder(tf.float32, None)
        with tf.control_dependencies([tf1.FIFOQueue(1, [tf.float32], name="empty").dequeue()]):
            return {"serving_default": ({"x": x}, {"y": tf.identity(x)})}

    save_v1(model / "1", build)


def fails_for_negative(model: Path) -> None:
    @function(spec("x"))
    def predict(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies(
            [tf.debugging.assert_non_negative(x, "x must not be negative")]
        ):
            return {"y": tf.identity(x)}

    save(model / "1", predict)


class Probe(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.runs = tf.Variable(0, dtype=tf.int64)

    def tell(self, x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of each row, what it ran with."""
        values = tf.strings.as_string(tf.cast(tf.reshape(x, [-1]), tf.int32))
        together = tf.strings.reduce_join(values, separator=",")
        rows = tf.shape(x)[:1]
        run = self.runs.assign_add(1)
        return {"y": y, "together": tf.fill(rows, together), "run": tf.fill(rows, run)}

    @function(spec("x"))
    def same(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.tell(x, tf.identity(x))

    @function(spec("x"))
    def plus_one(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.tell(x, x + 1.0)

    @function(spec("x", (None, None)))
    def inner(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.tell(x, tf.identity(x))

    @function(spec("gate", (None,), tf.string), spec("x"))
    def gated(self, gate: tf.Tensor, x: tf.Tensor) -> dict[str, tf.Tensor]:
        for path in gate:
            if path != "":
                tf.io.write_file(path, "ran")
        return self.tell(x, tf.identity(x))


def probe(model: Path) -> None:
    for version in (1, 2):
        module = Probe()
        signatures = {
            "serving_default": module.same,
            "plus_one": module.plus_one,
            "inner": module.inner,
            "gated": module.gated,
        }
        save(model / str(version), signatures, module)


def wide(model: Path) -> None:
    @function(spec("x"))
    def predict(x: tf.Tensor) -> dict[str, tf.Tensor]:
        # Values that differ, or the branches would be merged into one.
        branches = [multiply_often(tf.reduce_max(x) + float(i), times=2) - i for i in range(8)]
        return {"y": tf.fill(tf.shape(x), tf.add_n(branches) / len(branches))}

    save(model / "1", predict)


def odd_method_names(model: Path) -> None:
    module = HalfPlus(2.0)
    names = {"serving_default": "odd/method", "no_method_name": "", "predict": PREDICT}
    save(model / "1", dict.fromkeys(names, module.predict), module)

    def rename(signatures: Any) -> None:
        for name, method in names.items():
            signatures[name].method_name = method

    edit_signatures(model / "1", rename)


MODELS: list[Callable[[Path], None]] = [
    half_plus_two,
    half_plus_two_v1,
    keras_dense,
    several_signatures,
    string_identity,
    lookup_table,
    identity,
    identity_image,
    assign_then_read,
    default_inputs,
    wrong_default,
    sum_and_product,
    four_inputs,
    counter,
    slow,
    spinner,
    sleeper,
    blocker,
    fails_for_negative,
    probe,
    wide,
    odd_method_names,
]


def write_all(root: Path) -> None:
    for model in MODELS:
        model(root / model.__name__)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
