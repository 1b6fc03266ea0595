"""A platform of one's own: a version is a directory with a number in factor.txt.

Predict multiplies its input "x" by that number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tfsrv.config import ServerOptions
from tfsrv.core.loader import Loader
from tfsrv.core.platform import Platform
from tfsrv.core.servable import ServableData
from tfsrv.core.source import SourceAdapter
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.servables.version_files import VersionFiles, settle_seconds


class Scale:
    """The servable: what answers requests."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, NDArray[Any]],
        output_filter: Sequence[str],
    ) -> dict[str, NDArray[Any]]:
        if "x" not in inputs or inputs["x"].dtype.kind != "f":
            raise ServingError(Code.INVALID_ARGUMENT, 'Give floats as "x".')
        return {"y": inputs["x"] * inputs["x"].dtype.type(self._factor)}


class ScaleLoader(Loader):
    """How a version gets into memory and out of it again."""

    def __init__(self, origin: StoragePath) -> None:
        self._origin = origin
        self._servable: Scale | None = None

    @property
    def origin(self) -> StoragePath:
        return self._origin

    def load(self) -> None:
        file = Path(self._origin, "factor.txt")
        try:
            self._servable = Scale(float(file.read_text()))
        except ValueError as error:  # will not get better by trying again
            raise ServingError(Code.INVALID_ARGUMENT, f"{file}: {error}") from None

    def servable(self) -> object:
        return self._servable

    def unload(self) -> None:
        self._servable = None


class ScaleAdapter(SourceAdapter[StoragePath, Loader]):
    """Makes a loader of each version's path."""

    def convert(self, version: ServableData[StoragePath]) -> Loader:
        return ScaleLoader(version.data)


def platform(options: ServerOptions) -> Platform:
    """What the entry point names."""
    return Platform(ScaleAdapter(), VersionFiles(["factor.txt"], settle_seconds(options)))
