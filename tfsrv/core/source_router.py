"""Routers: one stream of aspired versions in, several out.

A server that holds more than one kind of servable has one source that finds them all, and one
adapter for each kind. A router between them sends each servable to its adapter:

    router = StaticSourceRouter[StoragePath](["table"])
    connect(source, router)
    connect(router.output_ports[0], lookup_table_adapter)   # names with "table" in them
    connect(router.output_ports[1], saved_model_adapter)    # all others

Names and rules are those of TensorFlow Serving's core/source_router.h,
core/static_source_router.h and core/dynamic_source_router.h.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

from tfsrv.core.servable import ServableData
from tfsrv.core.source import IdentitySourceAdapter, Source
from tfsrv.errors import Code, ServingError

T = TypeVar("T")


class SourceRouter(ABC, Generic[T]):
    """A target that is several sources: each call goes out through the port that route() names.

    TensorFlow Serving requires that all versions of a name keep to one port, since a target
    that gets no more news of a name would keep its versions for ever. Here the route of a name
    may change: its next call then gives the old port an empty set first, and so what came by
    the old port is let go before the new port hears of the new versions. Between the two
    nothing of the name is aspired to, so nothing may be available for a while.

    Thread-safety: any thread may call. Calls are handed on one after the other, in their order.
    """

    def __init__(self, num_output_ports: int) -> None:
        if num_output_ports < 1:
            raise ValueError("a router has at least one output port")
        self._ports = tuple(IdentitySourceAdapter[T]() for _ in range(num_output_ports))
        self._lock = threading.Lock()  # held while handing on, for the order
        self._living: dict[str, int] = {}  # name: the port that had its last set, if not empty

    @property
    def output_ports(self) -> tuple[Source[T], ...]:
        """Port 0, 1, and so on. Each needs a target before the first call."""
        return self._ports

    @abstractmethod
    def route(self, name: str, versions: Sequence[ServableData[T]]) -> int:
        """The number of the port for these versions. Pure and quick, on the caller's thread."""

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[T]]) -> None:
        """Hand a set on. Raises ServingError, and changes nothing, if it has no port."""
        with self._lock:
            port = self.route(name, versions)
            if not 0 <= port < len(self._ports):
                raise ServingError(
                    Code.INTERNAL,
                    f"{type(self).__name__} routes servable {name} to port {port}, "
                    f"but has {len(self._ports)} ports",
                )
            old_port = self._living.pop(name, port)
            if old_port != port:
                self._ports[old_port].set_aspired_versions(name, [])
            if versions:
                self._living[name] = port
            self._ports[port].set_aspired_versions(name, versions)


class StaticSourceRouter(SourceRouter[T]):
    """Routes by what is in a servable's name, with rules that never change.

    The port of a name is the place of the first of `substrings` that is in it; names without
    any go to the last port, one more than there are substrings.
    """

    def __init__(self, substrings: Sequence[str]) -> None:
        super().__init__(len(substrings) + 1)
        self._substrings = tuple(substrings)

    def route(self, name: str, versions: Sequence[ServableData[T]]) -> int:
        for port, substring in enumerate(self._substrings):
            if substring in name:
                return port
        return len(self._substrings)


class DynamicSourceRouter(SourceRouter[T]):
    """Routes by a table of names that can be replaced while it works.

    Names that are not in the table go to the last port, which is theirs alone: put an
    ErrorInjectingSourceAdapter there.
    """

    def __init__(self, num_output_ports: int, routes: Mapping[str, int] | None = None) -> None:
        """`routes` is name to port. Raises ServingError as update_routes does."""
        super().__init__(num_output_ports)
        self._routes: Mapping[str, int] = MappingProxyType({})  # replaced as a whole
        self.update_routes(routes or {})

    @property
    def routes(self) -> Mapping[str, int]:
        """The table of now; it does not follow later updates."""
        return self._routes

    def update_routes(self, routes: Mapping[str, int]) -> None:
        """Replace the whole table. Raises INVALID_ARGUMENT, and changes nothing, if it is wrong.

        It holds for the calls that begin after this returns. Nothing is handed on by itself:
        versions that are there move with the next call for their name, as SourceRouter says.
        """
        last_port = len(self.output_ports) - 1
        for name, port in routes.items():
            if not 0 <= port <= last_port:
                raise ServingError(
                    Code.INVALID_ARGUMENT, f"Port number out of range: {port} for servable {name}"
                )
            if port == last_port:
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f"Servable {name} cannot be routed to port {port}: "
                    "the last port is for names without a route",
                )
        self._routes = MappingProxyType(dict(routes))

    def route(self, name: str, versions: Sequence[ServableData[T]]) -> int:
        return self._routes.get(name, len(self.output_ports) - 1)
