"""What is known of a configured model, for whoever asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from tfsrv.config import ModelConfig
from tfsrv.core.servable import ManagerState, ServableId, ServableState
from tfsrv.errors import Code, ServingError


class SetBy(Enum):
    """Where a model's configuration came from."""

    FLAGS = 1
    FILE = 2
    CALL = 3


@dataclass(frozen=True)
class ModelListing:
    """All that is known of one configured model."""

    config: ModelConfig
    set_by: SetBy
    is_pending: bool  # requests for it wait
    states: tuple[ServableState, ...]  # of its versions, highest first
    labels: Mapping[str, int]  # those that work
    error: ServingError | None  # why the last look found nothing


def is_any_available(states: Iterable[ServableState]) -> bool:
    """Whether a version can be asked."""
    return any(state.manager_state is ManagerState.AVAILABLE for state in states)


def of_version(id: ServableId, error: ServingError) -> ServingError:
    """An error that says of which version it is."""
    return ServingError(error.code, f"{id}: {error.message}")


def why_unavailable(listing: ModelListing) -> ServingError:
    """The highest version's error, or what the last look said, or that it takes long."""
    for state in listing.states:
        if state.error is not None:
            return of_version(state.id, state.error)
    if listing.error is not None:
        return listing.error
    return ServingError(Code.DEADLINE_EXCEEDED, "it is not available yet")
