"""Models with custom ops, and what the server says when an op or its library is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.conftest import Serve
from tests.functional.launching import client, launched
from tests.functional.messages import array, floats, predict_request
from tests.graphs import FLOAT, Graph
from tests.op_libraries import build_op_library, build_trap

OP = "TfsrvAddOne"


def model_with(op: str, path: Path) -> Path:
    """x [n] → y = op(x)."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    graph.sign("serving_default", {"x": x}, {"y": graph.add("y", op, x)})
    graph.save(path / "1")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_with(OP, tmp_path / "m")


def test_a_library_of_ops_is_loaded_before_the_first_model(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    library = build_op_library(tmp_path / "slow.so", OP, "SLOW")
    server = serve({"m": model}, f"--op_libraries={library}")
    with client(server.address()) as ask:
        answer = ask.predict(predict_request("m", {"x": floats(1)}))
        assert array(answer.outputs["y"]) == [2.0]
    assert server.line_with(f"--op_libraries={library}: 1 custom ops")


def test_a_package_of_ops_is_found_and_not_imported(model: Path, tmp_path: Path) -> None:
    package = tmp_path / "site" / "tfsrv_test_ops"
    build_op_library(package / "ops" / "_add_one.so", OP)
    build_trap(package / "extension.so", "PYTHON")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    flags = ("--port=0", "--op_libraries=tfsrv-test-ops")
    environment = {"PYTHONPATH": str(package.parent)}
    with launched(model, *flags, environment=environment) as server:
        with client(server.address()) as ask:
            answer = ask.predict(predict_request("m", {"x": floats(1)}))
            assert array(answer.outputs["y"]) == [2.0]
        assert server.stop() == 0


@pytest.mark.parametrize("words", ["{folder}/none.so", "tfsrv_no_such_package", "tensorflow"])
def test_a_library_that_is_not_there_fails_the_start_in_one_sentence(
    model: Path, tmp_path: Path, words: str
) -> None:
    words = words.format(folder=tmp_path)
    with launched(model, "--port=0", f"--op_libraries={words}") as server:
        assert server.wait() == 1
        (line,) = server.log
        assert line.startswith("Failed to start server. Error: ")
        assert f"--op_libraries={words}: " in line


def test_a_library_that_does_not_load_fails_the_start_in_one_sentence(
    model: Path, tmp_path: Path
) -> None:
    good = build_op_library(tmp_path / "good.so", OP)
    broken = build_op_library(tmp_path / "broken.so", "TfsrvBroken", "BROKEN")
    with launched(model, "--port=0", f"--op_libraries={good}, {broken}") as server:
        assert server.wait() == 1
        (line,) = server.log
        assert line.startswith(
            f"Failed to start server. Error: NOT_FOUND: --op_libraries={broken}:"
            f" cannot load {broken}: undefined symbol: tfsrv_no_such_function"
        )


def test_version_and_help_need_no_library_of_ops() -> None:
    for flag in ("--version", "--help"):
        command = [sys.executable, "-m", "tfsrv", "--op_libraries=/none.so", flag]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
