class OutputTensor:
    def __init__(
        self, alias: str, dtype: int, shape: tuple[int, ...], values: bytes | list[bytes]
    ) -> None: ...

def write_predict_response(
    outputs: list[tuple[str, int, tuple[int, ...], bytes | list[bytes]]],
    model_name: str,
    version: int,
    signature_name: str,
    as_content: bool = False,
    splice_from: int = 65536,
) -> bytes: ...
