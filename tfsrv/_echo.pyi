from tfsrv._method import Method
from tfsrv._workers import WorkerPool

class EchoMethod(Method):
    def __init__(
        self,
        name: str,
        workers: WorkerPool | None = None,
        run_seconds: float = 0.0,
        spliced: bool = False,
    ) -> None: ...
    def close(self) -> None: ...
