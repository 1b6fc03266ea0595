"""Example requests, of all types and shapes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.known_models import VECTOR, Tensors, signature
from tfsrv._proto import message_class
from tfsrv.frontends.example_requests import (
    MOST_ELEMENTS,
    can_be_json,
    example_columns,
    example_examples,
    example_rows,
)
from tfsrv.frontends.signatures import CLASSIFY, REGRESS

Shape = list[int | None] | None


def rows(inputs: Tensors, outputs: Tensors | None = None, name: str = "serving_default") -> Any:
    text = example_rows(name, signature(inputs, outputs or {"y": VECTOR}))
    return None if text is None else json.loads(text)


def columns(inputs: Tensors, name: str = "serving_default") -> Any:
    text = example_columns(name, signature(inputs))
    return None if text is None else json.loads(text)


@pytest.mark.parametrize(
    ("dtypes", "element"),
    [
        (["float", "double", "half", "bfloat16"], 1.0),
        (["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"], 1),
        (["bool"], False),
        (["string"], ""),
    ],
)
def test_an_element_is_of_the_type_of_the_input(dtypes: list[str], element: object) -> None:
    for dtype in dtypes:
        value = columns({"x": (dtype, [])})["inputs"]["x"]
        assert (value, type(value)) == (element, type(element)), dtype


@pytest.mark.parametrize("dtype", ["complex64", "qint8", "resource", "variant"])
def test_types_that_json_has_no_values_for_have_no_example(dtype: str) -> None:
    assert not can_be_json(dtype)
    assert rows({"x": (dtype, [None])}) is None
    assert columns({"x": VECTOR, "z": (dtype, [None])}) is None


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ([], 1.0),
        ([None], [1.0]),
        ([None, 2], [[1.0, 1.0]]),
        ([2, None], [[1.0], [1.0]]),
        ([3, 0], [[], [], []]),
        ([0], []),
        (None, [1.0]),
        ([None] * 40, [1.0]),
    ],
)
def test_a_tensor_has_the_shape_of_the_input(shape: Shape, value: object) -> None:
    assert columns({"x": ("float", shape)}) == {"inputs": {"x": value}}


@pytest.mark.parametrize(
    ("shape", "instances"),
    [
        ([None], [1.0]),
        ([None, 2], [[1.0, 1.0]]),
        ([2, 1], [[1.0], [1.0]]),
        ([None, 0], [[]]),
        (None, [1.0]),
    ],
)
def test_rows_are_the_tensor_without_its_first_dimension(shape: Shape, instances: object) -> None:
    assert rows({"x": ("float", shape)}) == {"instances": instances}


def test_rows_of_several_inputs_are_objects() -> None:
    assert rows({"b": ("string", [2]), "a": ("int32", [None, 1])}) == {
        "instances": [{"a": [1], "b": ""}, {"a": [1], "b": ""}]
    }


def test_there_are_no_rows_where_an_input_or_output_has_none() -> None:
    assert rows({"x": ("float", [])}) is None
    assert rows({"x": VECTOR}, {"y": ("float", [])}) is None
    assert rows({"x": ("float", [0, 2])}) is None
    assert rows({"x": ("float", [2]), "z": ("float", [3])}) is None


def test_a_signature_without_inputs_has_no_example() -> None:
    assert rows({}) is None
    assert columns({}) is None


def test_a_signature_is_named_unless_it_is_the_default_one() -> None:
    assert "signature_name" not in rows({"x": VECTOR})
    assert rows({"x": VECTOR}, name='"')["signature_name"] == '"'
    assert columns({"x": VECTOR}, name="other")["signature_name"] == "other"
    assert json.loads(example_examples("other")) == {
        "signature_name": "other",
        "examples": [{"x": 1.0}],
    }


def test_names_of_inputs_are_strings_of_json() -> None:
    assert columns({'a"\\b': VECTOR}) == {"inputs": {'a"\\b': [1.0]}}


def test_an_image_is_written_in_full() -> None:
    image = columns({"x": ("uint8", [None, 224, 224, 3])})["inputs"]["x"]
    assert image == [[[[1] * 3] * 224] * 224]


def test_what_is_too_long_for_anybody_is_not_written() -> None:
    assert columns({"x": ("float", [MOST_ELEMENTS])}) is not None
    assert columns({"x": ("float", [MOST_ELEMENTS + 1])}) is None
    assert rows({"x": ("float", [None, 2**40, 2**40])}) is None


@pytest.mark.parametrize("method", [CLASSIFY, REGRESS])
def test_strings_of_signatures_for_examples_are_examples(method: str) -> None:
    asked = signature({"inputs": ("string", [None])}, {"scores": VECTOR}, method)
    in_rows, in_columns = example_rows("s", asked), example_columns("s", asked)
    assert in_rows is not None
    assert in_columns is not None
    (written,) = json.loads(in_rows)["instances"]
    assert json.loads(in_columns)["inputs"]["inputs"] == [written]
    example: Any = message_class("tensorflow.Example")()
    example.ParseFromString(base64.b64decode(written["b64"]))
    assert list(example.features.feature["x"].float_list.value) == [1.0]
