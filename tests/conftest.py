"""Fixtures that all tests share."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODELS_SCRIPT = ROOT / "tests" / "models.py"
INFERENCE_MODELS_SCRIPT = ROOT / "tests" / "inference_models.py"
MODELS_CACHE = ROOT / "build" / "test-models"


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the SavedModels that tests/models.py describes and writes.

    They are kept for later sessions, until the script or TensorFlow changes. Tests must not
    write there.
    """
    return written(MODELS_SCRIPT)


@pytest.fixture(scope="session")
def inference_models() -> Path:
    """The same for the SavedModel that tests/inference_models.py describes and writes."""
    return written(INFERENCE_MODELS_SCRIPT, MODELS_SCRIPT)


def written(script: Path, *imported: Path) -> Path:
    """The folder that `script`, which imports other scripts, has written into."""
    installed = tensorflow_version()
    if installed is None:
        pytest.skip("needs TensorFlow")
    texts = [path.read_bytes() for path in (script, *imported)]
    key = hashlib.sha256(b"".join(texts) + installed.encode()).hexdigest()[:16]
    folder = MODELS_CACHE / key
    if not folder.exists():
        write_models(script, folder)
    return folder


def tensorflow_version() -> str | None:
    """The installed TensorFlow's version, told without importing it."""
    for package in ("tensorflow", "tensorflow-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def write_models(script: Path, folder: Path) -> None:
    """Write all models in another process, and give the folder its name when it is whole.

    Sessions may run side by side, and may be killed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", script, unfinished],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"{script} failed:\n{done.stderr}", pytrace=False)
        unfinished.chmod(0o755)
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not folder.exists():  # else another session was faster, with the same content
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
