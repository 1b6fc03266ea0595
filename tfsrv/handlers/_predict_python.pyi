from tfsrv.handlers.python_threads import PythonThreads

class PythonPredictor:
    @property
    def threads(self) -> PythonThreads: ...
    def __init__(
        self,
        threads: PythonThreads,
        *,
        serialization_as_tensor_content: bool = False,
        max_message_bytes: int = ...,
    ) -> None: ...
