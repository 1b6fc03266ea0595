from collections.abc import Awaitable, Callable

from tfsrv._method import Method

class PythonMethod(Method):
    @property
    def handler(self) -> Callable[..., Awaitable[bytes]]: ...
    @property
    def local_only(self) -> bool: ...
    @property
    def timed(self) -> bool: ...
    def __init__(
        self,
        name: str,
        handler: Callable[..., Awaitable[bytes]],
        *,
        local_only: bool = False,
        timed: bool = False,
    ) -> None: ...
