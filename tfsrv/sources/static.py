"""A source that knows its one version from the start."""

from __future__ import annotations

from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.source import Source
from tfsrv.core.storage_path import StoragePath


class StaticStoragePathSource(Source[StoragePath]):
    """One version at one path, for ever."""

    def __init__(self, name: str, version: int, path: str) -> None:
        self._version = ServableData(ServableId(name, version), StoragePath(path))

    def start(self) -> None:
        self._emit(self._version.id.name, [self._version])

    def stop(self) -> None:
        """Nothing runs."""
