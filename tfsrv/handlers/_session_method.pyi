from tfsrv._method import Method
from tfsrv._serving_map import ServingMap
from tfsrv._workers import WorkerPool
from tfsrv.handlers.python_threads import PythonThreads

class SessionMethod(Method):
    @property
    def serving_map(self) -> ServingMap: ...
    @property
    def workers(self) -> WorkerPool: ...
    def __init__(
        self,
        serving_map: ServingMap,
        workers: WorkerPool,
        *,
        serialization_as_tensor_content: bool = False,
        signature_method_name_check: bool = False,
        max_message_bytes: int = ...,
        python_threads: PythonThreads | None = None,
        rest_readers: int = 0,
    ) -> None: ...
