from collections.abc import Collection, Mapping

from typing_extensions import disjoint_base

from tfsrv._servable import ServableHandle

NO_LABELS: Mapping[str, Mapping[str, int]]

@disjoint_base
class ServingMap:
    def publish(
        self,
        servables: Mapping[str, Mapping[int, object]],
        labels: Mapping[str, Mapping[str, int]] = ...,
        pending: Collection[str] = ...,
    ) -> None: ...
    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> ServableHandle: ...
    def drain(self, name: str, version: int, timeout_seconds: float | None) -> bool: ...
    def in_use(self, name: str, version: int) -> int: ...
    def add_listener(self, fd: int) -> None: ...
    def remove_listener(self, fd: int) -> None: ...

def live_counts() -> dict[str, int]: ...
