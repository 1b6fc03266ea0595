"""ServerCore: the models of a server, from their configuration to the serving map.

    source -> adapter -> manager -> serving map
                            |
                         event bus -> monitor

It wires these together, knows which models are configured, and tells for which of them requests
should wait because their first version is on its way.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfsrv.config import ModelConfig, ServerOptions, session_config
from tfsrv.core.aspired_versions_manager import (
    AspiredVersionsManager,
    AspiredVersionsManagerOptions,
)
from tfsrv.core.event_bus import EventBus
from tfsrv.core.loader import Loader
from tfsrv.core.memory import MemoryReleaser
from tfsrv.core.platform import Platform
from tfsrv.core.servable import ManagerState, ServableData, ServableState
from tfsrv.core.servable_state_monitor import ServableStateMonitor, outcome
from tfsrv.core.serving_map_publisher import ReadableServingMap, ServingMapPublisher
from tfsrv.core.source import SourceAdapter, connect
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.servables.saved_model import (
    SavedModelInspector,
    SavedModelOptions,
    SavedModelSourceAdapter,
)
from tfsrv.sources.file_system import FileSystemStoragePathSource, ServableToMonitor

SETTLE_SECONDS = 1.0  # a version that nobody wrote to for so long is complete

logger = logging.getLogger("tfsrv")


class ServerCore:
    """The models of one server.

    A model is *pending* from the start until it is *decided*: a version of it is available, or
    all that were found have failed, or nothing was found. Requests for a pending model wait.

    Thread-safety: start() and stop() belong to one thread, all else may be called on any.
    """

    def __init__(
        self,
        options: ServerOptions,
        serving_map: ReadableServingMap,
        platforms: Mapping[str, Platform] | None = None,
        manager_options: AspiredVersionsManagerOptions | None = None,
    ) -> None:
        self._options = options
        self._serving_map = serving_map
        self._platforms = platforms or {"tensorflow": _tensorflow(options)}
        self._manager_options = manager_options or AspiredVersionsManagerOptions()
        _check(options.models, self._platforms)
        self._publisher = ServingMapPublisher(serving_map)
        self._event_bus: EventBus[ServableState] = EventBus()
        self._decisions: EventBus[str] = EventBus()
        self._memory_releaser = MemoryReleaser()
        self.monitor = ServableStateMonitor(self._event_bus)  # hears first: _hear asks it
        self._event_bus.subscribe(self._hear)
        self._manager = AspiredVersionsManager(
            self._publisher,
            self._event_bus,
            self._manager_options,
            on_memory_freed=self._memory_releaser.request,
        )
        self._adapters = {model.name: self._adapter(model) for model in options.models}
        for adapter in {id(each): each for each in self._adapters.values()}.values():
            connect(adapter, self._manager)
        self._source = FileSystemStoragePathSource(
            [self._to_monitor(model) for model in options.models],
            poll_wait_seconds=options.file_system_poll_wait_seconds,
            on_nothing_found=lambda name, error: self._decide(name),
        )
        self._source.set_aspired_versions_callback(self._route)
        self._decided = threading.Condition()
        self._pending = frozenset(self.model_names())

    def start(self) -> None:
        """Begin to look for versions, and to load them. Returns at once."""
        if self._options.file_system_poll_wait_seconds < 0:
            self._pending = frozenset()  # nobody will ever look
        self._publisher.set_pending(self._pending)
        self._manager.set_num_load_threads(os.cpu_count() or 1)  # nothing else to do yet
        self._manager.start()
        self._source.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Unload all models and end all threads.

        Requests get `timeout_seconds` to finish, then they are cancelled. Returns False if
        something hangs all the same.
        """
        self._source.stop()
        ended = self._manager.stop(timeout_seconds)
        self._memory_releaser.stop()
        self.monitor.close()
        return ended

    def model_names(self) -> tuple[str, ...]:
        """The configured models."""
        return tuple(model.name for model in self._options.models)

    def pending_names(self) -> frozenset[str]:
        """The models that are not decided yet."""
        return self._pending

    def wait_until_decided(self, timeout_seconds: float | None) -> bool:
        """Wait until no model is pending; False when the time was too short."""
        with self._decided:
            return self._decided.wait_for(lambda: not self._pending, timeout_seconds)

    def signature_defs(self, name: str) -> Mapping[str, Any] | None:
        """The signatures of a model's latest version; None if none is available or has any."""
        try:
            handle = self._serving_map.acquire(name)
        except ServingError:
            return None
        with handle:
            return getattr(handle.servable, "signature_defs", None)

    def subscribe_decided(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call `callback` with the name of each model as it is decided, after the map shows it.

        It runs on threads of ours and must be quick; the function returned ends it.
        """
        return self._decisions.subscribe(callback)

    def subscribe_states(self, callback: Callable[[ServableState], object]) -> Callable[[], None]:
        """Call `callback` with every change of a version's state, as above."""
        return self._event_bus.subscribe(callback)

    # -- wiring

    def _adapter(self, model: ModelConfig) -> SourceAdapter[StoragePath, Loader]:
        return self._platforms[model.platform].adapter

    def _to_monitor(self, model: ModelConfig) -> ServableToMonitor:
        return ServableToMonitor(
            model.name,
            model.base_path,
            self._platforms[model.platform].inspector,
            only_version=model.only_version,
        )

    def _route(self, name: str, versions: Sequence[ServableData[StoragePath]]) -> None:
        """To the adapter of the model's platform."""
        self._adapters[name].set_aspired_versions(name, versions)

    # -- pending models

    def _hear(self, state: ServableState) -> None:
        name = state.id.name
        if name not in self._pending:
            return
        if state.manager_state is ManagerState.AVAILABLE:
            self._decide(name, at_once=False)  # the map prefers what is there to what is pending
        elif state.manager_state is ManagerState.END and outcome(self.monitor.versions(name)):
            self._decide(name)

    def _decide(self, name: str, *, at_once: bool = True) -> None:
        with self._decided:
            if name not in self._pending:
                return
            self._pending -= {name}
            self._publisher.set_pending(self._pending, at_once=at_once)
            all_decided = not self._pending
            self._decided.notify_all()
        if all_decided:
            self._manager.set_num_load_threads(self._manager_options.num_load_threads)
        self._decisions.publish(name)


def _tensorflow(options: ServerOptions) -> Platform:
    poll_wait_seconds = options.file_system_poll_wait_seconds
    settle_seconds = poll_wait_seconds if poll_wait_seconds > 0 else SETTLE_SECONDS
    saved_model = SavedModelOptions(options.saved_model_tags, session_config(options))
    return Platform(
        SavedModelSourceAdapter(saved_model),
        SavedModelInspector(min(settle_seconds, SETTLE_SECONDS)),
    )


def _check(models: Sequence[ModelConfig], platforms: Mapping[str, Platform]) -> None:
    """Refuse a list of models that can't be served. Texts as TensorFlow Serving's."""
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Illegal to list model {model.name} multiple times in config list",
            )
        seen.add(model.name)
        if model.platform not in platforms:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Model {model.name} requests unsupported platform {model.platform}",
            )
