"""Where versions come from: sources say which versions are wanted, targets are told.

A source finds out, by whatever means, which versions of which servables should be there, and
tells its target. An adapter is both: it takes versions in one form (say, paths) and hands them
on in another (say, loaders).

    source = FileSystemStoragePathSource(...)       # finds paths
    adapter = SavedModelSourceAdapter(...)          # makes loaders of paths
    connect(source, adapter)
    connect(adapter, manager)                       # loads what is wanted
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from tfsrv.core.failure import as_serving_error
from tfsrv.core.servable import ServableData
from tfsrv.errors import Code, ServingError

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")

AspiredVersionsCallback = Callable[[str, Sequence[ServableData[T]]], None]


class Target(Protocol[T]):
    """Takes aspired versions."""

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[T]]) -> None:
        """Replace the set of versions wanted of the servable `name`. Never blocks for long.

        The latest call for a name wins, repeating one changes nothing, an empty set unloads
        everything of that name, and other names are not touched.
        """


class Emitter(Protocol[T]):
    """What tells one target which versions are wanted: a Source, or what does the same."""

    def set_aspired_versions_callback(self, callback: AspiredVersionsCallback[T]) -> None:
        """Where aspired versions go."""


class Source(ABC, Generic[T]):
    """Tells one target which versions are wanted."""

    _callback: AspiredVersionsCallback[T] | None = None

    def set_aspired_versions_callback(self, callback: AspiredVersionsCallback[T]) -> None:
        """Where aspired versions go. Set once, before the source starts."""
        if self._callback is not None:
            raise ServingError(
                Code.FAILED_PRECONDITION, f"{type(self).__name__} already has a target"
            )
        self._callback = callback

    def _emit(self, name: str, versions: Sequence[ServableData[T]]) -> None:
        if self._callback is None:
            raise ServingError(
                Code.FAILED_PRECONDITION, f"{type(self).__name__} was started without a target"
            )
        self._callback(name, versions)


class SourceAdapter(Source[Out], Generic[In, Out]):
    """A target for one form of data, and a source of another. Keeps nothing."""

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[In]]) -> None:
        self._emit(name, [self._adapt(version) for version in versions])

    @abstractmethod
    def convert(self, version: ServableData[In]) -> Out:
        """The other form of `version.data`. What it raises is the end of the version."""

    def _adapt(self, version: ServableData[In]) -> ServableData[Out]:
        if version.error is not None:  # handed through, so that it shows in the version's state
            return ServableData(version.id, error=version.error)
        try:
            return ServableData(version.id, self.convert(version))
        except BaseException as error:  # also sys.exit() of a plug-in: it ends this version only
            return ServableData(version.id, error=as_serving_error(error))


class IdentitySourceAdapter(Source[T]):
    """Hands everything on as it came."""

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[T]]) -> None:
        self._emit(name, versions)


class ErrorInjectingSourceAdapter(SourceAdapter[In, Out]):
    """Gives every version an error; one that has an error already keeps its own.

    It stands where a router sends what nobody can load, so that the reason shows in the state
    of those versions. As in TensorFlow Serving's core/source_adapter.h.
    """

    def __init__(self, error: ServingError) -> None:
        self._error = error

    def convert(self, version: ServableData[In]) -> Out:
        # A fresh one: an exception that is raised again and again collects tracebacks.
        raise ServingError(self._error.code, self._error.message)


def connect(source: Emitter[T], target: Target[T]) -> None:
    """Let `source` tell `target`."""
    source.set_aspired_versions_callback(target.set_aspired_versions)
