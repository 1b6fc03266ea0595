from collections.abc import Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message
from typing_extensions import disjoint_base

from tfsrv._servable import NativeServable
from tfsrv.batching_parameters import BatchingParameters

class BatchNumbers(NamedTuple):
    batches: int
    requests: int
    rows: int
    padding_rows: int
    run_apart: int
    refused_full: int
    refused_late: int
    refused_unwanted: int
    running: int

class QueueNumbers(NamedTuple):
    signature_name: str
    waiting: int
    batches: BatchNumbers | None

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
    def hurry(self) -> None: ...
    def sweep(self) -> None: ...
    def describe_batching(self) -> dict[str, dict[str, Any]]: ...
    @property
    def queues_size(self) -> int: ...
    def queue_numbers(self, index: int) -> QueueNumbers | None: ...
    def describe(self) -> dict[str, dict[str, Any]]: ...

def loaded_sessions() -> list[SavedModelSession]: ...
def batched_sessions() -> list[SavedModelSession]: ...
