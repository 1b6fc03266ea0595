"""The three things that a serving map shows, put together from those who know them.

The manager knows which servables are available; the server's core knows which labels point
where, and for which models requests should wait. The map wants the whole of it each time.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Protocol

from tfsrv._servable import ServableHandle
from tfsrv.core.servable import ServableId


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
    """Publishes the whole state whenever a part of it changes. Any thread may call."""

    def __init__(self, serving_map: ServingMap) -> None:
        self._serving_map = serving_map
        self._lock = threading.Lock()  # held while publishing: the last one to change wins
        self._servables: Mapping[str, Mapping[int, object]] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._pending: Collection[str] = ()

    def set_servables(self, servables: Mapping[str, Mapping[int, object]]) -> None:
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

    def set_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        with self._lock:
            self._labels = labels
            self._publish()

    def set_pending(self, names: Collection[str], *, at_once: bool = True) -> None:
        """Let requests for these names wait while there is nothing of them.

        With at_once=False the change is shown with the next one: enough when a name leaves that
        has a version by now.
        """
        with self._lock:
            self._pending = names
            if at_once:
                self._publish()

    def drain(self, name: str, version: int, timeout_seconds: float | None) -> bool:
        return self._serving_map.drain(name, version, timeout_seconds)

    def _publish(self) -> None:
        self._serving_map.publish(self._servables, self._labels, self._pending)
