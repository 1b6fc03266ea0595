"""What there is to say of the directory of one version of platform "tensorflow"."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tfsrv.checking.batching_parameters import problem_of_version_parameters
from tfsrv.checking.saved_model import problems_of_saved_model


@dataclass(frozen=True)
class VersionCheck:
    """Looks at versions as a server with these options would."""

    tags: Collection[str]
    reads_version_batching: bool  # --enable_per_model_batching_parameters

    def problems(self, directory: str) -> Iterator[str]:
        """What would keep the version from being loaded. Raises OSError."""
        yield from problems_of_saved_model(directory, self.tags)
        if self.reads_version_batching:
            yield from filter(None, [problem_of_version_parameters(directory)])

    def warnings(self, directory: str) -> Iterator[str]:
        """What another server would stumble over."""
        if not self.reads_version_batching:
            yield from filter(None, [problem_of_version_parameters(directory)])
