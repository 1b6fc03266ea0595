"""Models with custom ops, and what the server says when an op or its library is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.conftest import Serve
from tests.functional.launching import client, launched, until
from tests.functional.messages import array, floats, predict_request
from tests.graphs import FLOAT, Graph, fill_node
from tests.op_libraries import build_op_library, build_trap

OP = "TfsrvAddOne"
END = 50  # ModelVersionStatus.State
NOT_FOUND = 5


def model_with(op: str, path: Path) -> Path:
    """x [n] → y = op(x)."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    graph.sign("serving_default", {"x": x}, {"y": graph.add("y", op, x)})
    graph.save(path / "1")
    return path


def model_with_function(op: str, path: Path) -> Path:
    """x [n] → y = f(x), whose body is op: so are the models that TensorFlow 2 exports."""
    graph = Graph()
    function = graph.meta.graph_def.library.function.add()
    function.signature.name = "f"
    function.signature.input_arg.add(name="a", type=FLOAT)
    function.signature.output_arg.add(name="b", type=FLOAT)
    fill_node(function.node_def.add(), "inside", op, ("a",), {})
    function.ret["b"] = "inside:y:0"
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    call = graph.meta.graph_def.node.add(name="y", op="StatefulPartitionedCall", input=["x"])
    call.attr["f"].func.name = "f"
    for types in ("Tin", "Tout"):
        call.attr[types].list.type.append(FLOAT)
    graph.sign("serving_default", {"x": x}, {"y": "y:0"})
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


def test_an_op_inside_a_function_works_with_its_library_and_is_missed_without_it(
    serve: Serve, tmp_path: Path
) -> None:
    model = model_with_function(OP, tmp_path / "m")
    library = build_op_library(tmp_path / "ops.so", OP)
    server = serve({"m": model}, f"--op_libraries={library}")
    with client(server.address()) as ask:
        answer = ask.predict(predict_request("m", {"x": floats(1)}))
        assert array(answer.outputs["y"]) == [2.0]
    without = serve({"m": model}, ready=False, errors_are_meant=True)
    with client(without.address()) as ask:
        until(lambda: ask.states("m") == [END])
        text = ask.model_status("m")[0].status.error_message
        assert text.startswith(f"Op type not registered '{OP}' in binary running on ")


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


@pytest.mark.parametrize(
    ("op", "advice"),
    [
        (
            "WhitespaceTokenizeWithOffsets",
            "likely comes with tensorflow_text: pip install tensorflow-text, and start the server"
            " with --op_libraries=tensorflow_text",
        ),
        ("TfsrvNoSuchOp", "give the library that has it with --op_libraries=/path/to/library.so"),
    ],
)
def test_a_missing_op_is_named_with_what_to_do_and_harms_no_other_model(
    serve: Serve, models: Path, tmp_path: Path, op: str, advice: str
) -> None:
    model = model_with(op, tmp_path / "m")
    paths = {"m": model, "half_plus_two": models / "half_plus_two"}
    server = serve(paths, ready=False, errors_are_meant=True)
    with client(server.address()) as ask:
        # END is told when nothing will be tried again; a retry would come after a minute.
        until(lambda: ask.states("m") == [END])
        (version,) = ask.model_status("m")
        assert version.status.error_code == NOT_FOUND
        text = version.status.error_message
        assert text.startswith(f"Op type not registered '{op}' in binary running on ")
        assert f"The model in {model}/1 needs it." in text
        assert advice in text
        answer = ask.predict(predict_request("half_plus_two", {"x": floats(2)}))
        assert array(answer.outputs["y"]) == [5.0]
    assert len([line for line in server.log if "failed to load" in line]) == 1


def test_version_and_help_need_no_library_of_ops() -> None:
    for flag in ("--version", "--help"):
        command = [sys.executable, "-m", "tfsrv", "--op_libraries=/none.so", flag]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
