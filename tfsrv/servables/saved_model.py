"""The platform "tensorflow": a version is a directory with a SavedModel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tfsrv._session import SavedModelSession
from tfsrv.core.failure import as_serving_error
from tfsrv.core.loader import Loader
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.source import SourceAdapter
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.servables.missing_ops import explain_missing_op

FILE_NAMES = ("saved_model.pb", "saved_model.pbtxt")


@dataclass(frozen=True)
class SavedModelOptions:
    """How SavedModels are loaded: the same for all of a server."""

    tags: tuple[str, ...] = ("serve",)
    session_config: bytes = b""  # a serialized tensorflow.ConfigProto


class Session(Protocol):
    """What a loader needs of a loaded SavedModel."""

    def close(self) -> None:
        """Free it. Nobody may run it any more."""

    def cancel(self) -> None:
        """End its runs with CANCELLED."""


class LoadSession(Protocol):
    """Loads a SavedModel: SavedModelSession.load."""

    def __call__(
        self, export_dir: str, *, tags: Sequence[str], config: bytes, name: str, version: int
    ) -> Session: ...


class SavedModelLoader(Loader):
    """A SavedModel as a servable: a session with its signatures."""

    def __init__(
        self,
        id: ServableId,
        origin: StoragePath,
        options: SavedModelOptions,
        load_session: LoadSession,
    ) -> None:
        self._id = id
        self._origin = origin
        self._path = origin.path
        self._options = options
        self._load_session = load_session
        self._session: Session | None = None

    @property
    def origin(self) -> StoragePath:
        return self._origin

    def load(self) -> None:
        try:
            self._session = self._load_session(
                self._path,
                tags=self._options.tags,
                config=self._options.session_config,
                name=self._id.name,
                version=self._id.version,
            )
        except ServingError as error:
            explained = explain_missing_op(error, self._path)
            if explained is not None:
                raise explained from None
            if self._path in error.message:
                raise
            # Of a file that was cut off, say, TensorFlow does not tell where it is.
            raise ServingError(error.code, f"{error.message} (in {self._path})") from None

    def servable(self) -> object:
        return self._session

    def unload(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def cancel(self) -> None:
        session = self._session
        if session is not None:
            session.cancel()


class SavedModelSourceAdapter(SourceAdapter[StoragePath, Loader]):
    """Makes loaders of paths."""

    def __init__(
        self,
        options: SavedModelOptions | None = None,
        *,
        load_session: LoadSession = SavedModelSession.load,
    ) -> None:
        self._options = options or SavedModelOptions()
        self._load_session = load_session

    def convert(self, version: ServableData[StoragePath]) -> Loader:
        return SavedModelLoader(version.id, version.data, self._options, self._load_session)


class SavedModelInspector:
    """Tells complete SavedModels from those that somebody still copies.

    A SavedModel is complete when its graph is there and its newest file has been left alone for
    `settle_seconds`. What counts is the time of a file's last change (ctime): the time of
    modification is one that `cp -p` and rsync set back. A tree that was written elsewhere and
    renamed into place is complete at once, since a rename changes only the directory's time.
    """

    def __init__(self, settle_seconds: float, *, clock: Callable[[], float] = time.time) -> None:
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._unsettled: dict[str, tuple[float, float]] = {}  # path: newest change, when seen

    def is_complete(self, path: str, *, is_settled: bool = False) -> bool:
        has_graph = any(os.path.isfile(os.path.join(path, name)) for name in FILE_NAMES)
        try:
            newest = max(_changes(path, with_directories=not has_graph), default=0.0)
        except FileNotFoundError:  # something went away while we looked
            return False
        except OSError as error:
            raise as_serving_error(error) from None
        if not (is_settled or self._is_settled(path, newest)):
            return False
        if not has_graph:
            raise ServingError(
                Code.NOT_FOUND, f"Could not find {' or '.join(FILE_NAMES)} in {path}"
            )
        return True

    def _is_settled(self, path: str, newest: float) -> bool:
        """Whether the newest change is old enough by our clock, or has not moved for as long.

        The second is for file servers whose clock runs ahead of ours.
        """
        now = self._clock()
        seen_newest, seen_at = self._unsettled.get(path, (newest, now))
        since = min(newest, seen_at) if seen_newest == newest else newest
        if now - since >= self._settle_seconds:
            self._unsettled.pop(path, None)
            return True
        self._unsettled[path] = (newest, seen_at if seen_newest == newest else now)
        return False


def _changes(path: str, *, with_directories: bool) -> Iterator[float]:
    """When each file below `path` was changed last."""

    def fail(error: OSError) -> None:
        raise error

    for directory, _, names in os.walk(path, onerror=fail):
        if with_directories:
            yield os.stat(directory).st_ctime
        for name in names:
            yield os.stat(os.path.join(directory, name)).st_ctime
