"""Requests for Classify, Regress and MultiInference on the wire, against Python protobuf."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference import Example, Input
from tests.inference_wire import RAW, InferenceMaker, check_reading
from tfsrv._inference_request import parse_inference_request
from tfsrv._proto import message_class
from tfsrv.errors import Code, ServingError

ClassificationRequest = message_class("tensorflow.serving.ClassificationRequest")
MultiInferenceRequest = message_class("tensorflow.serving.MultiInferenceRequest")
randoms = st.integers(0, 2**64).map(Random)  # draws of its own would be ten times slower
more = settings(max_examples=400, deadline=None)
few = settings(max_examples=30, deadline=None)
either = pytest.mark.parametrize("multi", [False, True], ids=["one", "multi"])


def strings(data: bytes, **options: Any) -> list[bytes] | None:
    """What is fed to the graph; None: no input."""
    inputs: Any = parse_inference_request(data, **options)["inputs"]
    return inputs["inputs"]["values"] if inputs else None


def listed(*examples: bytes) -> bytes:
    """A request with these examples."""
    request = RAW[False]()
    request.input.example_list.examples.extend(examples)
    return bytes(request.SerializeToString())


def with_contexts(contexts: list[bytes], *examples: bytes) -> bytes:
    request = RAW[False]()
    request.input.example_list_with_context.context.extend(contexts)
    request.input.example_list_with_context.examples.extend(examples)
    return bytes(request.SerializeToString())


# --- what protobuf says


@either
@more
@given(randoms)
def test_valid_requests_mean_what_protobuf_says(multi: bool, random: Random) -> None:
    data = InferenceMaker(random).inference_request(multi=multi)
    assert check_reading(data, multi=multi) in ("read", "too large", "rare")


@either
@more
@given(randoms)
def test_concatenated_requests_merge_as_in_protobuf(multi: bool, random: Random) -> None:
    maker = InferenceMaker(random)
    data = maker.inference_request(multi=multi) + maker.inference_request(multi=multi)
    assert check_reading(data, multi=multi) in ("read", "too large", "rare")


@either
@more
@given(randoms)
def test_odd_requests_are_read_or_refused_as_by_protobuf(multi: bool, random: Random) -> None:
    check_reading(InferenceMaker(random, odd=True).inference_request(multi=multi), multi=multi)


@either
@more
@given(randoms)
def test_mutated_requests_are_read_or_refused_as_by_protobuf(multi: bool, random: Random) -> None:
    maker = InferenceMaker(random)
    check_reading(maker.mutated(maker.inference_request(multi=multi)), multi=multi)


@either
@more
@given(st.binary(max_size=40))
def test_random_bytes_are_read_or_refused_as_by_protobuf(multi: bool, data: bytes) -> None:
    check_reading(data, multi=multi)


@either
@few
@given(randoms)
def test_every_truncation_is_read_or_refused_as_by_protobuf(multi: bool, random: Random) -> None:
    data = InferenceMaker(random).inference_request(multi=multi)[:400]
    for size in range(len(data)):
        check_reading(data[:size], multi=multi)


READ = {
    "nothing": "",
    "kind is not set": "1200",
    "an empty list": "1202 0a00",
    "one empty example": "1204 0a02 0a00",
    "lists merge": "1205 0a03 0a01 61 1205 0a03 0a01 62",
    "lists of one input merge": "120a 0a03 0a01 61 0a03 0a01 62",
    "the last kind wins": "120a 0a03 0a01 61 1203 0a01 62",
    "the first kind again starts anew": "120f 0a03 0a01 61 1203 0a01 62 0a03 0a01 63",
    "an empty list of the other kind wins too": "1207 0a03 0a01 61 1200",
    "kind changes between inputs": "1205 0a03 0a01 61 1205 1203 0a01 62",
    "contexts are put together": "120b 1209 1201 78 0a01 61 1201 79",
    "contexts of several lists too": "120a 1203 1201 78 1203 0a01 61 1205 1203 1201 79",
    "a context without examples": "1205 1203 1201 78",
    "an empty context": "1207 1205 1200 0a01 61",
    "a context in a list without": "1208 0a06 1201 78 0a01 61",
    "tag of an example longer than needed": "1209 0a07 8a80 8080 0001 61",
    "tag of an example in two bytes": "1206 0a04 8a00 0161",
    "length of an example longer than needed": "1209 0a07 0a81 8080 8000 61",
    "field 8 of another wire type": "1209 0a07 4001 0a01 61 4002",
    "fixed field 8": "120c 0a0a 4501 0203 04 0a01 61 4003",
    "fields of a TensorProto": "120f 0a0d 0801 2203 0102 03 0a01 61 3a01 05",
    "unknown field of an input": "1207 1801 0a03 0a01 61",
    "a spec of another wire type": "0801",
    "an example of another wire type": "1204 0a02 0801",
}
REFUSED = {
    "tag of an example of six bytes": "120a 0a08 8a80 8080 8000 0161",
    "length of an example of six bytes": "120a 0a08 0a81 8080 8080 0061",
    "an example beyond its list": "1205 0a03 0a02 61",
    "a context beyond its list": "1205 1203 1202 61",
    "a list beyond its input": "1204 0a03 0a01 61",
    "an input beyond the end": "1205 0a03 0a01",
    "field zero in a list": "1204 0a02 0200",
    "end of no group in a list": "1203 0a01 0c",
    "wire type 6 in a list": "1203 0a01 0e",
    "varint of eleven bytes in a list": "120e 0a0c 18ff ffff ffff ffff ffff ff01",
    "a bad list of the kind that does not count": "1208 0a02 0a05 1202 0a00",
    "a name that is no text": "0a03 0a01 ff",
    "a label that is no text": "0a03 2201 ff",
}
RARE = {
    "field 8 in a list": "1208 0a06 4201 78 0a01 61",
    "field 8 behind the examples": "1208 0a06 0a01 61 4201 78",
    "field 8 with a longer tag": "1209 0a07 c200 0178 0a01 61",
    "field 8 in a list with context": "1208 1206 4201 78 0a01 61",
    "group": "0b0c",
    "group in an input": "1202 1b1c",
    "group in a list": "1204 0a02 1b1c",
    "unknown group in a list with context": "1208 1206 a306 a406 0a00",
}


@pytest.mark.parametrize("data", READ.values(), ids=READ)
def test_reads_what_protobuf_reads(data: str) -> None:
    assert check_reading(bytes.fromhex(data), multi=False) == "read"


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refuses_what_protobuf_refuses(data: str) -> None:
    assert check_reading(bytes.fromhex(data), multi=False) == "refused"


@pytest.mark.parametrize("data", RARE.values(), ids=RARE)
def test_leaves_rare_fields_to_protobuf(data: str) -> None:
    assert check_reading(bytes.fromhex(data), multi=False) == "rare"


# --- fields


def test_every_field_of_a_request_is_read() -> None:
    request: Any = ClassificationRequest()
    request.model_spec.name = "größe"
    request.model_spec.signature_name = "classify"
    request.model_spec.version.value = -3
    request.input.example_list.examples.add()
    read = parse_inference_request(request.SerializeToString())
    assert read == {
        "has_model_spec": True,
        "name": "größe",
        "signature_name": "classify",
        "version": -3,
        "version_label": None,
        "inputs": {
            "inputs": {"dtype": 7, "shape": (1,), "unknown_rank": False, "values": [b""]},
        },
        "output_filter": [],
        "tasks": [],
    }


def test_the_spec_of_the_first_task_is_that_of_the_request() -> None:
    request: Any = MultiInferenceRequest()
    for name, label, method in (("m", "stable", "a/b"), ("n", "canary", "")):
        task = request.tasks.add(method_name=method)
        task.model_spec.name = name
        task.model_spec.version_label = label
    read: Any = parse_inference_request(request.SerializeToString(), multi=True)
    assert (read["name"], read["version_label"]) == ("m", "stable")
    assert [(spec["name"], spec["version_label"], m) for spec, m in read["tasks"]] == [
        ("m", "stable", "a/b"),
        ("n", "canary", ""),
    ]


def test_a_request_without_tasks_has_an_empty_spec() -> None:
    read = parse_inference_request(b"", multi=True)
    assert (read["has_model_spec"], read["name"], read["tasks"]) == (True, "", [])
    assert not parse_inference_request(b"")["has_model_spec"]


def test_a_method_name_that_is_no_text_is_refused() -> None:
    assert check_reading(bytes.fromhex("0a03 1201 ff"), multi=True) == "refused"


@pytest.mark.parametrize("count", [1, 2, 127, 128, 1000])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 16384])
def test_examples_of_every_length_are_taken_as_they_are(count: int, size: int) -> None:
    examples = [bytes([i % 256]) * size for i in range(count)]
    assert strings(listed(*examples)) == examples
    context = b"context"
    assert strings(with_contexts([context], *examples)) == [context + each for each in examples]


@pytest.mark.parametrize("context", [126, 127, 128, 16383, 16384, 100_000])
def test_contexts_of_every_length_come_before_each_example(context: int) -> None:
    text = b"c" * context
    assert strings(with_contexts([text], b"", b"e", b"")) == [text, text + b"e", text]
    halves = [text[: context // 2], b"", text[context // 2 :]]
    assert strings(with_contexts(halves, b"", b"e")) == [text, text + b"e"]


def test_a_feature_of_the_example_wins_over_that_of_the_context() -> None:
    request: Any = Input()
    listed = request.example_list_with_context
    listed.context.features.feature["x"].float_list.value.append(1)
    listed.context.features.feature["c"].float_list.value.append(2)
    listed.examples.add().features.feature["x"].float_list.value.append(3)
    listed.examples.add()
    whole: Any = ClassificationRequest()
    whole.input.CopyFrom(request)
    merged = [Example.FromString(each) for each in strings(whole.SerializeToString()) or ()]
    values = [
        {name: list(feature.float_list.value) for name, feature in each.features.feature.items()}
        for each in merged
    ]
    assert values == [{"x": [3.0], "c": [2.0]}, {"x": [1.0], "c": [2.0]}]


# --- limits


def test_what_a_context_would_make_of_the_examples_is_told_before_it_is_made() -> None:
    data = with_contexts([b"c" * 1_000_000], *[b""] * 100_000)  # 100 GB
    with pytest.raises(ServingError) as caught:
        parse_inference_request(data)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_a_request_of_absurdly_many_parts_is_refused_in_bounded_memory() -> None:
    for data, multi in ((b"\x12\x02\x0a\x00", False), (b"\x0a\x00", True)):
        with pytest.raises(MemoryError):
            parse_inference_request(data * 3_000_000, multi)


def test_the_kind_that_changes_with_each_list_takes_no_memory() -> None:
    data = b"\x12\x02\x0a\x00\x12\x02\x12\x00" * 1_000_000 + listed(b"last")
    assert strings(data) == [b"last"]


def test_a_hundred_thousand_examples_are_read() -> None:
    examples = [b"%d" % i for i in range(100_000)]
    assert strings(listed(*examples)) == examples


def test_the_bytes_that_are_read_are_not_changed_for_python() -> None:
    data = listed(b"a", b"b")
    before = bytes(bytearray(data))
    strings(data)
    assert data == before
