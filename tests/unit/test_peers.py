"""Which peers are on this machine."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from tfsrv.frontends.peers import is_local, is_local_peer, is_loopback

LOOPBACK = [
    "127.0.0.1",
    "127.255.3.4",
    "::1",
    "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1",
    "::FFFF:7f01:1",
]
FOREIGN = [
    "192.0.2.7",
    "128.0.0.1",
    "126.255.255.255",
    "0.0.0.0",
    "::",
    "::2",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:192.0.2.7",
    "::127.0.0.1",  # the deprecated IPv4-compatible form is no loopback
    "64:ff9b::7f00:1",
    "1::1",
]
NO_ADDRESS = ["", "localhost", "127.0.0.1.example.org", "127.1", "127", "::1]", "\0", "127.0.0.1\0"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", FOREIGN + NO_ADDRESS)
def test_everything_else_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "peer",
    [
        "ipv4:127.0.0.1:50312",
        "ipv6:%5B::1%5D:50312",
        "ipv6:[::1]:50312",
        "ipv6:%5B::ffff:127.0.0.1%5D:50312",
        "unix:",
        "unix:/run/tfsrv",
        "unix-abstract:tfsrv",
    ],
)
def test_peers_that_grpc_names_on_this_machine(peer: str) -> None:
    assert is_local_peer(peer)


@pytest.mark.parametrize(
    "peer",
    [
        "",
        "unknown",
        "ipv4:",
        "ipv4:192.0.2.7:50312",
        "ipv4:127.0.0.1",  # no port: not what grpc writes
        "ipv6:%5Bfd00::2%5D:50312",
        "ipv6:%5Bfe80::1%25eth0%5D:50312",
        "vsock:2:50312",
        "dns:127.0.0.1:50312",
        "127.0.0.1:50312",
    ],
)
def test_peers_that_grpc_names_elsewhere(peer: str) -> None:
    assert not is_local_peer(peer)


def transport(family: int | None, peer: object) -> asyncio.BaseTransport:
    """A connected transport, as far as it tells of its peer."""
    connected = None if family is None else SimpleNamespace(family=family)
    return asyncio.BaseTransport({"socket": connected, "peername": peer})


@pytest.mark.parametrize(
    ("family", "peer", "local"),
    [
        (socket.AF_UNIX, "", True),
        (socket.AF_INET, ("127.0.0.1", 1), True),
        (socket.AF_INET6, ("::1", 1, 0, 0), True),
        (socket.AF_INET6, ("::ffff:127.0.0.1", 1, 0, 0), True),
        (socket.AF_INET, ("192.0.2.7", 1), False),
        (socket.AF_INET6, ("fd00::2", 1, 0, 0), False),
        (socket.AF_INET, None, False),  # it has gone already
        (None, None, False),
    ],
)
def test_transports(family: int | None, peer: Any, local: bool) -> None:
    assert is_local(transport(family, peer)) is local
