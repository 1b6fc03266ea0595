"""Each call of the client as bytes to send and a reader of the bytes that come back.

Both clients use these; what differs between them is only how they wait. The messages are those of
tensorflow_serving/apis. Predict is written and read by _wire, the rarer calls by Python protobuf,
which is imported by the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tfsrv.client import dtypes
from tfsrv.client._wire import read_predict_response, write_predict_request
from tfsrv.client.errors import ClientError
from tfsrv.client.examples import Example, block, input_of
from tfsrv.client.models import Model, server_config
from tfsrv.client.results import (
    Class,
    Classifications,
    ListedModel,
    ModelMetadata,
    Prediction,
    Regressions,
    Signature,
    TensorInfo,
    VersionStatus,
)
from tfsrv.errors import Code, ServingError

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CLASSIFY = "/tensorflow.serving.PredictionService/Classify"
REGRESS = "/tensorflow.serving.PredictionService/Regress"
MULTI_INFERENCE = "/tensorflow.serving.PredictionService/MultiInference"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
LIST_MODELS = "/tfsrv.ModelManagement/ListModels"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_LIST = "/grpc.health.v1.Health/List"

_CLASSIFY_METHOD = "tensorflow/serving/classify"
_REGRESS_METHOD = "tensorflow/serving/regress"

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A unary call: its path, its serialized request, and what its answer means.

    `read` raises ClientError for an answer that cannot be read, or that tells of an error.
    """

    path: str
    request: bytes
    read: Callable[[bytes], T]


def read_prediction(response: bytes) -> Prediction:
    """The reader of Predict's answers."""
    try:
        return Prediction(*read_predict_response(response))
    except ServingError as error:
        raise ClientError(error.code, error.message) from None


def predict(
    model: str,
    inputs: Mapping[str, object],
    signature: str,
    version: int | None,
    label: str | None,
    outputs: Iterable[str],
) -> Call[Prediction]:
    if not hasattr(inputs, "items"):
        kind = type(inputs).__name__
        raise TypeError(f"inputs map the names of the model's inputs to arrays; this is a {kind}")
    outputs = _several(outputs, "output_filter")
    request = write_predict_request(model, inputs, signature, version, label, outputs)
    return Call(PREDICT, request, read_prediction)


def classify(
    model: str,
    examples: Iterable[Example],
    context: Example | None,
    signature: str,
    version: int | None,
    label: str | None,
) -> Call[Classifications]:
    def read(response: bytes) -> Classifications:
        message = _parsed("tensorflow.serving.ClassificationResponse", response)
        return _classifications(message.result, message.model_spec)

    spec = _model_spec(model, signature, version, label)
    return Call(CLASSIFY, _request_with_examples(spec, examples, context), read)


def regress(
    model: str,
    examples: Iterable[Example],
    context: Example | None,
    signature: str,
    version: int | None,
    label: str | None,
) -> Call[Regressions]:
    def read(response: bytes) -> Regressions:
        message = _parsed("tensorflow.serving.RegressionResponse", response)
        return _regressions(message.result, message.model_spec)

    spec = _model_spec(model, signature, version, label)
    return Call(REGRESS, _request_with_examples(spec, examples, context), read)


def _request_with_examples(
    spec: Any, examples: Iterable[Example], context: Example | None
) -> bytes:
    """A serialized ClassificationRequest or RegressionRequest, which have the same fields."""
    return block(1, spec.SerializeToString()) + block(2, input_of(examples, context))


def multi_inference(
    model: str,
    examples: Iterable[Example],
    context: Example | None,
    classify: Iterable[str],
    regress: Iterable[str],
    version: int | None,
    label: str | None,
) -> Call[dict[str, Classifications | Regressions]]:
    def read(response: bytes) -> dict[str, Classifications | Regressions]:
        message = _parsed("tensorflow.serving.MultiInferenceResponse", response)
        found: dict[str, Classifications | Regressions] = {}
        for result in message.results:
            name = result.model_spec.signature_name
            if result.WhichOneof("result") == "regression_result":
                found[name] = _regressions(result.regression_result, result.model_spec)
            else:
                found[name] = _classifications(result.classification_result, result.model_spec)
        return found

    request = _message("tensorflow.serving.MultiInferenceRequest")
    wanted = (
        (_CLASSIFY_METHOD, _several(classify, "classify")),
        (_REGRESS_METHOD, _several(regress, "regress")),
    )
    for method, signatures in wanted:
        for signature in signatures:
            spec = _model_spec(model, signature, version, label)
            request.tasks.add(model_spec=spec, method_name=method)
    if not request.tasks:
        raise ValueError("name the signatures to run, in `classify` or `regress`")
    content = request.SerializeToString() + block(2, input_of(examples, context))
    return Call(MULTI_INFERENCE, content, read)


def status(model: str, version: int | None, label: str | None) -> Call[list[VersionStatus]]:
    def read(response: bytes) -> list[VersionStatus]:
        message = _parsed("tensorflow.serving.GetModelStatusResponse", response)
        return [_version_status(each) for each in message.model_version_status]

    request = _message("tensorflow.serving.GetModelStatusRequest")
    request.model_spec.CopyFrom(_model_spec(model, "", version, label))
    return Call(GET_MODEL_STATUS, request.SerializeToString(), read)


def metadata(model: str, version: int | None, label: str | None) -> Call[ModelMetadata]:
    def read(response: bytes) -> ModelMetadata:
        message = _parsed("tensorflow.serving.GetModelMetadataResponse", response)
        signatures = _parsed(
            "tensorflow.serving.SignatureDefMap", message.metadata["signature_def"].value
        )
        spec = message.model_spec
        return ModelMetadata(spec.name, spec.version.value, signatures_of(signatures.signature_def))

    request = _message("tensorflow.serving.GetModelMetadataRequest")
    request.model_spec.CopyFrom(_model_spec(model, "", version, label))
    request.metadata_field.append("signature_def")
    return Call(GET_MODEL_METADATA, request.SerializeToString(), read)


def reload(models: Iterable[Model] | str, metrics: Iterable[str]) -> Call[dict[str, int]]:
    def read(response: bytes) -> dict[str, int]:
        message = _parsed("tensorflow.serving.ReloadConfigResponse", response)
        if message.status.error_code:
            raise ClientError(message.status.error_code, message.status.error_message)
        return {metric.name: metric.int64_value_increase for metric in message.metric}

    request = _message("tensorflow.serving.ReloadConfigRequest")
    request.config.CopyFrom(server_config(models))
    request.metric_names.extend(_several(metrics, "metrics"))
    return Call(RELOAD, request.SerializeToString(), read)


def list_models() -> Call[list[ListedModel]]:
    def read(response: bytes) -> list[ListedModel]:
        message = _parsed("tfsrv.ListModelsResponse", response)
        return [
            ListedModel(
                each.config.name,
                each.config.base_path,
                each.config.model_platform,
                [_version_status(version) for version in each.version],
                dict(each.version_labels),
            )
            for each in message.model
        ]

    return Call(LIST_MODELS, b"", read)


def health_list() -> Call[dict[str, str]]:
    """The health of all that the server tells of, by name."""

    def read(response: bytes) -> dict[str, str]:
        message = _parsed("grpc.health.v1.HealthListResponse", response)
        return {name: _enum_name(each, "status") for name, each in sorted(message.statuses.items())}

    request = _message("grpc.health.v1.HealthListRequest")
    return Call(HEALTH_LIST, request.SerializeToString(), read)


def health(service: str) -> Call[str]:
    def read(response: bytes) -> str:
        message = _parsed("grpc.health.v1.HealthCheckResponse", response)
        return _enum_name(message, "status")

    request = _message("grpc.health.v1.HealthCheckRequest")
    request.service = service
    return Call(HEALTH_CHECK, request.SerializeToString(), read)


def signatures_of(signature_defs: Mapping[str, Any]) -> dict[str, Signature]:
    """Signatures by name, from a map of tensorflow.SignatureDef; in the order of their names."""
    return {name: _signature(signature_defs[name]) for name in sorted(signature_defs)}


def _signature(signature_def: Any) -> Signature:
    inputs, outputs = signature_def.inputs, signature_def.outputs
    return Signature(
        signature_def.method_name,
        {alias: _tensor_info(inputs[alias]) for alias in sorted(inputs)},
        {alias: _tensor_info(outputs[alias]) for alias in sorted(outputs)},
        frozenset(signature_def.defaults),
    )


def _tensor_info(info: Any) -> TensorInfo:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)
    name = dtypes.NAMES.get(info.dtype, f"data type {info.dtype}")
    return TensorInfo(info.dtype, name, sizes, info.name)


def _classifications(result: Any, spec: Any) -> Classifications:
    classes = [
        [Class(each.label, each.score) for each in example.classes]
        for example in result.classifications
    ]
    return Classifications(classes, spec.name, spec.version.value, spec.signature_name)


def _regressions(result: Any, spec: Any) -> Regressions:
    values = [each.value for each in result.regressions]
    return Regressions(values, spec.name, spec.version.value, spec.signature_name)


def _version_status(status: Any) -> VersionStatus:
    error = status.status
    try:
        code = Code(error.error_code)
    except ValueError:  # TensorFlow's codes are open ended
        code = Code.UNKNOWN
    return VersionStatus(status.version, _enum_name(status, "state"), code, error.error_message)


def _enum_name(message: Any, field: str) -> str:
    number = getattr(message, field)
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    return values[number].name if number in values else str(number)


def _several(names: Iterable[str], what: str) -> Iterable[str]:
    """Names, but not one alone, which would be taken for its letters: a TypeError."""
    if isinstance(names, str):
        raise TypeError(f"{what} lists names: give [{names!r}] for one")
    return names


def _model_spec(model: str, signature: str, version: int | None, label: str | None) -> Any:
    spec = _message("tensorflow.serving.ModelSpec")
    spec.name = model
    spec.signature_name = signature
    if version is not None and label is not None:
        raise ValueError("give either a version or a label, not both")
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
    return spec


def _message(full_name: str) -> Any:
    from tfsrv._proto import message_class

    return message_class(full_name)()


def _parsed(full_name: str, data: bytes) -> Any:
    from google.protobuf.message import DecodeError

    message = _message(full_name)
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise ClientError(Code.INTERNAL, "The response cannot be decoded") from None
    return message
