"""Predict: right answers, from every kind of model and for every kind of tensor."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest

from tests.functional.conftest import serving
from tests.functional.launching import Client, Launched, client
from tests.functional.messages import (
    DTYPES,
    Array,
    array,
    content,
    floats,
    parts,
    predict_request,
    scalar,
    strings,
    tensor,
    varint,
)
from tests.functional.serving_api import Question, ServingApi
from tests.graphs import FLOAT, Graph

# --- kinds of models, through tensorflow-serving-api

ROWS = numpy.array([[1, 2], [30, 40]], "float32")
CASES: dict[str, tuple[Question, dict[str, Any]]] = {
    "variables": (Question("half_plus_two", {"x": floats(1, 2, 5)}), {"y": [4.5, 5.0, 6.5]}),
    "tf1": (Question("half_plus_two_v1", {"x": floats(1, 2, 5)}), {"y": [2.5, 3.0, 4.5]}),
    "keras_export": (
        Question("keras_dense", {"x": numpy.array([[1, 2, 3], [0, 0, 5]], "float32")}),
        {"output_0": [[6.0, 12.0], [5.0, 10.0]]},
    ),
    "signature_left_out": (Question("several_signatures", {"x": floats(3)}), {"y": [3.0]}),
    "signature_named": (Question("several_signatures", {"x": floats(3)}, "double"), {"y": [6.0]}),
    "another_signature": (Question("several_signatures", {"x": floats(3)}, "negate"), {"y": [-3]}),
    "two_outputs": (
        Question("several_signatures", {"x": ROWS}, "rows"),
        {"sum": [3.0, 70.0], "first": [1.0, 30.0]},
    ),
    "strings": (
        Question("string_identity", {"x": strings("a", "", "\0ü", b"\xff" * 3)}),
        {"y": [b"a", b"", "\0ü".encode(), b"\xff\xff\xff"]},
    ),
    "string_lengths": (
        Question("string_identity", {"x": strings("", "abc", "x" * 1000)}, "lengths"),
        {"length": [0, 3, 1000]},
    ),
    "lookup_table_with_asset": (
        Question("lookup_table", {"word": strings("two", "zero", "what")}),
        {"id": [2, 0, -1]},
    ),
    "signature_defaults": (Question("default_inputs", {"x": floats(1, 2)}), {"y": [3.0, 5.0]}),
    "one_default_replaced": (
        Question("default_inputs", {"x": floats(1, 2), "offset": numpy.float32(-1)}),
        {"y": [1.0, 3.0]},
    ),
    "no_default_needed": (
        Question(
            "default_inputs",
            {"x": floats(1, 2), "scale": numpy.float32(3), "offset": numpy.float32(4)},
        ),
        {"y": [7.0, 10.0]},
    ),
    "two_inputs": (
        Question("sum_and_product", {"a": floats(3, 5), "b": floats(4, 6)}),
        {"sum": [7.0, 11.0], "product": [12.0, 30.0]},
    ),
    "four_inputs": (
        Question(
            "four_inputs",
            {alias: numpy.full((1, 100), 10.0**i, "float32") for i, alias in enumerate("abcd")},
        ),
        {"sum": [[1111.0] * 100]},
    ),
    "computes_long": (Question("slow", {"x": floats(0.5, 2)}), {"y": [2.0, 2.0]}),
    "wide_graph": (Question("wide", {"x": floats(1, 3)}), {"y": [3.0, 3.0]}),
    "loop": (Question("spinner", {"seconds": floats(0.01)}), {"y": pytest.approx(0.01)}),
    "waits": (Question("sleeper", {"seconds": floats(0.01)}), {"y": pytest.approx(0.01)}),
    "classify_signature_through_predict": (
        Question("odd_method_names", {"x": floats(2)}),
        {"y": [3.0]},
    ),
    "no_rows": (Question("half_plus_two", {"x": floats()}), {"y": []}),
    "old_and_highest_version_named": (
        Question("half_plus_two", {"x": floats(2)}, version=3),
        {"y": [5.0]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_tensorflow_servings_client_gets_right_answers(
    server: Launched, serving_api: ServingApi, case: str
) -> None:
    question, expected = CASES[case]
    (answer,) = serving_api.predict(server.address(), question)
    assert answer.values() == expected
    version = 3 if question.name == "half_plus_two" else 1
    assert answer.model_spec == (question.name, version, question.signature or "serving_default")


def test_variables_keep_what_requests_do_to_them(server: Launched, serving_api: ServingApi) -> None:
    steps = ["reset_counter", "incr_counter", "incr_counter", "get_counter", "get_counter"]
    questions = [Question("counter", {}, step) for step in steps]
    by_five = Question("counter", {"delta": numpy.array(5, "float32")}, "incr_counter_by")
    answers = serving_api.predict(server.address(), *questions, by_five)
    assert [answer.values()["output"] for answer in answers] == [0, 1, 2, 2, 2, 7]


def test_futures_with_callbacks_each_get_their_own_answer(
    server: Launched, serving_api: ServingApi
) -> None:
    questions = [
        Question("half_plus_two", {"x": floats(i)})
        if i % 3
        else Question("string_identity", {"x": strings(f"text {i}" * (i % 50))})
        for i in range(600)
    ]
    answers = serving_api.predict_at_once(server.address(), *questions)
    assert [answer.values()["y"] for answer in answers] == [
        [i / 2 + 4] if i % 3 else [f"text {i}".encode() * (i % 50)] for i in range(600)
    ]


def test_futures_of_a_slow_model_and_of_a_fast_one_do_not_mix(
    server: Launched, serving_api: ServingApi
) -> None:
    questions = [
        Question("slow" if i % 5 == 0 else "several_signatures", {"x": floats(i)}, timeout=60)
        for i in range(200)
    ]
    answers = serving_api.predict_at_once(server.address(), *questions)
    assert [answer.values() for answer in answers] == [{"y": [float(i)]} for i in range(200)]


def test_tensorflow_servings_client_reads_the_status_of_a_model(
    server: Launched, serving_api: ServingApi
) -> None:
    assert serving_api.model_status(server.address(), "half_plus_two") == [(3, "AVAILABLE", 0, "")]


# --- every dtype

VALUES: dict[str, list[Any]] = {
    "half": [0x3C00, 0xC000, 0x7C00, 0x7E00, 0x0001, 0x8000],
    "bfloat16": [0x3F80, 0xC000, 0x7F80, 0x7FC0, 0x0001, 0x8000],
    "float": [1.5, -2.25, numpy.inf, 1e-45, -0.0, 3.4e38],
    "double": [1.5, -2.25, -numpy.inf, 5e-324, -0.0, 1.7e308],
    "complex64": [1.5 + 2j, -3j, 0, 1e-45 - 1e38j, numpy.inf, -1],
    "complex128": [1.5 + 2j, -3j, 0, 5e-324 - 1e308j, numpy.inf, -1],
    "bool": [True, False, False, True, True, False],
    "string": [b"", b"a", b"\xff\x00\xfe", "ü€".encode(), b"x" * 300, b"longer than short ones"],
}


def values_of(dtype: str) -> Array:
    """Six values, the extreme ones among them."""
    bits = numpy.dtype(DTYPES[dtype][2])
    if dtype not in VALUES:
        limits = numpy.iinfo(bits)
        return numpy.array([limits.min, limits.max, 0, 1, 2, limits.max // 3], bits)
    with numpy.errstate(over="ignore"):
        return numpy.array(VALUES[dtype], bits)


SHAPES: dict[str, Callable[[Array], Array]] = {
    "vector": lambda values: values,
    "scalar": lambda values: values[1].reshape(()) if values.dtype != object else scalar(values[1]),
    "empty": lambda values: values[:0],
    "rows_of_nothing": lambda values: values[:0].reshape(3, 0, 2),
    "three_dimensions": lambda values: values.reshape(1, 3, 2),
}


@pytest.mark.parametrize("as_content", [False, True], ids=["typed_fields", "tensor_content"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_comes_back_in_typed_fields(
    ask: Client, dtype: str, as_content: bool
) -> None:
    for shape in SHAPES.values():
        values = shape(values_of(dtype))
        sent = tensor(values, dtype, as_content=as_content)
        response = ask.predict(predict_request("identity", {"x": sent}, signature=dtype))
        # Typed fields whatever was sent. In bytes, since a NaN does not equal itself.
        assert (
            response.outputs["y"].SerializeToString() == tensor(values, dtype).SerializeToString()
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_last_value_is_repeated_up_to_the_shape(ask: Client, dtype: str) -> None:
    values = values_of(dtype)[:3]
    sent = tensor(values, dtype)
    sent.tensor_shape.dim[0].size = 6
    response = ask.predict(predict_request("identity", {"x": sent}, signature=dtype))
    repeated = values[[0, 1, 2, 2, 2, 2]]
    assert response.outputs["y"].SerializeToString() == tensor(repeated, dtype).SerializeToString()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_values_at_all_are_zeros(ask: Client, dtype: str) -> None:
    sent = tensor(values_of(dtype), dtype)
    sent.ClearField(DTYPES[dtype][1])
    response = ask.predict(predict_request("identity", {"x": sent}, signature=dtype))
    zeros = numpy.full(6, b"", object) if dtype == "string" else numpy.zeros(6, DTYPES[dtype][2])
    assert response.outputs["y"].SerializeToString() == tensor(zeros, dtype).SerializeToString()


def test_numbers_that_do_not_fit_their_type_are_cut_as_tensorflow_does(ask: Client) -> None:
    sent = tensor(numpy.array([1], "int8"))
    sent.int_val[:] = [300, -129, 127]
    sent.tensor_shape.dim[0].size = 3
    response = ask.predict(predict_request("identity", {"x": sent}, signature="int8"))
    assert list(response.outputs["y"].int_val) == [44, 127, 127]


@pytest.fixture(scope="module")
def content_server(models: Path, transport: str) -> Iterator[Launched]:
    """A server that answers in tensor_content."""
    flags = [f"--grpc_transport={transport}", "--enable_serialization_as_tensor_content"]
    with serving({"identity": models / "identity"}, *flags) as server:
        yield server


@pytest.mark.parametrize("as_content", [False, True], ids=["typed_fields", "tensor_content"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_comes_back_in_tensor_content_if_a_flag_says_so(
    content_server: Launched, dtype: str, as_content: bool
) -> None:
    with client(content_server.address()) as ask:
        for shape in SHAPES.values():
            values = shape(values_of(dtype))
            sent = tensor(values, dtype, as_content=as_content)
            response = ask.predict(predict_request("identity", {"x": sent}, signature=dtype))
            expected = tensor(values, dtype, as_content=True)
            assert response.outputs["y"].SerializeToString() == expected.SerializeToString()


# --- output_filter


@pytest.fixture(scope="module")
def six_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x → y1 = x + 1, y2 = x + 2 ... y6"""
    path = tmp_path_factory.mktemp("six_outputs") / "six"
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    outputs = {
        f"y{i}": graph.add(f"y{i}", "AddV2", x, graph.constant(f"c{i}", float(i)), T=FLOAT)
        for i in range(1, 7)
    }
    graph.sign("serving_default", {"x": x}, outputs)
    graph.save(path / "1")
    return path


def test_every_set_of_outputs_can_be_asked_for(six_outputs: Path, transport: str) -> None:
    subsets = [subset for size in range(7) for subset in itertools.combinations(range(1, 7), size)]
    assert len(subsets) == 64
    orders = [random.Random(i).sample(subset, len(subset)) for i, subset in enumerate(subsets)]
    orders = orders * 3  # ... before and after the server has seen them
    random.Random(1).shuffle(orders)
    with (
        serving({"six": six_outputs}, f"--grpc_transport={transport}") as server,
        client(server.address()) as ask,
        ThreadPoolExecutor(8) as threads,
    ):

        def check(number: int, outputs: list[int]) -> None:
            request = predict_request(
                "six", {"x": floats(number)}, output_filter=[f"y{i}" for i in outputs]
            )
            response = ask.predict(request)
            assert {alias: array(y).tolist() for alias, y in response.outputs.items()} == {
                f"y{i}": [float(number + i)] for i in outputs or range(1, 7)
            }

        list(threads.map(check, range(len(orders)), orders))


# --- lifetimes


@pytest.mark.parametrize("size", [1, 1000, 300_000], ids=str)
def test_an_identitys_answer_is_that_of_its_own_request(ask: Client, size: int) -> None:
    """Its output is the very memory that was fed."""
    count = 200 if size < 300_000 else 20
    futures = [
        ask.predict_future(
            predict_request("identity", {"x": numpy.full(size, i, "float32")}, signature="float")
        )
        for i in range(count)
    ]
    for i, future in enumerate(futures):
        values = array(future.result().outputs["y"])
        assert values.shape == (size,)
        assert (values == i).all()


@pytest.mark.parametrize("size", [3, 5000, 300_000], ids=str)
def test_what_was_assigned_stays_while_others_use_memory_of_the_same_size(
    ask: Client, size: int
) -> None:
    """A variable may keep the very memory that was fed to it."""
    kept = numpy.random.default_rng(size).random(size, "float32")
    assigned = ask.predict(predict_request("assign_then_read", {"x": kept}, signature="assign"))
    assert array(assigned.outputs["size"]) == size
    others = [
        ask.predict_future(
            predict_request("identity", {"x": numpy.full(size, -1, "float32")}, signature="float")
        )
        for _ in range(20)
    ]
    for other in others:
        other.result()
    response = ask.predict(predict_request("assign_then_read", signature="read"))
    assert (array(response.outputs["y"]) == kept).all()
    assert response.model_spec.signature_name == "read"


# --- sizes

FLOATS = 5_000_000


@pytest.mark.parametrize("as_content", [False, True], ids=["typed_fields", "tensor_content"])
def test_twenty_megabytes_go_both_ways(ask: Client, as_content: bool) -> None:
    values = numpy.random.default_rng(7).random(FLOATS, "float32")
    sent = tensor(values[:0])
    sent.tensor_shape.dim[0].size = FLOATS
    if as_content:
        sent.tensor_content = values.tobytes()
    else:
        packed = b"\x2a" + varint(values.nbytes) + values.tobytes()  # field 5, float_val
        sent.MergeFromString(packed)
    response = ask.predict(predict_request("identity", {"x": sent}, signature="float"))
    assert numpy.fromiter(response.outputs["y"].float_val, "float32", FLOATS).tobytes() == (
        values.tobytes()
    )


def test_one_text_of_twenty_megabytes_and_many_short_ones_go_both_ways(ask: Client) -> None:
    text = random.Random(8).randbytes(20_000_000)
    response = ask.predict(predict_request("string_identity", {"x": strings(text)}))
    assert response.outputs["y"].string_val == [text]
    texts = [b"%d" % i for i in range(200_000)]
    response = ask.predict(predict_request("string_identity", {"x": strings(*texts)}))
    assert response.outputs["y"].string_val == texts


def test_compressed_requests_are_read(server: Launched) -> None:
    values = numpy.zeros(100_000, "float32")
    request = predict_request("identity", {"x": values}, signature="float").SerializeToString()
    with client(server.address()) as ask:
        predict = ask.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        answer = predict(request, timeout=30, compression=grpc.Compression.Gzip)
        assert answer == predict(request, timeout=30)


# --- many


def mixed(number: int) -> tuple[Any, Callable[[Any], bool]]:
    """A request of one of several kinds, and a check of its answer."""
    kind = number % 6
    if kind == 0:
        values = numpy.arange(number % 40, dtype="float32") + number
        return (
            predict_request("half_plus_two", {"x": values}),
            lambda outputs: (array(outputs["y"]) == values / 2 + 4).all(),
        )
    if kind == 1:
        texts = [b"%d" % i * (i % 30) for i in range(number % 17)]
        return (
            predict_request("string_identity", {"x": strings(*texts)}),
            lambda outputs: outputs["y"].string_val == texts,
        )
    if kind == 2:
        a, b = floats(number, 1), floats(2, number)
        return (
            predict_request("sum_and_product", {"a": a, "b": b}, output_filter=["product"]),
            lambda outputs: array(outputs["product"]).tolist() == [2.0 * number, number],
        )
    if kind == 3:
        dtype = list(DTYPES)[number % len(DTYPES)]
        values = numpy.resize(values_of(dtype), number % 97)
        sent = tensor(values, dtype, as_content=bool(number & 8))
        return (
            predict_request("identity", {"x": sent}, signature=dtype),
            lambda outputs: content(array(outputs["y"])) == content(values),
        )
    if kind == 4:
        return (
            predict_request("lookup_table", {"word": strings("one", "two", f"{number}")}),
            lambda outputs: list(outputs["id"].int64_val) == [1, 2, -1],
        )
    pixels = numpy.full((1, 150528), number, "float32")
    return (
        predict_request("identity_image", {"x": tensor(pixels, as_content=True)}),
        lambda outputs: (parts(array(outputs["y"])) == number).all(),
    )


def test_a_thousand_requests_one_after_the_other(ask: Client) -> None:
    for number in range(1000):
        request, is_right = mixed(number if number % 6 != 5 else number + 1)  # no images
        assert is_right(ask.predict(request).outputs), number


def test_a_thousand_requests_of_all_kinds_from_many_clients(server: Launched) -> None:
    requests = [mixed(number) for number in range(1000)]
    turn = threading.Lock()
    left = iter(range(1000))

    def work() -> int:
        """Take requests as long as there are any; keep up to four in flight."""
        done = 0
        with client(server.address()) as ask:
            while True:
                with turn:
                    numbers = list(itertools.islice(left, 4))
                if not numbers:
                    return done
                futures = [ask.predict_future(requests[number][0]) for number in numbers]
                for number, future in zip(numbers, futures, strict=True):
                    assert requests[number][1](future.result().outputs), number
                    done += 1

    with ThreadPoolExecutor(8) as threads:
        assert sum(future.result() for future in [threads.submit(work) for _ in range(8)]) == 1000
