from tfsrv.handlers.python_threads import PythonThreads

class PythonAnswering:
    @property
    def method(self) -> str: ...

class PredictAnswering(PythonAnswering):
    def __init__(self, *, serialization_as_tensor_content: bool = False) -> None: ...

class PythonPredictor:
    @property
    def threads(self) -> PythonThreads: ...
    def __init__(
        self,
        threads: PythonThreads,
        answering: PythonAnswering,
        *,
        max_message_bytes: int = ...,
    ) -> None: ...

class PythonTurn:
    def run(self) -> None: ...
    def drop(self) -> None: ...
