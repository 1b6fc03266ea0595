"""Where base paths lie: the seam behind which other storages than the local one may come.

A storage is chosen by the scheme of a base path. Only local paths are served today, with or
without `file://` before them.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from typing import Protocol

from tfsrv.errors import Code, ServingError
from tfsrv.model_config_checks import scheme_of

LOCAL_SCHEME = "file"


class Storage(Protocol):
    """The looks that a source takes. All of them may block, and raise OSError."""

    def directories(self, path: str) -> list[str]:
        """The names of the directories in `path`, and of links to some, sorted."""

    def is_directory(self, path: str) -> bool: ...

    def identity(self, path: str) -> Hashable:
        """What tells a directory from another one that was moved into its place."""

    def fingerprint(self, path: str) -> Hashable:
        """Changes when a file below `path` does; the name of `path` itself does not count.

        Raises nothing: what is gone is a state too.
        """


class LocalStorage:
    """Files that the system reaches by itself, file servers that it has mounted among them."""

    def directories(self, path: str) -> list[str]:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def identity(self, path: str) -> Hashable:
        stat = os.stat(path)
        return stat.st_dev, stat.st_ino

    def fingerprint(self, path: str) -> Hashable:
        return hash(tuple(sorted(_states(path))))


def _states(path: str) -> Iterator[tuple[str, int, int, int]]:
    """Each file below `path` with its size and its times of change."""
    for directory, _, names in os.walk(path):
        for name in names:
            file = os.path.join(directory, name)
            try:
                stat = os.stat(file)
            except OSError:
                continue
            where = os.path.relpath(file, path)
            yield where, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def check_scheme(base_path: str) -> None:
    """Raise ServingError (UNIMPLEMENTED) for a path that no storage is there for."""
    scheme = scheme_of(base_path).removesuffix("://")
    if scheme not in ("", LOCAL_SCHEME):
        raise ServingError(
            Code.UNIMPLEMENTED,
            f"File system scheme '{scheme}' not implemented (file: '{base_path}'); supported are"
            " local paths and file://. Mount the files, or copy them.",
        )


def local_path(base_path: str) -> str:
    """The path of a local base path, without its scheme."""
    check_scheme(base_path)
    path = base_path[len(scheme_of(base_path)) :]
    return path.rstrip("/") or path  # a slash at the end would make another name of it
