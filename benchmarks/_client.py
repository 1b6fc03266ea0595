"""A gRPC client that asks for a float, for states, and for changes of the configuration.

Messages are protobuf's own, of the classes that protos/ describes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from _servers import Server, config_text
from _workloads import PREDICT
from tfsrv._proto import message_class, parse_text

SECONDS = 60.0  # for one call
POLL_SECONDS = 0.002
SIGNATURE = "serving_default"
DT_FLOAT = 1
LOADING, AVAILABLE, END = 20, 30, 50  # ModelVersionStatus.State


@dataclass(frozen=True)
class Answer:
    """What came back for x, from which version. Times are of time.perf_counter()."""

    version: int
    x: float
    y: float
    sent: float
    received: float


@dataclass(frozen=True)
class VersionState:
    state: int
    error: str


def predict_request(model: str, x: float) -> bytes:
    """A PredictRequest for the latest version."""
    request: Any = message_class("tensorflow.serving.PredictRequest")()
    request.model_spec.name = model
    fill_float(request.inputs["x"], x)
    serialized: bytes = request.SerializeToString()
    return serialized


def predict_response(model: str, version: int, y: float) -> bytes:
    """The PredictResponse that is right."""
    response: Any = message_class("tensorflow.serving.PredictResponse")()
    response.model_spec.name = model
    response.model_spec.version.value = version
    response.model_spec.signature_name = SIGNATURE
    fill_float(response.outputs["y"], y)
    serialized: bytes = response.SerializeToString()
    return serialized


def fill_float(tensor: Any, value: float) -> None:
    """Make a TensorProto a vector of one float."""
    tensor.dtype = DT_FLOAT
    tensor.tensor_shape.dim.add().size = 1
    tensor.float_val.append(value)


@contextmanager
def connected(server: Server) -> Iterator[Client]:
    """A client with a connection of its own."""
    with server.channel() as channel:
        yield Client(channel)


class Client:
    """Each method is one call, and raises grpc.RpcError when that fails."""

    def __init__(self, channel: Any) -> None:
        self._predict = channel.unary_unary(PREDICT)
        service = "/tensorflow.serving.ModelService"
        self._model_status = channel.unary_unary(f"{service}/GetModelStatus")
        self._reload = channel.unary_unary(f"{service}/HandleReloadConfigRequest")
        self._set_model = channel.unary_unary("/tfsrv.ModelManagement/SetModel")

    def predict(self, model: str, x: float = 1.0, timeout: float = SECONDS) -> Answer:
        request = predict_request(model, x)
        sent = time.perf_counter()
        answer = self._predict(request, timeout=timeout)
        received = time.perf_counter()
        response: Any = message_class("tensorflow.serving.PredictResponse").FromString(answer)
        values = list(response.outputs["y"].float_val) if "y" in response.outputs else []
        y = values[0] if len(values) == 1 else float("nan")
        return Answer(response.model_spec.version.value, x, y, sent, received)

    def versions(self, model: str) -> dict[int, VersionState]:
        """GetModelStatus's answer; nothing if there are none."""
        request: Any = message_class("tensorflow.serving.GetModelStatusRequest")()
        request.model_spec.name = model
        try:
            answer = self._model_status(request.SerializeToString(), timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise
        response: Any = message_class("tensorflow.serving.GetModelStatusResponse")
        return {
            each.version: VersionState(each.state, each.status.error_message)
            for each in response.FromString(answer).model_version_status
        }

    def states(self, model: str) -> dict[int, int]:
        return {version: found.state for version, found in self.versions(model).items()}

    def set_model(self, model: str, base_path: Path) -> None:
        """Add a model, or change it; comes back when it is available."""
        request: Any = message_class("tfsrv.SetModelRequest")()
        (config,) = model_server_config({model: base_path}).model_config_list.config
        request.config.CopyFrom(config)
        self._set_model(request.SerializeToString(), timeout=SECONDS)

    def reload(self, models: Mapping[str, Path], timeout: float) -> Any:
        """The future of a HandleReloadConfigRequest."""
        request: Any = message_class("tensorflow.serving.ReloadConfigRequest")()
        request.config.CopyFrom(model_server_config(models))
        return self._reload.future(request.SerializeToString(), timeout=timeout)


def model_server_config(models: Mapping[str, Path]) -> Any:
    return parse_text("tensorflow.serving.ModelServerConfig", config_text(models), "")
