"""Models whose answer tells the version, version directories that come and go, and who may answer.

A model's versions are copies of a few SavedModels in turn, y = x / 2 + an offset of each's own. So
an answer that claims a version can be compared with what that version says.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from _client import Answer
from _workloads import models_directory


@dataclass(frozen=True)
class Model:
    """SavedModels to copy versions from, and the offset of each."""

    sources: tuple[Path, ...]
    offsets: tuple[float, ...]

    @classmethod
    def load(cls, name: str) -> Model:
        """One that make_models.py has written."""
        folder = models_directory() / "versions"
        offsets = json.loads((folder / f"{name}.json").read_text())
        sources = (folder / name / str(number) for number in range(1, len(offsets) + 1))
        return cls(tuple(sources), tuple(offsets))

    def source(self, version: int) -> Path:
        return self.sources[version % len(self.sources)]

    def answer(self, version: int, x: float) -> float:
        """What `version` says to x."""
        return x / 2 + self.offsets[version % len(self.offsets)]


class History:
    """Which versions may answer at which time. Any thread may call.

    Versions come with rising numbers, and the latest is asked for. So no version answers before it
    was placed, and none answers a request that was sent after a newer one had already answered.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._placed: dict[int, float] = {}  # when, by version
        self._answered: dict[int, float] = {}  # when first; only the newest are kept

    def place(self, version: int, at: float) -> None:
        """Say that a version is put in place at this moment; times are of time.perf_counter()."""
        with self._lock:
            self._placed[version] = at

    def complaint(self, answer: Answer) -> str:
        """What is wrong with an answer; nothing if it is right."""
        version = answer.version
        with self._lock:
            placed = self._placed.get(version, math.inf)
            newer = [
                number
                for number, at in self._answered.items()
                if number > version and at < answer.sent
            ]
            self._note(answer)
        if placed > answer.received:
            return f"version {version} answered before it was in place"
        if newer:
            return f"version {version} answered after version {max(newer)} had"
        wanted = self._model.answer(version, answer.x)
        if answer.y != wanted:
            return f"version {version} answered {answer.y}, not {wanted}"
        return ""

    def _note(self, answer: Answer) -> None:
        before = self._answered.get(answer.version, math.inf)
        self._answered[answer.version] = min(before, answer.received)
        for old in sorted(self._answered)[:-4]:  # a newer one has answered even earlier
            del self._answered[old]


class VersionDirectories:
    """A base path whose versions are written elsewhere and renamed into place.

    `history` judges what is answered from there.
    """

    def __init__(self, model: Model, folder: Path) -> None:
        """`folder` is to be made; the base path is in it, and what is not yet in place beside."""
        self.model = model
        self.history = History(model)
        self.base_path = folder / "base"
        self.base_path.mkdir(parents=True)
        self._staging = folder / "staging"
        self._staging.mkdir()

    def write(self, version: int) -> None:
        """Copy a version to where no server looks."""
        shutil.copytree(self.model.source(version), self._staging / str(version))

    def place(self, version: int) -> float:
        """Rename what was written into the base path; when, by time.perf_counter()."""
        at = time.perf_counter()
        self.history.place(version, at)
        (self._staging / str(version)).rename(self.base_path / str(version))
        return at

    def add(self, version: int) -> None:
        self.write(version)
        self.place(version)

    def remove(self, version: int) -> None:
        """Delete a version where it is, as people do."""
        shutil.rmtree(self.base_path / str(version))
