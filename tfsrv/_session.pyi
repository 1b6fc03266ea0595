from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from typing_extensions import disjoint_base

from tfsrv._servable import NativeServable
from tfsrv.batching_parameters import BatchingParameters

@disjoint_base
class SavedModelSession(NativeServable):
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def signature_defs(self) -> dict[str, Message]: ...
    @property
    def export_dir(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def batching(self) -> BatchingParameters | None: ...
    @property
    def waiting_op(self) -> str: ...
    @staticmethod
    def load(
        export_dir: str,
        *,
        tags: Sequence[str] = ("serve",),
        config: bytes = b"",
        name: str = "",
        version: int = 0,
        batching: BatchingParameters | None = None,
    ) -> SavedModelSession: ...
    def close(self) -> None: ...
    def cancel(self) -> None: ...
    def describe(self) -> dict[str, dict[str, Any]]: ...
