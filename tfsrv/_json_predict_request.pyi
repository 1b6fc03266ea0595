def read_predict(
    body: bytes,
    inputs: dict[str, int],
    model: str = "",
    version: int | None = None,
    label: str = "",
) -> tuple[bytes, bool]: ...
