"""A platform: how the files of one kind become servables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tfsrv.core.loader import Loader
from tfsrv.core.source import SourceAdapter
from tfsrv.core.storage_path import StoragePath


class VersionInspector(Protocol):
    """What a platform knows of the paths that hold its servables."""

    def is_complete(self, path: str, *, is_settled: bool = False) -> bool:
        """Whether it can be loaded; False while somebody still writes to it.

        `is_settled` says that nobody does: the path came into its place by a rename. Raises
        ServingError if nobody writes to it and there is no servable in it. A version that was
        complete once is not asked about again while it is there.
        """


@dataclass(frozen=True)
class Platform:
    """What makes loaders of paths, and what tells whether a path is ready for that."""

    adapter: SourceAdapter[StoragePath, Loader]
    inspector: VersionInspector
