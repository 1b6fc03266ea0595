"""Sources that find versions as directories: `<base path>/<version>/`.

The rules are those of TensorFlow Serving's sources/storage_path, with three differences: each
model is looked at on its own, so that one bad path holds up nobody else; a version counts only
when it is complete; and a base path that was emptied does not take the model away.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tfsrv.config import LatestVersions, SpecificVersions, VersionPolicy
from tfsrv.core.damped_log import DampedLog
from tfsrv.core.failure import as_serving_error
from tfsrv.core.platform import VersionInspector
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.source import Source
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.sources.version_policy import Version, choose

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
RECHECK_SECONDS = 1.0  # until the next look at a version that was being written

_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)

logger = logging.getLogger("tfsrv")


@dataclass(frozen=True)
class ServableToMonitor:
    """One servable, where its versions are, and which of them are wanted."""

    name: str
    base_path: str
    inspector: VersionInspector
    version_policy: VersionPolicy = field(default_factory=LatestVersions)
    only_version: int | None = None  # base_path is itself this version, and there are no others


class FileSystemStoragePathSource(Source[StoragePath]):
    """Looks into each base path from time to time and tells the target what is new.

    `poll_wait_seconds` is the time between two looks: 0 looks once, a negative one never.
    Either way a version that is still being written is looked at again soon.

    Thread-safety: start() begins a thread that makes all looks; stop() ends it, also in the
    middle of its wait. Without the thread, whoever calls poll() looks.
    """

    def __init__(
        self,
        servables: Sequence[ServableToMonitor],
        *,
        poll_wait_seconds: float = 1,
        servable_versions_always_present: bool = True,
        on_nothing_found: Callable[[str, ServingError], None] = lambda name, error: None,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """`on_nothing_found` hears of each look that found no version, and none on its way.

        `wait` waits that many seconds and returns whether to stop: for tests.
        """
        self._servables = tuple(servables)
        self._poll_wait_seconds = poll_wait_seconds
        self._versions_always_present = servable_versions_always_present
        self._on_nothing_found = on_nothing_found
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._thread: threading.Thread | None = None
        self._emitted: dict[str, list[Version]] = {}
        self._complete: dict[str, set[str]] = {}  # name: paths seen complete
        self._problems = DampedLog(logger)
        self._notes = DampedLog(logger)

    def start(self) -> None:
        if self._poll_wait_seconds < 0:
            return
        self._thread = threading.Thread(target=self._run, name="tfsrv-file-system-source")
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Returns when the thread has ended, at once unless it is looking."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def poll(self) -> bool:
        """Look at every servable once. Returns whether some version was still being written."""
        is_changing = False
        for servable in self._servables:
            if self._stopped.is_set():
                break
            try:
                is_changing |= self._poll_servable(servable)
            except Exception as error:
                failure = as_serving_error(error)
                if servable.name in self._emitted:
                    text = f"{failure.message} What is loaded of it stays."
                    self._problems.problem(servable.name, text)
                else:
                    self._problems.problem(servable.name, failure.message)
                    self._on_nothing_found(servable.name, failure)
        return is_changing

    def _run(self) -> None:
        while True:
            seconds = self._poll_wait_seconds
            if self.poll():
                seconds = min(seconds, RECHECK_SECONDS) if seconds > 0 else RECHECK_SECONDS
            if seconds <= 0 or self._wait(seconds):
                return

    def _poll_servable(self, servable: ServableToMonitor) -> bool:
        name = servable.name
        paths = self._find_versions(servable)
        complete = self._complete.setdefault(name, set())
        complete.intersection_update(paths.values())  # forget what has gone
        changing: list[int] = []

        def look(version: int) -> Version | None:
            path, id = paths[version], ServableId(name, version)
            try:
                if path not in complete and not servable.inspector.is_complete(path):
                    changing.append(version)
                    return None
            except ServingError as error:
                return ServableData(id, error=error)
            complete.add(path)
            return ServableData(id, StoragePath(path))

        versions = choose(servable.version_policy, sorted(paths, reverse=True), look)
        self._note_missing(servable, paths)
        if versions or self._is_meant_empty(servable):
            self._problems.recovered(name, f"Versions of servable {name} are found again")
            self._emit_news(name, versions)
        elif not changing:
            raise _nothing_found(servable, paths)
        return bool(changing)

    def _emit_news(self, name: str, versions: list[Version]) -> None:
        if self._emitted.get(name) != versions:
            self._emit(name, versions)
            self._emitted[name] = versions

    def _is_meant_empty(self, servable: ServableToMonitor) -> bool:
        """Whether finding nothing means that nothing should be served."""
        policy = servable.version_policy
        if isinstance(policy, SpecificVersions) and not policy.versions:
            self._notes.note(
                servable.name,
                f"No specific versions requested for servable {servable.name}: it is unloaded",
            )
            return True
        return not self._versions_always_present and servable.name in self._emitted

    def _find_versions(self, servable: ServableToMonitor) -> dict[int, str]:
        """The version directories by number."""
        base_path = servable.base_path
        if servable.only_version is not None and os.path.isdir(base_path):
            return {servable.only_version: base_path}
        try:
            with os.scandir(base_path) as entries:
                names = sorted(
                    entry.name
                    for entry in entries
                    if _INTEGER.fullmatch(entry.name) and entry.is_dir()
                )
        except OSError as error:
            failure = as_serving_error(error)
            raise ServingError(
                failure.code,
                f"Could not find base path {base_path} for servable {servable.name} "
                f"with error {failure}.",
            ) from None
        paths: dict[int, str] = {}
        for name in names:
            version = int(name)
            path = os.path.join(base_path, name)
            if not INT64_MIN <= version <= INT64_MAX:
                self._notes.note(
                    servable.name,
                    f"{path} is ignored: the version of a servable has at most 64 bits",
                )
                continue
            if version in paths:
                self._notes.note(
                    servable.name,
                    f"Version {version} of servable {servable.name} is taken from {path}; "
                    f"{paths[version]} is ignored",
                )
            paths[version] = path
        return paths

    def _note_missing(self, servable: ServableToMonitor, paths: Mapping[int, str]) -> None:
        policy = servable.version_policy
        if isinstance(policy, SpecificVersions):
            for version in sorted(policy.versions - paths.keys()):
                self._notes.note(
                    servable.name,
                    f"Version {version} of servable {servable.name}, which was requested, "
                    f"is not found under base path {servable.base_path}",
                )


def _nothing_found(servable: ServableToMonitor, paths: Mapping[int, str]) -> ServingError:
    if paths:
        return ServingError(
            Code.NOT_FOUND,
            f"None of the requested versions of servable {servable.name} found under base path "
            f"{servable.base_path}.",
        )
    return ServingError(
        Code.NOT_FOUND,
        f"No versions of servable {servable.name} found under base path {servable.base_path}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?",
    )
