"""Imports go down only. This test reads every import and cimport in the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From top to bottom. Rooms of one line stand beside each other and import nothing of each other,
# but those of the last line are one ground floor.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"flags"},
    {"flag_table"},
    {"parts"},
    {"rest_parts"},
    {"server", "checking", "commands"},
    {"frontends"},
    {"handlers"},
    {"batching_log", "housekeeping", "monitoring", "plugins"},
    {"server_core"},
    {"further_sources", "model_config_poller", "model_listing", "reloading", "version_labels"},
    {"servables", "sources"},
    {"core"},
    # Read the engine's counters; the engine's scheduler for everybody; a client for everybody.
    {"metrics", "batching", "client"},
    {"engine"},
    {
        "errors",
        "processors",
        "batching_parameters",
        "batching_parameters_file",
        "config",
        "model_config",
        "model_config_checks",
        "model_config_file",
        "monitoring_config_file",
        "text_places",
        "_proto",
        "__init__",
    },
]
GROUND = len(LAYERS) - 1


def room(module: str) -> str:
    """The room of "tfsrv.handlers.predict" is handlers, that of "tfsrv._queue" the engine."""
    parts = module.split(".")
    if len(parts) == 1:
        return "__init__"
    name = parts[1]
    is_known = any(name in layer for layer in LAYERS)
    return "engine" if name.startswith("_") and not is_known else name


def layer(module: str) -> int:
    """0 is the top. Fails for a module that has no place in the order."""
    for index, rooms in enumerate(LAYERS):
        if room(module) in rooms:
            return index
    pytest.fail(f"{module} has no place in LAYERS")


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_by_python(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from from_import("." * node.level + (node.module or ""), node.names)


def from_import(module: str, names: list[ast.alias]) -> Iterator[str]:
    """What stands after `import` may be a module itself: both readings count."""
    yield module
    yield from (f"{module}{'' if module.endswith('.') else '.'}{alias.name}" for alias in names)


IMPORT = re.compile(r"^\s*c?import\s+([\w., ]+)", re.MULTILINE)
FROM_IMPORT = re.compile(r"^\s*from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n#]*)", re.MULTILINE)


def imported_by_cython(source: str) -> Iterator[str]:
    for match in IMPORT.finditer(source):
        yield from (name.split(" as ")[0].strip() for name in match[1].split(","))
    for match in FROM_IMPORT.finditer(source):
        names = re.sub(r"#.*", "", match[2]).strip("()").split(",")
        aliases = [ast.alias(name.split(" as ")[0].strip()) for name in names if name.strip()]
        yield from from_import(match[1], aliases)


def imports(path: Path) -> Iterator[str]:
    source = path.read_text()
    is_python = path.suffix in {".py", ".pyi"}
    return imported_by_python(source) if is_python else imported_by_cython(source)


def package_modules(root: Path) -> dict[str, list[Path]]:
    """Every module of the package with its files: a .pyx, its .pxd and its .pyi are one module."""
    modules: dict[str, list[Path]] = {}
    for path in sorted((root / "tfsrv").rglob("*")):
        if path.suffix in {".py", ".pyi", ".pyx", ".pxd"}:
            modules.setdefault(module_name(path, root), []).append(path)
    return modules


def edges(root: Path) -> set[tuple[str, str]]:
    """(importer, imported) for all modules of the package."""
    files = file_edges(root)
    return {(module_name(a, root), target) for a, target in files}


def file_edges(root: Path) -> set[tuple[Path, str]]:
    """(importing file, imported module) for all files of the package."""
    modules = package_modules(root)
    found = set()
    for module, paths in modules.items():
        for path in paths:
            for name in imports(path):
                target = absolute(name, module, is_package=path.stem == "__init__")
                # Python itself imports the packages around a module before it.
                is_around = f"{module}.".startswith(f"{target}.")
                if target in modules and not is_around:
                    found.add((path, target))
    return found


def absolute(name: str, module: str, *, is_package: bool) -> str:
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name
    parts = module.split(".")
    kept = parts[: len(parts) - level + (1 if is_package else 0)]
    return ".".join([*kept, *filter(None, name.lstrip(".").split("."))])


def test_imports_go_down_only() -> None:
    def is_allowed(importer: str, imported: str) -> bool:
        above, below = layer(importer), layer(imported)
        same_room = room(importer) == room(imported) or above == below == GROUND
        return same_room or above < below

    wrong = [f"{a} imports {b}" for a, b in sorted(edges(ROOT)) if not is_allowed(a, b)]
    assert not wrong


def test_every_module_has_a_place() -> None:
    for module in package_modules(ROOT):
        layer(module)


def test_no_file_needs_itself_through_others() -> None:
    # A module that others cimport is its .pxd to them: two .pyx may use each other's functions.
    modules = package_modules(ROOT)
    below: dict[Path, list[Path]] = {}
    for importer, imported in sorted(file_edges(ROOT)):
        for suffix in (".pxd", ".py"):
            faces = [path for path in modules[imported] if path.suffix == suffix]
            if faces:
                below.setdefault(importer, []).extend(faces)
                break

    def visit(file: Path, path: tuple[Path, ...]) -> None:
        assert file not in path, " → ".join(map(str, (*path, file)))
        if file in done:
            return
        for imported in below.get(file, []):
            visit(imported, (*path, file))
        done.add(file)

    done: set[Path] = set()
    for file in sorted(below):
        visit(file, ())


def test_only_commands_use_the_client() -> None:
    users = {room(importer) for importer, imported in edges(ROOT) if room(imported) == "client"}
    assert users <= {"client", "commands", "cli"}


@pytest.mark.parametrize("package", ["tensorflow", "tensorflow_serving", "keras"])
def test_nothing_imports_tensorflow(package: str) -> None:
    for paths in package_modules(ROOT).values():
        for path in paths:
            assert package not in {name.split(".")[0] for name in imports(path)}, path


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("core/a.py", "from tfsrv import cli", "tfsrv.cli"),
        ("core/a.py", "import tfsrv.cli", "tfsrv.cli"),
        ("core/a.py", "from tfsrv.cli import main", "tfsrv.cli"),
        ("core/a.py", "def f():\n    from .. import cli", "tfsrv.cli"),
        ("core/__init__.py", "from ..cli import main", "tfsrv.cli"),
        ("_a.pyx", "from tfsrv.cli cimport (\n    a,  # why\n    b,\n)", "tfsrv.cli"),
        ("_a.pxd", "from libc.stdint cimport int64_t\ncimport tfsrv.cli as c", "tfsrv.cli"),
        ("_a.pyx", "cdef f():\n    from tfsrv import x, cli  # late", "tfsrv.cli"),
        ("_a.pyx", "from . cimport cli", "tfsrv.cli"),
        ("_a.pyi", "from tfsrv.cli import main", "tfsrv.cli"),
    ],
)
def test_walker_finds(file: str, source: str, expected: str, tmp_path: Path) -> None:
    for name, text in ((file, source), ("cli.py", ""), ("x.py", "")):
        path = tmp_path / "tfsrv" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    module = module_name(tmp_path / "tfsrv" / file, tmp_path)
    assert (module, expected) in edges(tmp_path)
