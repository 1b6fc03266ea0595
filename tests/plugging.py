"""Packages with entry points for tests, without an installation.

An entry point is found through a `*.dist-info` folder anywhere on the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

EntryPoints = Mapping[str, Mapping[str, str]]  # by group, by name


def write_metadata(folder: Path, package: str, entry_points: EntryPoints) -> None:
    """What pip writes of a package: enough for importlib.metadata, if `folder` is on the path."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))


def write_package(folder: Path, package: str, entry_points: EntryPoints, source: str) -> None:
    """A package of one module, named as it is."""
    (folder / f"{package}.py").write_text(source)
    write_metadata(folder, package, entry_points)


def project_of(example: Path) -> dict[str, Any]:
    """What the pyproject.toml of an example says of its project."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project: dict[str, Any] = tomllib.loads((example / "pyproject.toml").read_text())["project"]
    return project
