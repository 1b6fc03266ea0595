"""The models that there is anything to tell of: what is configured, and what sources bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tfsrv.core.servable import ManagerState, ServableState
from tfsrv.model_listing import ModelListing


class StateMonitor(Protocol):
    """The part of ServableStateMonitor that is used here."""

    def all_states(self) -> Mapping[str, Mapping[int, ServableState]]: ...

    def versions(self, name: str) -> Mapping[int, ServableState]: ...


class ListedCore(Protocol):
    """The part of ServerCore that is used here."""

    @property
    def monitor(self) -> StateMonitor: ...

    def list_models(self) -> list[ModelListing]: ...

    def list_model(self, name: str) -> ModelListing | None: ...


@dataclass(frozen=True)
class KnownModel:
    """A model and the states of its versions, highest first; without a listing if a source has
    brought it, so that it is not configured."""

    name: str
    states: tuple[ServableState, ...]
    listing: ModelListing | None

    @property
    def labels(self) -> Mapping[str, int]:
        """Those that work."""
        return self.listing.labels if self.listing else {}

    @property
    def available(self) -> tuple[int, ...]:
        """The versions that can be asked, highest first."""
        return tuple(
            state.id.version
            for state in self.states
            if state.manager_state is ManagerState.AVAILABLE
        )


def known_models(core: ListedCore) -> list[KnownModel]:
    """All of them, by name. Takes milliseconds if there are a thousand: not for a loop."""
    known = {
        listing.config.name: KnownModel(listing.config.name, listing.states, listing)
        for listing in core.list_models()
    }
    for name, versions in core.monitor.all_states().items():
        states = tuple(versions.values())
        if name not in known and not all(map(_is_gone, states)):
            known[name] = KnownModel(name, states, None)
    return [known[name] for name in sorted(known)]


def known_model(core: ListedCore, name: str) -> KnownModel | None:
    """One of them."""
    listing = core.list_model(name)
    if listing is not None:
        return KnownModel(name, listing.states, listing)
    states = tuple(core.monitor.versions(name).values())
    return None if all(map(_is_gone, states)) else KnownModel(name, states, None)


def _is_gone(state: ServableState) -> bool:
    """Whether a version ended as it should, so that there is nothing to tell of it."""
    return state.manager_state is ManagerState.END and state.error is None
