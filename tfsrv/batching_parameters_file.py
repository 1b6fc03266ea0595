"""Files with BatchingParameters: --batching_parameters_file, and one in a version's directory."""

from __future__ import annotations

import os
from typing import Any

from tfsrv import _proto
from tfsrv.batching_parameters import BatchingParameters, WrongParameterError
from tfsrv.config import unreadable
from tfsrv.errors import Code, ServingError
from tfsrv.text_places import field_lines

BATCHING_PARAMETERS = "tensorflow.serving.BatchingParameters"
VERSION_FILE_NAME = "batching_params.pbtxt"  # in a version's directory
MAX_TEXT_BYTES = 2**20  # more is a mistake, such as /dev/zero

_WRAPPED = (  # fields that may be unset, which is told from 0
    "max_batch_size",
    "batch_timeout_micros",
    "max_enqueued_batches",
    "num_batch_threads",
    "thread_pool_name",
    "enable_large_batch_splitting",
    "max_execution_batch_size",
    "max_concurrent_runs",
    "target_latency_ms",
)


def parse_batching_parameters(
    text: str | bytes, place: str, *, target_latency_ms: float = 0.0
) -> BatchingParameters:
    """What a text in protobuf's text format says; `place` is the file's name, for errors.

    `target_latency_ms` is for a text that has none. A ServingError (INVALID_ARGUMENT) says
    FILE:LINE.

        parse_batching_parameters("max_batch_size { value: 32 }", "batching.config")
    """
    try:
        message: Any = _proto.parse_text(BATCHING_PARAMETERS, text, place)
    except ValueError as error:
        raise _invalid_file(place, str(error)) from None
    values: dict[str, Any] = {"target_latency_ms": target_latency_ms}
    values |= {name: getattr(message, name).value for name in _WRAPPED if message.HasField(name)}
    try:
        return BatchingParameters(
            **values,
            allowed_batch_sizes=tuple(message.allowed_batch_sizes),
            pad_variable_length_inputs=message.pad_variable_length_inputs,
            explicit_max_batch_size=message.HasField("max_batch_size"),
        )
    except WrongParameterError as error:
        decoded = text if isinstance(text, str) else text.decode()
        line = field_lines(decoded).get(error.parameter)
        where = f"{place}:{line}" if line else place
        raise ServingError(error.code, f"{error.message} ({where})") from None


def read_batching_parameters(path: str, *, target_latency_ms: float = 0.0) -> BatchingParameters:
    """What a file says. Raises ServingError if it can't be read, or for what is wrong in it."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from None
    if len(text) > MAX_TEXT_BYTES:
        raise _invalid_file(path, f"it is larger than {MAX_TEXT_BYTES >> 20} MiB")
    return parse_batching_parameters(text, path, target_latency_ms=target_latency_ms)


def read_version_parameters(
    directory: str, *, target_latency_ms: float = 0.0
) -> BatchingParameters | None:
    """What the file in a version's directory says; None if there is none. Raises ServingError."""
    path = os.path.join(directory, VERSION_FILE_NAME)
    if not os.path.lexists(path):
        return None
    return read_batching_parameters(path, target_latency_ms=target_latency_ms)


def _invalid_file(path: str, reason: str) -> ServingError:
    """TensorFlow Serving's text (util/proto_util.h), and what is wrong."""
    return ServingError(Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{path}' ({reason})")
