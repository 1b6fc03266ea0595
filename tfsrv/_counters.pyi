BOUNDS_MICROS: tuple[float, ...]

def add_request(
    model: str,
    version: int,
    signature: str,
    method: str,
    code: int,
    total_ns: int,
    queue_ns: int = -1,
    run_ns: int = -1,
) -> None: ...
def keys() -> list[tuple[str, int, str, str]]: ...
def read_codes(key: tuple[str, int, str, str]) -> tuple[int, ...]: ...
def read_histograms(
    key: tuple[str, int, str, str],
) -> tuple[tuple[tuple[int, ...], int], ...]: ...
def stress(
    model: str, version: int, signature: str, method: str, threads: int, adds: int, codes: int
) -> int: ...
