"""One servable under the eyes of a source: what was found of it, and what is news.

The rules are those of TensorFlow Serving's sources/storage_path, with three differences: a
version counts only when it is complete; a base path that was emptied does not take the model
away; and a version that failed to load, or that went away and came back, is wanted afresh.
"""

from __future__ import annotations

import heapq
import logging
import os
import re
import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from tfsrv.config import LatestVersions, SpecificVersions, VersionPolicy
from tfsrv.core.damped_log import DampedLog
from tfsrv.core.failure import as_serving_error
from tfsrv.core.platform import VersionInspector
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.sources.storage import LocalStorage, Storage, local_path
from tfsrv.sources.version_policy import Version, choose

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

LONG_SECONDS = 30.0  # of writing; then it is told
MAX_NOTED = 10  # missing versions that are named
REMEMBERED = 1000  # versions that have gone, in case that they come back

logger = logging.getLogger("tfsrv")

_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)


@dataclass(frozen=True)
class ServableToMonitor:
    """One servable, where its versions are, and which of them are wanted."""

    name: str
    base_path: str
    inspector: VersionInspector
    version_policy: VersionPolicy = field(default_factory=LatestVersions)
    only_version: int | None = None  # base_path is itself this version, and there are no others
    place: str = field(default="", compare=False)  # FILE:LINE of its configuration, for errors


@dataclass(frozen=True)
class Looked:
    """What a look found. Neither versions nor an error: nothing is complete yet."""

    servable: ServableToMonitor
    versions: tuple[Version, ...] | None = None
    error: ServingError | None = None
    is_told: bool = False  # a look before, with the same configuration, found something
    changing: frozenset[int] = frozenset()  # versions that are still being written

    @property
    def is_changing(self) -> bool:
        return bool(self.changing)


@dataclass(frozen=True)
class _State:
    """The files of a version, when it was last found complete."""

    fingerprint: Hashable
    revision: int = 0  # goes up when they are not what they were


class WatchedServable:
    """Looks at one servable. For one thread at a time, but for note_failed and note_arrived."""

    def __init__(
        self,
        servable: ServableToMonitor,
        *,
        storage: Storage | None = None,
        versions_always_present: bool = True,
        predecessor: WatchedServable | None = None,
    ) -> None:
        """`predecessor` watched the same servable with another configuration."""
        self.servable = servable
        self.base_path = local_path(servable.base_path)
        self._problems = DampedLog(logger)
        self._notes = DampedLog(logger)
        self._storage = storage or LocalStorage()
        self._versions_always_present = versions_always_present
        self._paths: dict[int, str] = {}  # of the last look
        self._complete: dict[str, Hashable] = {}  # of these, what was found complete: its identity
        self._broken: dict[str, tuple[Hashable, ServingError]] = {}  # paths, and why
        self._is_told = False  # versions were found with this configuration
        self._changing_since: float | None = None
        self._arrived: set[str] = set()  # paths that were renamed into place
        self._failed: set[int] = set()
        self._states: dict[int, _State] = {}
        self.emitted: tuple[Version, ...] | None = None  # the last wish; None: there was none
        if predecessor is not None:
            self.emitted = predecessor.emitted
            if predecessor.base_path == self.base_path:
                self._paths = dict(predecessor._paths)
                self._complete = dict(predecessor._complete)
                self._failed = set(predecessor._failed)
                self._states = dict(predecessor._states)

    def note_failed(self, version: int) -> None:
        """The version did not load: it is wanted afresh when its files have changed."""
        self._failed.add(version)

    def note_arrived(self, name: str) -> None:
        """A directory of this name was renamed into the base path: nobody writes to it."""
        if _INTEGER.fullmatch(name):
            self._arrived.add(os.path.join(self.base_path, name))

    def look(self) -> Looked:
        """See what is there. Never raises."""
        try:
            return self._look()
        except Exception as error:
            failure = as_serving_error(error)
            if self.servable.place:
                text = f"{failure.message} ({self.servable.place})"
                failure = ServingError(failure.code, text)
            text = failure.message
            if self.emitted:
                text = f"{text} What is loaded of it stays."
            self._problems.problem(self.servable.name, text)
            return Looked(self.servable, error=failure, is_told=self._is_told)

    def _look(self) -> Looked:
        servable = self.servable
        paths = self._find_versions()
        self._compare(paths)
        changing: list[int] = []

        def look(version: int) -> Version | None:
            return self._inspect(version, paths[version], changing)

        versions = tuple(choose(servable.version_policy, sorted(paths, reverse=True), look))
        self._note_missing(paths)
        self._note_changing(changing)
        if not versions and not self._is_meant_empty():
            if not changing:
                raise _nothing_found(servable, paths)
            return Looked(servable, changing=frozenset(changing))
        self._is_told = True
        self._problems.recovered(
            servable.name, f"Versions of servable {servable.name} are found again"
        )
        return Looked(servable, versions, changing=frozenset(changing))

    def _compare(self, paths: dict[int, str]) -> None:
        """Take note of what came, went and moved since the last look."""
        for version, old_path in self._paths.items():
            if version not in paths:
                self._failed.discard(version)
            elif paths[version] != old_path and old_path in self._complete:
                # "00123" was "123" before.
                self._complete.setdefault(paths[version], self._complete[old_path])
        self._paths = dict(paths)
        present = set(paths.values())
        for path in self._complete.keys() - present:
            del self._complete[path]
        for path in self._broken.keys() - present:
            del self._broken[path]
        if len(self._arrived) > REMEMBERED:
            self._arrived &= present
        for version in sorted(self._states.keys() - paths.keys())[:-REMEMBERED]:
            del self._states[version]

    def _inspect(self, version: int, path: str, changing: list[int]) -> Version | None:
        id = ServableId(self.servable.name, version)
        if version in self._failed and path in self._complete:
            if self._storage.fingerprint(path) == self._states[version].fingerprint:
                return ServableData(id, self._storage_path(version, path))
            del self._complete[path]
        try:
            identity = self._storage.identity(path)
        except FileNotFoundError:  # it went away while we looked
            changing.append(version)
            return None
        if self._complete.get(path, identity) != identity:
            del self._complete[path]  # another directory was moved into its place
        if path in self._broken:
            fingerprint, error = self._broken[path]
            if self._storage.fingerprint(path) == fingerprint:
                return ServableData(id, error=error)
            del self._broken[path]
        if path not in self._complete:
            is_settled = path in self._arrived
            self._arrived.discard(path)  # whatever comes later has not arrived whole
            try:
                if not self.servable.inspector.is_complete(path, is_settled=is_settled):
                    changing.append(version)
                    return self._told(version)  # until the new files are complete
            except ServingError as error:
                self._broken[path] = self._storage.fingerprint(path), error
                return ServableData(id, error=error)
            self._complete[path] = identity
            self._note_complete(version, path)
        return ServableData(id, self._storage_path(version, path))

    def _note_complete(self, version: int, path: str) -> None:
        """A version was found complete: it is another one if its files are not what they were."""
        fingerprint = self._storage.fingerprint(path)
        known = self._states.get(version)
        if known is None:
            self._states[version] = _State(fingerprint)
        elif known.fingerprint != fingerprint:
            self._states[version] = _State(fingerprint, known.revision + 1)
            self._failed.discard(version)

    def _storage_path(self, version: int, path: str) -> StoragePath:
        """Where it is; as it was told before, if only the directory's name has changed."""
        revision = self._states[version].revision
        told = self._told(version)
        if told is not None and version not in self._failed and told.data.revision == revision:
            return told.data
        return StoragePath(path, revision)

    def _told(self, version: int) -> Version | None:
        """What the target was told last of a version in this base path, if that was no error."""
        for told in self.emitted or ():
            if told.id.version == version and told.error is None:
                path = told.data.path
                is_here = self.base_path in (path, os.path.dirname(path))
                return told if is_here else None
        return None

    def _note_changing(self, changing: list[int]) -> None:
        """Tell of versions that never come to rest: nobody would know why they are not there."""
        now = time.monotonic()
        if not changing:
            self._changing_since = None
        elif self._changing_since is None:
            self._changing_since = now
        elif now - self._changing_since > LONG_SECONDS:
            versions = ", ".join(map(str, sorted(changing)))
            self._notes.note(
                self.servable.name,
                f"Somebody has been writing to servable {self.servable.name} for over "
                f"{LONG_SECONDS:g} s: version {versions} is not loaded yet",
            )

    def _is_meant_empty(self) -> bool:
        """Whether finding nothing means that nothing should be served."""
        policy = self.servable.version_policy
        name = self.servable.name
        if isinstance(policy, SpecificVersions) and not policy.versions:
            self._notes.note(
                name, f"No specific versions requested for servable {name}: it is unloaded"
            )
            return True
        return not self._versions_always_present and self.emitted is not None

    def _find_versions(self) -> dict[int, str]:
        """The version directories by number."""
        name, only_version = self.servable.name, self.servable.only_version
        if only_version is not None and self._storage.is_directory(self.base_path):
            return {only_version: self.base_path}
        try:
            directories = self._storage.directories(self.base_path)
        except OSError as error:
            failure = as_serving_error(error)
            raise ServingError(
                failure.code,
                f"Could not find base path {self.base_path} for servable {name} "
                f"with error {failure}.",
            ) from None
        paths: dict[int, str] = {}
        for directory in directories:
            if not _INTEGER.fullmatch(directory):
                continue
            path = os.path.join(self.base_path, directory)
            version = int(directory)
            if not INT64_MIN <= version <= INT64_MAX:
                self._notes.note(
                    name, f"{path} is ignored: the version of a servable has at most 64 bits"
                )
                continue
            if version in paths:
                self._notes.note(
                    name,
                    f"Version {version} of servable {name} is taken from {path}; "
                    f"{paths[version]} is ignored",
                )
            paths[version] = path
        return paths

    def _note_missing(self, paths: dict[int, str]) -> None:
        policy, name = self.servable.version_policy, self.servable.name
        if isinstance(policy, SpecificVersions):
            missing = policy.versions - paths.keys()
            for version in heapq.nsmallest(MAX_NOTED, missing):
                self._notes.note(
                    name,
                    f"Version {version} of servable {name}, which was requested, "
                    f"is not found under base path {self.base_path}",
                )


def _nothing_found(servable: ServableToMonitor, paths: dict[int, str]) -> ServingError:
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
