def write_json_predict(
    outputs: list[tuple[str, int, tuple[int, ...], bytes | list[bytes]]],
    in_rows: bool,
    pretty: bool = False,
    spec: tuple[str, int, str] | None = None,
) -> bytes: ...
def write_json_classify(
    rows: int,
    width: int,
    labels: list[bytes] | None,
    scores: bytes | None,
    pretty: bool = False,
    spec: tuple[str, int, str] | None = None,
) -> bytes: ...
def write_json_regress(
    rows: int, values: bytes | None, pretty: bool = False, spec: tuple[str, int, str] | None = None
) -> bytes: ...
