"""A source of one's own: the versions that should be there stand in a text file.

Each line is a name, a version and a path, with blanks between them; `#` begins a comment.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.source import Source
from tfsrv.core.storage_path import StoragePath

POLL_SECONDS = 1.0

Lists = dict[str, list[tuple[int, str]]]  # by name: versions with their paths


class ListedVersions(Source[StoragePath]):
    """Tells what the file says, and what it says when it has changed."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._told: Lists = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="listed-versions", daemon=True)

    def start(self) -> None:
        self._tell(self._read())  # a file that is wrong at the start is an error of the start
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():  # it is not, after a start that failed
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._tell(self._read())
            except Exception as error:  # what serves goes on serving
                logging.getLogger("tfsrv").error("%s: %s", self._file, error)

    def _read(self) -> Lists:
        lists: Lists = {}
        for number, line in enumerate(self._file.read_text().splitlines(), 1):
            words = line.partition("#")[0].split(maxsplit=2)
            if len(words) == 3 and words[1].isdecimal():
                lists.setdefault(words[0], []).append((int(words[1]), words[2].strip()))
            elif words:
                raise ValueError(f"line {number} should be a name, a version and a path")
        return lists

    def _tell(self, lists: Lists) -> None:
        for name in self._told.keys() | lists.keys():
            wanted = lists.get(name, [])  # none: unload what there is
            if wanted != self._told.get(name):
                versions = [(ServableId(name, number), path) for number, path in wanted]
                self._emit(name, [ServableData(id, StoragePath(path)) for id, path in versions])
        self._told = lists
