"""What the server knows of a transport, whichever it is, and what those of gRPC agree on."""

from __future__ import annotations

from typing import Protocol

MAX_DETAILS_BYTES = 1024
STOPPING = "The server is stopping."  # to streaming calls, which might go on for ever


class NetworkServer(Protocol):
    """What answers clients at ports of its own."""

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as gRPC clients write it: "127.0.0.1:8500", "unix:/run/tfsrv"."""

    @property
    def open_connections(self) -> int | None:
        """Of clients, how many there are; None if the transport does not know."""

    async def start(self) -> None:
        """Open the ports. OSError or ServingError says why one could not be opened."""

    async def stop(self, grace_seconds: float) -> None:
        """Stop accepting, tell the clients, and close when all is answered or time is up."""


class GrpcServer(NetworkServer, Protocol):
    """A gRPC server over a method table."""


def details(message: str) -> str:
    """An error's message as clients get it: at most 1024 bytes, and a mark if it was cut.

    TensorFlow Serving's model_servers/grpc_status_util.cc cuts in the same place, but for one
    thing: it may cut inside a character, after which clients show nothing at all.
    """
    encoded = message.encode("utf-8", "replace")
    if len(encoded) <= MAX_DETAILS_BYTES:
        return message
    return encoded[:MAX_DETAILS_BYTES].decode("utf-8", "ignore") + "...TRUNCATED"


def host_and_port(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
