import asyncio

from tfsrv._call_loop import CallLoop
from tfsrv.frontends._http1_connection import HttpConnection
from tfsrv.frontends._http1_routes import HttpRoutes
from tfsrv.frontends.http_messages import HttpHandler
from tfsrv.frontends.settings import HttpSettings

class Http1Server:
    settings: HttpSettings
    def __init__(
        self,
        calls: CallLoop,
        loop: asyncio.AbstractEventLoop,
        routes: HttpRoutes,
        handler: HttpHandler,
        settings: HttpSettings,
    ) -> None: ...
    def connection(self) -> HttpConnection: ...
    @property
    def open_connections(self) -> int: ...
    async def drain(self, grace_seconds: float) -> bool: ...
    def close(self) -> None: ...
