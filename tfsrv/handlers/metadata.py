"""GetModelMetadata: the signatures of a model, as it declares them.

Texts, codes and the order of checks are those of TensorFlow Serving's
servables/tensorflow/get_model_metadata_impl.cc. Servables that are Python objects answer too, if
they have `signature_defs` (core/predict_servable.py).
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from typing import Any

from tfsrv._proto import message_class
from tfsrv._servable import NativeServable
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.call_threads import CallThreads
from tfsrv.handlers.requests import read_request
from tfsrv.handlers.servables import Servables
from tfsrv.handlers.wire_fields import bytes_field

MAX_REQUEST_BYTES = 65536  # it is parsed in the loop; a name, a version and a field take some 70
SIGNATURE_DEF = "signature_def"  # the one field that there is

_TYPE_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class GetModelMetadata:
    """The handler of `tensorflow.serving.PredictionService/GetModelMetadata`.

    What a SavedModel answers is made once and kept as long as its session. Making it takes a
    while for one with thousands of signatures, so that it is done off the loop.
    """

    def __init__(self, servables: Servables) -> None:
        self._servables = servables
        self._threads = CallThreads()
        self._making = asyncio.Lock()  # what many ask for at once is made once
        self._kept: weakref.WeakKeyDictionary[NativeServable, bytes] = weakref.WeakKeyDictionary()

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
            return model_spec + await self._metadata(handle.servable)

    async def _metadata(self, servable: object) -> bytes:
        """A GetModelMetadataResponse, serialized, with nothing but the field `metadata`."""
        if not isinstance(servable, NativeServable):
            # Its attributes may be properties that take long, and change.
            return await self._threads.run(lambda: metadata_of(servable))
        kept = self._kept.get(servable)
        if kept is not None:
            return kept
        async with self._making:
            kept = self._kept.get(servable)
            if kept is None:
                kept = await self._threads.run(lambda: metadata_of(servable))
                self._kept[servable] = kept
        return kept


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
    signature_defs: Mapping[str, Any] | None = getattr(servable, "signature_defs", None)
    if signature_defs is None:
        raise ServingError(
            Code.FAILED_PRECONDITION, "The servable does not say which signatures it has."
        )
    signature_def_map: list[bytes | memoryview] = []
    for name, signature_def in sorted(signature_defs.items()):
        key = bytes_field(1, name.encode())
        value = bytes_field(2, signature_def.SerializeToString())
        signature_def_map += bytes_field(1, *key, *value)
    packed = [*bytes_field(1, _TYPE_URL.encode()), *bytes_field(2, *signature_def_map)]
    entry = [*bytes_field(1, SIGNATURE_DEF.encode()), *bytes_field(2, *packed)]
    return b"".join(bytes_field(2, *entry))
