"""What the calls of a client answer with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from tfsrv.client.dtypes import numpy_type
from tfsrv.errors import Code


class Prediction(dict[str, NDArray[Any]]):
    """The outputs of a model by name; and which model, version and signature gave them.

    The arrays belong to the caller. Strings are arrays of objects, the elements bytes.
    """

    __slots__ = ("model", "signature", "version")

    def __init__(
        self,
        outputs: Mapping[str, NDArray[Any]],
        model: str = "",
        version: int = 0,
        signature: str = "",
    ) -> None:
        super().__init__(outputs)
        self.model = model
        self.version = version
        self.signature = signature


class Class(NamedTuple):
    """One class of an example; "" or 0 for what the model does not tell."""

    label: str
    score: float


class Classifications(list[list[Class]]):
    """The classes of each example, in the model's order; and who gave them."""

    __slots__ = ("model", "signature", "version")

    def __init__(
        self, classes: list[list[Class]], model: str = "", version: int = 0, signature: str = ""
    ) -> None:
        super().__init__(classes)
        self.model = model
        self.version = version
        self.signature = signature


class Regressions(list[float]):
    """The value of each example; and who gave them."""

    __slots__ = ("model", "signature", "version")

    def __init__(
        self, values: list[float], model: str = "", version: int = 0, signature: str = ""
    ) -> None:
        super().__init__(values)
        self.model = model
        self.version = version
        self.signature = signature


@dataclass(frozen=True)
class VersionStatus:
    """Where one version of a model stands."""

    version: int
    state: str  # START, LOADING, AVAILABLE, UNLOADING or END
    code: Code = Code.OK
    message: str = ""  # why it failed, if it did

    @property
    def available(self) -> bool:
        """Whether it answers."""
        return self.state == "AVAILABLE"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature."""

    data_type: int  # tensorflow.DataType
    dtype: str  # as TensorFlow calls it: float, int64, string, bfloat16 ...
    shape: tuple[int, ...] | None  # -1 for a size that is open; None for any shape at all
    name: str = ""  # of the tensor in the graph

    def numpy_dtype(self) -> numpy.dtype[Any]:
        """The type of its arrays. A TypeError if there is none."""
        return numpy_type(self.data_type)


@dataclass(frozen=True)
class Signature:
    """One way to run a model."""

    method_name: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    defaults: frozenset[str] = frozenset()  # inputs that may be left out


@dataclass(frozen=True)
class ModelMetadata:
    """The signatures of a version of a model, by name."""

    model: str
    version: int
    signatures: dict[str, Signature]


@dataclass(frozen=True)
class ListedModel:
    """A configured model, as tfsrv.ModelManagement lists it."""

    name: str
    base_path: str
    platform: str
    versions: list[VersionStatus] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
