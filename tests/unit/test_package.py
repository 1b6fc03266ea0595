"""What is in the sdist and the wheel, and that the one builds the other without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Without optimisation the C compiler takes a third of the time.
BUILD_ENVIRONMENT = {**os.environ, "TFSRV_DEBUG": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
PAGE = "tfsrv/frontends/page.html"  # the others are what Cython annotates
NOT_COPIED = [".git", ".venv", "build", "dist", "node_modules", "*.so", "*.egg-info", ".*_cache"]

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not all(map(find_spec, ["setuptools", "Cython", "pip"])) or not shutil.which("cc"),
        reason="needs setuptools, Cython, pip and a C compiler",
    ),
]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=BUILD_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree, so that nothing is left behind in this one."""
    folder = tmp_path_factory.mktemp("sdist")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_COPIED))
    build = "import setuptools.build_meta as b; b.build_sdist('dist')"
    run(sys.executable, "-W", "ignore", "-c", build, cwd=tree)
    (archive,) = (tree / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, with nothing downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    options: list[str | Path] = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        folder,
    ]
    run(sys.executable, "-m", "pip", "wheel", *options, sdist, cwd=folder)
    (archive,) = folder.glob("*.whl")
    return archive


@pytest.fixture(scope="module")
def sdist_names(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def package_files(*suffixes: str) -> set[str]:
    """Files of the package in this tree, but for what builds leave there."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tfsrv").rglob("*")
        if path.suffix in suffixes
    }


def test_sdist_holds_all_that_is_needed_to_build_and_test(sdist_names: set[str]) -> None:
    sources = package_files(".py", ".pyi", ".pyx", ".pxd", ".h", ".binpb")
    others = {"setup.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md"}
    protos = {str(path.relative_to(ROOT)) for path in (ROOT / "protos").rglob("*.proto")}
    tests = {"tests/conftest.py", "tests/models.py", "tests/unit/test_package.py"}
    example = {"examples/half_plus_two/1/saved_model.pb"}
    assert sources | others | protos | tests | example | {"tfsrv/py.typed", PAGE} <= sdist_names


def test_sdist_holds_nothing_that_was_built(sdist_names: set[str]) -> None:
    suffixes = (".c", ".so", ".pyc", ".html")
    assert not [name for name in sdist_names - {PAGE} if name.endswith(suffixes)]


def test_wheel_holds_modules_with_their_types(wheel_names: set[str]) -> None:
    assert package_files(".py", ".pyi", ".pxd", ".binpb") | {"tfsrv/py.typed", PAGE} <= wheel_names


def test_wheel_holds_no_sources_of_native_modules(wheel_names: set[str]) -> None:
    suffixes = (".c", ".h", ".pyx", ".html")
    assert not [name for name in wheel_names - {PAGE} if name.endswith(suffixes)]


def test_wheel_holds_the_package_alone(wheel_names: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel_names} == {"tfsrv"}


def test_wheel_holds_the_licence(wheel_names: set[str]) -> None:
    assert [name for name in wheel_names if name.endswith("dist-info/licenses/LICENSE")]


def test_wheel_holds_every_native_module(wheel_names: set[str]) -> None:
    built = {name.split(".")[0] for name in wheel_names if name.endswith(".so")}
    assert built == {name.removesuffix(".pyx") for name in package_files(".pyx")}


# Imports every module below tfsrv but those that are programs, from the folder given.
IMPORT_ALL = """
import importlib, pathlib, sys
sys.path.insert(0, sys.argv[1])
root = pathlib.Path(sys.argv[1])
for path in sorted((root / "tfsrv").rglob("*")):
    if path.suffix in {".py", ".so"} and path.name != "__main__.py":
        module = ".".join((path.parent / path.name.split(".")[0]).relative_to(root).parts)
        importlib.import_module(module.removesuffix(".__init__"))
import tfsrv._proto
assert tfsrv._proto.__file__.startswith(sys.argv[1])
tfsrv._proto.message_class("tensorflow.serving.PredictRequest")
assert "tensorflow" not in sys.modules
"""


def test_installed_wheel_can_be_imported_without_tensorflow(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    options: list[str | Path] = ["--no-deps", "--no-index", "--no-compile", "--target", target]
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=tmp_path)
    run(sys.executable, "-c", IMPORT_ALL, target, cwd=tmp_path)


def test_type_checkers_find_the_types_of_an_editable_install(tmp_path: Path) -> None:
    # Asked elsewhere than here, where the tree itself can be imported.
    find = [sys.executable, "-c", "import tfsrv"]
    if subprocess.run(find, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("needs tfsrv installed")
    if find_spec("mypy") is None:
        pytest.skip("needs mypy")
    program = tmp_path / "program.py"
    program.write_text("from tfsrv.errors import ServingError\nreveal_type(ServingError(5, ''))\n")
    said = run(sys.executable, "-m", "mypy", "--strict", program, cwd=tmp_path)
    assert 'Revealed type is "tfsrv.errors.ServingError"' in said
