"""Errors of JSON bodies are those of TensorFlow Serving, text by text (tests/conformance)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.conftest import ROOT
from tfsrv._json_inference_request import read_inference
from tfsrv._json_predict_request import read_predict
from tfsrv._proto import message_class
from tfsrv.errors import HTTP_STATUS, ServingError

CONFORMANCE = ROOT / "tests" / "conformance"
PATH = re.compile(r"/v1/models/(\w+)(?:/(?:versions|labels)/\w+)?:(predict|classify|regress)")
SavedModel = message_class("tensorflow.SavedModel")

# The first words of errors that do not come from the body, but from finding and running models.
FROM_THE_MODEL = (
    "Servable not found", "Unrecognized servable version label", "Serving signature name: ",
    "No classification inputs found", "Name: <unknown>", "Tensor name: ", "assertion failed",
    "Task size ", "Batch", "Malformed request",
)  # fmt: skip

# What TensorFlow Serving reads otherwise, and why.
DIFFERENT = {
    **dict.fromkeys(["rest-0193", "rest-0194", "rest-0196"], "uint16 is read"),
    **dict.fromkeys(["rest-0219", "rest-0220", "rest-0221"], "half is read"),
    **dict.fromkeys(["rest-0224", "rest-0225"], "bfloat16 is read"),
}


def cases() -> Iterator[Any]:
    for line in (CONFORMANCE / "cases.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        is_ours = case["proto"] == "rest" and PATH.fullmatch(case["path"])
        if is_ours and case["method"] == "POST" and "Content-Encoding" not in case["headers"]:
            yield pytest.param(case, id=case["id"])


@cache
def signatures(model: str) -> dict[str, dict[str, int]]:
    """By name the inputs of each signature, with their dtypes."""
    versions = sorted((CONFORMANCE / "models" / model).iterdir(), key=lambda path: int(path.name))
    saved: Any = SavedModel.FromString((versions[-1] / "saved_model.pb").read_bytes())
    return {
        name: {alias: info.dtype for alias, info in signature.inputs.items()}
        for name, signature in saved.meta_graphs[0].signature_def.items()
    }


def signature_name(body: bytes) -> str:
    found = re.search(rb'"signature_name": "(\w+)"', body)
    return found[1].decode() if found else "serving_default"


def outcome(case: Any) -> tuple[int, str]:
    """The status and the text of an error that the body gets; 200 without one."""
    match = PATH.fullmatch(case["path"])
    assert match
    body = base64.b64decode(case["body"] or "")
    try:
        if match[2] == "predict":
            known = signatures(match[1]) if match[1] in MODELS else {}
            read_predict(body, known.get(signature_name(body), {"x": 1}))
        else:
            read_inference(body)
    except ServingError as error:
        return HTTP_STATUS[error.code], error.message
    return 200, ""


MODELS = {path.name for path in (CONFORMANCE / "models").iterdir()}


@pytest.mark.parametrize("case", list(cases()))
def test_bodies_are_refused_as_by_tensorflow_serving(case: Any) -> None:
    answer = case["answer"]
    text = json.loads(answer["body"])["error"] if answer["status"] != 200 and answer["body"] else ""
    expected = (answer["status"], text)
    if not answer["body"] or text.startswith(FROM_THE_MODEL):
        expected = (200, "")
    if case["id"] in DIFFERENT:
        assert outcome(case) != expected
    else:
        assert outcome(case) == expected
