"""The platform "tensorflow": a version is a directory with a SavedModel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tfsrv._session import SavedModelSession
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.batching_parameters_file import read_version_parameters
from tfsrv.config import ServerOptions, session_config
from tfsrv.core.loader import Loader
from tfsrv.core.platform import Platform
from tfsrv.core.resources import RAM, ResourceAllocation
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.source import SourceAdapter
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import ServingError
from tfsrv.metrics import MLMD_MAP, SAVED_MODEL_LOAD_MICROS, SAVED_MODEL_LOADS
from tfsrv.servables.file_resources import estimate_from_files, file_bytes
from tfsrv.servables.memory_growth import MemoryGrowth, memory_growth
from tfsrv.servables.missing_ops import explain_missing_op
from tfsrv.servables.version_files import VersionFiles, settle_seconds
from tfsrv.servables.warmup import RunRequest, WarmUp

FILE_NAMES = ("saved_model.pb", "saved_model.pbtxt")
MLMD_FILE_NAME = os.path.join("assets.extra", "mlmd_uuid")  # its place in ML Metadata


@dataclass(frozen=True)
class SavedModelOptions:
    """How SavedModels are loaded: the same for all of a server."""

    tags: tuple[str, ...] = ("serve",)
    session_config: bytes = b""  # a serialized tensorflow.ConfigProto
    batching: BatchingParameters | None = None  # None: no batching
    # Whether each version's own file says how it is batched, and if; `batching` has the threads.
    enable_per_model_batching_parameters: bool = False
    batching_target_latency_ms: float = 0.0  # for files of versions that have none
    warm_up: Callable[[Any, ServableId, str], None] | None = (
        None  # None: versions serve as soon as they are loaded
    )


class Session(Protocol):
    """What a loader needs of a loaded SavedModel."""

    def hurry(self) -> None:
        """Run what waits in batches now."""

    def close(self) -> None:
        """Free it. Nobody may run it any more."""

    def cancel(self) -> None:
        """End its runs with CANCELLED."""


class LoadSession(Protocol):
    """Loads a SavedModel: SavedModelSession.load."""

    def __call__(
        self,
        export_dir: str,
        *,
        tags: Sequence[str],
        config: bytes,
        name: str,
        version: int,
        batching: BatchingParameters | None,
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
        self._growth = MemoryGrowth()

    @property
    def origin(self) -> StoragePath:
        return self._origin

    def estimate_resources(self) -> ResourceAllocation:
        """TensorFlow Serving's estimate from the files; once loaded, what the load has taken.

        If other loads ran at the same time, nobody knows that, and the files' sizes stand in.
        """
        if self._session is None:
            return {RAM: estimate_from_files(self._path)}
        return {RAM: self._growth.bytes or file_bytes(self._path)}

    def load(self) -> None:
        with memory_growth() as self._growth:
            self._load()

    def _load(self) -> None:
        batching = self._batching()  # what is wrong with it should not take a load to be told
        try:
            with _counted(self._path):
                self._session = self._load_session(
                    self._path,
                    tags=self._options.tags,
                    config=self._options.session_config,
                    name=self._id.name,
                    version=self._id.version,
                    batching=batching,
                )
        except ServingError as error:
            explained = explain_missing_op(error, self._path)
            if explained is not None:
                raise explained from None
            if self._path in error.message:
                raise
            # Of a file that was cut off, say, TensorFlow does not tell where it is.
            raise ServingError(error.code, f"{error.message} (in {self._path})") from None
        if os.path.exists(os.path.join(self._path, MLMD_FILE_NAME)):
            MLMD_MAP.show(self._id.name, str(self._id.version))

    def warm_up(self) -> None:
        if self._options.warm_up is not None and self._session is not None:
            self._options.warm_up(self._session, self._id, self._path)

    def _batching(self) -> BatchingParameters | None:
        """How requests of this version are batched; None if they are not. Raises ServingError.

        As GetPerModelBatchingParams in TensorFlow Serving's bundle_factory_util.cc.
        """
        options = self._options
        if options.batching is None or not options.enable_per_model_batching_parameters:
            return options.batching
        own = read_version_parameters(
            self._path, target_latency_ms=options.batching_target_latency_ms
        )
        return own.in_pool_of(options.batching) if own is not None else None

    def servable(self) -> object:
        return self._session

    def quiesce(self) -> None:
        """Batches wait for no more requests."""
        if self._session is not None:
            self._session.hurry()

    def unload(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def cancel(self) -> None:
        session = self._session
        if session is not None:
            session.cancel()


@contextmanager
def _counted(path: str) -> Iterator[None]:
    """Count a load, and how long it took, as TensorFlow's cc/saved_model/loader.cc does."""
    began = time.monotonic()
    status = "fail"
    try:
        yield
        status = "success"
    finally:
        SAVED_MODEL_LOADS.add(path, status)
        SAVED_MODEL_LOAD_MICROS.add(path, by=round((time.monotonic() - began) * 1e6))


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


class SavedModelInspector(VersionFiles):
    """A SavedModel is complete when its graph is there and nobody writes to its files."""

    def __init__(self, settle_seconds: float, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(FILE_NAMES, settle_seconds, clock=clock)


def saved_model_platform(options: ServerOptions, run_request: RunRequest | None = None) -> Platform:
    """The platform, as a server's options want its models to be loaded. Raises ServingError.

    `run_request` runs what versions are warmed up with; without it they are not.
    """
    saved_model = SavedModelOptions(
        options.saved_model_tags,
        session_config(options),
        options.batching,
        options.enable_per_model_batching_parameters,
        options.batching_target_latency_ms,
        warm_up(options, run_request),
    )
    return Platform(
        SavedModelSourceAdapter(saved_model), SavedModelInspector(settle_seconds(options))
    )


def warm_up(options: ServerOptions, run_request: RunRequest | None) -> WarmUp | None:
    """How versions are warmed up, if they are."""
    if run_request is None or not (options.enable_model_warmup or options.synthetic_warmup):
        return None
    return WarmUp(
        run_request,
        options.enable_model_warmup,
        max(1, options.num_request_iterations_for_warmup),
        options.synthetic_warmup,
    )
