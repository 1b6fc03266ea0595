"""GetModelMetadata: the signatures of a model, as it declares them.

Texts, codes and the order of checks are those of TensorFlow Serving's
servables/tensorflow/get_model_metadata_impl.cc. Servables that are Python objects answer too, if
they have `signature_defs` (core/predict_servable.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfsrv._proto import message_class
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.call_threads import CallThreads
from tfsrv.handlers.once_per_session import OncePerSession
from tfsrv.handlers.requests import read_request
from tfsrv.handlers.servables import Servables
from tfsrv.handlers.wire_fields import bytes_field

MAX_REQUEST_BYTES = 65536  # it is parsed in the loop; a name, a version and a field take some 70
SIGNATURE_DEF = "signature_def"  # the one field that there is

_TYPE_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class GetModelMetadata:
    """The handler of `tensorflow.serving.PredictionService/GetModelMetadata`."""

    def __init__(self, servables: Servables) -> None:
        self._servables = servables
        self._metadata = OncePerSession(metadata_of, CallThreads())

    async def __call__(self, request: bytes) -> bytes:
        """Answer one request. Raises ServingError."""
        message = read_request(
            "tensorflow.serving.GetModelMetadataRequest", request, MAX_REQUEST_BYTES
        )
        _check_fields(message)
        with await self._servables.acquire(message) as handle:
            response: Any = message_class("tensorflow.serving.GetModelMetadataResponse")()
            response.model_spec.name = handle.name
            response.model_spec.version.value = handle.version
            model_spec: bytes = response.SerializeToString()
            # The bytes of two messages are those of the two merged.
            return model_spec + await self._metadata.of(handle.servable)


def _check_fields(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise ServingError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    if not request.metadata_field:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            "GetModelMetadataRequest must specify at least one metadata_field",
        )
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise ServingError(Code.INVALID_ARGUMENT, f"Metadata field {field} is not supported")


def metadata_of(servable: object) -> bytes:
    """A GetModelMetadataResponse's field `metadata`, serialized. Raises ServingError.

    The signatures go one by one: the GIL is held for none longer than its own bytes take.
    """
    signature_def_map: list[bytes | memoryview] = []
    for name, signature_def in sorted(declared_by(servable).items()):
        key = bytes_field(1, name.encode())
        value = bytes_field(2, signature_def.SerializeToString())
        signature_def_map += bytes_field(1, *key, *value)
    packed = [*bytes_field(1, _TYPE_URL.encode()), *bytes_field(2, *signature_def_map)]
    entry = [*bytes_field(1, SIGNATURE_DEF.encode()), *bytes_field(2, *packed)]
    return b"".join(bytes_field(2, *entry))


def declared_by(servable: object) -> Mapping[str, Any]:
    """The signatures that a servable says it has, by name. Raises ServingError."""
    signature_defs: Mapping[str, Any] | None = getattr(servable, "signature_defs", None)
    if signature_defs is None:
        raise ServingError(
            Code.FAILED_PRECONDITION, "The servable does not say which signatures it has."
        )
    return signature_defs
