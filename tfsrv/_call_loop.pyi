import asyncio

from tfsrv._method import Method
from tfsrv._serving_map import ServingMap

class CallLoop:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def held_by_workers(self) -> int: ...
    def watch(self, serving_map: ServingMap) -> None: ...
    async def invoke(
        self,
        method: Method,
        request: bytes,
        timeout_seconds: float | None = None,
        *,
        local: bool = False,
        low_priority: bool = False,
    ) -> bytes: ...
    def close(self) -> None: ...
