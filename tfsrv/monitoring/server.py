"""The server: what it is, what it holds for requests, and who is connected."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Protocol

from tfsrv import __version__, _tf
from tfsrv._budget import in_flight_bytes, max_in_flight_bytes
from tfsrv.monitoring.families import Families, Family, single


class Calls(Protocol):
    """The part of CallLoop that is used here."""

    @property
    def in_flight(self) -> int: ...


class Connected(Protocol):
    """The part of a transport that is used here."""

    @property
    def open_connections(self) -> int | None:
        """None if it does not know."""


class ServerFamilies:
    """A source. `servers` by protocol, such as "grpc"."""

    def __init__(self, calls: Calls, servers: Mapping[str, Connected]) -> None:
        self._calls = calls
        self._servers = servers

    def __call__(self) -> Families:
        yield Family(
            "tfsrv_build_info",
            "gauge",
            "1, with the versions of the server, of TensorFlow once it is open, and of Python.",
            ("version", "tensorflow", "python"),
            [((__version__, _tf.version(), platform.python_version()), 1)],
        )
        yield single(
            "tfsrv_in_flight_requests",
            "gauge",
            "Requests that are not answered yet.",
            self._calls.in_flight,
        )
        yield single(
            "tfsrv_in_flight_bytes",
            "gauge",
            "Bytes that requests and answers hold.",
            in_flight_bytes(),
        )
        yield single(
            "tfsrv_in_flight_bytes_limit",
            "gauge",
            "Bytes that they may hold (--max_in_flight_bytes).",
            max_in_flight_bytes(),
        )
        yield Family(
            "tfsrv_connections",
            "gauge",
            "Open connections of clients.",
            ("protocol",),
            (
                ((protocol,), server.open_connections)
                for protocol, server in self._servers.items()
                if server.open_connections is not None
            ),
        )
