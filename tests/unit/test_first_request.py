"""The request that the log offers."""

from __future__ import annotations

import shlex

from tfsrv._proto import parse_text
from tfsrv.frontends.first_request import command


def code(*signature_names: str, model: str = "m") -> str:
    """The Python code of the command for a model with one input in each signature."""
    signature = parse_text(
        "tensorflow.SignatureDef",
        'inputs { key: "x" value {'
        " dtype: DT_INT64 tensor_shape { dim { size: -1 } dim { size: 3 } } } }",
        "",
    )
    made = command("h:1", model, dict.fromkeys(signature_names, signature))
    assert made is not None
    assert "\n" not in made
    _, dash_c, source = shlex.split(made)
    assert dash_c == "-c"
    return source


def test_there_is_none_for_a_model_without_signatures() -> None:
    assert command("h:1", "m", {}) is None


def test_asks_the_default_signature_if_there_is_one() -> None:
    assert "signature_name" not in code("a", "serving_default")
    assert r"signature_name: \"a\"" in code("b", "a")


def test_gives_open_dimensions_a_size() -> None:
    source = code("serving_default")
    assert "dtype: DT_INT64 tensor_shape { dim { size: 1 } dim { size: 3 } }" in source


def test_is_python_whatever_the_model_is_called() -> None:
    compile(code("serving_default", model='it\'s "quoted" \\ ü'), "command", "exec")
