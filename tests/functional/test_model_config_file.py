"""--model_config_file and `tfsrv check`, as processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.functional.conftest import ends_well
from tests.functional.launching import SECONDS, client, launched, until
from tests.functional.sites import AVAILABLE

ASK_2 = """
model_spec { name: "half" }
inputs { key: "x" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 2 } }
"""


def run_tfsrv(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m tfsrv` up to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tfsrv", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture
def config(models: Path, tmp_path: Path) -> Path:
    """A config of two models, one of them beside it."""
    (tmp_path / "half").symlink_to(models / "half_plus_two")
    file = tmp_path / "models.config"
    file.write_text(
        f"""model_config_list {{
          config {{ name: "half" base_path: "half" model_platform: "tensorflow" }}
          config {{
            name: "strings"
            base_path: "{models / "string_identity"}"
            model_type: TENSORFLOW
          }}
        }}"""
    )
    return file


def test_serves_the_models_that_a_file_lists(config: Path) -> None:
    flags = (f"--model_config_file={config}", "--port=0", "--bind_address=127.0.0.1")
    with launched(*flags) as server:
        with client(server.address()) as ask:
            assert list(ask.predict(ASK_2).outputs["y"].float_val) == [5.0]
            until(lambda: ask.states("strings") == [AVAILABLE])
        ends_well(server)


@pytest.mark.parametrize("open_ports", ["at_once", "when_ready"])
def test_serves_nothing_when_the_list_is_empty(config: Path, open_ports: str) -> None:
    config.write_text("model_config_list {}")
    flags = ("--port=0", "--bind_address=127.0.0.1", f"--open_ports={open_ports}")
    with launched(f"--model_config_file={config}", *flags) as server:
        with client(server.address()) as ask:
            assert ask.states("half") == []
        assert server.line_with("names no models: nothing is served")
        ends_well(server)


def test_a_bad_file_ends_the_start_with_file_line_and_column(config: Path) -> None:
    config.write_text("model_config_list {\n  config { nme: 'a' }\n}")
    done = run_tfsrv(f"--model_config_file={config}", "--port=0")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "Failed to start server. Error: INVALID_ARGUMENT: Error parsing text-format"
        f" tensorflow.serving.ModelServerConfig: {config}:2:12: "
    )
    assert done.stderr.count("\n") == 1


def test_a_missing_file_ends_the_start(tmp_path: Path) -> None:
    done = run_tfsrv(f"--model_config_file={tmp_path / 'nosuch'}", "--port=0")
    assert done.returncode == 1
    assert done.stderr == (
        "Failed to start server. Error: NOT_FOUND:"
        f" {tmp_path / 'nosuch'}; No such file or directory\n"
    )


def test_check_finds_nothing_in_a_sound_file(config: Path) -> None:
    done = run_tfsrv("check", config)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{config}: ModelServerConfig: 2 models, 2 versions: ok\n"


def test_check_tells_what_is_wrong_and_where(config: Path) -> None:
    config.with_name("half").unlink()
    done = run_tfsrv("check", config)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        f"{config}:2: model half: {config.with_name('half')}: No such file or directory\n"
        f"{config}: ModelServerConfig: 2 models, 1 version: 1 problem\n"
    )
    config.write_text("model_config_list {\n  config { nme: 'a' }\n}")
    done = run_tfsrv("check", config)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(f"{config}:2:12: ")


def test_check_without_a_file_is_a_wrong_command_line() -> None:
    done = run_tfsrv("check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tfsrv: ")
