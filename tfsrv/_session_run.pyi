from collections.abc import Sequence

from tfsrv._session import SavedModelSession

def tensor_name(name: str) -> tuple[str, int]: ...
def check_names(
    session: SavedModelSession,
    feeds: Sequence[str],
    fetches: Sequence[str],
    targets: Sequence[str],
) -> None: ...
def run_tensors(
    session: SavedModelSession,
    request: bytes,
    feeds: Sequence[str],
    fetches: Sequence[str],
    targets: Sequence[str],
    *,
    options: bytes = b"",
    timed: bool = False,
    wants_metadata: bool = False,
    as_content: bool = False,
    max_message_bytes: int = 2**31 - 1,
) -> tuple[bytes, bytes]: ...
