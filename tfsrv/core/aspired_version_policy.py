"""Which version should be loaded or unloaded next.

A policy is a pure function: it sees a snapshot of every version of one servable and names at
most one action. Asked again, it answers the same. The manager carries the action out, which
changes the snapshot, and asks again until there is nothing to do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tfsrv.core.loader_harness import ENDED, State
from tfsrv.core.servable import ServableId


class Action(Enum):
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True)
class AspiredServableStateSnapshot:
    """One version as a policy sees it."""

    id: ServableId
    state: State
    is_aspired: bool


@dataclass(frozen=True)
class ServableAction:
    action: Action
    id: ServableId


class AspiredVersionPolicy(ABC):
    """Decides over the versions of one servable."""

    # Whether a version that is to be loaded afresh stays until it is; else it goes before that.
    replaces_in_place = True

    @abstractmethod
    def get_next_action(
        self, versions: Sequence[AspiredServableStateSnapshot]
    ) -> ServableAction | None:
        """What to do next, None if nothing.

        Only versions in State.NEW may be loaded, and only those in State.READY unloaded.
        """


class AvailabilityPreservingPolicy(AspiredVersionPolicy):
    """Load what is new before unloading what is old.

    While the wish names any version, one that is available stays until another one is: both
    are in memory for a while. A new version that fails to load leaves the old one serving.
    """

    def get_next_action(
        self, versions: Sequence[AspiredServableStateSnapshot]
    ) -> ServableAction | None:
        aspired = [version for version in versions if version.is_aspired]
        leaving = _ready_to_leave(versions)
        replaced = not aspired or any(version.state is State.READY for version in aspired)
        if leaving and (replaced or len(leaving) > 1):
            return ServableAction(Action.UNLOAD, min(leaving))
        return _load_highest(aspired)


class ResourcePreservingPolicy(AspiredVersionPolicy):
    """Unload what is old before loading what is new.

    Nothing is loaded while a version that is not aspired to still takes memory, or may come to:
    old and new are never there together, and in between nothing is available. For models of
    which only one version fits.
    """

    replaces_in_place = False

    def get_next_action(
        self, versions: Sequence[AspiredServableStateSnapshot]
    ) -> ServableAction | None:
        leaving = _ready_to_leave(versions)
        if leaving:
            return ServableAction(Action.UNLOAD, min(leaving))
        if any(not version.is_aspired and version.state not in ENDED for version in versions):
            return None
        return _load_highest([version for version in versions if version.is_aspired])


def _ready_to_leave(versions: Sequence[AspiredServableStateSnapshot]) -> list[ServableId]:
    return [
        version.id
        for version in versions
        if not version.is_aspired and version.state is State.READY
    ]


def _load_highest(aspired: Sequence[AspiredServableStateSnapshot]) -> ServableAction | None:
    new = [version.id for version in aspired if version.state is State.NEW]
    return ServableAction(Action.LOAD, max(new)) if new else None
