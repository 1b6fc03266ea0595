from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from tfsrv._method import Method

class StreamingMethod(Method):
    @property
    def handler(self) -> Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]: ...
    @property
    def local_only(self) -> bool: ...
    @property
    def max_calls(self) -> int: ...
    def __init__(
        self,
        name: str,
        handler: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]],
        *,
        local_only: bool = False,
        max_calls: int = 10_000,
    ) -> None: ...

def of_one_request(
    handler: Callable[[bytes], AsyncGenerator[bytes]],
) -> Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]: ...
async def answer_stream(
    method: StreamingMethod,
    requests: AsyncIterator[bytes],
    send: Callable[[bytes], Awaitable[object]],
) -> None: ...
