"""Warm-up: requests that run on a version before anybody is served by it.

TensorFlow optimises a graph when it first runs, and kernels prepare themselves for the shapes that
they meet: the first requests of a version would wait for that. What to run is in the version's
folder, `assets.extra/tf_serving_warmup_requests`, a TFRecord of PredictionLogs; any error in it is
an error of the load. Rules and texts are those of TensorFlow Serving's
servables/tensorflow/saved_model_warmup_util.cc and
https://www.tensorflow.org/tfx/serving/saved_model_warmup.

Where there is no such file, inputs can be made up from the signatures (`synthetic_warmup`). Nobody
knows whether a model works on these, so what fails is logged, and the version serves.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tfsrv._prediction_log import read_prediction_log
from tfsrv._proto import message_class
from tfsrv._tfrecord import RecordReader
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.core.servable import ServableId
from tfsrv.errors import Code, ServingError
from tfsrv.metrics import WARMUP_MICROS, WARMUP_RECORDS

FILE_NAME = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000

# Kinds of PredictionLogs: field numbers of tensorflow_serving/apis/prediction_log.proto.
CLASSIFY, REGRESS, MULTI_INFERENCE, PREDICT = 2, 3, 4, 6
KINDS = frozenset({CLASSIFY, REGRESS, MULTI_INFERENCE, PREDICT})

SYNTHETIC_SECONDS = 30.0  # after so long no further made-up request is begun
SYNTHETIC_BYTES = 64 * 2**20  # larger inputs are not made up

logger = logging.getLogger("tfsrv")


class WarmSession(Protocol):
    """What warm-up needs to know of a loaded model."""

    @property
    def signature_defs(self) -> Mapping[str, Any]: ...

    @property
    def batching(self) -> BatchingParameters | None: ...

    def describe(self) -> Mapping[str, Mapping[str, Any]]: ...


class RunRequest(Protocol):
    """Runs one request on a session: the kind of a PredictionLog, and places in a record.

    Raises the ServingError that a client would get; ValueError if the bytes are no such request.
    With `timeout_seconds`, a graph that may wait for ever ends with DEADLINE_EXCEEDED.
    """

    def __call__(
        self,
        session: Any,
        name: str,
        version: int,
        kind: int,
        record: bytes,
        places: list[tuple[int, int]],
        timeout_seconds: float = 0.0,
    ) -> None: ...


@dataclass(frozen=True)
class WarmUp:
    """What is run on each version that was loaded; made once for a server."""

    run_request: RunRequest
    enabled: bool = True
    num_request_iterations: int = 1
    synthetic: bool = False
    clock: Callable[[], float] = time.monotonic

    def __call__(self, session: WarmSession, id: ServableId, path: str) -> None:
        """Warm up one version, whose files are in `path`. Raises ServingError."""
        began = self.clock()
        file = os.path.join(path, FILE_NAME)
        if self.enabled and os.path.exists(file):
            with _Counted(path, self.clock) as counted:
                self._replay(session, id, file, counted)
            count = counted.records
        elif self.synthetic:
            count = self._make_up(session, id)
        else:
            return
        seconds = self.clock() - began
        logger.info("%s was warmed up with %d requests in %.3f s", _shown_id(id), count, seconds)

    def _replay(self, session: WarmSession, id: ServableId, file: str, counted: _Counted) -> None:
        """Run each record of a file."""
        for record in _records(file):
            count = counted.records
            try:
                kind, places = read_prediction_log(record)
            except ServingError:
                raise _unreadable(record, file) from None
            if kind != 0:
                try:
                    self._run(session, id, kind, record, places, f"record {count + 1} of {file}")
                except ValueError:
                    raise _unreadable(record, file) from None
            counted.records += 1
            if counted.records > MAX_RECORDS:
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}",
                )

    def _run(
        self,
        session: WarmSession,
        id: ServableId,
        kind: int,
        record: bytes,
        places: list[tuple[int, int]],
        what: str,
    ) -> None:
        if kind not in KINDS:
            raise ServingError(
                Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind} (warm-up {what})"
            )
        for _ in range(self.num_request_iterations):
            try:
                self.run_request(session, id.name, id.version, kind, record, places)
            except ServingError as error:
                text = f"{error.message} (warm-up {what})"
                raise ServingError(error.code, text) from None

    def _make_up(self, session: WarmSession, id: ServableId) -> int:
        """Run made-up requests; how many worked."""
        count = 0
        deadline = self.clock() + SYNTHETIC_SECONDS
        for name, rows, request in synthetic_requests(session):
            left_seconds = deadline - self.clock()
            if left_seconds <= 0:
                logger.warning("Warm-up of %s takes long, and ends here", _shown_id(id))
                break
            places = [(0, len(request))]
            try:
                self.run_request(
                    session, id.name, id.version, PREDICT, request, places, left_seconds
                )
                count += 1
            except ServingError as error:
                if error.code is Code.CANCELLED:  # the server stops
                    raise
                logger.warning(
                    "%s does not take made-up inputs: %s with %d rows: %s",
                    _shown_id(id),
                    name,
                    rows,
                    error,
                )
        return count


class _Counted:
    """Counts a replay: the records that were run, and how long all took, by what came of it."""

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self.records = 0
        self._path = path
        self._clock = clock
        self._began = clock()

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        code = Code.OK if error is None else Code.UNKNOWN
        if isinstance(error, ServingError):
            code = error.code
        micros = round((self._clock() - self._began) * 1e6)
        WARMUP_RECORDS.add(self._path, code.name, by=self.records)
        WARMUP_MICROS.add(self._path, code.name, value=micros)


def _records(file: str) -> Iterator[bytes]:
    try:
        with RecordReader(file) as reader:
            yield from reader
    except ServingError as error:
        if error.code is not Code.DATA_LOSS:
            raise
        text = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise ServingError(error.code, text) from None


def _shown_id(id: ServableId) -> str:
    return f"{id.name} version {id.version}"


def _unreadable(record: bytes, file: str) -> ServingError:
    text = f"Failed to parse warmup record: {_shown(record)} from {file}"
    return ServingError(Code.INVALID_ARGUMENT, text)


def _shown(record: bytes) -> str:
    """The beginning of a record, as far as it is text that moves no cursor."""
    text = record[:64].decode("ascii", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


# -- requests that are made up


def synthetic_requests(session: WarmSession) -> Iterator[tuple[str, int, bytes]]:
    """(signature, rows, serialized PredictRequest) for all signatures that can be served.

    Every value is zero, or an empty string; dimensions that are open are 1, but for the first one,
    which takes each of the sizes that batching will run. Inputs that have a default are left out:
    it is a value that the model's maker has thought of.
    """
    described = session.describe()
    sizes = batch_sizes(session.batching)
    names = [name for name, facts in described.items() if not facts["broken"]]
    for name in sorted(names, key=lambda name: (name != "serving_default", name)):
        defaults = described[name]["defaults"]
        inputs = {
            alias: info
            for alias, info in session.signature_defs[name].inputs.items()
            if alias not in defaults
        }
        has_rows = bool(inputs) and all(_is_open(info) for info in inputs.values())
        for rows in sizes if has_rows else [1]:
            request: Any = message_class("tensorflow.serving.PredictRequest")()
            request.model_spec.signature_name = name
            size = 0
            for alias, info in inputs.items():
                tensor = request.inputs[alias]
                tensor.dtype = info.dtype or described[name]["inputs"][alias][1]
                size += _set_shape(tensor.tensor_shape, info.tensor_shape, rows)
            if size <= SYNTHETIC_BYTES:
                yield name, rows, request.SerializeToString()


def batch_sizes(batching: BatchingParameters | None) -> list[int]:
    """The numbers of rows to try: those that are allowed, or powers of two and the largest."""
    if batching is None:
        return [1]
    if batching.allowed_batch_sizes:
        return list(batching.allowed_batch_sizes)
    most = batching.max_execution_batch_size or batching.max_batch_size
    sizes = [1]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] >= most else [*sizes, most]


def _is_open(info: Any) -> bool:
    """Whether the first dimension may be any number."""
    shape = info.tensor_shape
    return bool(shape.unknown_rank or (shape.dim and shape.dim[0].size == -1))


def _set_shape(shape: Any, wanted: Any, rows: int) -> int:
    """Fill in a shape; about how many bytes a tensor of it takes."""
    elements = 1
    dims = [-1] if wanted.unknown_rank else [dim.size for dim in wanted.dim]
    for index, size in enumerate(dims):
        if size == -1:
            size = rows if index == 0 else 1
        shape.dim.add(size=size)
        elements *= size
    return elements * 8
