"""Whether a connection comes from this machine: by a unix socket, or by TCP over loopback.

Loopback is what the kernel lets in from nowhere else: 127.0.0.0/8, ::1, and 127.0.0.0/8 as IPv6
sockets show it (RFC 4291, 2.5.5.2). A connection to one of the machine's other addresses
counts as foreign wherever it was made. What a proxy on this machine passes on counts as local:
it has to know whom it lets in.
"""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import unquote

_IPV4_MAPPED = bytes(10) + b"\xff\xff"
_IPV6_LOOPBACK = bytes(15) + b"\x01"


def is_local(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer of a connected transport is on this machine. Never raises."""
    connected = transport.get_extra_info("socket")
    if connected is None:
        return False
    if connected.family == socket.AF_UNIX:
        return True
    peer = transport.get_extra_info("peername")
    return isinstance(peer, tuple) and is_loopback(peer[0])


def is_local_peer(peer: str) -> bool:
    """The same of what grpc calls a peer, which is a URI.

    is_local_peer("ipv4:127.0.0.1:50312")      # True
    is_local_peer("ipv6:%5B::1%5D:50312")      # True
    is_local_peer("unix:")                     # True
    is_local_peer("ipv4:192.0.2.7:50312")      # False
    """
    scheme, _, address = unquote(peer).partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    host = address.rpartition(":")[0]
    return scheme in ("ipv4", "ipv6") and is_loopback(host.removeprefix("[").removesuffix("]"))


def is_loopback(host: str) -> bool:
    """Whether an address in text form is one of loopback's; names are not."""
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, ValueError):  # ValueError: a NUL
        return False
    packed = packed.removeprefix(_IPV4_MAPPED)
    return packed[0] == 127 if len(packed) == 4 else packed == _IPV6_LOOPBACK
