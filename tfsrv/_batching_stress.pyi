from collections.abc import Sequence

from tfsrv._workers import WorkerPool

def stress(
    workers: WorkerPool,
    *,
    producers: int = 3,
    tasks: int = 5000,
    kinds: int = 3,
    low_percent: int = 10,
    alone_percent: int = 5,
    deadline_percent: int = 20,
    abandoned_percent: int = 20,
    splits_percent: int = 80,
    max_rows: int = 8,
    max_waiting_rows: int = 1000,
    wait_ns: int = 0,
    allowed: Sequence[int] = (),
    splits: bool = True,
    closed: bool = False,
    serving: int = 0,
    max_runs: int = 0,
    seed: int = 1,
    timeout_seconds: float = 30.0,
) -> dict[str, int]: ...
def load(
    workers: WorkerPool,
    tasks: int,
    *,
    burst: int = 16,
    window: int = 256,
    max_rows: int = 64,
    timeout_seconds: float = 60.0,
) -> dict[str, int]: ...
