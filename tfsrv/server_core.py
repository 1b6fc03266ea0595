"""ServerCore: the models of a server, from their configuration to the serving map.

    source -> adapter of the model's platform -> manager -> serving map
                                                    |
                                                event bus -> monitor

It wires these together, knows which models are configured, changes that list while serving, and
tells for which models requests should wait because their first version is on its way.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from tfsrv._run_pools import pools_are_shared
from tfsrv.config import ModelConfig, ServerOptions, SpecificVersions, session_config
from tfsrv.core.aspired_version_policy import (
    AvailabilityPreservingPolicy,
    ResourcePreservingPolicy,
)
from tfsrv.core.aspired_versions_manager import (
    AspiredVersionsManager,
    AspiredVersionsManagerOptions,
    Outcome,
)
from tfsrv.core.coalescer import Coalescer
from tfsrv.core.event_bus import EventBus
from tfsrv.core.loader import Loader
from tfsrv.core.manager import LoadRetryOptions
from tfsrv.core.memory import MemoryReleaser
from tfsrv.core.platform import Platform
from tfsrv.core.resource_tracker import ResourceTracker
from tfsrv.core.resources import RAM
from tfsrv.core.servable import ManagerState, ServableData, ServableId, ServableState
from tfsrv.core.servable_state_monitor import ServableStateMonitor
from tfsrv.core.serving_map_publisher import ReadableServingMap, ServingMapPublisher
from tfsrv.core.source import SourceAdapter, connect
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.further_sources import StoragePathSource, start_source, stop_source
from tfsrv.model_config_poller import ModelConfigPoller
from tfsrv.model_listing import (
    ModelListing,
    SetBy,
    is_any_available,
    of_version,
    why_unavailable,
)
from tfsrv.reloading import LabelError, Reloading, summary
from tfsrv.sources.file_system import FileSystemStoragePathSource
from tfsrv.sources.storage import check_scheme
from tfsrv.sources.watched import Looked, ServableToMonitor
from tfsrv.version_labels import VersionLabels

SHOW_INTERVAL_SECONDS = 0.05  # a long list of missing models is not published one by one
NICE = 10  # of threads that load: requests go first
NEVER_LOOKS = "--file_system_poll_wait_seconds is negative: versions are never looked for"

logger = logging.getLogger("tfsrv")


class ServerCore:
    """The models of one server.

    A model is *pending* from the moment that it is configured until it is *decided*: a version
    of it is available, or all that were found have failed, or nothing was found. Requests for a
    pending model wait.

    Thread-safety: start() and stop() belong to one thread, all else may be called on any.
    """

    def __init__(
        self,
        options: ServerOptions,
        serving_map: ReadableServingMap,
        platforms: Mapping[str, Platform],
        manager_options: AspiredVersionsManagerOptions | None = None,
        *,
        sources: Sequence[StoragePathSource] = (),
    ) -> None:
        """`sources` tell of further servables, on the platform that their attribute `platform`
        names, or else "tensorflow"; their names must not be those of configured models."""
        self._options = options
        self._serving_map = serving_map
        self._platforms = platforms
        self._manager_options = dataclasses.replace(
            manager_options or _manager_options(options), keeps=self._is_kept
        )
        self._labels = VersionLabels(
            allow_unavailable=options.allow_version_labels_for_unavailable_models
        )
        self._publisher = ServingMapPublisher(
            serving_map, self._labels.resolve, self._names_to_wait_for
        )
        self._event_bus: EventBus[ServableState] = EventBus()
        self._decisions: EventBus[str] = EventBus()
        self._changes: EventBus[tuple[str, ...]] = EventBus()
        self._memory_releaser = MemoryReleaser()
        self._show_soon = Coalescer("tfsrv-publish", self._show_decided, SHOW_INTERVAL_SECONDS)
        self.monitor = ServableStateMonitor(self._event_bus)  # hears first: _hear asks it
        self._event_bus.subscribe(self._hear)
        self._manager = AspiredVersionsManager(
            self._publisher,
            self._event_bus,
            self._manager_options,
            on_memory_freed=self._memory_releaser.request,
        )
        self._adapters: dict[int, SourceAdapter[StoragePath, Loader]] = {}  # connected, by id()
        self._source = FileSystemStoragePathSource(
            poll_wait_seconds=options.file_system_poll_wait_seconds,
            servable_versions_always_present=options.servable_versions_always_present,
            on_looked=self._looked,
        )
        self._source.set_aspired_versions_callback(self._route)
        self._sources = tuple(sources)
        self._poller = ModelConfigPoller(
            options.model_config_file,
            options.model_config_content,
            options.model_config_file_poll_wait_seconds,
            self._reload_from_file,
        )
        self._configuring = threading.Lock()  # held for a change of the list, not for its effects
        self._lock = threading.Condition()  # for all below; one that may be taken again
        self._models: dict[str, ModelConfig] = {}
        self._set_by: dict[str, SetBy] = {}
        self._monitored: dict[str, ServableToMonitor] = {}
        self._nothing_found: dict[str, ServingError] = {}
        self._reloadings: list[Reloading] = []
        self._last_looks: dict[str, Looked] = {}
        self._settling: dict[str, ServableToMonitor] = {}  # the manager will say when it is
        self._pending: set[str] = set()
        self._deciding: set[str] = set()  # pending no more, which the map has yet to show
        self._is_started = False
        self._first_load_is_over = False
        self._replace(
            {model.name: model for model in _distinct(options.models)},
            SetBy.FILE if options.model_config_file else SetBy.FLAGS,
        )

    def start(self) -> None:
        """Begin to look for versions, and to load them. Returns at once."""
        with self._lock:
            self._is_started = True
        self._publisher.refresh()
        self._manager.set_num_load_threads(os.cpu_count() or 1)  # nothing else to do yet
        self._manager.start()
        for source in self._sources:
            self._start_further(source)
        self._source.start()
        if self._options.model_config_file and self._options.model_config_file_poll_wait_seconds:
            self._poller.start()
        self._end_first_load_if_over()

    def stop(self, timeout_seconds: float) -> bool:
        """Unload all models and end all threads.

        Requests get `timeout_seconds` to finish, then they are cancelled. Returns False if
        something hangs all the same.
        """
        self._poller.stop()
        for source in self._sources:
            stop_source(source)
        self._source.stop()
        ended = self._manager.stop(timeout_seconds)
        self._show_soon.stop()
        self._memory_releaser.stop()
        self.monitor.close()
        return ended

    # -- what there is

    @property
    def platform_names(self) -> Collection[str]:
        """The platforms that a model may have."""
        return self._platforms.keys()

    def model_names(self) -> tuple[str, ...]:
        """The configured models."""
        with self._lock:
            return tuple(self._models)

    def has_model(self, name: str) -> bool:
        """Whether it is configured, or a source has brought a version of it."""
        with self._lock:
            if name in self._models:
                return True
        return bool(self.monitor.versions(name))

    def models(self) -> tuple[ModelConfig, ...]:
        """The configuration of now."""
        with self._lock:
            return tuple(self._models.values())

    def pending_names(self) -> frozenset[str]:
        """The models that are not decided yet."""
        with self._lock:
            return frozenset(self._pending | self._deciding)

    def is_any_pending(self) -> bool:
        """Whether there is a model that is not decided yet."""
        with self._lock:
            return bool(self._pending or self._deciding)

    def wait_until_decided(self, timeout_seconds: float | None) -> bool:
        """Wait until no model is pending; False when the time was too short."""
        with self._lock:
            return self._lock.wait_for(lambda: not self.is_any_pending(), timeout_seconds)

    def unavailable(self) -> dict[str, ServingError]:
        """The configured models without any version that is available, and why as far as known."""
        return {
            listing.config.name: why_unavailable(listing)
            for listing in self.list_models()
            if not is_any_available(listing.states)
        }

    def list_models(self) -> list[ModelListing]:
        """All configured models, by name."""
        with self._lock:
            known = [self._configured(name) for name in sorted(self._models)]
        return [self._listing(*configured) for configured in known]

    def list_model(self, name: str) -> ModelListing | None:
        """One of them; None if it is not configured."""
        with self._lock:
            if name not in self._models:
                return None
            configured = self._configured(name)
        return self._listing(*configured)

    def _configured(self, name: str) -> tuple[ModelConfig, SetBy, bool, ServingError | None]:
        """What is known here of a model. Under the lock."""
        return (
            self._models[name],
            self._set_by[name],
            name in self._pending,
            self._nothing_found.get(name),
        )

    def _listing(
        self, model: ModelConfig, set_by: SetBy, is_pending: bool, error: ServingError | None
    ) -> ModelListing:
        return ModelListing(
            model,
            set_by,
            is_pending,
            tuple(self.monitor.versions(model.name).values()),
            self._labels.effective(model.name),
            error,
        )

    def signature_defs(self, name: str) -> Mapping[str, Any] | None:
        """The signatures of a model's latest version; None if none is available or has any."""
        try:
            handle = self._serving_map.acquire(name)
        except ServingError:
            return None
        with handle:
            return getattr(handle.servable, "signature_defs", None)

    def version_labels(self, name: str) -> Mapping[str, int]:
        """The labels of a model that work, and the versions that they point to."""
        return self._labels.effective(name)

    def subscribe_decided(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call `callback` with the name of each model as it is decided, after the map shows it.

        It runs on threads of ours and must be quick; the function returned ends it.
        """
        return self._decisions.subscribe(callback)

    def subscribe_states(self, callback: Callable[[ServableState], object]) -> Callable[[], None]:
        """Call `callback` with every change of a version's state, as above."""
        return self._event_bus.subscribe(callback)

    def subscribe_models(self, callback: Callable[[tuple[str, ...]], object]) -> Callable[[], None]:
        """Call `callback` with the names of the configured models when they change, as above."""
        return self._changes.subscribe(callback)

    # -- changing the list of models

    def reload(self, models: Iterable[ModelConfig], set_by: SetBy) -> Reloading:
        """Serve exactly these models from now on.

        The list is checked as a whole first: if anything is wrong with it, this raises
        ServingError and nothing has changed. Else it is the configuration from here on, whatever
        becomes of each model, and the Reloading tells that for those that are new, have changed,
        or are not available. Never waits for models, nor for another reload.
        """
        wanted = {model.name: model for model in _distinct(models)}
        self._check_platforms_stay(wanted)  # told rather than that the other one is unknown
        self._load_platforms(wanted.values())
        with self._configuring:
            return self._replace(wanted, set_by)

    def _reload_from_file(self, models: tuple[ModelConfig, ...]) -> None:
        reloading = self.reload(models, SetBy.FILE)

        def log() -> None:
            error = summary(reloading.results())
            if error is not None:
                logger.error("%s: %s", self._options.model_config_file, error.message)

        reloading.add_done_callback(log)

    def set_model(self, model: ModelConfig) -> Reloading:
        """Add a model, or change one, by a call; the others stay as they are."""
        self._load_platforms([model])
        with self._configuring:
            return self._replace({**self._models, model.name: model}, SetBy.CALL, only=model.name)

    def remove_model(self, name: str) -> Reloading:
        """Serve a model no more; the others stay as they are. NOT_FOUND if it is not configured."""
        with self._configuring:
            if name not in self._models:
                raise ServingError(Code.NOT_FOUND, f"Model {name} is not configured")
            rest = {other: model for other, model in self._models.items() if other != name}
            return self._replace(rest, SetBy.CALL, only=name)

    def _load_platforms(self, models: Iterable[ModelConfig]) -> None:
        """Have the platforms at hand: importing one may take long, and must hold up no other."""
        for model in models:
            self._platform(model)

    def _replace(
        self, models: dict[str, ModelConfig], set_by: SetBy, only: str | None = None
    ) -> Reloading:
        """Check and apply a list. With `only` the other models keep who has set them."""
        monitored = {name: self._to_monitor(model) for name, model in models.items()}
        self._check_platforms_stay(models)
        with self._lock:
            old = self._models
            changed = {name for name, model in models.items() if old.get(name) != model}
            removed = old.keys() - models.keys()
            for known in (self._nothing_found, self._last_looks, self._settling):
                for name in removed:
                    known.pop(name, None)
            if only is None:
                self._set_by = dict.fromkeys(models, set_by)
            else:
                self._set_by = {name: self._set_by.get(name, set_by) for name in models}
                if only in models:
                    self._set_by[only] = set_by
            self._models = models
            self._monitored = monitored
            is_looking = self._options.file_system_poll_wait_seconds >= 0
            new = {name for name in changed if is_looking and not self._is_any_available(name)}
            gone = self._pending - models.keys()
            self._pending = (self._pending - gone) | new
            self._lock.notify_all()
        self._labels.set_wanted(
            {name: dict(model.version_labels) for name, model in models.items()}
        )
        self._publisher.refresh()
        # Of the same list once more, all is of interest.
        asked = {only} & models.keys() if only is not None else changed or set(models)
        reloading = self._wait_for(asked, is_looking)
        if asked is changed:
            self._tell_failures(models.keys() - changed, reloading)
        self._source.update(monitored.values())
        self._answer_removed(removed)
        if old.keys() != models.keys():
            self._changes.publish(tuple(models))
        for name in gone:
            self._decisions.publish(name)  # nobody need wait for it
        self._source.look_again(asked)  # also if only labels have changed
        self._end_first_load_if_over()
        return reloading

    def _wait_for(self, names: Collection[str], is_looking: bool) -> Reloading:
        """What will be told of these models, as looks and loads bring it to light."""
        reloading = Reloading(names)
        if is_looking:
            with self._lock:
                self._reloadings = [each for each in self._reloadings if not each.wait(0)]
                self._reloadings.append(reloading)
        else:
            for name in names:
                reloading.set_result(name, ServingError(Code.FAILED_PRECONDITION, NEVER_LOOKS))
        return reloading

    def _tell_failures(self, names: Iterable[str], reloading: Reloading) -> None:
        """Add what is known to be wrong with models that a list leaves as they are."""
        for name in names:
            error = self._known_failure(name)
            if error is not None:
                reloading.add_result(name, error)

    def _known_failure(self, name: str) -> ServingError | None:
        """Why a model is not as it should be, unless that is still being worked on."""
        with self._lock:
            nothing_found = self._nothing_found.get(name)
            is_pending = name in self._pending
        if nothing_found is not None or is_pending:
            return nothing_found
        states = self.monitor.versions(name).values()
        for state in states:
            if state.manager_state is ManagerState.AVAILABLE:
                return state.error  # of what should replace it, if anything is wrong
        for state in states:
            if state.error is not None and state.manager_state is ManagerState.END:
                return of_version(state.id, state.error)
        return None

    def _check_platforms_stay(self, models: Mapping[str, ModelConfig]) -> None:
        for name, model in models.items():
            old = self._models.get(name)
            if old is not None and old.platform != model.platform:
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f"Illegal to change a model's platform. For model {name} platform was "
                    f"{old.platform} and new platform requested is {model.platform}{_place(model)}",
                )

    def _answer_removed(self, names: Iterable[str]) -> None:
        """Whoever waits for a model that is not configured any more waits in vain."""
        removed = ServingError(Code.CANCELLED, "it was removed from the configuration")
        for reloading in list(self._reloadings):
            for name in names:
                reloading.set_result(name, removed)

    def _to_monitor(self, model: ModelConfig) -> ServableToMonitor:
        try:
            check_scheme(model.base_path)
        except ServingError as error:
            text = f"{error.message} This is of model {model.name}{_place(model)}."
            raise ServingError(error.code, text) from None
        return ServableToMonitor(
            model.name,
            model.base_path,
            self._platform(model).inspector,
            model.version_policy,
            model.only_version,
            model.place,
        )

    # -- from sources to the manager

    def _platform(self, model: ModelConfig) -> Platform:
        if model.platform not in self._platforms:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Model {model.name} requests unsupported platform {model.platform}{_place(model)}",
            )
        return self._platforms[model.platform]

    def _adapter(self, platform: Platform) -> SourceAdapter[StoragePath, Loader]:
        """The platform's adapter, with the manager as its target."""
        adapter = platform.adapter
        with self._lock:
            if id(adapter) not in self._adapters:
                connect(adapter, self._manager)
                self._adapters[id(adapter)] = adapter
        return adapter

    def _route(self, name: str, versions: Sequence[ServableData[StoragePath]]) -> None:
        """To the adapter of the model's platform."""
        model = self._models.get(name)
        if model is None:
            self._manager.set_aspired_versions(name, [])  # it was removed: nothing is aspired
        else:
            self._adapter(self._platform(model)).set_aspired_versions(name, versions)

    def _start_further(self, source: StoragePathSource) -> None:
        """Have a source tell the manager of what is not configured."""
        name = getattr(source, "platform", "tensorflow")
        if name not in self._platforms:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"{type(source).__name__} requests unsupported platform {name}",
            )
        adapter = self._adapter(self._platforms[name])
        start_source(source, adapter, is_taken=lambda name: name in self._models)

    # -- what happens to them

    def _looked(self, looked: Looked) -> None:
        """The source has looked at a model, and told the manager what it found."""
        name = looked.servable.name
        with self._lock:
            if self._monitored.get(name) != looked.servable:
                return  # its configuration has changed meanwhile
            self._last_looks[name] = looked
            if looked.error is not None:
                self._nothing_found[name] = looked.error
            else:
                self._nothing_found.pop(name, None)
            waiting = self._waiting_for(name)
            has_news = bool(waiting) or name in self._pending
            is_settling = self._settling.get(name) == looked.servable
            will_settle = looked.versions is not None and has_news and not is_settling
            if will_settle:
                self._settling[name] = looked.servable
        if looked.error is not None and not looked.is_told:
            for reloading in waiting:
                reloading.set_result(name, looked.error)
            self._decide(name)
        elif will_settle:
            # An error after that, of a disk that went away, say, changes nothing: what was found
            # is loaded, or fails by itself.
            self._manager.when_settled(
                name, lambda outcome: self._settled(looked.servable, outcome)
            )

    def _settled(self, servable: ServableToMonitor, outcome: Outcome) -> None:
        """The manager has done what it could for a model."""
        name = servable.name
        with self._lock:
            if self._monitored.get(name) != servable:
                return  # there will be another look
            self._settling.pop(name, None)
            waiting = self._waiting_for(name)
            changing = self._last_looks[name].changing
            if changing & _named_versions(self._models[name]):
                waiting = []  # until these are complete: they were asked for by their numbers
        error = self._result(name, outcome)
        for reloading in waiting:
            reloading.set_result(name, error)
        self._decide(name)

    def _waiting_for(self, name: str) -> list[Reloading]:
        """Who waits for a model. Under the lock."""
        return [each for each in self._reloadings if each.is_open(name)]

    def _is_kept(self, id: ServableId) -> bool:
        """Whether a version has to stay because a label has not moved from it yet."""
        return self._labels.is_needed(id.name, id.version)

    def _result(self, name: str, outcome: Outcome) -> ServingError | None:
        """What a reload answers for a model: it is fine if any version is available."""
        failed = {version: error for version, error in outcome.items() if error is not None}
        if failed and len(failed) == len(outcome):
            version = max(failed)
            return of_version(ServableId(name, version), failed[version])
        for version in self._labels.outstanding(name).values():
            return LabelError(name, version)
        return None

    def _hear(self, state: ServableState) -> None:
        name, error = state.id.name, state.error
        if error is not None and error.code is not Code.CANCELLED:
            self._source.note_failed(state.id)
        if state.manager_state is ManagerState.AVAILABLE:
            self._decide(name)

    def _decide(self, name: str) -> None:
        """A model is pending no more; this is told when the map shows it."""
        with self._lock:
            if name not in self._pending:
                return
            self._pending.discard(name)
            self._deciding.add(name)
        if self._is_any_available(name):  # the map prefers what is there to what is pending
            self._decided(name)
        else:
            self._show_soon.request()

    def _names_to_wait_for(self) -> frozenset[str]:
        """What the map shows as pending."""
        with self._lock:
            return frozenset(self._pending if self._is_started else ())

    def _show_decided(self) -> None:
        """Show that nothing is to be waited for of models without versions."""
        with self._lock:
            names = list(self._deciding)
        self._publisher.refresh()
        for name in names:
            self._decided(name)

    def _decided(self, name: str) -> None:
        with self._lock:
            self._deciding.discard(name)
            self._lock.notify_all()
        self._end_first_load_if_over()
        self._decisions.publish(name)

    def _end_first_load_if_over(self) -> None:
        """While nothing is served yet, all processors load; later loads leave some alone."""
        with self._lock:
            if self.is_any_pending() or not self._is_started or self._first_load_is_over:
                return
            self._first_load_is_over = True
        self._manager.set_num_load_threads(self._manager_options.num_load_threads)

    def _is_any_available(self, name: str) -> bool:
        return is_any_available(self.monitor.versions(name).values())


def _manager_options(options: ServerOptions) -> AspiredVersionsManagerOptions:
    """What the flags say of the manager."""
    limit = options.total_model_memory_limit_bytes
    unloads_first = options.aspired_version_policy == "resource_preserving"
    return AspiredVersionsManagerOptions(
        policy=ResourcePreservingPolicy() if unloads_first else AvailabilityPreservingPolicy(),
        retry=LoadRetryOptions(options.max_num_load_retries, options.load_retry_interval_micros),
        num_load_threads=options.num_load_threads,
        num_unload_threads=options.num_unload_threads,
        tracker=ResourceTracker({RAM: limit}) if limit else None,
        # Threads inherit it: no session may have threads of its own, made by a load.
        load_thread_niceness=NICE if pools_are_shared(session_config(options)) else 0,
    )


def _named_versions(model: ModelConfig) -> set[int]:
    """The versions of a model that its configuration names by their numbers."""
    named = {version for _, version in model.version_labels}
    if isinstance(model.version_policy, SpecificVersions):
        named |= model.version_policy.versions
    return named


def _place(model: ModelConfig) -> str:
    return f" ({model.place})" if model.place else ""


def _distinct(models: Iterable[ModelConfig]) -> list[ModelConfig]:
    """The models, if no two have the same name. Text as TensorFlow Serving's."""
    listed = list(models)
    seen: set[str] = set()
    for model in listed:
        if model.name in seen:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Illegal to list model {model.name} multiple times in config list",
            )
        seen.add(model.name)
    return listed
