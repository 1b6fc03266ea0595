"""The native gRPC transport's ports: where `_http2` connections come from."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from tfsrv.frontends._http2 import Http2Server
from tfsrv.frontends.listening import BACKLOG, listen_tcp
from tfsrv.frontends.settings import GrpcSettings

if TYPE_CHECKING:
    from tfsrv._call_loop import CallLoop
    from tfsrv.config import ServerOptions
    from tfsrv.handlers.methods import MethodTable


class NativeGrpcServer:
    """A GrpcServer. Belongs to the loop that starts it."""

    def __init__(self, methods: MethodTable, call_loop: CallLoop, options: ServerOptions) -> None:
        self._methods = methods
        self._call_loop = call_loop
        self._options = options
        self._listeners: list[asyncio.Server] = []
        self._http2: Http2Server | None = None
        self._socket_path = ""
        self.addresses: list[str] = []

    @property
    def open_connections(self) -> int:
        """Connections that there are now."""
        return 0 if self._http2 is None else self._http2.open_connections

    async def start(self) -> None:
        """Open the ports. OSError says why one could not be opened."""
        loop = asyncio.get_running_loop()
        self._http2 = Http2Server(
            self._call_loop, loop, self._methods, grpc_settings(self._options)
        )
        try:
            if self._options.port is not None:
                await self._listen_tcp(self._http2)
            if self._options.grpc_socket_path:
                await self._listen_unix(loop, self._http2)
        except BaseException:
            await self.stop(0.0)
            raise

    async def stop(self, grace_seconds: float) -> None:
        """Stop accepting, send GOAWAY, answer what is in flight for so long, drop the rest."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._socket_path:
            with contextlib.suppress(OSError):
                os.unlink(self._socket_path)
            self._socket_path = ""
        if self._http2 is not None:
            await self._http2.drain(grace_seconds)
            self._http2.close()
            self._http2 = None

    async def _listen_tcp(self, http2: Http2Server) -> None:
        options = self._options
        listener, address = await listen_tcp(
            http2.connection,
            options.bind_address,
            options.port or 0,
            reuse_address=options.grpc_channel_arguments.so_reuseaddr,
            reuse_port=options.grpc_channel_arguments.so_reuseport,
        )
        self._listeners.append(listener)
        self.addresses.append(address)

    async def _listen_unix(self, loop: asyncio.AbstractEventLoop, http2: Http2Server) -> None:
        path = os.path.abspath(self._options.grpc_socket_path)
        listener = await loop.create_unix_server(http2.connection, path, backlog=BACKLOG)
        self._socket_path = path
        self._listeners.append(listener)
        self.addresses.append(f"unix:{path}")


def grpc_settings(options: ServerOptions) -> GrpcSettings:
    """What the flags say about the transport; where they say nothing, our defaults."""
    arguments = options.grpc_channel_arguments
    defaults = GrpcSettings()
    grace_ms = arguments.max_connection_age_grace_ms
    return GrpcSettings(
        max_receive_message_bytes=arguments.max_receive_message_length,
        max_concurrent_streams=arguments.max_concurrent_streams or defaults.max_concurrent_streams,
        max_connection_age_ms=arguments.max_connection_age_ms or 0,
        # None is for ever, which is our 0; no grace at all is the least that is more than that.
        max_connection_age_grace_ms=0 if grace_ms is None else max(grace_ms, 1),
        keepalive_time_ms=arguments.keepalive_time_ms or 0,
        keepalive_timeout_ms=arguments.keepalive_timeout_ms or defaults.keepalive_timeout_ms,
        max_in_flight_bytes=options.max_in_flight_bytes,
    )
