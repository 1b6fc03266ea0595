from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

def write_predict_request(
    model_name: str,
    inputs: Mapping[str, object],
    signature_name: str = "",
    version: int | None = None,
    version_label: str | None = None,
    output_filter: Iterable[str] = (),
) -> bytes: ...
def read_predict_response(
    data: bytes, most_bytes: int = 0
) -> tuple[dict[str, NDArray[Any]], str, int, str]: ...
