"""Which files --op_libraries means: found without running anything of them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, tensorflow_version
from tests.graphs import FLOAT, Graph
from tests.op_libraries import build_op_library, build_trap
from tfsrv import _tf
from tfsrv._elf import NotElf, Symbol, dynamic_symbols
from tfsrv._op_libraries import OpLibrary, find_op_libraries, is_path, registers_ops
from tfsrv.errors import Code, ServingError

needs_tensorflow = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package that must not be imported."""
    folder = tmp_path / "site" / "my_ops"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def refusal(*words: str) -> ServingError:
    with pytest.raises(ServingError) as caught:
        find_op_libraries(words)
    return caught.value


def paths(*words: str) -> list[str]:
    return [library.path for library in find_op_libraries(words)]


@pytest.mark.parametrize("word", ["/ops/x.so", "ops/x", "./x", "x.so"])
def test_words_with_a_slash_or_so_at_their_end_are_paths(word: str) -> None:
    assert is_path(word)


@pytest.mark.parametrize("word", ["tensorflow_text", "tensorflow-text", "so"])
def test_other_words_are_packages(word: str) -> None:
    assert not is_path(word)


def test_a_path_is_taken_as_it_is_and_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.so").write_bytes(b"whatever")
    monkeypatch.chdir(tmp_path)
    assert find_op_libraries(["mine.so"]) == [OpLibrary(str(tmp_path / "mine.so"), "mine.so")]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = refusal(f"{tmp_path}/none.so")
    assert error.code is Code.NOT_FOUND
    assert error.message == (
        f"--op_libraries={tmp_path}/none.so: there is no file {tmp_path}/none.so"
    )
    assert refusal(f"{tmp_path}/").code is Code.NOT_FOUND  # a folder


@pytest.mark.parametrize("word", ["no_such_package", "tensorflow.python", "my ops", "1st"])
def test_a_package_that_is_not_there_is_named(word: str) -> None:
    error = refusal(word)
    assert error.code is Code.NOT_FOUND
    assert error.message.startswith(f"--op_libraries={word}: there is no package {word};")


def test_a_package_without_ops_is_named(package: Path) -> None:
    (package / "data.so").write_bytes(b"no library")
    error = refusal("my_ops")
    assert error.code is Code.FAILED_PRECONDITION
    assert error.message == f"--op_libraries=my_ops: no library in {package} registers ops"


def test_tensorflow_itself_is_refused() -> None:
    assert refusal("tensorflow").code is Code.INVALID_ARGUMENT


@needs_tensorflow
def test_of_a_package_those_libraries_are_taken_that_register_ops(package: Path) -> None:
    second = build_op_library(package / "ops" / "_second.so", "TfsrvSecond")
    first = build_op_library(package / "first.so", "TfsrvFirst")
    build_trap(package / "no_ops.so")
    build_trap(package / "extension.so", "PYTHON")
    (package / "empty.so").touch()
    (package / "text.so").write_text("INPUT(-lm)")
    (package / "short.so").write_bytes(first.read_bytes()[:1000])
    (package / "dangling.so").symlink_to(package / "gone")
    assert paths("my_ops") == paths("my-ops") == [str(first), str(second)]
    assert "my_ops" not in sys.modules
    # Each once, whoever names it first.
    assert find_op_libraries([str(second), "my_ops"]) == [
        OpLibrary(str(second), str(second)),
        OpLibrary(str(first), "my_ops"),
    ]


def test_only_what_wants_the_registration_of_others_registers_ops(tmp_path: Path) -> None:
    assert not registers_ops(str(build_trap(tmp_path / "none.so")))
    assert not registers_ops(str(build_trap(tmp_path / "extension.so", "PYTHON")))
    assert not registers_ops(str(tmp_path / "gone.so"))


@needs_tensorflow
def test_tensorflows_own_libraries_are_no_libraries_of_ops() -> None:
    _tf.open_library()
    framework = Path(_tf.library_path()).with_name("libtensorflow_framework.so.2")
    assert dynamic_symbols(str(framework), b"_ZN10tensorflow12OpDefBuilder")
    assert not registers_ops(str(framework))


def test_symbols_are_those_that_nm_tells(tmp_path: Path) -> None:
    library = build_trap(tmp_path / "extension.so", "PYTHON")
    symbols = {
        symbol.name: symbol.is_defined
        for prefix in (b"PyInit_", b"TF_", b"abort", b"trap")
        for symbol in dynamic_symbols(str(library), prefix)
    }
    assert symbols.pop(b"abort@GLIBC_2.2.5", False) is False
    assert symbols == {b"PyInit_trap": True, b"TF_NewOpDefinitionBuilder": False, b"abort": False}


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(100), b"x" * 99])
def test_what_is_no_elf_file_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.so"
    file.write_bytes(content)
    with pytest.raises(NotElf):
        dynamic_symbols(str(file), b"TF_")


def test_of_damaged_files_something_is_told_and_nothing_else_raised(tmp_path: Path) -> None:
    whole = build_trap(tmp_path / "whole.so", "PYTHON").read_bytes()
    file = tmp_path / "x.so"
    for size in range(0, len(whole), 100):
        file.write_bytes(whole[:size])
        assert not registers_ops(str(file))
    # The header is at the beginning, the section headers are at the end.
    for at in (*range(64), *range(-2000, 0, 4)):
        data = bytearray(whole)
        data[at] ^= 0xFF
        file.write_bytes(data)
        assert registers_ops(str(file)) in (True, False)


def damaged(tmp_path: Path, name: str, **fields: int) -> str:
    """A library in whose header (of ELF-64) some fields say something else."""
    places = {"e_shoff": ("<Q", 40), "e_shentsize": ("<H", 58), "e_shnum": ("<H", 60)}
    data = bytearray(build_trap(tmp_path / "whole.so", "PYTHON").read_bytes())
    for field, value in fields.items():
        struct.pack_into(places[field][0], data, places[field][1], value)
    file = tmp_path / name
    file.write_bytes(data)
    return str(file)


@pytest.mark.parametrize(
    "fields",
    [
        {"e_shentsize": 0, "e_shnum": 65535},  # the same header again and again
        {"e_shentsize": 63},
        {"e_shnum": 65535},
        {"e_shoff": 2**64 - 1},
    ],
    ids=str,
)
def test_tables_that_cannot_be_there_are_told_as_such(
    tmp_path: Path, fields: dict[str, int]
) -> None:
    with pytest.raises(NotElf):
        dynamic_symbols(damaged(tmp_path, "x.so", **fields), b"PyInit_")


def elf(tmp_path: Path, symbols: bytes, strings: bytes, *, sections: int = 2) -> str:
    """A library of a table of symbols, one of names, and more headers of the former."""
    header = bytearray(b"\x7fELF\x02\x01\x01".ljust(64, b"\0"))
    struct.pack_into("<Q", header, 40, 64)
    struct.pack_into("<HH", header, 58, 64, sections)
    begin = 64 + 64 * sections
    named = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, begin + len(symbols), len(strings), 0, 0, 0, 0)
    listed = struct.pack("<IIQQQQIIQQ", 0, 11, 0, 0, begin, len(symbols), 0, 0, 0, 24)
    file = tmp_path / "made.so"
    file.write_bytes(header + named + listed * (sections - 1) + symbols + strings)
    return str(file)


def symbol(name: int) -> bytes:
    return struct.pack("<IBBHQQ", name, 0, 0, 0, 0, 0)


def test_what_a_file_of_few_bytes_costs_is_bounded(tmp_path: Path) -> None:
    wanted = [Symbol(b"PyInit_x", False)]
    usual = elf(tmp_path, symbol(0), b"PyInit_x\0")
    assert dynamic_symbols(usual, b"PyInit_") == wanted
    # A library has one table of symbols: further ones are not read.
    many = elf(tmp_path, symbol(0), b"PyInit_x\0", sections=60_000)
    assert dynamic_symbols(many, b"PyInit_") == wanted
    for symbols, strings in (
        (symbol(0) * 20_000, b"PyInit_x\0"),
        (symbol(0), b"PyInit_" * 20_000 + b"\0"),
        (symbol(0), b"PyInit_" + b"x" * 100_000 + b"\0"),
    ):
        with pytest.raises(NotElf):
            dynamic_symbols(elf(tmp_path, symbols, strings), b"PyInit_")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.so")
    with pytest.raises(NotElf):
        dynamic_symbols(str(tmp_path / "pipe.so"), b"PyInit_")


def test_a_file_that_shrinks_while_it_is_read_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = elf(tmp_path, symbol(0) * 1000, b"PyInit_x\0")
    pread = os.pread

    def shrink(file: int, size: int, offset: int) -> bytes:
        if offset > 64:
            os.truncate(path, 200)
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", shrink)
    with pytest.raises(NotElf):
        dynamic_symbols(path, b"PyInit_")


# Begins to load a model at the worst moment: TensorFlow is open, and its custom ops are not there.
LOAD_MEANWHILE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from tests.graphs import answers, request
from tfsrv import _tf
from tfsrv._opening import Opening
from tfsrv._run import run
from tfsrv._session import SavedModelSession
from tfsrv.errors import ServingError

model, *libraries = sys.argv[1:]
threads = ThreadPoolExecutor(3)
loads = []
open_library = _tf.open_library

def open_and_load():
    version = open_library()
    while len(loads) < 3:
        loads.append(threads.submit(load))
    return version

def load():
    try:
        return answers(run(SavedModelSession.load(model), request(x=[1.0, 2.0])))
    except ServingError as error:
        return str(error)

_tf.open_library = open_and_load
opening = Opening(op_libraries=libraries)
print(opening.error)
for load in loads:
    print(load.result())
"""


def load_meanwhile(model: str, *libraries: Path) -> list[str]:
    """The error of an Opening with these libraries, and what three loads meanwhile came to."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD_MEANWHILE, model, *libraries],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout.splitlines()


def model_with(op: str, folder: Path) -> str:
    """x [n] → y = op(x)."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    graph.sign("serving_default", {"x": x}, {"y": graph.add("y", op, x)})
    return graph.save(folder)


@needs_tensorflow
def test_no_model_is_loaded_before_the_ops_are_there(tmp_path: Path) -> None:
    library = build_op_library(tmp_path / "slow.so", "TfsrvAddOne", "SLOW")
    model = model_with("TfsrvAddOne", tmp_path / "1")
    assert load_meanwhile(model, library) == ["None", *["{'y': [2.0, 3.0]}"] * 3]


@needs_tensorflow
def test_a_library_that_does_not_load_is_told_by_the_opening_and_by_every_load(
    tmp_path: Path,
) -> None:
    library = build_op_library(tmp_path / "broken.so", "TfsrvBroken", "BROKEN")
    model = model_with("TfsrvBroken", tmp_path / "1")
    error, *others = load_meanwhile(model, library)
    assert error.startswith(f"NOT_FOUND: --op_libraries={library}: cannot load {library}: ")
    assert "undefined symbol: tfsrv_no_such_function (likely built for another" in error
    assert others == [error] * 3


@needs_tensorflow
def test_a_file_that_is_no_library_is_told_in_one_line(tmp_path: Path) -> None:
    library = tmp_path / "text.so"
    library.write_text("nonsense")
    assert load_meanwhile("/no/model", tmp_path / "none.so")[0].endswith("/none.so")
    error = load_meanwhile("/no/model", library)[0]
    assert f"--op_libraries={library}: cannot load {library}: " in error
