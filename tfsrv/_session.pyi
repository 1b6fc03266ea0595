from collections.abc import Sequence

from google.protobuf.message import Message
from typing_extensions import TypedDict, disjoint_base

from tfsrv._serving_map import NativeServable

class SignatureDescription(TypedDict):
    method_name: str
    inputs: dict[str, tuple[str, int]]  # by alias: tensor name, dtype
    outputs: dict[str, tuple[str, int]]
    defaults: list[str]  # aliases of inputs
    may_run_in_place: bool
    built: bool  # TensorFlow has compiled the graph for all outputs
    other_sets: int  # of outputs, asked for so far
    broken: str  # why it cannot be served; "" if it can

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
    def waiting_op(self) -> str: ...
    @staticmethod
    def load(
        export_dir: str,
        *,
        tags: Sequence[str] = ("serve",),
        config: bytes = b"",
        name: str = "",
        version: int = 0,
    ) -> SavedModelSession: ...
    def close(self) -> None: ...
    def cancel(self) -> None: ...
    def describe(self) -> dict[str, SignatureDescription]: ...
