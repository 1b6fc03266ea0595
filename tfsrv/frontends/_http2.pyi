import asyncio
from collections.abc import Mapping

from tfsrv._call_loop import CallLoop
from tfsrv._method import Method
from tfsrv.frontends._http2_connection import Connection
from tfsrv.frontends.settings import GrpcSettings

def available() -> bool: ...

class Http2Server:
    def __init__(
        self,
        calls: CallLoop,
        loop: asyncio.AbstractEventLoop,
        methods: Mapping[str, Method],
        settings: GrpcSettings,
    ) -> None: ...
    @property
    def settings(self) -> GrpcSettings: ...
    def connection(self) -> Connection: ...
    @property
    def open_connections(self) -> int: ...
    @property
    def answering_streams(self) -> int: ...
    async def drain(self, grace_seconds: float) -> bool: ...
    def close(self) -> None: ...
