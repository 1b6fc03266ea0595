"""JSON bodies for :classify and :regress: what they ask for, and why they are refused."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.json_bodies import BodyMaker
from tfsrv._inference_request import parse_inference_request
from tfsrv._json_inference_request import read_inference
from tfsrv._proto import message_class
from tfsrv.errors import Code, ServingError

ClassificationRequest = message_class("tensorflow.serving.ClassificationRequest")
RegressionRequest = message_class("tensorflow.serving.RegressionRequest")
Example = message_class("tensorflow.Example")
KINDS = ("bytes_list", "float_list", "int64_list")

randoms = st.integers(0, 2**64).map(Random)
more = settings(max_examples=300, deadline=None)


def request_of(body: bytes, **spec: Any) -> Any:
    """The request of a body, as protobuf reads it. tfsrv's own reader takes it as well."""
    wire = read_inference(body, **spec)
    assert parse_inference_request(wire)["inputs"]
    assert RegressionRequest.FromString(wire).SerializeToString(deterministic=True)
    return ClassificationRequest.FromString(wire)


def features(example: Any) -> dict[str, tuple[str | None, list[Any]]]:
    """By name the kind and the values of each feature."""
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = (kind, list(getattr(feature, kind).value) if kind else [])
    return found


def examples_of(body: bytes) -> list[dict[str, tuple[str | None, list[Any]]]]:
    return [features(example) for example in request_of(body).input.example_list.examples]


def refusal(body: bytes) -> str:
    with pytest.raises(ServingError) as caught:
        read_inference(body)
    assert caught.value.code == Code.INVALID_ARGUMENT
    return caught.value.message


# --- what is read


@pytest.mark.parametrize(
    ("value", "kind", "values"),
    [
        ("1", "int64_list", [1]),
        ("[1, -2, 0]", "int64_list", [1, -2, 0]),
        ("[9223372036854775807, -9223372036854775808]", "int64_list", [2**63 - 1, -(2**63)]),
        ("[true, false, 7]", "int64_list", [1, 0, 7]),
        ("1.0", "float_list", [1.0]),
        ("[1e2, -0.0, 0.1]", "float_list", [100.0, -0.0, float(np.float32(0.1))]),
        ("[Infinity, -Infinity, 1e300]", "float_list", [math.inf, -math.inf, math.inf]),
        ("18446744073709551616", "float_list", [2.0**64]),
        ('"text"', "bytes_list", [b"text"]),
        ('["\\u00e9\\u0000", "", {"b64": "/w=="}]', "bytes_list", ["é\0".encode(), b"", b"\xff"]),
        ('{"b64": "aGk"}', "bytes_list", [b"hi"]),
        ("[]", None, []),
    ],
)
def test_a_feature_has_the_kind_of_its_values(
    value: str, kind: str | None, values: list[Any]
) -> None:
    body = f'{{"examples": [{{"x": {value}}}]}}'.encode()
    assert examples_of(body) == [{"x": (kind, values)}]


def test_examples_are_objects_of_features() -> None:
    body = b'{"examples": [{}, {"a": 1, "b": ["x"]}, {"": [0.5]}], "more": [{"ignored": null}]}'
    assert examples_of(body) == [
        {},
        {"a": ("int64_list", [1]), "b": ("bytes_list", [b"x"])},
        {"": ("float_list", [0.5])},
    ]


def test_a_context_comes_beside_the_examples() -> None:
    body = b'{"context": {"c": [1, 2]}, "examples": [{"x": 1.5}, {}]}'
    found = request_of(body).input
    assert found.WhichOneof("kind") == "example_list_with_context"
    assert features(found.example_list_with_context.context) == {"c": ("int64_list", [1, 2])}
    examples = found.example_list_with_context.examples
    assert [features(example) for example in examples] == [{"x": ("float_list", [1.5])}, {}]


def test_an_empty_context_is_one() -> None:
    found = request_of(b'{"context": {}, "examples": [{"x": 1}]}').input
    assert found.WhichOneof("kind") == "example_list_with_context"


def test_of_a_feature_that_comes_twice_the_last_counts() -> None:
    assert examples_of(b'{"examples": [{"x": 1, "x": "a"}]}') == [{"x": ("bytes_list", [b"a"])}]


def test_of_a_key_that_comes_twice_the_first_counts() -> None:
    body = b'{"examples": [{"x": 1}], "examples": 5, "context": {"c": 1}, "context": 5}'
    found = request_of(body).input.example_list_with_context
    assert [features(example) for example in found.examples] == [{"x": ("int64_list", [1])}]


def test_the_model_is_named_as_the_url_names_it() -> None:
    body = b'{"signature_name": "s", "examples": [{}]}'
    spec = request_of(body, model="m", version=3).model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("m", "s", 3)
    assert request_of(body, model="m", label="stable").model_spec.version_label == "stable"


def test_floats_are_rounded_once() -> None:
    # Half-way between two floats and a little more, which a double does not hold.
    text = "1.00000005960464477539062500000000001"
    body = f'{{"examples": [{{"x": {text}}}]}}'.encode()
    assert examples_of(body) == [{"x": ("float_list", [float(np.nextafter(np.float32(1), 2))])}]


# --- what is refused


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b"[]", "JSON Value: [] Is not object"),
        (b'{"signature_name": 1, "examples": [{}]}',
         'JSON Value: {\n    "signature_name": 1,\n    "examples": [{}]\n} not formatted '
         "correctly. 'signature_name' key must be a string value."),
        (b'{"context": [], "examples": 5}', "Example must be JSON object but got JSON Array"),
        (b'{"context": null}', "Example must be JSON object but got JSON Null"),
        (b'{"context": {"c": null}}', "Feature: c has element with unexpected JSON type: Null"),
        (b'{"context": {"c": 1}}',
         'JSON Value: {\n    "context": {\n        "c": 1\n    }\n} '
         "When method is classify, key 'examples' is expected and was not found"),
        (b"{}",
         "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        (b'{"examples": {}}',
         'JSON Value: {\n    "examples": {}\n} Expecting \'examples\' value to be an list/array'),
        (b'{"examples": []}',
         'JSON Value: {\n    "examples": []\n} \'examples\' value is an empty array'),
        (b'{"examples": [{}, 5]}', "Example must be JSON object but got JSON Number"),
        (b'{"examples": ["a"]}', "Example must be JSON object but got JSON String"),
        (b'{"examples": [true]}', "Example must be JSON object but got JSON True"),
        (b'{"examples": [false]}', "Example must be JSON object but got JSON False"),
        (b'{"examples": [[]]}', "Example must be JSON object but got JSON Array"),
        (b'{"examples": [{"b64": "%"}]}', None),
        (b'{"examples": [{"x": null}]}', "Feature: x has element with unexpected JSON type: Null"),
        (b'{"examples": [{"x": [1, [2]]}]}',
         "Feature: x has element with unexpected JSON type: Array"),
        (b'{"examples": [{"x": {"a": 1}}]}',
         "Feature: x has element with unexpected JSON type: Object"),
        (b'{"examples": [{"x": {"b64": 1}}]}',
         "Feature: x has element with unexpected JSON type: Object"),
        (b'{"examples": [{"x": [1, {}]}]}',
         "Feature: x has element with unexpected JSON type: Object"),
        (b'{"examples": [{"x": {"b64": "a"}}]}', "Unable to base64 decode"),
        (b'{"examples": [{"x": [1, 2.5]}]}',
         "Unexpected element type in feature: x expecting type: int64"),
        (b'{"examples": [{"x": [1.5, 2]}]}',
         "Unexpected element type in feature: x expecting type: float"),
        (b'{"examples": [{"x": [1.5, true]}]}',
         "Unexpected element type in feature: x expecting type: float"),
        (b'{"examples": [{"x": ["a", 2]}]}',
         "Unexpected element type in feature: x expecting type: bytes"),
        (b'{"examples": [{"x": [true, "a"]}]}',
         "Unexpected element type in feature: x expecting type: int64"),
        (b'{"examples": [{"x": [1, {"b64": "%"}]}]}',
         "Unexpected element type in feature: x expecting type: int64"),
        (b'{"examples": [{"x": [1.5, 18446744073709551615]}]}',
         "Unexpected element type in feature: x expecting type: float"),
        (b'{"examples": [{"x": 9223372036854775808}]}',
         "Feature: x has uint64_t element. Only int64_t is supported."),
    ],
)  # fmt: skip
def test_refuses(body: bytes, text: str | None) -> None:
    if text is None:  # the example's only feature has a name like any other
        assert examples_of(body) == [{"b64": ("bytes_list", [b"%"])}]
    else:
        assert refusal(body) == text


# --- random bodies


def feature_text(maker: BodyMaker) -> tuple[str, list[Any]]:
    """A feature's value, and what it means: its kind and its values."""
    random = maker.random
    kind = random.choice(KINDS)
    count = random.choice([0, 1, 2, 5])
    if kind == "bytes_list":
        texts = [maker.text() for _ in range(count)]
        return maker.listed([maker.string(text) for text in texts], "[]"), [
            kind, [text.encode() for text in texts],
        ]  # fmt: skip
    if kind == "int64_list":
        numbers = [random.randrange(-(2**63), 2**63) >> random.randrange(64) for _ in range(count)]
        return maker.listed([str(number) for number in numbers], "[]"), [kind, numbers]
    reals = [float(np.float32(random.uniform(-9, 9))) for _ in range(count)]
    return maker.listed([repr(real) for real in reals], "[]"), [kind, reals]


@more
@given(randoms)
def test_valid_bodies_mean_what_they_say(random: Random) -> None:
    maker = BodyMaker(random)
    texts, expected = [], []
    for _ in range(random.choice([1, 2, 5])):
        named = {name: feature_text(maker) for name in random.sample(["a", "b", "é\n", ""], 2)}
        texts.append(maker.map_of([(name, text) for name, (text, _) in named.items()]))
        expected.append({
            name: (kind if values else None, values) for name, (_, (kind, values)) in named.items()
        })  # fmt: skip
    members = [("examples", maker.listed(texts, "[]"))]
    if random.random() < 0.3:
        members.append(("context", '{"c": 1}'))
    found = request_of(maker.map_of(members).encode()).input
    listed = getattr(found, found.WhichOneof("kind"))
    assert [features(example) for example in listed.examples] == expected


@more
@given(randoms)
def test_mutated_bodies_are_read_or_refused(random: Random) -> None:
    maker = BodyMaker(random)
    body = json.dumps({"context": {"c": "é"}, "examples": [{"x": [1, 2], "y": 1.5}, {"z": ["a"]}]})
    mutated = maker.mutated(body.encode())
    outcome = Code.OK
    try:
        wire = read_inference(mutated)
        assert parse_inference_request(wire)["inputs"]
    except ServingError as error:
        outcome = error.code
    assert outcome in (Code.OK, Code.INVALID_ARGUMENT)


def test_deep_lists_are_refused_or_ignored() -> None:
    deep = b"[" * 1_000_000 + b"]" * 1_000_000
    assert refusal(b'{"examples": [{"x": %s}]}' % deep).endswith("unexpected JSON type: Array")
    assert examples_of(b'{"other": %s, "examples": [{}]}' % deep) == [{}]
