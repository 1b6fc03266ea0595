from tfsrv._session import SavedModelSession

def run(
    session: SavedModelSession,
    request: bytes,
    *,
    in_callers_thread: bool = True,
    timeout_ms: int = 0,
) -> bytes: ...
def run_repeatedly(session: SavedModelSession, request: bytes, times: int) -> float: ...
