"""Messages taken apart and put together without decoding what is in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._proto import message_class
from tfsrv.errors import ServingError
from tfsrv.handlers.session_run_request import (
    Names,
    Signature,
    aliases_of,
    predict_request,
    read_question,
    session_run_response,
)
from tfsrv.handlers.wire_fields import Malformed, bytes_field, fields

Request: Any = message_class("tensorflow.serving.SessionRunRequest")
PredictRequest: Any = message_class("tensorflow.serving.PredictRequest")
Response: Any = message_class("tensorflow.serving.SessionRunResponse")
ModelSpec: Any = message_class("tensorflow.serving.ModelSpec")
TensorProto: Any = message_class("tensorflow.TensorProto")


def numbers(message: bytes, max_fields: int = 100) -> list[int]:
    return [field.number for field in fields(memoryview(message), max_fields)]


def test_fields_are_found_whatever_their_wire_type() -> None:
    message = b"".join(
        [
            b"\x08\x96\x01",  # 1: a varint
            b"\x11" + b"8" * 8,  # 2: 64 bits
            b"\x1a\x02ab",  # 3: bytes
            b"\x25" + b"4" * 4,  # 4: 32 bits
            b"\xfa\x01\x00",  # 31: no bytes
        ]
    )
    found = list(fields(memoryview(message), 5))
    assert [field.number for field in found] == [1, 2, 3, 4, 31]
    assert bytes(found[2].value) == b"ab"
    assert b"".join(field.whole for field in found) == message


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",
        b"\x0a\x05abcd",
        b"\x0a\x80",
        b"\x08",
        b"\x08\x80",
        b"\x08" + b"\x80" * 10 + b"\x01",
        b"\x0d\x00",
        b"\x09\x00\x00",
        b"\x02\x00",  # field 0
        b"\x0b\x0c",  # a group
        b"\x0f",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(Malformed):
        numbers(message)


def test_there_is_a_limit_to_the_number_of_fields() -> None:
    assert numbers(b"\x0a\x00" * 3, 3) == [1, 1, 1]
    with pytest.raises(Malformed):
        numbers(b"\x0a\x00" * 4, 3)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 100_000])
def test_a_field_that_is_written_is_read(size: int) -> None:
    (field,) = fields(memoryview(b"".join(bytes_field(2, b"x" * size, b"y"))), 1)
    assert (field.number, bytes(field.value)) == (2, b"x" * size + b"y")


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_malformed(message: bytes) -> None:
    try:
        found = list(fields(memoryview(message), 100))
    except Malformed:
        return
    assert b"".join(field.whole for field in found) == message


names = st.text(max_size=8)
tensors = st.builds(
    TensorProto,
    dtype=st.integers(0, 30),
    tensor_content=st.binary(max_size=20),
    float_val=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    string_val=st.lists(st.binary(max_size=5), max_size=3),
)


@given(st.dictionaries(names, tensors, max_size=5), st.lists(names, max_size=5), names)
def test_a_request_is_read_as_protobuf_reads_it(
    feeds: dict[str, Any], fetches: list[str], target: str
) -> None:
    request = Request(fetch=fetches, target=[target])
    request.model_spec.name = "m"
    for name, tensor in feeds.items():
        request.feed.add(name=name, tensor=tensor)
    question = read_question(request.SerializeToString())
    expected = PredictRequest(output_filter=fetches)
    expected.model_spec.name = "m"
    for name, tensor in feeds.items():
        expected.inputs[name].CopyFrom(tensor)
    made = predict_request(question.message.model_spec, question.feeds, question.message.fetch)
    assert PredictRequest.FromString(made) == expected
    assert list(question.message.target) == [target]
    assert not question.message.feed


def test_what_a_feed_has_besides_is_ignored_and_its_parts_merge() -> None:
    one, two = TensorProto(dtype=1, float_val=[1.0]), TensorProto(float_val=[2.0])
    feed = [
        *bytes_field(2, one.SerializeToString()),
        *bytes_field(9, b"unknown"),
        *bytes_field(1, b"a name that is replaced"),
        *bytes_field(1, b"x"),
        *bytes_field(2, two.SerializeToString()),
    ]
    question = read_question(b"".join(bytes_field(2, *feed)))
    made = PredictRequest.FromString(predict_request(ModelSpec(name="m"), question.feeds, ()))
    assert made.inputs["x"] == TensorProto(dtype=1, float_val=[1.0, 2.0])


def test_a_response_has_outputs_in_the_order_of_the_fetches() -> None:
    tensor = TensorProto(dtype=3, int_val=[1])
    outputs = {"a": memoryview(tensor.SerializeToString()), "b": memoryview(b"")}
    fetches = ["b:0", "a", "a:0", "a"]
    names = Names({}, {"b:0": "b", "a": "a", "a:0": "a"})
    response = Response.FromString(
        session_run_response(ModelSpec(name="m"), outputs, fetches, names, b"\x1a\x00")
    )
    assert [(named.name, named.tensor) for named in response.tensor] == [
        ("b:0", TensorProto()),
        ("a", tensor),
        ("a:0", tensor),
        ("a", tensor),
    ]
    assert response.model_spec.name == "m"
    assert len(response.metadata.partition_graphs) == 1


def test_a_response_that_repeats_too_much_is_not_put_together() -> None:
    output = memoryview(bytes(1 << 20))
    names = Names({}, {"a": "a"})
    with pytest.raises(ServingError, match="larger than a message may be"):
        session_run_response(ModelSpec(), {"a": output}, ["a"] * 2048, names)
    set_max_in_flight_bytes(10 << 20)
    try:
        with pytest.raises(ServingError, match="Too many bytes are in flight"):
            session_run_response(ModelSpec(), {"a": output}, ["a"] * 10, names)
        assert session_run_response(ModelSpec(), {"a": output}, ["a"] * 9, names)
    finally:
        set_max_in_flight_bytes(2**63 - 1)
    assert in_flight_bytes() == 0


SIGNATURE = Signature("s", {("x", 0): "in"}, {("y", 0): "out", ("x", 0): "same"})


def names_of(feeds: list[str], fetches: list[str]) -> Names:
    return Names({name: name for name in feeds}, {name: name for name in fetches})


def test_a_signature_knows_its_tensors_by_any_of_their_names() -> None:
    assert SIGNATURE.aliases(names_of(["x"], ["y:0", "x", "y"])) == Names(
        {"x": "in"}, {"y:0": "out", "x": "same", "y": "out"}
    )


def test_a_signature_without_other_outputs_is_preferred() -> None:
    both = Signature("both", {("x", 0): "x"}, {("y", 0): "y", ("z", 0): "z"})
    first = Signature("first", {("x", 0): "x"}, {("y", 0): "y"})
    asked = names_of(["x"], ["y"])
    assert aliases_of([both, first], asked)[0] == "first"
    assert aliases_of([both, both], asked)[0] == "both"
    assert aliases_of([both], names_of(["x"], ["z", "y:0"]))[0] == "both"
    assert aliases_of([both], names_of(["y"], ["z"])) == (None, names_of(["y"], ["z"]))


@pytest.mark.parametrize(
    ("feeds", "fetches"),
    [
        ([], ["y"]),
        (["x", "x:0"], ["y"]),
        (["x", "z"], ["y"]),
        (["z"], ["y"]),
        (["x:1"], ["y"]),
        (["x"], ["y:1"]),
        (["x"], ["y", "z"]),
    ],
)
def test_other_tensors_are_no_signature(feeds: list[str], fetches: list[str]) -> None:
    assert SIGNATURE.aliases(names_of(feeds, fetches)) is None
