"""Models that tests change while a server serves them, and clients that notice what goes wrong."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.functional.launching import Client, Launched, client, until
from tests.functional.messages import array, floats, predict_request

START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50  # ModelVersionStatus.State


class Site:
    """A folder with models that tests may change."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.folder = folder
        self._models = models
        self._count = itertools.count()

    def base(self, name: str = "m") -> Path:
        return self.folder / name

    def staging(self) -> Path:
        """A folder where no server looks."""
        return self.folder / f"staging-{next(self._count)}"

    def add(
        self,
        version: int,
        name: str = "m",
        *,
        model: str = "half_plus_two",
        files: int | None = None,
    ) -> None:
        """Write a version elsewhere and rename it into place, as one should.

        `files` is the version of half_plus_two whose files it gets, if not its own.
        """
        number = (files or version) if model == "half_plus_two" else 1
        source = self._models / model / str(number)
        staging = self.staging()
        shutil.copytree(source, staging)
        self.base(name).mkdir(exist_ok=True)
        staging.rename(self.base(name) / str(version))

    def link(self, version: int, name: str = "m", *, files: int | None = None) -> None:
        """Show a version of half_plus_two that has been there for long: nobody waits for it."""
        self.base(name).mkdir(exist_ok=True)
        target = self._models / "half_plus_two" / str(files or version)
        (self.base(name) / str(version)).symlink_to(target)

    def copy_slowly(self, version: int, name: str = "m", *, seconds: float) -> None:
        """Write a version where the server looks, in pieces, the graph first."""
        source = self._models / "half_plus_two" / str(version)
        files = sorted(path for path in source.rglob("*") if path.is_file())
        files.sort(key=lambda path: path.name != "saved_model.pb")
        pieces = 3
        for file in files:
            target = self.base(name) / str(version) / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            data = file.read_bytes()
            with target.open("wb") as out:
                for i in range(pieces):
                    out.write(data[len(data) * i // pieces : len(data) * (i + 1) // pieces])
                    out.flush()
                    time.sleep(seconds / pieces / len(files))

    def remove(self, version: int, name: str = "m") -> None:
        staging = self.staging()
        (self.base(name) / str(version)).rename(staging)
        shutil.rmtree(staging)


def settle(folder: Path) -> None:
    """Wait until all files in a folder are so old that nobody can be writing to them."""
    newest = max(path.lstat().st_ctime for path in (folder, *folder.rglob("*")))
    until(lambda: time.time() > newest + 1.1)


def break_version(folder: Path, how: str, site: Site) -> None:
    """Make a version that cannot be loaded."""
    if how == "graph":
        (folder / "saved_model.pb").write_bytes(b"\xff this is no graph")
    elif how == "variables":
        site.add(1, "whole")
        shutil.copy(site.base("whole") / "1" / "saved_model.pb", folder)


# --- clients


def states(ask: Client, name: str = "m") -> dict[int, int]:
    return {status.version: status.state for status in ask.model_status(name)}


def ask_for(x: float, name: str = "m", **asked: Any) -> Any:
    return predict_request(name, {"x": floats(x)}, **asked)


def refusal(ask: Client, request: Any) -> tuple[str, str]:
    error = ask.predict_future(request).exception()
    assert error is not None, "there is no error"
    return error.code().name, error.details()


class Load:
    """Clients that ask without a pause, and look at each answer."""

    def __init__(
        self,
        server: Launched,
        name: str = "m",
        *,
        clients: int = 2,
        label: str | None = None,
        as_numbered: bool = True,
    ) -> None:
        """Without `as_numbered` a version may have the files of another one."""
        self._server = server
        self._name = name
        self._label = label
        self._as_numbered = as_numbered
        self.versions: list[int] = []  # that answered, in order of the answers
        self.files: list[int] = []  # and by which files, told by the version of half_plus_two
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(clients)
        self._work = [self._threads.submit(self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with client(self._server.address()) as ask:
            for x in itertools.count():
                if self._stop.is_set():
                    return
                request = ask_for(x, self._name, label=self._label)
                futures = [ask.predict_future(request) for _ in range(8)]
                for future in futures:
                    response = future.result()
                    version = response.model_spec.version.value
                    (y,) = array(response.outputs["y"])
                    files = y - x / 2 - 1  # exact: y is x / 2 + 1 + version
                    assert files == version or not self._as_numbered
                    self.files.append(int(files))
                    self.versions.append(version)

    def answers(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.versions) + count
        until(lambda: len(self.versions) >= wanted or any(work.done() for work in self._work))

    def end(self) -> None:
        """Raises what failed."""
        self._stop.set()
        self._threads.shutdown()
        for work in self._work:
            work.result()


@contextmanager
def under_load(server: Launched, name: str = "m", **options: Any) -> Iterator[Load]:
    load = Load(server, name, **options)
    try:
        load.answers(50)
        yield load
        load.answers(50)
    finally:
        load.end()


# --- the log


def errors(server: Launched) -> list[str]:
    return [line for line in server.log if " ERROR " in line]


def problems(server: Launched) -> list[str]:
    """What the log complains of, without what it repeats at the 2nd, 4th, 8th ... time."""
    complaints = [line for line in server.log if " ERROR " in line or " WARNING " in line]
    return [line for line in complaints if "(seen " not in line]
