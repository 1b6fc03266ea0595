"""Ports of ours: TCP sockets that listen, whatever is spoken on them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tfsrv.frontends.transport import host_and_port

BACKLOG = 1024  # connections that wait to be accepted; the kernel caps it at somaxconn


async def listen_tcp(
    protocol: Callable[[], asyncio.BaseProtocol],
    host: str,
    port: int,
    *,
    reuse_address: bool = True,
    reuse_port: bool = False,
) -> tuple[asyncio.Server, str]:
    """Listen at `host` and `port` (0: any free one) in the running loop; also tells the address.

    "::" also takes IPv4. OSError says why the port could not be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if reuse_address:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" also takes IPv4, as gRPC's own servers do.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((host, port))
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, sock=listening, backlog=BACKLOG)
    except BaseException:
        listening.close()
        raise
    return server, host_and_port(host, listening.getsockname()[1])
