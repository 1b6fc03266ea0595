"""Sources beside the configured models: plug-ins, which may do whatever they like."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from tfsrv.core.failure import as_serving_error
from tfsrv.core.servable import ServableData
from tfsrv.core.source import Emitter, Target
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import ServingError

STOP_SECONDS = 2.0  # for one source; then it is left behind

logger = logging.getLogger("tfsrv")


class StoragePathSource(Emitter[StoragePath], Protocol):
    """A source of paths beside the configured models, such as a plug-in."""

    def start(self) -> None:
        """Begin to tell the callback which versions are wanted. Returns soon."""

    def stop(self) -> None:
        """Tell nothing more, and end all threads."""


def start_source(
    source: StoragePathSource, target: Target[StoragePath], *, is_taken: Callable[[str], bool]
) -> None:
    """Let a source tell `target`, but for names that are taken. Raises ServingError."""

    def tell(name: str, versions: Sequence[ServableData[StoragePath]]) -> None:
        if is_taken(name):
            logger.error(
                "%s tells of versions of %s, which is configured: they are ignored",
                type(source).__name__,
                name,
            )
        else:
            target.set_aspired_versions(name, versions)

    source.set_aspired_versions_callback(tell)
    try:
        source.start()
    except BaseException as error:
        failure = as_serving_error(error)
        text = f"{type(source).__name__} cannot be started: {failure.message}"
        raise ServingError(failure.code, text) from error


def stop_source(source: StoragePathSource) -> None:
    """Stop a source; one that raises or hangs must not keep the server from ending."""

    def stop() -> None:
        try:
            source.stop()
        except BaseException:
            logger.exception("%s failed to stop", type(source).__name__)

    thread = threading.Thread(target=stop, name="tfsrv-stop-source", daemon=True)
    thread.start()
    thread.join(STOP_SECONDS)
    if thread.is_alive():
        logger.error("%s does not stop: it is left behind", type(source).__name__)
