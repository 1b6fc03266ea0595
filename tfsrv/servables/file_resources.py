"""What a servable that is read from files will take, estimated before it is loaded."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from tfsrv.core.failure import as_serving_error

# kResourceEstimateRAMMultiplier of TensorFlow Serving's
# servables/tensorflow/bundle_factory_util.cc, as a fraction: bytes are whole.
_RAM_MULTIPLIER = (12, 10)


def estimate_from_files(path: str | os.PathLike[str]) -> int:
    """Bytes of memory for a servable at `path`: 1.2 times the sizes of all files below it.

    `path` may be a file. Links are followed, and each directory counts once. Raises
    ServingError when a file or directory can't be looked at, also one that goes meanwhile.
    """
    numerator, denominator = _RAM_MULTIPLIER
    return file_bytes(path) * numerator // denominator


def file_bytes(path: str | os.PathLike[str]) -> int:
    """The sizes of all files below `path`, as above."""
    try:
        return sum(_file_sizes(os.fspath(path)))
    except OSError as error:
        raise as_serving_error(error) from error


def _file_sizes(path: str) -> Iterator[int]:
    """Of all files at and below `path`."""
    waiting = [path]
    seen = set()  # a link may lead to a directory above itself
    while waiting:
        current = waiting.pop()
        status = os.stat(current)
        if not stat.S_ISDIR(status.st_mode):
            yield status.st_size
        elif (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                waiting.extend(entry.path for entry in entries)
