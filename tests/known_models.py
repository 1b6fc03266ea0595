"""Models that are made up, with states and signatures, for what tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfsrv._proto import message_class, pool
from tfsrv._serving_map import ServingMap
from tfsrv.config import ModelConfig
from tfsrv.core.servable import ManagerState, ServableId, ServableState
from tfsrv.errors import ServingError
from tfsrv.frontends.signatures import PREDICT, Signature, read_signature
from tfsrv.model_listing import ModelListing, SetBy

# A dtype such as "float", and a shape: None for what is open.
Tensors = Mapping[str, tuple[str, Sequence[int | None] | None]]

NOTHING: Mapping[Any, Any] = {}
VECTOR = ("float", [None])


def signature_def(inputs: Tensors, outputs: Tensors, method: str = PREDICT) -> Any:
    """A SignatureDef with these tensors."""
    made: Any = message_class("tensorflow.SignatureDef")(method_name=method)
    types = pool().FindEnumTypeByName("tensorflow.DataType").values_by_name
    for infos, tensors in ((made.inputs, inputs), (made.outputs, outputs)):
        for alias, (dtype, shape) in tensors.items():
            infos[alias].name = f"{alias}:0"
            infos[alias].dtype = types[f"DT_{dtype.upper()}"].number
            infos[alias].tensor_shape.unknown_rank = shape is None
            for size in shape or ():
                infos[alias].tensor_shape.dim.add(size=-1 if size is None else size)
    return made


def signature(inputs: Tensors, outputs: Tensors = NOTHING, method: str = PREDICT) -> Signature:
    """The same as it is read."""
    return read_signature(signature_def(inputs, outputs, method))


HALF_PLUS_TWO = signature_def({"x": VECTOR}, {"y": VECTOR})


class Declares:
    """A servable that says which signatures it has."""

    def __init__(self, **signature_defs: Any) -> None:
        self.signature_defs = signature_defs


FACTS = {
    "batches": 3,
    "requests": 9,
    "rows": 12,
    "padding_rows": 1,
    "waiting_rows": 0,
    "running": 1,
    "sizes": {4: 2, 1: 1},
    "rows_limit": 32,
    "wait_ns": 0,
    "concurrency": 2,
    "saturated": False,
    "arm": "caller",
    "curve_ns": {},
    "p99_ns": 0,
}


class Batched:
    """A session that has batched requests."""

    name, version = "batched", 7

    def describe_batching(self) -> Mapping[str, Mapping[str, Any]]:
        return {"serving_default": FACTS}


class KnownModels:
    """Instead of a ServerCore: it was told which models there are. It is its own monitor."""

    def __init__(self) -> None:
        self.map = ServingMap()
        self._states: dict[str, dict[int, ServableState]] = {}
        self._listings: dict[str, ModelListing] = {}
        self._servables: dict[str, dict[int, object]] = {}

    @property
    def monitor(self) -> KnownModels:
        return self

    def add(
        self,
        name: str,
        versions: Mapping[int, object] = NOTHING,
        *,
        labels: Mapping[str, int] = NOTHING,
        error: ServingError | None = None,
        is_pending: bool = False,
        is_configured: bool = True,
    ) -> None:
        """Have a model, or another one of that name. Its versions are servables, or the errors
        that they ended with."""
        highest_first = sorted(versions.items(), key=lambda item: -item[0])
        self._states[name] = {number: _state(name, number, it) for number, it in highest_first}
        if is_configured:
            config = ModelConfig(name, f"/models/{name}")
            states = tuple(self._states[name].values())
            self._listings[name] = ModelListing(
                config, SetBy.FLAGS, is_pending, states, labels, error
            )
        loaded = {n: it for n, it in versions.items() if not isinstance(it, ServingError)}
        self._servables[name] = loaded
        self.map.publish({key: value for key, value in self._servables.items() if value})

    def list_models(self) -> list[ModelListing]:
        return [self._listings[name] for name in sorted(self._listings)]

    def list_model(self, name: str) -> ModelListing | None:
        return self._listings.get(name)

    def is_any_pending(self) -> bool:
        return any(listing.is_pending for listing in self._listings.values())

    def all_states(self) -> dict[str, dict[int, ServableState]]:
        return self._states

    def versions(self, name: str) -> dict[int, ServableState]:
        return self._states.get(name, {})


def _state(name: str, number: int, it: object) -> ServableState:
    if isinstance(it, ServingError):
        return ServableState(ServableId(name, number), ManagerState.END, it)
    return ServableState(ServableId(name, number), ManagerState.AVAILABLE)
