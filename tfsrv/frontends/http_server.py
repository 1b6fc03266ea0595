"""REST's port: where `_http1` connections come from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tfsrv.errors import Code, ServingError
from tfsrv.frontends._http1 import Http1Server
from tfsrv.frontends.listening import listen_tcp
from tfsrv.frontends.settings import HttpSettings

if TYPE_CHECKING:
    from tfsrv._call_loop import CallLoop
    from tfsrv.config import ServerOptions
    from tfsrv.frontends._http1_routes import HttpRoutes
    from tfsrv.frontends.http_messages import HttpHandler, HttpRequest, HttpResponse


class RestServer:
    """An HTTP/1.1 server at `--rest_api_port`. Belongs to the loop that starts it.

    `routes` find the methods that run models; `handler` answers everything else.
    """

    def __init__(
        self,
        routes: HttpRoutes,
        handler: HttpHandler,
        call_loop: CallLoop,
        options: ServerOptions,
    ) -> None:
        self._routes = routes
        self._handler = handler
        self._call_loop = call_loop
        self._options = options
        self._listeners: list[asyncio.Server] = []
        self._http1: Http1Server | None = None
        self.addresses: list[str] = []  # "127.0.0.1:8501"

    @property
    def open_connections(self) -> int:
        """Of clients."""
        return self._http1.open_connections if self._http1 is not None else 0

    async def start(self) -> None:
        """Open the port. OSError says why it could not be opened."""
        options = self._options
        self._http1 = Http1Server(
            self._call_loop,
            asyncio.get_running_loop(),
            self._routes,
            self._handler,
            http_settings(options),
        )
        try:
            listener, address = await listen_tcp(
                self._http1.connection,
                options.bind_address,
                options.rest_api_port or 0,
                reuse_address=options.grpc_channel_arguments.so_reuseaddr,
                reuse_port=options.grpc_channel_arguments.so_reuseport,
            )
        except BaseException:
            await self.stop(0.0)
            raise
        self._listeners.append(listener)
        self.addresses.append(address)

    async def stop(self, grace_seconds: float) -> None:
        """Stop accepting, close what is idle, answer what runs for so long, drop the rest."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._http1 is not None:
            await self._http1.drain(grace_seconds)
            self._http1.close()
            self._http1 = None


async def not_found(request: HttpRequest) -> HttpResponse:
    """The handler of a server that has no resources of its own."""
    raise ServingError(Code.NOT_FOUND, f"Not found: {request.path}")


def http_settings(options: ServerOptions) -> HttpSettings:
    """What the flags say about the transport; where they say nothing, our defaults."""
    return HttpSettings(
        max_body_bytes=options.grpc_channel_arguments.max_receive_message_length,
        max_in_flight_bytes=options.max_in_flight_bytes,
        request_timeout_ms=options.rest_api_timeout_in_ms,
        enable_cors=options.rest_api_enable_cors_support,
    )
