"""The lifecycle is a framework of its own: it needs no TensorFlow and no network."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CORE_MODULES = sorted(
    "tfsrv.core" if path.stem == "__init__" else f"tfsrv.core.{path.stem}"
    for path in (ROOT / "tfsrv" / "core").glob("*.py")
)
FOREIGN = ("tensorflow", "grpc", "uvloop", "asyncio", "socket", "ssl", "google", "numpy")

# Handles are native, and so is the serving map that gives them out.
ENGINE = {"_buffer", "_memory", "_readers", "_servable", "_serving_map", "_serving_table"}


@pytest.mark.parametrize("module", CORE_MODULES)
def test_module_alone_loads_neither_tensorflow_nor_networks(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert module in loaded
    assert not loaded & set(FOREIGN)
    assert rooms(loaded) <= {"core", "errors"} | ENGINE


def test_a_model_can_be_served_without_them() -> None:
    loaded = modules_after(
        "from tfsrv.core.servable import ServableId, ServableRequest\n"
        "from tfsrv.core.static_manager import StaticManagerBuilder\n"
        "builder = StaticManagerBuilder()\n"
        "builder.add_servable(ServableId('capitals', 1), {'France': 'Paris'})\n"
        "with builder.build() as manager:\n"
        "    with manager.get_servable_handle(ServableRequest.latest('capitals')) as handle:\n"
        "        assert handle.servable['France'] == 'Paris'\n"
    )
    assert not loaded & set(FOREIGN)
    assert rooms(loaded) <= {"core", "errors"} | ENGINE


def rooms(modules: set[str]) -> set[str]:
    """The parts of tfsrv that are among them."""
    return {module.split(".")[1] for module in modules if module.startswith("tfsrv.")}


def modules_after(script: str) -> set[str]:
    """What a fresh interpreter has loaded after a script."""
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\nimport json, sys\nprint(json.dumps([*sys.modules]))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))
