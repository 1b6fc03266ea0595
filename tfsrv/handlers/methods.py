"""The methods that the server answers, by path: what every gRPC transport serves.

A method is either native, run without Python by `_call`, or a Python coroutine for the rare
ones. Both take the request's bytes, give the response's, and fail with a ServingError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfsrv._call import NativeMethod

Handler = Callable[[bytes], Awaitable[bytes]]

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


@dataclass(frozen=True)
class Method:
    """One unary method. Exactly one of `native` and `handler` is set."""

    path: str  # "/package.Service/Method"
    native: NativeMethod | None = None
    handler: Handler | None = None

    def __post_init__(self) -> None:
        if (self.native is None) == (self.handler is None):
            raise ValueError(f"{self.path} needs either a native method or a handler")


MethodTable = Mapping[str, Method]


def method_table(methods: Iterable[Method]) -> MethodTable:
    """The methods by their paths."""
    return {method.path: method for method in methods}
