"""Tells complete versions from those that somebody still copies: for platforms of files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

from tfsrv.config import ServerOptions
from tfsrv.core.failure import as_serving_error
from tfsrv.errors import Code, ServingError

MAX_UNSETTLED = 1000
SETTLE_SECONDS = 1.0  # a version that nobody wrote to for so long is complete


def settle_seconds(options: ServerOptions) -> float:
    """How long a version must have been left alone: not longer than between two looks."""
    poll_wait_seconds = options.file_system_poll_wait_seconds
    return min(poll_wait_seconds, SETTLE_SECONDS) if poll_wait_seconds > 0 else SETTLE_SECONDS


class VersionFiles:
    """A VersionInspector for versions that are a directory with a certain file in it.

    A version is complete when one of `file_names` is there and the newest file of all has been
    left alone for `settle_seconds`. What counts is the time of a file's last change (ctime): the
    time of modification is one that `cp -p` and rsync set back. A tree that was written elsewhere
    and renamed into place is complete at once, since a rename changes only the directory's time.
    """

    def __init__(
        self,
        file_names: Sequence[str],
        settle_seconds: float,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file_names = file_names
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._unsettled: dict[str, tuple[float, float]] = {}  # path: newest change, when seen

    def is_complete(self, path: str, *, is_settled: bool = False) -> bool:
        has_file = any(os.path.isfile(os.path.join(path, name)) for name in self._file_names)
        try:
            newest = max(_changes(path, with_directories=not has_file), default=0.0)
        except FileNotFoundError:  # something went away while we looked
            return False
        except OSError as error:
            raise as_serving_error(error) from None
        if not (is_settled or self._is_settled(path, newest)):
            return False
        if not has_file:
            raise ServingError(
                Code.NOT_FOUND, f"Could not find {' or '.join(self._file_names)} in {path}"
            )
        return True

    def _is_settled(self, path: str, newest: float) -> bool:
        """Whether the newest change is old enough by our clock, or has not moved for as long.

        The second is for file servers whose clock runs ahead of ours.
        """
        now = self._clock()
        seen_newest, seen_at = self._unsettled.get(path, (newest, now))
        since = min(newest, seen_at) if seen_newest == newest else newest
        if len(self._unsettled) > MAX_UNSETTLED:
            self._unsettled.clear()  # most of them have gone; the others only wait a little longer
        if now - since >= self._settle_seconds:
            self._unsettled.pop(path, None)
            return True
        self._unsettled[path] = (newest, seen_at if seen_newest == newest else now)
        return False


def _changes(path: str, *, with_directories: bool) -> Iterator[float]:
    """When each file below `path` was changed last."""

    def fail(error: OSError) -> None:
        # What nobody may look into is no part of it: the lost+found of a volume, say.
        if not isinstance(error, PermissionError) or error.filename == path:
            raise error

    for directory, _, names in os.walk(path, onerror=fail):
        if with_directories:
            yield os.stat(directory).st_ctime
        for name in names:
            yield _change(os.path.join(directory, name))


def _change(file: str) -> float:
    """When a file was changed last; of a link that leads nowhere, the link itself."""
    try:
        return os.stat(file).st_ctime
    except OSError:
        return os.lstat(file).st_ctime
