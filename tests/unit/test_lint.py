"""The tools that read the code find nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

CYTHON_FILES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "tfsrv").rglob("*") if path.suffix == ".pyx"
)


def check(module: str, *arguments: str | Path) -> None:
    """Run a tool in the root of the repository; what it prints is the failure."""
    if find_spec(module.split(".")[0]) is None:
        pytest.skip(f"needs {module}")
    # Some tools start others by name, so those beside this Python come first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_ruff_finds_nothing() -> None:
    check("ruff", "check", ".")


def test_ruff_would_format_nothing() -> None:
    check("ruff", "format", "--check", ".")


def test_types_are_right() -> None:
    check("mypy")


def test_stubs_agree_with_the_built_modules() -> None:
    check(
        "mypy.stubtest",
        "tfsrv",
        "--allowlist",
        "tests/stubtest.txt",
        "--ignore-unused-allowlist",
        "--ignore-disjoint-bases",
    )


def test_cython_lint_finds_nothing() -> None:
    check("cython_lint.cython_lint", "tfsrv")


@pytest.mark.parametrize("file", CYTHON_FILES)
def test_cython_warns_of_nothing(file: str, tmp_path: Path) -> None:
    # Two warnings are off that are wrong too often: cython-lint knows better what is unused, and
    # the C compiler what is not set (a variable may be set by its address).
    quiet = ["-X", "warn.unused=False", "-X", "warn.maybe_uninitialized=False"]
    check("cython", "-3", "-Wextra", "-Werror", *quiet, file, "-o", tmp_path / "out.c")
