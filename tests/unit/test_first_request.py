"""The request that the log offers."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from tfsrv._proto import parse_text
from tfsrv.frontends.first_request import command

VECTOR = "tensor_shape { dim { size: -1 } dim { size: 3 } }"


def signature(dtype: str = "DT_INT64", shape: str = VECTOR) -> Any:
    """A signature with one input."""
    text = f'inputs {{ key: "x" value {{ dtype: {dtype} {shape} }} }}'
    return parse_text("tensorflow.SignatureDef", text, "")


def words(*signature_names: str, model: str = "m", of: Any = None) -> list[str]:
    """The words behind "predict" of the command for a model with these signatures."""
    made = command("h:1", model, dict.fromkeys(signature_names, of or signature()))
    assert made is not None
    assert "\n" not in made
    said = shlex.split(made)
    return said[said.index("predict") + 1 :]


def test_there_is_none_for_a_model_without_signatures() -> None:
    assert command("h:1", "m", {}) is None
    assert command("h:1", "m", {"__saved_model_init_op": signature()}) is None


def test_asks_the_default_signature_if_there_is_one() -> None:
    assert words("a", "serving_default") == ["h:1", "m", '{"x": [[1, 1, 1]]}']
    assert words("b", "a")[3:] == ["--signature=a"]
    assert words("b", "__saved_model_init_op")[3:] == ["--signature=b"]


@pytest.mark.parametrize(
    ("dtype", "shape", "value"),
    [
        ("DT_FLOAT", VECTOR, [[1.0, 1.0, 1.0]]),
        ("DT_STRING", "tensor_shape { dim { size: -1 } }", [""]),
        ("DT_BOOL", "tensor_shape { }", False),
        ("DT_INT32", "tensor_shape { unknown_rank: true }", [1]),
        ("DT_UINT8", "tensor_shape { dim { size: 0 } }", []),
    ],
)
def test_writes_a_value_of_the_type_and_shape(dtype: str, shape: str, value: object) -> None:
    _, _, inputs = words("serving_default", of=signature(dtype, shape))
    assert json.loads(inputs) == {"x": value}


def test_leaves_long_inputs_to_be_filled_in() -> None:
    image = "tensor_shape { dim { size: -1 } dim { size: 224 } dim { size: 224 } }"
    _, _, inputs = words("serving_default", of=signature("DT_FLOAT", image))
    assert inputs == '{"x": [...1.0]}'


def test_is_one_word_whatever_the_model_is_called() -> None:
    name = 'it\'s "quoted" \\ ü'
    assert words("serving_default", model=name)[1] == name
