"""The model for tests of Classify and Regress is the one that its table and its answers describe.

Asked by Predict's way, which takes every signature as it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import INFERENCE_MODELS_SCRIPT
from tests.graphs import STRING, answers, request
from tests.inference import CLASSES, VALUES, classifications, example, values
from tfsrv._proto import message_class
from tfsrv._run import run
from tfsrv._session import SavedModelSession

ROWS = [{"x": 0.25, "c": 3.0}, {"x": 0.5}]


@pytest.fixture(scope="module")
def session(inference_models: Path) -> Iterator[SavedModelSession]:
    loaded = SavedModelSession.load(str(inference_models / "inference" / "2"))
    yield loaded
    loaded.close()


def ask(session: SavedModelSession, signature: str) -> dict[str, list[Any]]:
    tensor: Any = message_class("tensorflow.TensorProto")(dtype=STRING)
    tensor.tensor_shape.dim.add().size = len(ROWS)
    tensor.string_val.extend(example(row).SerializeToString() for row in ROWS)
    return answers(run(session, request(signature, inputs=tensor)))


def test_the_table_names_every_signature(session: SavedModelSession) -> None:
    text = ast.get_docstring(ast.parse(INFERENCE_MODELS_SCRIPT.read_text())) or ""
    named = set(re.findall(r"^\| (\w+) \|", text, re.MULTILINE)) - {"signature"}
    assert named == session.signature_defs.keys() - {"__saved_model_init_op"}


@pytest.mark.parametrize("signature", sorted(CLASSES))
def test_classes_are_those_that_are_expected(session: SavedModelSession, signature: str) -> None:
    outputs = ask(session, signature)
    labels = [label.decode() for label in outputs.get("classes", [])]
    scores = outputs.get("scores", [0.0] * len(labels))
    found = list(zip_longest(labels, scores, fillvalue=""))
    assert found == list(chain(*classifications(signature, ROWS, version=2)))


@pytest.mark.parametrize("signature", sorted(VALUES))
def test_values_are_those_that_are_expected(session: SavedModelSession, signature: str) -> None:
    assert ask(session, signature)["outputs"] == values(signature, ROWS, version=2)
