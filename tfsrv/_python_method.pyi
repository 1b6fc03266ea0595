from collections.abc import Awaitable, Callable

from tfsrv._method import Method

class PythonMethod(Method):
    @property
    def handler(self) -> Callable[[bytes], Awaitable[bytes]]: ...
    @property
    def local_only(self) -> bool: ...
    def __init__(
        self, name: str, handler: Callable[[bytes], Awaitable[bytes]], *, local_only: bool = False
    ) -> None: ...
