"""What is served: a servable is a name and a version, and data that stands for it.

A servable is whatever answers requests: a model, a lookup table. Its versions come and go
independently of each other; all versions of one name form a servable stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from tfsrv.errors import ServingError

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class ServableId:
    """One version of one servable. Ordered by name, then version."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


@dataclass(frozen=True)
class ServableRequest:
    """Which version of a servable is asked for: a specific one, or the latest.

    ServableRequest.latest("m")         # reads "Latest(m)" in texts, as in TensorFlow Serving's
    ServableRequest.specific("m", 3)    # reads "Specific(m, 3)"
    """

    name: str
    version: int | None = None  # None: the latest

    @classmethod
    def latest(cls, name: str) -> ServableRequest:
        return cls(name)

    @classmethod
    def specific(cls, name: str, version: int) -> ServableRequest:
        return cls(name, version)

    def __str__(self) -> str:
        if self.version is None:
            return f"Latest({self.name})"
        return f"Specific({self.name}, {self.version})"


class ManagerState(IntEnum):
    """Where a version stands, as everybody may know it.

    The numbers are those of ModelVersionStatus.State in get_model_status.proto.
    """

    START = 10  # a manager knows of it
    LOADING = 20  # its load has begun, or waits for its next try
    AVAILABLE = 30  # requests reach it
    UNLOADING = 40  # requests stop reaching it
    END = 50  # gone, or failed


@dataclass(frozen=True)
class ServableState:
    """One event in the life of a version. `error` is why it ended, None if all went well."""

    id: ServableId
    manager_state: ManagerState
    error: ServingError | None = None


class ServableData(Generic[T]):
    """A version, with what is needed to go on with it or the reason why one can't.

    ServableData(id, "/models/a/1")
    ServableData(id, error=ServingError(Code.NOT_FOUND, "..."))
    """

    __slots__ = ("_data", "error", "id")

    def __init__(
        self, id: ServableId, data: T | None = None, *, error: ServingError | None = None
    ) -> None:
        if (data is None) == (error is None):
            raise ValueError(f"{id}: give either data or an error")
        self.id = id
        self.error = error
        self._data = data

    @property
    def data(self) -> T:
        """What stands for the version; raises its error if it has one instead."""
        if self._data is None:
            assert self.error is not None
            raise self.error
        return self._data

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ServableData):
            return NotImplemented
        return (self.id, self._data, _what(self.error)) == (
            other.id,
            other._data,
            _what(other.error),
        )

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"ServableData({self.id}, {self._data if self.error is None else self.error!r})"


def _what(error: ServingError | None) -> tuple[int, str] | None:
    """What tells errors apart: exceptions themselves compare by identity."""
    return None if error is None else (error.code, error.message)
