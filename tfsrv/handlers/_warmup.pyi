from collections.abc import Mapping

from tfsrv._session import SavedModelSession
from tfsrv.handlers._session_method import SessionMethod

class WarmupRunner:
    def __init__(self, methods: Mapping[int, SessionMethod]) -> None: ...
    def run(
        self,
        session: SavedModelSession,
        name: str,
        version: int,
        kind: int,
        record: bytes,
        places: list[tuple[int, int]],
        timeout_seconds: float = 0.0,
    ) -> None: ...
