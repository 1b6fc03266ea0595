"""The examples do what their READMEs say, as packages that are installed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.conftest import ROOT
from tests.functional.conftest import serving
from tests.functional.launching import client, launched, until
from tests.functional.messages import array, floats, predict_request, strings
from tests.functional.sites import AVAILABLE
from tests.plugging import project_of, write_metadata
from tests.unit.waiting import DEADLINE_SECONDS, eventually
from tfsrv._proto import message_class, parse_text
from tfsrv._serving_map import ServingMap
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.core.aspired_versions_manager import AspiredVersionsManager
from tfsrv.core.event_bus import EventBus
from tfsrv.core.serving_map_publisher import ServingMapPublisher
from tfsrv.core.source import connect
from tfsrv.errors import Code, ServingError
from tfsrv.plugins import load_platforms, load_source

EXAMPLES = ROOT / "examples"
TABLE = EXAMPLES / "lookup_table_servable"
SOURCE = EXAMPLES / "custom_source"
MNIST = EXAMPLES / "mnist"


def install(example: Path, folder: Path) -> None:
    """Put the metadata of an example's package into a folder that will be on the path."""
    project = project_of(example)
    write_metadata(folder, project["name"], project["entry-points"])


# --- lookup_table_servable


def configured() -> list[Any]:
    config: Any = parse_text(
        "tensorflow.serving.ModelServerConfig", (TABLE / "models.config").read_text(), ""
    )
    return list(config.model_config_list.config)


def test_tables_and_a_platform_of_ones_own_are_served(tmp_path: Path, transport: str) -> None:
    install(TABLE, tmp_path)
    models = {f"{each.name}@{each.model_platform}": TABLE / each.base_path for each in configured()}
    assert list(models) == ["legs@lookup_table", "scaled@scale"]
    environment = {"PYTHONPATH": f"{tmp_path}:{TABLE}"}
    with serving(models, f"--grpc_transport={transport}", environment=environment) as server:
        done = subprocess.run(
            [sys.executable, TABLE / "ask.py", server.address(), "cat", "spider", "worm"],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "cat: 4\nspider: 8\nworm: not in the table\n"
        told = (TABLE / "README.md").read_text().partition("prints\n\n")[2]
        assert done.stdout == told.replace("    ", "")
        with client(server.address()) as ask:
            response = ask.predict(predict_request("scaled", {"x": floats(1, 2)}))
            assert array(response.outputs["y"]).tolist() == [2.5, 5]
            error = ask.predict_future(predict_request("scaled", {"x": strings("a")})).exception()
            assert error.details() == 'Give floats as "x".'


def test_a_factor_that_is_no_number_is_told_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TABLE)
    from scale_servable import ScaleLoader  # type: ignore[import-not-found]

    from tfsrv.core.storage_path import StoragePath

    (tmp_path / "factor.txt").write_text("two")
    with pytest.raises(ServingError, match=r"factor\.txt: could not convert") as caught:
        ScaleLoader(StoragePath(str(tmp_path))).load()
    assert caught.value.code is Code.INVALID_ARGUMENT


# --- custom_source


def test_versions_that_a_file_lists_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(SOURCE, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(SOURCE)
    listed = tmp_path / "versions.txt"
    listed.write_text(f"# name version path\nlegs 1 {TABLE / 'animals' / '1'}\n")
    options = ServerOptions(models=(ModelConfig("m", "/m"),))
    serving_map = ServingMap()
    manager = AspiredVersionsManager(ServingMapPublisher(serving_map), EventBus())
    adapter = load_platforms(options)["lookup_table"].adapter
    source = load_source(f"listed:{listed}")
    connect(source, adapter)
    connect(adapter, manager)
    manager.start()
    source.start()
    try:
        eventually(lambda: versions(serving_map) == {1})
        assert legs_of_a_cat(serving_map) == 4

        other = tmp_path / "other"
        other.mkdir()
        (other / "table.tsv").write_text("key:string\tvalue:float\ncat\t5\n")
        listed.write_text(f"legs 7 {other}  # found elsewhere\n")
        eventually(lambda: versions(serving_map) == {7})
        assert legs_of_a_cat(serving_map) == 5

        listed.write_text("legs seven\n")  # wrong: nothing changes
        eventually(lambda: "line 1 should be a name, a version and a path" in caplog.text)
        assert versions(serving_map) == {7}
    finally:
        source.stop()
        assert manager.stop(DEADLINE_SECONDS)


def versions(serving_map: ServingMap) -> set[int]:
    found = set()
    for version in (1, 7):
        try:
            serving_map.acquire("legs", version).release()
        except ServingError:
            continue
        found.add(version)
    return found


def legs_of_a_cat(serving_map: ServingMap) -> float:
    with serving_map.acquire("legs") as handle:
        servable: Any = handle.servable
        outputs = servable.predict("serving_default", {"keys": strings("cat")}, ())
        return float(numpy.asarray(outputs["values"])[0])


def test_a_server_serves_what_a_source_tells_of(tmp_path: Path) -> None:
    install(SOURCE, tmp_path)
    listed = tmp_path / "versions.txt"
    listed.write_text(f"half 3 {ROOT / 'examples' / 'half_plus_two' / '1'}\n")
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{SOURCE}"}
    flags = (f"--source=listed:{listed}", "--port=0", "--bind_address=127.0.0.1")
    with launched(*flags, environment=environment) as server, client(server.address()) as ask:
        until(lambda: ask.states("half") == [AVAILABLE])
        response = ask.predict(predict_request("half", {"x": floats(2)}))
        assert array(response.outputs["y"]).tolist() == [3]
        assert response.model_spec.version.value == 3
        listed.write_text("")
        until(lambda: AVAILABLE not in ask.states("half"))
        assert server.stop() == 0


# --- batch_any_function


def test_a_function_is_run_in_batches_for_many_callers() -> None:
    script = EXAMPLES / "batch_any_function" / "many_callers.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", script, "--callers=32", "--seconds=0.3"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout  # it checks each answer
    pattern = (
        r"each by itself: [\d,]+ answers a second\n"
        r"in batches:     [\d,]+ answers a second, [\d.]+ times as many\n"
        r"a batch had ([\d.]+) rows on average\n"
    )
    told = re.fullmatch(pattern, done.stdout)
    assert told, done.stdout
    assert float(told[1]) > 1


# --- mnist


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The base path of a model that train.py has exported, and what it printed."""
    if not all(map(find_spec, ["tensorflow", "sklearn"])):
        pytest.skip("needs TensorFlow and scikit-learn")
    base_path = tmp_path_factory.mktemp("mnist")
    done = ran(MNIST / "train.py", base_path)
    assert done.returncode == 0, done.stderr
    return base_path, done.stdout


@pytest.fixture(scope="module")
def reader_of_digits(trained: tuple[Path, str]) -> Iterator[str]:
    """The address of a server of that model."""
    with serving({"mnist": trained[0]}) as server:
        yield server.address()


@pytest.fixture(params=["client.py", "client_light.py"])
def sender(request: pytest.FixtureRequest) -> Path:
    """A client that sends digits."""
    if request.param == "client.py" and find_spec("tensorflow_serving") is None:
        pytest.skip("needs tensorflow-serving-api")
    return MNIST / str(request.param)


def ran(script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`script` after its end. It runs in a folder that is none of ours."""
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_network_learns_digits_and_is_exported_whole(trained: tuple[Path, str]) -> None:
    base_path, printed = trained
    told = re.fullmatch(r"Reads ([\d.]+)% of the held-out digits.\nExported to (.*)\n", printed)
    assert told, printed
    assert float(told[1]) >= 95
    assert list(base_path.iterdir()) == [base_path / "1"] == [Path(told[2])]


def test_signatures_of_the_network_name_their_methods(trained: tuple[Path, str]) -> None:
    saved: Any = message_class("tensorflow.SavedModel")()
    saved.ParseFromString((trained[0] / "1" / "saved_model.pb").read_bytes())
    assert {
        name: signature.method_name
        for name, signature in saved.meta_graphs[0].signature_def.items()
        if signature.method_name
    } == {
        "serving_default": "tensorflow/serving/predict",
        "predict_images": "tensorflow/serving/predict",
        "classify": "tensorflow/serving/classify",
        "certainty": "tensorflow/serving/regress",
    }


@pytest.mark.parametrize("option", ["--concurrency=1", "--concurrency=10", "--classify"])
def test_few_digits_are_read_wrong(reader_of_digits: str, sender: Path, option: str) -> None:
    done = ran(sender, f"--server={reader_of_digits}", "--num_tests=400", option)
    assert (done.returncode, done.stderr) == (0, "")
    told = re.fullmatch(r"Inference error rate: ([\d.]+)%\n", done.stdout)
    assert told, done.stdout
    assert 0 < float(told[1]) <= 5  # the network is good, not perfect


def test_calls_that_fail_are_errors_and_are_told(reader_of_digits: str, sender: Path) -> None:
    done = ran(sender, f"--server={reader_of_digits}", "--num_tests=7", "--model=nix")
    failed = "7 × NOT_FOUND: Servable not found for request: Latest(nix)\n"
    assert (done.returncode, done.stderr) == (1, failed)
    assert done.stdout == "Inference error rate: 100.0%\n"


def test_a_server_that_is_not_there_is_told(sender: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        address = "{}:{}".format(*taken.getsockname())
        done = ran(sender, f"--server={address}", "--num_tests=7")
    assert done.returncode == 1
    assert re.fullmatch(r"7 × UNAVAILABLE: .*refused.*\n", done.stderr), done.stderr
    assert done.stdout == "Inference error rate: 100.0%\n"


# --- packages


@pytest.mark.skipif(not all(map(find_spec, ["pip", "setuptools"])), reason="needs pip")
@pytest.mark.parametrize("example", [TABLE, SOURCE], ids=lambda path: path.name)
def test_an_example_can_be_installed(example: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"  # a build leaves files behind
    shutil.copytree(example, tree, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, tmp_path / "site", tree],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (entry_points,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    for group, entries in project_of(example)["entry-points"].items():
        for name, value in entries.items():
            assert f"[{group}]\n{name} = {value}" in entry_points.read_text()
            assert (tmp_path / "site" / f"{value.partition(':')[0]}.py").exists()
    assert not (tmp_path / "site" / "tfsrv").exists()
