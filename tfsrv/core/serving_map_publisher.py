"""The three things that a serving map shows, put together from those who know them.

The manager knows which servables are available; the server's core knows which labels point
where, and for which models requests should wait. The map wants the whole of it each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from tfsrv._servable import ServableHandle
from tfsrv.core.servable import ServableId

Servables = Mapping[str, Mapping[int, object]]  # by name and version


class ServingMap(Protocol):
    """What is needed of `tfsrv._serving_map.ServingMap`."""

    def publish(
        self,
        servables: Mapping[str, Mapping[int, object]],
        labels: Mapping[str, Mapping[str, int]] = ...,
        pending: Collection[str] = ...,
    ) -> None:
        """Show exactly this from now on."""

    def drain(self, name: str, version: int, timeout_seconds: float | None) -> bool:
        """Wait until nobody holds a version that is no longer shown; False if time runs out."""


class ReadableServingMap(ServingMap, Protocol):
    """What those need of it who also look servables up."""

    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> ServableHandle:
        """Hold a servable. Raises ServingError when it is not there."""

    def in_use(self, name: str, version: int) -> int:
        """How many handles there are on a version."""


class ServingMapPublisher:
    """Publishes the whole state whenever a part of it changes. Any thread may call.

    `resolve_labels` is asked, each time, where labels point to among the versions that are to be
    shown, and `pending_names` for which models requests should wait.
    """

    def __init__(
        self,
        serving_map: ServingMap,
        resolve_labels: Callable[[Servables], Mapping[str, Mapping[str, int]]] = lambda _: {},
        pending_names: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._serving_map = serving_map
        self._resolve_labels = resolve_labels
        self._pending_names = pending_names
        self._lock = threading.Lock()  # held while publishing: the last one to change wins
        self._servables: Servables = {}

    def set_servables(self, servables: Servables) -> None:
        """Show these versions. The mappings must not change afterwards."""
        with self._lock:
            self._servables = servables
            self._publish()

    def servable_ids(self) -> list[ServableId]:
        """What is shown, ordered by name and version."""
        with self._lock:
            servables = self._servables
        return sorted(
            ServableId(name, version)
            for name, versions in servables.items()
            for version in versions
        )

    def refresh(self) -> None:
        """Show what is there once more, with the labels and pending names of now."""
        with self._lock:
            self._publish()

    def drain(self, name: str, version: int, timeout_seconds: float | None) -> bool:
        return self._serving_map.drain(name, version, timeout_seconds)

    def _publish(self) -> None:
        labels = self._resolve_labels(self._servables)
        self._serving_map.publish(self._servables, labels, self._pending_names())
