"""How requests get at servables: every manager gives out handles in the same way.

The names are those of TensorFlow Serving's core/manager.h.
"""

from __future__ import annotations

from typing import Protocol

from tfsrv._servable import ServableHandle
from tfsrv.core.servable import ServableId, ServableRequest
from tfsrv.core.serving_map_publisher import ReadableServingMap, ServingMapPublisher
from tfsrv.errors import ServingError


class Manager(Protocol):
    """Owns servables and lends them out. Any thread may call.

    A handle keeps its servable loaded until it is released; use it in a `with`.
    """

    def list_available_servable_ids(self) -> list[ServableId]:
        """What can be had, ordered by name and version. May have changed a moment later."""

    def get_servable_handle(self, request: ServableRequest) -> ServableHandle:
        """Raises NOT_FOUND when it is not there."""

    def get_available_servable_handles(self) -> dict[ServableId, ServableHandle]:
        """A handle on each of them."""


class PublishedServables:
    """A Manager's reading side: what a publisher shows on a serving map.

    Also for a manager that only publishes, such as AspiredVersionsManager.
    """

    def __init__(self, serving_map: ReadableServingMap, publisher: ServingMapPublisher) -> None:
        self._serving_map = serving_map
        self._publisher = publisher

    def list_available_servable_ids(self) -> list[ServableId]:
        return self._publisher.servable_ids()

    def get_servable_handle(self, request: ServableRequest) -> ServableHandle:
        return self._serving_map.acquire(request.name, request.version)

    def get_available_servable_handles(self) -> dict[ServableId, ServableHandle]:
        handles = {}
        for id in self._publisher.servable_ids():
            try:
                handles[id] = self._serving_map.acquire(id.name, id.version)
            except ServingError:  # it has left meanwhile
                continue
        return handles
