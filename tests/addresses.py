"""The addresses of the machine that the tests run on."""

from __future__ import annotations

import socket

import pytest


def own_address() -> str | None:
    """An IPv4 address of this machine that is not the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
needs_own_address = pytest.mark.skipif(
    own_address() is None, reason="this machine has no address but the loopback's"
)
