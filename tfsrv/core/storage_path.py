"""Where the files of one version are: what sources of files hand to the adapters of platforms."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class StoragePath(os.PathLike[str]):
    """The directory, or file, of one version.

    `revision` tells states of the same path apart: a source that wants a version to be loaded
    afresh because its files have changed gives it another one.
    """

    path: str
    revision: int = 0

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path
