"""grpc.health.v1 as its own Python client asks for it."""

from __future__ import annotations

import queue
import threading
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.functional.launching import SECONDS

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)


class HealthClient:
    """A client of one server."""

    def __init__(self, channel: Any) -> None:
        self._stub = health_pb2_grpc.HealthStub(channel)

    def check(self, name: str) -> int:
        """The status of a name. Raises grpc.RpcError."""
        request = health_pb2.HealthCheckRequest(service=name)
        status: int = self._stub.Check(request, timeout=SECONDS).status
        return status

    def all(self) -> dict[str, int]:
        """Every name that the server knows, with its status."""
        statuses = self._stub.List(health_pb2.HealthListRequest(), timeout=SECONDS).statuses
        return {name: response.status for name, response in statuses.items()}

    def watch(self, name: str) -> Watch:
        return Watch(self._stub.Watch(health_pb2.HealthCheckRequest(service=name)))


class Watch:
    """What a Watch tells, read as it comes."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._told: queue.Queue[int | grpc.StatusCode] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._told.put(response.status)
            self._told.put(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            self._told.put(error.code())

    def next(self) -> int | grpc.StatusCode:
        """The next status; at the end, that of the call."""
        return self._told.get(timeout=SECONDS)

    def has_more(self) -> bool:
        return not self._told.empty()

    def details(self) -> str:
        text: str = self._call.details()
        return text

    def cancel(self) -> None:
        self._call.cancel()
        self._reader.join(SECONDS)
