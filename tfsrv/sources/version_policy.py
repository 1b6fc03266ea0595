"""Which of the versions found should be served."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfsrv.config import AllVersions, LatestVersions, VersionPolicy
from tfsrv.core.servable import ServableData
from tfsrv.core.storage_path import StoragePath

MAX_BROKEN = 10  # versions above the wanted ones that can't be loaded: more is no base path at all

Version = ServableData[StoragePath]
Look = Callable[[int], Version | None]


def choose(policy: VersionPolicy, found: Sequence[int], look: Look) -> list[Version]:
    """Choose among `found`, highest first.

    `look` tells of one of them, None if it is not complete; what has an error may be chosen too,
    so that the error shows.
    """
    if isinstance(policy, LatestVersions):
        return _latest(policy.num_versions, found, look)
    if isinstance(policy, AllVersions):
        wanted = list(found)
    else:
        wanted = [version for version in found if version in policy.versions]
    return [data for data in map(look, wanted) if data is not None]


def _latest(num_versions: int, found: Sequence[int], look: Look) -> list[Version]:
    chosen: list[Version] = []
    missing = max(1, num_versions)
    broken = 0
    for version in found:
        if broken == MAX_BROKEN:
            break
        data = look(version)
        if data is None:
            continue
        broken += data.error is not None
        chosen.append(data)
        missing -= data.error is None
        if missing == 0:
            break
    return chosen
