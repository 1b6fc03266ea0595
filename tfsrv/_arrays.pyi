from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

def arrays_of_request(data: bytes) -> dict[str, NDArray[Any]]: ...
def write_response(
    outputs: Mapping[str, NDArray[Any]],
    model_name: str = "",
    version: int = 0,
    signature_name: str = "",
    as_content: bool = False,
) -> bytes: ...
