"""Compiling the native loops of a benchmark."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def compile_loops(name: str, folder: str) -> Any:
    """The module benchmarks/`name`.pyx, compiled into `folder`."""
    build = importlib.import_module("Cython.Build")
    setuptools = importlib.import_module("setuptools")
    extension = setuptools.Extension(
        name,
        [str(ROOT / "benchmarks" / f"{name}.pyx")],
        include_dirs=[str(ROOT / "tfsrv")],
        extra_compile_args=["-O3", "-Wno-discarded-qualifiers"],
    )
    modules = build.cythonize(
        [extension],
        build_dir=folder,
        include_path=[str(ROOT)],
        compiler_directives={"language_level": 3, "boundscheck": False, "wraparound": False},
        quiet=True,
    )
    command = setuptools.Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = folder
    command.ensure_finalized()
    command.run()
    spec = importlib.util.spec_from_file_location(name, command.get_ext_fullpath(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
