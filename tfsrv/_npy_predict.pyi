def read_predict(
    body: bytes,
    inputs: list[tuple[str, int]],
    model_name: str = "",
    version: int | None = None,
    label: str = "",
    signature_name: str = "",
    npz: bool = False,
    most_bytes: int = ...,
) -> bytes: ...
def write_predict(
    outputs: list[tuple[str, int, tuple[int, ...], bytes | list[bytes]]],
    npz: bool = False,
    splice_from: int = 65536,
) -> bytes: ...
