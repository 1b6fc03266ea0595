from tfsrv.handlers._predict_python import PythonAnswering

class InferenceAnswering(PythonAnswering): ...

class OneAnswering(InferenceAnswering):
    def __init__(
        self, *, is_regression: bool, signature_method_name_check: bool = False
    ) -> None: ...

class MultiAnswering(InferenceAnswering):
    def __init__(self, *, signature_method_name_check: bool = False) -> None: ...
