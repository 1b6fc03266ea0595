"""ModelManagement: add, change, remove and list models one by one.

The calls of protos/tfsrv/model_management.proto, and what REST does of them. They lead through the
same checks and the same code as a reload of the whole list.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Collection
from typing import Any, Protocol

from tfsrv._proto import message_class
from tfsrv.config import ModelConfig
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.call_threads import CallThreads
from tfsrv.handlers.reload import results_of
from tfsrv.handlers.requests import as_unicode, read_request, set_status
from tfsrv.model_config import check_model, to_message
from tfsrv.model_listing import ModelListing
from tfsrv.reloading import Reloading

MAX_REQUEST_BYTES = 2**20  # one model, with as many labels as anybody wants
SLICE = 20  # models are rendered so many at a time: other calls get their turn between


class ManagedCore(Protocol):
    """The part of ServerCore that is used here."""

    @property
    def platform_names(self) -> Collection[str]: ...

    def list_models(self) -> list[ModelListing]: ...

    def list_model(self, name: str) -> ModelListing | None: ...

    def set_model(self, model: ModelConfig) -> Reloading: ...

    def remove_model(self, name: str) -> Reloading: ...


class ModelManagement:
    """The handlers of `tfsrv.ModelManagement`, one method each."""

    def __init__(self, core: ManagedCore, *, timeout_seconds: float) -> None:
        """`timeout_seconds` is how long SetModel waits at most for the model."""
        self._core = core
        self._timeout_seconds = timeout_seconds
        self._threads = CallThreads()

    async def list_models(self, request: bytes) -> bytes:
        """Answer one ListModelsRequest. Raises ServingError."""
        read_request("tfsrv.ListModelsRequest", request, MAX_REQUEST_BYTES)
        response: Any = message_class("tfsrv.ListModelsResponse")()
        for index, listing in enumerate(await self._threads.run(self._core.list_models)):
            _fill(response.model.add(), listing)
            if index % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        serialized: bytes = response.SerializeToString()
        return serialized

    async def set_model(self, request: bytes) -> bytes:
        """Answer one SetModelRequest. Raises ServingError."""
        listing = await self.set(lambda: _config_in(request))
        response: Any = message_class("tfsrv.SetModelResponse")()
        if listing is not None:
            _fill(response.model, listing)
        serialized: bytes = response.SerializeToString()
        return serialized

    async def set(self, read: Callable[[], Any]) -> ModelListing | None:
        """Add or change a model; what it is then, None if it was removed meanwhile.

        `read` makes the ModelConfig, in a thread. Returns when the model's versions are
        available; raises ServingError if none becomes so, or if anything is wrong with it.
        """
        name, reloading = await self._threads.run(lambda: self._begin(read))
        error = (await results_of(reloading, self._timeout_seconds)).get(name)
        if error is not None:
            raise ServingError(error.code, f"Model {name}: {error.message}")
        return await self._threads.run(lambda: self._core.list_model(name))

    def _begin(self, read: Callable[[], Any]) -> tuple[str, Reloading]:
        platforms = self._core.platform_names
        model = check_model(read(), root_dir=None, platforms=platforms)
        return model.name, self._core.set_model(model)

    async def remove_model(self, request: bytes) -> bytes:
        """Answer one RemoveModelRequest. Raises ServingError."""
        message = read_request("tfsrv.RemoveModelRequest", request, MAX_REQUEST_BYTES)
        await self.remove(message.name)
        return b""

    async def remove(self, name: str) -> None:
        """Serve a model no more. Raises ServingError."""
        await self._threads.run(lambda: self._core.remove_model(name))


def _config_in(request: bytes) -> Any:
    """The ModelConfig of a SetModelRequest."""
    message = read_request("tfsrv.SetModelRequest", request, MAX_REQUEST_BYTES)
    if not message.HasField("config"):
        raise ServingError(Code.INVALID_ARGUMENT, "The SetModelRequest has no config")
    return message.config


def _fill(model: Any, listing: ModelListing) -> None:
    # A path from the command line need not be Unicode, as a protobuf string must.
    readable = dataclasses.replace(
        listing.config,
        name=as_unicode(listing.config.name),
        base_path=as_unicode(listing.config.base_path),
    )
    (config,) = to_message([readable]).model_config_list.config  # type: ignore[attr-defined]
    model.config.CopyFrom(config)
    model.set_by = listing.set_by.value
    model.pending = listing.is_pending
    for state in listing.states:
        version = model.version.add(version=state.id.version, state=int(state.manager_state))
        set_status(version.status, state.error)
    for label, number in listing.labels.items():
        model.version_labels[as_unicode(label)] = number
    set_status(model.status, listing.error)
