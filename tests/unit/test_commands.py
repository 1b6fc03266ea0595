"""`tfsrv show` of directories, and what `tfsrv predict` makes of JSON."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tfsrv._proto import message_class
from tfsrv.cli import main
from tfsrv.client import TensorInfo
from tfsrv.client.dtypes import NAMES
from tfsrv.commands.json_values import array_of, json_of

EXAMPLE = ROOT / "examples" / "half_plus_two"


def run(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0
) -> tuple[str, str]:
    """What a command prints: output and errors."""
    assert main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


def write_saved_model(directory: Path, *, text: bool = False) -> None:
    """A SavedModel with one signature of many kinds."""
    saved_model: Any = message_class("tensorflow.SavedModel")()
    graph = saved_model.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    signature = graph.signature_def["s"]
    signature.method_name = "tensorflow/serving/predict"
    signature.inputs["long_name"].dtype = 7
    signature.inputs["long_name"].tensor_shape.unknown_rank = True
    signature.inputs["x"].dtype = 1
    for size in (-1, 3):
        signature.inputs["x"].tensor_shape.dim.add(size=size)
    signature.defaults["x"].dtype = 1
    signature.outputs["y"].dtype = 9
    graph.signature_def["__saved_model_init_op"].outputs["op"].name = "NoOp"
    directory.mkdir(parents=True)
    if text:
        (directory / "saved_model.pbtxt").write_text(f"{saved_model}\nunheard_of: 1\n")
    else:
        (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString())


SIGNATURE = """\
  s  tensorflow/serving/predict
    in   long_name  string [...]
    in   x          float [?, 3]  optional
    out  y          int64 []
"""


# ---- show


@pytest.mark.parametrize("text", [False, True])
def test_a_saved_model_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bool
) -> None:
    write_saved_model(tmp_path / "m", text=text)
    out, _ = run(capsys, "show", tmp_path / "m")
    assert out == f"{tmp_path / 'm'}\n{SIGNATURE}"


def test_the_versions_of_a_base_path_are_shown_highest_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("2", "10"):
        write_saved_model(tmp_path / version)
    (tmp_path / "other").mkdir()
    out, _ = run(capsys, "show", tmp_path)
    each = "".join(f"  {line}\n" for line in SIGNATURE.splitlines())
    assert out == f"{tmp_path}\n  version 10\n{each}  version 2\n{each}"


def test_the_example_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "show", EXAMPLE)
    assert "in   x  float [?]" in out


def test_a_version_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_saved_model(tmp_path / "1")
    (tmp_path / "2").mkdir()
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "saved_model.pb").write_bytes(b"\xff")
    out, _ = run(capsys, "show", tmp_path, status=1)
    assert f"version 3: cannot be read: {tmp_path}/3/saved_model.pb is not a SavedModel" in out
    assert f"version 2: cannot be read: {tmp_path}/2 has no saved_model.pb or" in out
    assert "version 1\n" in out
    out, _ = run(capsys, "show", tmp_path / "1", "--tags=serve,gpu", status=1)
    assert "no MetaGraph with the tags {gpu, serve}, but {serve}" in out


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["show"], 2, "required: DIR|HOST:PORT (see tfsrv show --help)"),
        (["show", "nowhere"], 2, "nowhere is neither a directory nor an address"),
        (["show", "setup.py"], 2, "setup.py is a file: give the directory"),
        (["show", "examples", "--model=m"], 2, "--model is for a server's address"),
        (["show", "benchmarks"], 1, "no directory in it is named by a number"),
        (["show", "localhost:1", "--timeout=0"], 2, "more than 0 seconds"),
        (["show", "--xyzzy"], 2, "tfsrv show --help"),
        (["predict", "localhost:1"], 2, "required: model, JSON (see tfsrv predict --help)"),
        (["predict", "nowhere", "m", "1"], 2, "nowhere is no address such as localhost:8500"),
        (["predict", "localhost:1", "m", "{"], 2, "the inputs are no JSON: "),
        (["predict", "localhost:1", "m", "[" * 100_000], 2, "the inputs are no JSON: "),
        (["predict", "a:1", "m", "1", "--version=1", "--label=x"], 2, "not allowed with"),
        (["predict", "localhost:1", "m", "1", "--timeout=0.01"], 1, "UNAVAILABLE|DEADLINE"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: list[str],
    status: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    out, err = run(capsys, *arguments, status=status)
    assert out == ""
    assert err.startswith("tfsrv: ")
    assert err.count("\n") == 1
    assert any(part in err for part in (told.split("|") if status == 1 else [told]))


def test_inputs_come_from_standard_input_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("{nonsense"))
    _, err = run(capsys, "predict", "localhost:1", "m", "-", status=2)
    assert "the inputs are no JSON" in err


# ---- JSON


def info(name: str) -> TensorInfo:
    number = next(number for number, each in NAMES.items() if each == name)
    return TensorInfo(number, name, None)


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        ("1.5", "float", ()),
        ("[1.5, 0.1, -3.0]", "float", (3,)),
        ("[[1.0, 2.0]]", "double", (1, 2)),
        ("[[], []]", "float", (2, 0)),
        ("[]", "int32", (0,)),
        ("[1, -2]", "int8", (2,)),
        ("18446744073709551615", "uint64", ()),
        ("[true, false]", "bool", (2,)),
        ('["é", "", {"b64": "AP8="}]', "string", (3,)),
        ('[["1+2j"]]', "complex64", (1, 1)),
        ("[0.5]", "half", (1,)),
        ("[0.5, NaN, Infinity]", "bfloat16", (3,)),
        ("3.1415927", "float", ()),
    ],
)
def test_json_is_what_comes_back_of_it(text: str, name: str, shape: tuple[int, ...]) -> None:
    array = array_of(json.loads(text), info(name))
    assert array.dtype == info(name).numpy_dtype()
    assert array.shape == shape
    assert json.dumps(json_of(array), ensure_ascii=False) == text


def test_whole_numbers_are_floats_where_floats_are_wanted() -> None:
    assert array_of([1, 2], info("float")).tolist() == [1.0, 2.0]
    assert array_of([1, 2.5], info("complex128")).tolist() == [1, 2.5]
    assert math.isinf(array_of(math.inf, info("float")).item())


@pytest.mark.parametrize(
    ("value", "name", "told"),
    [
        (1.5, "int32", "1.5 is no int32"),
        (True, "int32", "True is no int32"),
        (300, "int8", "300 is out of the bounds of int8"),
        (1e300, "float", "a number is out of the bounds of float"),
        (10**400, "double", "a number is out of the bounds of double"),
        (-1, "uint8", "-1 is out of the bounds of uint8"),
        (1, "bool", "1 is no bool"),
        ("1", "float", "'1' is no float"),
        (None, "float", "None is no float"),
        ("one", "complex64", "'one' is no complex64"),
        (1, "string", "1 is no string"),
        ({"b64": "?"}, "string", "not base64: ?"),
        ({"b64": 1}, "string", "not base64: 1"),
        ({"text": "a"}, "string", "is no string"),
        ([[1], [1, 2]], "float", "different lengths"),
        ([[1], 2], "float", "different lengths or depths"),
        ([1, [2]], "float", "different depths"),
        (1, "variant", "numpy has no type for variant"),
    ],
)
def test_values_that_do_not_fit_are_refused(value: object, name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("?", r"\?")):
        array_of(value, info(name))


def test_empty_and_scalar_arrays_are_printed() -> None:
    assert json_of(np.zeros((0, 3))) == []
    assert json_of(np.zeros((2, 0))) == [[], []]
    assert json_of(np.array(b"\xff", object)) == {"b64": "/w=="}
    assert json_of(np.array(True)) is True
