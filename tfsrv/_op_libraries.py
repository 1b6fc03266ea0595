"""Libraries of custom ops: which files --op_libraries means, and how they are loaded.

A package is found without importing it, for its import would import TensorFlow. Of its shared
libraries only those are taken that register ops: others may be extension modules of Python, and
loading those as anything else can end the process.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from tfsrv import _tf
from tfsrv._elf import NotElf, dynamic_symbols
from tfsrv.errors import Code, ServingError

logger = logging.getLogger("tfsrv")

# What a library calls to register an op: REGISTER_OP of tensorflow/core/framework/op.h, mangled,
# or its counterpart in tensorflow/c/ops.h.
_REGISTERS = (b"_ZN10tensorflow12OpDefBuilder", b"TF_NewOpDefinitionBuilder")
_PYTHON_MODULE = b"PyInit_"


@dataclass(frozen=True)
class OpLibrary:
    """One file to load, and the word of --op_libraries that led to it."""

    path: str
    word: str

    def load(self) -> list[str]:
        """Load it; the names of its ops. A ServingError says which library it was, and why not."""
        try:
            return _tf.load_op_library(self.path)
        except ServingError as error:
            raise ServingError(error.code, self._refusal(error.message)) from None

    def _refusal(self, why: str) -> str:
        text = (
            f"--op_libraries={self.word}: cannot load {self.path}: "
            f"{why.removeprefix(f'{self.path}: ')}"
        )
        if "undefined symbol" in why:
            text += f" (likely built for another TensorFlow than {_tf.version()})"
        if not is_path(self.word):
            text += "; if it is not needed, give those that are by their paths"
        return text


def load_op_libraries(libraries: Iterable[OpLibrary]) -> None:
    """Load all of them, in their order, and log what came. Raises the first ServingError."""
    counts: Counter[str] = Counter()
    for library in libraries:
        counts[library.word] += len(library.load())
    for word, count in counts.items():
        logger.info("--op_libraries=%s: %d custom ops", word, count)


def find_op_libraries(words: Iterable[str]) -> list[OpLibrary]:
    """The files that `words` mean, in that order, each once.

    find_op_libraries(["tensorflow_text", "/ops/mine.so"])

    A word with a slash, or that ends in .so, is a path; any other is a package. A ServingError
    says which one is not there, or has no ops.
    """
    found: dict[str, OpLibrary] = {}
    for word in words:
        for path in [_file(word)] if is_path(word) else _of_package(word):
            found.setdefault(path, OpLibrary(path, word))
    return list(found.values())


def is_path(word: str) -> bool:
    """Whether a word of --op_libraries names a file, not a package."""
    return "/" in word or word.endswith(".so")


def registers_ops(path: str) -> bool:
    """Whether the file at `path` is a library of ops, as far as its symbols tell."""
    try:
        registers = any(
            not symbol.is_defined  # else it is TensorFlow itself, or has brought one along
            for prefix in _REGISTERS
            for symbol in dynamic_symbols(path, prefix)
        )
        return registers and not any(
            symbol.is_defined for symbol in dynamic_symbols(path, _PYTHON_MODULE)
        )
    except (NotElf, OSError):
        return False


def _file(word: str) -> str:
    path = os.path.abspath(word)
    if not os.path.isfile(path):
        raise ServingError(Code.NOT_FOUND, f"--op_libraries={word}: there is no file {path}")
    return path


def _of_package(word: str) -> list[str]:
    """The libraries of ops below a package's folder, sorted."""
    name = word.replace("-", "_")  # as it is installed: tensorflow-text
    if name == "tensorflow":  # a second copy of it would be among the libraries
        raise ServingError(
            Code.INVALID_ARGUMENT, f"--op_libraries={word}: TensorFlow's own ops need no library"
        )
    folders = _folders(name)
    if not folders:
        raise ServingError(
            Code.NOT_FOUND,
            f"--op_libraries={word}: there is no package {name}; it has to be installed for the"
            " Python that runs this server",
        )
    paths = sorted(
        path for folder in folders for path in _shared_libraries(folder) if registers_ops(path)
    )
    if not paths:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f"--op_libraries={word}: no library in {folders[0]} registers ops",
        )
    return paths


def _folders(name: str) -> list[str]:
    if not name.isidentifier():  # with a dot in it, find_spec would import what is before the dot
        return []
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return []
    return [] if spec is None else list(spec.submodule_search_locations or ())


def _shared_libraries(folder: str) -> Iterator[str]:
    for directory, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".so"):
                yield os.path.join(directory, name)
