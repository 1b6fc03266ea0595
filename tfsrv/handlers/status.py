"""GetModelStatus: the state of every version, as the state monitor knows it.

Texts and codes are those of TensorFlow Serving's model_servers/get_model_status_impl.cc. That
takes no notice of a version label and answers for all versions. Here the answer is for the
version that the label stands for, and a label that works for no request is refused as Predict
refuses it; of a model that nobody knows, that is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from tfsrv._proto import message_class
from tfsrv.core.servable import ServableId
from tfsrv.errors import Code, ErrorDetails, Reason, ServingError
from tfsrv.handlers.requests import read_request, set_status

if TYPE_CHECKING:
    from tfsrv.core.servable import ServableState

MAX_REQUEST_BYTES = 65536  # it is parsed in the loop; a name and a version take some 50


class StateMonitor(Protocol):
    """The part of ServableStateMonitor that is used here."""

    def state(self, id: ServableId) -> ServableState | None: ...

    def versions(self, name: str) -> dict[int, ServableState]: ...


class GetModelStatus:
    """The handler of `tensorflow.serving.ModelService/GetModelStatus`."""

    def __init__(
        self, monitor: StateMonitor, version_labels: Callable[[str], Mapping[str, int]]
    ) -> None:
        """`version_labels` tells where the labels of a model point to; none of unknown ones."""
        self._monitor = monitor
        self._version_labels = version_labels

    async def __call__(self, request: bytes) -> bytes:
        """Answer one request. Raises ServingError."""
        message = read_request(
            "tensorflow.serving.GetModelStatusRequest", request, MAX_REQUEST_BYTES
        )
        if not message.HasField("model_spec"):
            raise ServingError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
        response: Any = message_class("tensorflow.serving.GetModelStatusResponse")()
        spec = message.model_spec
        states = self.states(
            spec.name,
            spec.version.value if spec.HasField("version") else None,
            spec.version_label if spec.HasField("version_label") else None,
        )
        for state in states:
            status = response.model_version_status.add(
                version=state.id.version, state=int(state.manager_state)
            )
            set_status(status.status, state.error)
        serialized: bytes = response.SerializeToString()
        return serialized

    def states(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> list[ServableState]:
        """The versions asked for, highest first: one, or all of them. Raises ServingError."""
        if version is not None:
            return [self._state(name, version)]
        versions = self._monitor.versions(name)
        if not versions:
            raise ServingError(
                Code.NOT_FOUND,
                f"Could not find any versions of model {name}",
                ErrorDetails(Reason.MODEL_NOT_FOUND, name),
            )
        if label is not None:
            return [self._state(name, self._labelled(name, label))]
        return list(versions.values())

    def _state(self, name: str, version: int) -> ServableState:
        state = self._monitor.state(ServableId(name, version))
        if state is None:
            raise ServingError(
                Code.NOT_FOUND,
                f"Could not find version {version} of model {name}",
                ErrorDetails(Reason.VERSION_NOT_FOUND, name, version),
            )
        return state

    def _labelled(self, name: str, label: str) -> int:
        version = self._version_labels(name).get(label)
        if version is None:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Unrecognized servable version label: {label}",
                ErrorDetails(Reason.LABEL_NOT_FOUND, name, label=label),
            )
        return version
