"""Predict: what is wrong gets TensorFlow Serving's code and text, and hurts nobody else.

Order, codes and texts: server_core.cc and basic_manager.cc for models and versions,
predict_util.cc for the rest, TensorFlow's cc/saved_model/util.cc for inputs.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest
from google.protobuf.message import DecodeError

from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Client, Launched, client
from tests.functional.messages import (
    PredictRequest,
    TensorProto,
    array,
    floats,
    predict_request,
    strings,
    tensor,
    varint,
)

X = floats(1)
MEGABYTE = 1_000_000


def refusal(ask: Client, request: Any, timeout: float = SECONDS) -> tuple[str, str]:
    """The code and the text of the error that a request gets."""
    error = ask.predict_future(request, timeout).exception()
    assert error is not None, "there is no error"
    return error.code().name, error.details()


def tensor_of(*shape: int, **fields: Any) -> Any:
    """A TensorProto field by field; of floats unless told otherwise."""
    proto = TensorProto(**{"dtype": 1, **fields})
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def half_plus_two(x: Any = X, **asked: Any) -> Any:
    return predict_request("half_plus_two", {"x": x}, **asked)


def without_model_spec() -> Any:
    request = half_plus_two()
    request.ClearField("model_spec")
    return request


# --- models and versions

MODEL_ERRORS: dict[str, tuple[Any, str, str]] = {
    "no_model_spec": (without_model_spec(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    "nothing_at_all": (PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    "no_name": (predict_request(""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    "no_name_but_a_version": (
        predict_request("", version=3),
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    ),
    "no_name_but_a_label": (
        predict_request("", label="stable"),
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    ),
    "unknown_model": (
        predict_request("nosuch", {"x": X}),
        "NOT_FOUND",
        "Servable not found for request: Latest(nosuch)",
    ),
    "unknown_model_with_signs": (
        predict_request("no/such\nmodel ü%", {"x": X}),
        "NOT_FOUND",
        "Servable not found for request: Latest(no/such\nmodel ü%)",
    ),
    "unknown_model_and_version": (
        predict_request("nosuch", version=3),
        "NOT_FOUND",
        "Servable not found for request: Specific(nosuch, 3)",
    ),
    "unknown_version": (
        half_plus_two(version=4),
        "NOT_FOUND",
        "Servable not found for request: Specific(half_plus_two, 4)",
    ),
    "version_that_is_there_but_not_loaded": (
        half_plus_two(version=1),
        "NOT_FOUND",
        "Servable not found for request: Specific(half_plus_two, 1)",
    ),
    "version_0": (
        half_plus_two(version=0),
        "NOT_FOUND",
        "Servable not found for request: Specific(half_plus_two, 0)",
    ),
    "largest_version": (
        half_plus_two(version=2**63 - 1),
        "NOT_FOUND",
        "Servable not found for request: Specific(half_plus_two, 9223372036854775807)",
    ),
    "smallest_version": (
        half_plus_two(version=-(2**63)),
        "NOT_FOUND",
        "Servable not found for request: Specific(half_plus_two, -9223372036854775808)",
    ),
    "unknown_label": (
        half_plus_two(label="canary"),
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: canary",
    ),
    "unknown_model_with_a_label": (
        predict_request("nosuch", label="canary"),
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: canary",
    ),
}

# --- signatures, inputs and outputs

SIGNATURE_ERRORS: dict[str, tuple[Any, str, str]] = {
    "unknown_signature": (
        half_plus_two(signature="nosuch"),
        "FAILED_PRECONDITION",
        'Serving signature key "nosuch" not found.',
    ),
    "no_default_signature": (
        predict_request("counter"),
        "FAILED_PRECONDITION",
        'Serving signature key "serving_default" not found.',
    ),
    "model_before_signature": (
        predict_request("nosuch", signature="nosuch"),
        "NOT_FOUND",
        "Servable not found for request: Latest(nosuch)",
    ),
    "signature_before_inputs": (
        predict_request("half_plus_two", {"a": X, "b": X}, signature="nosuch"),
        "FAILED_PRECONDITION",
        'Serving signature key "nosuch" not found.',
    ),
    "no_inputs": (
        predict_request("half_plus_two"),
        "INVALID_ARGUMENT",
        "input size does not match signature: 0!=1 len({}) != len({x}). "
        "Sent extra: {}. Missing but required: {x}.",
    ),
    "too_many_inputs": (
        predict_request("half_plus_two", {"x": X, "unknown_key2": X, "unknown_key1": X}),
        "INVALID_ARGUMENT",
        "input size does not match signature: 3!=1 len({unknown_key1,unknown_key2,x}) != len({x})."
        " Sent extra: {unknown_key1,unknown_key2}. Missing but required: {}.",
    ),
    "one_input_missing": (
        predict_request("sum_and_product", {"b": X}),
        "INVALID_ARGUMENT",
        "input size does not match signature: 1!=2 len({b}) != len({a,b}). "
        "Sent extra: {}. Missing but required: {a}.",
    ),
    "too_many_and_one_missing": (
        predict_request("sum_and_product", {"b": X, "c": X, "d": X}),
        "INVALID_ARGUMENT",
        "input size does not match signature: 3!=2 len({b,c,d}) != len({a,b}). "
        "Sent extra: {c,d}. Missing but required: {a}.",
    ),
    "an_input_where_there_are_none": (
        predict_request("counter", {"x": X}, signature="get_counter"),
        "INVALID_ARGUMENT",
        "input size does not match signature: 1!=0 len({x}) != len({}). "
        "Sent extra: {x}. Missing but required: {}.",
    ),
    "right_count_wrong_name": (
        predict_request("half_plus_two", {"z": X}),
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no "
        "default value provided. Inputs expected to be in the request {z}, or default input "
        "alias set: ",
    ),
    "tf1_feed_name": (
        predict_request("half_plus_two_v1", {"z": X}),
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: x:0) not found in request and no default value "
        "provided. Inputs expected to be in the request {z}, or default input alias set: ",
    ),
    "input_without_default_missing": (
        predict_request("default_inputs", {"scale": numpy.float32(1)}),
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no "
        "default value provided. Inputs expected to be in the request {scale}, or default input "
        "alias set: offset,scale",
    ),
    "unknown_input_beside_defaults": (
        predict_request("default_inputs", {"x": X, "nosuch": X}),
        "INVALID_ARGUMENT",
        "Inputs contains invalid name. Used request inputs: x, request input: nosuch,x",
    ),
    "more_inputs_than_the_signature_has_in_spite_of_defaults": (
        predict_request("default_inputs", {"x": X, "a": X, "b": X, "c": X}),
        "INVALID_ARGUMENT",
        "input size does not match signature: 4!=3 len({a,b,c,x}) != len({offset,scale,x}). "
        "Sent extra: {a,b,c}. Missing but required: {offset,scale}.",
    ),
    "unknown_output": (
        predict_request("sum_and_product", {"a": X, "b": X}, output_filter=["sum", "y"]),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: y Outputs expected to be in the set "
        "{product,sum}.",
    ),
    "empty_output_name": (
        half_plus_two(output_filter=[""]),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature:  Outputs expected to be in the set {y}.",
    ),
    "output_twice": (
        half_plus_two(output_filter=["y", "y"]),
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: y",
    ),
    "inputs_before_outputs": (
        predict_request("half_plus_two", {"z": X}, output_filter=["nosuch"]),
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no "
        "default value provided. Inputs expected to be in the request {z}, or default input "
        "alias set: ",
    ),
    "tensors_before_outputs": (
        half_plus_two(tensor_of(1, tensor_content=b"abc"), output_filter=["nosuch"]),
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    ),
    "long_text_is_cut": (
        half_plus_two(signature="s" * 2000),
        "FAILED_PRECONDITION",
        f'Serving signature key "{"s" * 2000}'[:1024] + "...TRUNCATED",
    ),
}

# --- tensors

PARSING = "tensor parsing error: x"
TENSOR_ERRORS: dict[str, tuple[Any, str, str]] = {
    name: (half_plus_two(proto), "INVALID_ARGUMENT", PARSING)
    for name, proto in {
        "no_dtype": tensor_of(1, dtype=0, float_val=[1]),
        "unknown_dtype": tensor_of(1, dtype=99, float_val=[1]),
        "negative_dtype": tensor_of(1, dtype=-1, float_val=[1]),
        "reference_dtype": tensor_of(1, dtype=101, float_val=[1]),
        "variant": tensor_of(1, dtype=21, variant_val=[{"type_name": "int", "metadata": b"1"}]),
        "variant_without_values": tensor_of(1, dtype=21),
        "resource": tensor_of(1, dtype=20, resource_handle_val=[{"name": "x", "device": "/cpu"}]),
        "resource_without_values": tensor_of(1, dtype=20),
        "content_too_short": tensor_of(2, tensor_content=b"\0" * 4),
        "content_too_long": tensor_of(2, tensor_content=b"\0" * 12),
        "content_of_no_whole_element": tensor_of(1, tensor_content=b"\0" * 3),
        "negative_dimension": tensor_of(-1, float_val=[1]),
        "smallest_dimension": tensor_of(-(2**63), float_val=[1]),
        "dimensions_beyond_64_bits": tensor_of(2**62, 2**62, float_val=[1]),
        "dimensions_that_wrap_around_to_0": tensor_of(2**32, 2**32, float_val=[1]),
        "bytes_beyond_64_bits": tensor_of(2**62, tensor_content=b"\0" * 4),
        "rank_255": tensor_of(*[1] * 255, float_val=[1]),
    }.items()
} | {
    "text_list_too_short": (
        predict_request("string_identity", {"x": tensor_of(2, dtype=7, tensor_content=b"\x01a")}),
        "INVALID_ARGUMENT",
        PARSING,
    ),
    "text_list_that_lies": (
        predict_request("string_identity", {"x": tensor_of(1, dtype=7, tensor_content=b"\x05a")}),
        "INVALID_ARGUMENT",
        PARSING,
    ),
    "complex_half": (
        predict_request(
            "identity",
            {"x": tensor_of(1, dtype=8, tensor_content=b"\0" * 4)},
            signature="complex64",
        ),
        "INVALID_ARGUMENT",
        PARSING,
    ),
    "wrong_dtype": (
        half_plus_two(numpy.array([True])),
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but bool is provided",
    ),
    "wrong_dtype_of_a_tf1_model": (
        predict_request("half_plus_two_v1", {"x": strings("1")}),
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but string is provided",
    ),
    "wrong_dtype_of_the_second_input": (
        predict_request("sum_and_product", {"a": X, "b": numpy.array([1], "int64")}),
        "INVALID_ARGUMENT",
        "Expects arg[1] to be float but int64 is provided",
    ),
    "wrong_dtype_of_a_default": (
        predict_request("wrong_default", {"x": X, "offset": numpy.float32(1)}),
        "INVALID_ARGUMENT",
        "Expects arg[1] to be float but int32 is provided",
    ),
}

ERRORS = MODEL_ERRORS | SIGNATURE_ERRORS | TENSOR_ERRORS


@pytest.mark.parametrize("case", ERRORS)
def test_code_and_text_are_tensorflow_servings(ask: Client, case: str) -> None:
    request, code, text = ERRORS[case]
    assert refusal(ask, request) == (code, text)


# What the graph says, with the op's name after it: (request, begin of the text)
RUN_ERRORS: dict[str, tuple[Any, str]] = {
    "too_few_dimensions": (predict_request("keras_dense", {"x": X}), "In[0] ndims must be >= 2"),
    "shapes_that_do_not_match": (
        predict_request("keras_dense", {"x": numpy.zeros((1, 4), "float32")}),
        "Matrix size-incompatible: In[0]: [1,4], In[1]: [3,2]",
    ),
    "inputs_that_do_not_match": (
        predict_request("sum_and_product", {"a": floats(1, 2), "b": floats(1, 2, 3)}),
        "Incompatible shapes: [2] vs. [3]",
    ),
    "assertion": (
        predict_request("fails_for_negative", {"x": floats(1, -2)}),
        "assertion failed: [x must not be negative.",
    ),
    "no_example": (
        predict_request(
            "half_plus_two_v1", {"inputs": strings("garbage")}, signature="classify_x_to_y"
        ),
        "Could not parse example input, value: 'garbage'",
    ),
}


@pytest.mark.parametrize("case", RUN_ERRORS)
def test_an_error_of_the_run_comes_from_tensorflow(ask: Client, case: str) -> None:
    request, begin = RUN_ERRORS[case]
    for _ in range(3):  # on a worker, in place, with its executor made or not
        code, text = refusal(ask, request)
        assert (code, text[: len(begin)]) == ("INVALID_ARGUMENT", begin)


def test_models_answer_after_their_errors(ask: Client) -> None:
    for request, *_ in itertools.chain(ERRORS.values(), RUN_ERRORS.values()):
        refusal(ask, request)
    assert array(ask.predict(half_plus_two()).outputs["y"]) == [4.5]
    right = predict_request("sum_and_product", {"a": floats(2), "b": floats(3)})
    assert array(ask.predict(right).outputs["sum"]) == [5]
    assert array(ask.predict(predict_request("fails_for_negative", {"x": X})).outputs["y"]) == [1]


def test_method_names_are_checked_if_a_flag_says_so(models: Path, transport: str) -> None:
    paths = {name: models / name for name in ("odd_method_names", "half_plus_two_v1")}
    flags = (f"--grpc_transport={transport}", "--enable_signature_method_name_check")
    begin = (
        "Expected prediction signature method_name to be one of {tensorflow/serving/predict,"
        " tensorflow/serving/classify, tensorflow/serving/regress}. Was: "
    )

    def odd(signature: str, **inputs: Any) -> Any:
        return predict_request("odd_method_names", inputs, signature=signature)

    with serving(paths, *flags) as server, client(server.address()) as ask:
        assert refusal(ask, odd("", x=X)) == ("INTERNAL", begin + "odd/method")
        assert refusal(ask, odd("no_method_name", x=X)) == ("INTERNAL", begin)
        assert refusal(ask, odd("", nosuch=X)) == ("INTERNAL", begin + "odd/method")
        assert refusal(ask, odd("nosuch", x=X))[0] == "FAILED_PRECONDITION"
        assert array(ask.predict(odd("predict", x=X)).outputs["y"]) == [2.5]
        for signature, output in (("regress_x_to_y", "outputs"), ("classify_x_to_y", "scores")):
            x = example("x", 3)
            request = predict_request("half_plus_two_v1", {"inputs": x}, signature=signature)
            assert array(ask.predict(request).outputs[output]).tolist() == [[3.5]]


def example(name: str, value: float) -> Any:
    """A vector of one serialized tf.Example with one float."""
    feature = message(1, message(1, name.encode()) + message(2, packed_floats(value)))
    return strings(message(1, feature))


def message(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + varint(len(content)) + content


def packed_floats(*values: float) -> bytes:
    """A tf.Feature with a float_list."""
    return message(2, message(1, floats(*values).tobytes()))


# --- what unary Predict does not look at


def test_options_for_streams_change_nothing(ask: Client) -> None:
    plain = half_plus_two()
    expected = ask.predict(plain)
    full = half_plus_two()
    full.client_id = b"somebody"
    full.predict_streamed_options.request_state = 1  # SPLIT
    full.predict_streamed_options.split_dimensions["x"] = 0
    full.request_options.client_id = b"somebody else"
    full.request_options.deterministic_mode = 1
    unknown_group = b"\xa3\x06\x08\x01\x12\x03abc\xa4\x06"  # field 100, with fields 1 and 2
    for rare in (
        plain.SerializeToString() + message(6, b"somebody"),
        full.SerializeToString(),
        plain.SerializeToString() + unknown_group,
        unknown_group + full.SerializeToString() + unknown_group,
    ):
        assert ask.predict(rare) == expected
    # Errors are the same, too.
    full.model_spec.signature_name = "nosuch"
    assert refusal(ask, full) == (
        "FAILED_PRECONDITION",
        'Serving signature key "nosuch" not found.',
    )
    open_group = plain.SerializeToString() + unknown_group[:-2]
    assert refusal(ask, open_group)[0] == "INTERNAL"


def test_a_tensor_that_is_split_over_the_message_is_put_together(ask: Client) -> None:
    """Protobuf merges an entry's value when it comes twice within the entry."""
    first, second = tensor_of(2, float_val=[2]), TensorProto(float_val=[4])
    entry = b"".join(
        (
            message(1, b"x"),
            message(2, first.SerializeToString()),
            message(2, second.SerializeToString()),
        )
    )
    request = PredictRequest()
    request.model_spec.name = "half_plus_two"
    response = ask.predict(request.SerializeToString() + message(2, entry))
    assert array(response.outputs["y"]).tolist() == [5.0, 6.0]


# --- sizes that lie


def expanding(elements: int, model: str = "half_plus_two") -> Any:
    """A request of some 40 bytes whose tensor has as many elements, all the same."""
    if model == "string_identity":
        return predict_request(model, {"x": tensor_of(elements, dtype=7, string_val=[b"a"])})
    return predict_request(model, {"x": tensor_of(elements, float_val=[1])})


@pytest.mark.parametrize("model", ["half_plus_two", "string_identity"])
@pytest.mark.parametrize("elements", [2**29, 2**30, 2**40, 2**60])
def test_a_few_bytes_that_ask_for_gigabytes_are_refused_and_cost_nothing(
    server: Launched, ask: Client, model: str, elements: int
) -> None:
    request = expanding(elements, model)
    assert len(request.SerializeToString()) < 60
    refusal(ask, request)  # so that nothing of what follows is there for the first time
    server.forget_peak_memory()
    before = server.memory_bytes()
    codes = {"RESOURCE_EXHAUSTED"}
    if elements == 2**60:
        codes.add("INVALID_ARGUMENT")  # as texts they have more bytes than can be counted
    for future in [ask.predict_future(request) for _ in range(50)]:
        assert future.exception().code().name in codes
    assert server.peak_memory_bytes() - before < 30 * MEGABYTE


def test_what_a_tensor_expands_to_counts_as_bytes_in_flight(models: Path, transport: str) -> None:
    flags = (f"--grpc_transport={transport}", "--max_in_flight_bytes=5000000")
    with (
        serving({"half_plus_two": models / "half_plus_two"}, *flags) as server,
        client(server.address()) as ask,
    ):
        assert refusal(ask, expanding(2_000_000)) == (
            "RESOURCE_EXHAUSTED",
            "Too many bytes are in flight (--max_in_flight_bytes).",
        )
        for _ in range(10):  # what was charged is given back
            values = array(ask.predict(expanding(500_000)).outputs["y"])
            assert (values == 4.5).all()
            assert values.size == 500_000


# --- bytes that lie

GOOD_REQUEST = predict_request("half_plus_two", {"x": floats(1, 2, 5)}).SerializeToString()
CODES = {"INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}


@contextmanager
def good_client(server: Launched) -> Iterator[list[int]]:
    """Somebody who asks rightly all the time and must always get the right answer, soon."""
    stop = threading.Event()
    counts = [0]
    wrong: list[Any] = []

    def work() -> None:
        with client(server.address()) as ask:
            while not stop.is_set():
                try:
                    response = ask.predict(GOOD_REQUEST, timeout=10)
                    if array(response.outputs["y"]).tolist() != [4.5, 5.0, 6.5]:
                        wrong.append(response)
                except grpc.RpcError as error:
                    wrong.append(error)
                counts[0] += 1
                stop.wait(0.002)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert counts[0] > 0


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Bytes changed, lost, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif kind == 2:
            del changed[at : at + chance.randrange(1, 8)]
        elif kind == 3:
            changed[at:at] = chance.randbytes(chance.randrange(1, 8))
        elif kind == 4:
            changed[at:at] = changed[at : at + chance.randrange(1, 20)]
        else:
            del changed[at:]
        if not changed:
            break
    return bytes(changed)


def filled(proto: Any) -> Any:
    """The values of a good TensorProto of floats or strings, the last one repeated."""
    shape = [dim.size for dim in proto.tensor_shape.dim]
    size = int(numpy.prod(shape, dtype=object))
    if proto.tensor_content:
        assert proto.dtype == 1
        return numpy.frombuffer(proto.tensor_content, "float32").reshape(shape)
    given = list(proto.float_val or [0.0]) if proto.dtype == 1 else list(proto.string_val or [b""])
    given += given[-1:] * (size - len(given))
    values = numpy.empty(size, "float32" if proto.dtype == 1 else object)
    values[:] = given[:size]
    return values.reshape(shape)


def same(left: Any, right: Any) -> bool:
    if left.dtype == object:
        return left.tolist() == right.tolist()  # type: ignore[no-any-return]
    return numpy.array_equal(without_denormals(left), without_denormals(right), equal_nan=True)


def without_denormals(values: Any) -> Any:
    """TensorFlow may take numbers close to 0 as 0."""
    return numpy.where(abs(values) < 1e-37, 0, values)


VALID: dict[str, tuple[bytes, Callable[[Any], dict[str, Any]]]] = {
    "typed_field": (
        predict_request("half_plus_two", {"x": floats(1, 2, 5)}).SerializeToString(),
        lambda inputs: {"y": filled(inputs["x"]) / numpy.float32(2) + numpy.float32(4)},
    ),
    "tensor_content": (
        predict_request(
            "sum_and_product",
            {
                "a": tensor(floats(1, 2), as_content=True),
                "b": tensor(floats(3, 4), as_content=True),
            },
            output_filter=["sum"],
            signature="serving_default",
            version=1,
        ).SerializeToString(),
        lambda inputs: {
            "sum": filled(inputs["a"]) + filled(inputs["b"]),
            "product": filled(inputs["a"]) * filled(inputs["b"]),
        },
    ),
    "strings": (
        predict_request("string_identity", {"x": strings("one", "", "three")}).SerializeToString(),
        lambda inputs: {"y": filled(inputs["x"])},
    ),
}


@pytest.fixture(scope="module")
def small_server(models: Path, transport: str) -> Iterator[Launched]:
    """A server that does not let a mutated shape ask for much memory."""
    names = ("half_plus_two", "sum_and_product", "string_identity")
    flags = (f"--grpc_transport={transport}", f"--max_in_flight_bytes={100 * MEGABYTE}")
    with serving({name: models / name for name in names}, *flags) as server:
        yield server


@pytest.mark.parametrize("kind", VALID)
def test_mutated_requests_get_an_error_or_the_answer_to_what_they_say(
    small_server: Launched, kind: str
) -> None:
    valid, expected_of = VALID[kind]
    chance = random.Random(kind)
    requests = [mutated(chance, valid) for _ in range(1500)]
    requests += [valid[:length] for length in range(len(valid))]  # cut anywhere
    counts: Counter[str] = Counter()
    with good_client(small_server), client(small_server.address()) as ask:
        for begin in range(0, len(requests), 100):
            some = requests[begin : begin + 100]
            for data, future in [(data, ask.predict_future(data)) for data in some]:
                error = future.exception()
                code = "OK" if error is None else error.code().name
                counts[code] += 1
                assert code == "OK" or code in CODES, (data.hex(), error)
                try:
                    request = PredictRequest.FromString(data)
                except DecodeError:
                    assert code == "INTERNAL", data.hex()
                    continue
                assert code != "INTERNAL", (data.hex(), error)
                if code != "OK":
                    continue
                with numpy.errstate(all="ignore"):
                    expected = expected_of(request.inputs)
                outputs = future.result().outputs
                assert set(outputs) == set(request.output_filter or expected), data.hex()
                for alias, output in outputs.items():
                    assert same(array(output), expected[alias]), data.hex()
    assert counts["OK"] > 20  # or nothing was compared
    assert counts["INTERNAL"] > 100
    assert counts["INVALID_ARGUMENT"] > 20


def test_random_bytes_are_internal_errors(small_server: Launched) -> None:
    chance = random.Random(3)
    with good_client(small_server), client(small_server.address()) as ask:
        for size in [1, 2, 3, 5, 10, 100, 1000, 100_000] * 10:
            code, _ = refusal(ask, b"\xff" + chance.randbytes(size))
            assert code == "INTERNAL"


def test_lengths_that_lie_are_internal_errors(small_server: Launched) -> None:
    """Fields that claim more bytes than there are, up to 2 GiB and beyond."""
    with good_client(small_server), client(small_server.address()) as ask:
        for length in (100, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1):
            for field in (1, 2, 3, 6):
                lying = GOOD_REQUEST + bytes([field << 3 | 2]) + varint(length) + b"abc"
                assert refusal(ask, lying)[0] == "INTERNAL"


def test_thousands_of_inputs_are_refused_soon(small_server: Launched) -> None:
    request = predict_request("half_plus_two", {f"input {i}": X for i in range(20_000)})
    with good_client(small_server), client(small_server.address()) as ask:
        began = time.monotonic()
        code, text = refusal(ask, request)
        assert time.monotonic() - began < 10
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("input size does not match signature: 20000!=1 len({input 0,input 1,")
    assert text.endswith("...TRUNCATED")


def test_a_message_over_the_limit_is_refused(models: Path, transport: str) -> None:
    flags = (
        f"--grpc_transport={transport}",
        "--grpc_channel_arguments=grpc.max_receive_message_length=1000000",
    )
    with (
        serving({"half_plus_two": models / "half_plus_two"}, *flags) as server,
        good_client(server),
        client(server.address()) as ask,
    ):
        large = half_plus_two(numpy.zeros(300_000, "float32"))
        assert refusal(ask, large)[0] == "RESOURCE_EXHAUSTED"
        fits = half_plus_two(numpy.zeros(240_000, "float32"))
        assert (array(ask.predict(fits).outputs["y"]) == 4).all()
