BOUNDS_MICROS: tuple[float, ...]
EXAMPLE_BOUNDS: tuple[int, ...]

def add_request(
    model: str,
    version: int,
    signature: str,
    method: str,
    code: int,
    total_ns: int,
    queue_ns: int = -1,
    run_ns: int = -1,
    *,
    rest: bool = False,
    examples: int = 0,
) -> None: ...
def keys() -> list[tuple[str, int, str, str]]: ...
def read_codes(key: tuple[str, int, str, str], rest: bool = False) -> tuple[int, ...]: ...
def read_histograms(
    key: tuple[str, int, str, str], rest: bool = False
) -> tuple[tuple[tuple[int, ...], int], ...]: ...
def read_failed(
    key: tuple[str, int, str, str], rest: bool = False
) -> dict[int, tuple[tuple[int, ...], int]]: ...
def read_examples(
    key: tuple[str, int, str, str], rest: bool = False
) -> tuple[tuple[int, ...], int]: ...
def stress(
    model: str,
    version: int,
    signature: str,
    method: str,
    threads: int,
    adds: int,
    codes: int,
    rest: bool = False,
) -> int: ...
