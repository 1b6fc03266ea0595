"""The SavedModels that tests serve are those that the table in tests/models.py describes."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from tests.conftest import MODELS_SCRIPT
from tfsrv import _proto


def table() -> dict[str, str]:
    """Model name to what the table says about its signatures."""
    text = ast.get_docstring(ast.parse(MODELS_SCRIPT.read_text())) or ""
    return dict(re.findall(r"^\| ([a-z]\w+)(?:, [^|]*)? \| (.*) \|$", text, re.MULTILINE)[1:])


def signatures(version: Path) -> dict[str, Any]:
    saved: Any = _proto.message_class("tensorflow.SavedModel")()
    saved.ParseFromString((version / "saved_model.pb").read_bytes())
    return {
        name: signature
        for name, signature in saved.meta_graphs[0].signature_def.items()
        if name != "__saved_model_init_op"
    }


def test_table_lists_every_model(models: Path) -> None:
    assert sorted(table()) == sorted(path.name for path in models.iterdir())


def test_table_names_every_signature_but_the_default(models: Path) -> None:
    # identity has one for each dtype, and Keras adds one of its own name.
    for name in sorted(table().keys() - {"identity", "keras_dense"}):
        named = set(re.findall(r"`(\w+)`", table()[name])) | {"serving_default"}
        assert set(signatures(models / name / "1")) <= named, name


def test_identity_has_a_signature_for_every_dtype_of_plain_values(models: Path) -> None:
    types = _proto.pool().FindEnumTypeByName("tensorflow.DataType").values_by_name
    found = {
        name: signature.inputs["x"].dtype
        for name, signature in signatures(models / "identity" / "1").items()
    }
    assert found == {name: types[f"DT_{name.upper()}"].number for name in found}
    assert len(found) == 21
