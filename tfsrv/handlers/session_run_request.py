"""A SessionRunRequest: what it feeds, fetches and runs, and which signature that is, if it is one.

Its tensors stay bytes. A feed has the form of an input of a PredictRequest, and what is fetched
that of its outputs: a name and a TensorProto (NamedTensorProto is on the wire what an entry of a
map is), so that only names have to be put in or taken out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from tfsrv._budget import give_in_flight_bytes, take_in_flight_bytes
from tfsrv._proto import message_class
from tfsrv._session import SavedModelSession
from tfsrv._session_run import tensor_name
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.wire_fields import LENGTH_DELIMITED, Malformed, bytes_field, fields

MAX_FIELDS = 10_000  # feeds, fetches and targets together
MAX_RESPONSE_BYTES = 2**31 - 1  # of protobuf
MAX_REST_BYTES = 1 << 20  # of all but the feeds: Python's protobuf reads it

# Of signatures that Predict runs, --enable_signature_method_name_check or not.
_METHOD_NAMES = frozenset(
    f"tensorflow/serving/{kind}" for kind in ("predict", "classify", "regress")
)

Tensor = tuple[str, int]  # an operation, and the index of its output
Parts = list[bytes | memoryview]


@dataclass(frozen=True)
class Question:
    """A request that was read."""

    message: Any  # the SessionRunRequest without its feeds
    feeds: Mapping[str, Parts]  # serialized TensorProtos, in parts, by name
    size: int  # bytes of the request


def read_question(request: bytes) -> Question:
    """Read a SessionRunRequest. Raises ServingError."""
    try:
        feeds, rest = _split(memoryview(request))
        message: Any = message_class("tensorflow.serving.SessionRunRequest")()
        message.ParseFromString(rest)
    except (Malformed, UnicodeDecodeError, DecodeError):
        raise ServingError(Code.INTERNAL, "Failed to parse the SessionRunRequest.") from None
    return Question(message, feeds, len(request))


def _split(request: memoryview) -> tuple[dict[str, Parts], bytes]:
    """The feeds by name, and all else."""
    feeds: dict[str, Parts] = {}
    rest: list[memoryview] = []
    for field in fields(request, MAX_FIELDS):
        if (field.number, field.wire_type) != (2, LENGTH_DELIMITED):
            rest.append(field.whole)
            continue
        name, tensor = _named_tensor(field.value)
        if name in feeds:
            raise fed_twice(name)
        feeds[name] = tensor
    if sum(map(len, rest)) > MAX_REST_BYTES:
        raise ServingError(
            Code.RESOURCE_EXHAUSTED,
            f"The SessionRunRequest has more than {MAX_REST_BYTES} bytes besides its feeds.",
        )
    return feeds, b"".join(rest)


def _named_tensor(message: memoryview) -> tuple[str, Parts]:
    name = ""
    tensor: Parts = []
    for field in fields(message, MAX_FIELDS):
        if (field.number, field.wire_type) == (1, LENGTH_DELIMITED):
            name = str(field.value, "utf-8")
        elif (field.number, field.wire_type) == (2, LENGTH_DELIMITED):
            tensor.append(field.value)  # occurrences of one message follow each other: they merge
    return name, tensor


def fed_twice(name: str) -> ServingError:
    """What TensorFlow's core/graph/subgraph.cc says of it."""
    return ServingError(Code.INVALID_ARGUMENT, f'Endpoint "{name}" fed more than once.')


def predict_request(
    model_spec: Any, inputs: Mapping[str, Parts], output_filter: Iterable[str]
) -> bytes:
    """The PredictRequest with these serialized tensors."""
    message: Any = message_class("tensorflow.serving.PredictRequest")(output_filter=output_filter)
    message.model_spec.CopyFrom(model_spec)
    parts: Parts = [message.SerializeToString()]
    for name, tensor in inputs.items():
        parts += bytes_field(2, *bytes_field(1, name.encode()), *bytes_field(2, *tensor))
    return b"".join(parts)


def session_run_response(
    model_spec: Any,
    outputs: Mapping[str, memoryview],
    fetches: Iterable[str],
    names: Names,
    metadata: bytes = b"",
) -> bytes:
    """The SessionRunResponse with what was fetched, in the order of `fetches`.

    `names` tells which of the outputs each one is; it may be there several times. Raises
    ServingError if the response is too large.
    """
    message: Any = message_class("tensorflow.serving.SessionRunResponse")()
    message.model_spec.CopyFrom(model_spec)
    parts: Parts = []
    for name in fetches:
        tensor = bytes_field(2, outputs[names.fetches[name]])
        parts += bytes_field(1, *bytes_field(1, name.encode()), *tensor)
    if metadata:
        parts += bytes_field(2, metadata)
    parts.append(message.SerializeToString())
    return _joined(parts)


def _joined(parts: Parts) -> bytes:
    """All of it, if there may be a message of that size."""
    size = sum(map(len, parts))
    if size > MAX_RESPONSE_BYTES:
        raise ServingError(Code.RESOURCE_EXHAUSTED, "The response is larger than a message may be.")
    if not take_in_flight_bytes(size):
        raise ServingError(
            Code.RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes)."
        )
    try:
        return b"".join(parts)
    finally:
        give_in_flight_bytes(size)  # whoever sends it takes it from the budget again


def outputs_of(predict_response: bytes) -> dict[str, memoryview]:
    """The serialized tensors of a PredictResponse of ours by name."""
    outputs: dict[str, memoryview] = {}
    for field in fields(memoryview(predict_response), MAX_FIELDS):
        if field.number == 1:
            key, value = fields(field.value, 2)
            outputs[str(key.value, "utf-8")] = value.value
    return outputs


@dataclass(frozen=True)
class Names:
    """What the names in a request stand for: tensors of the graph, or aliases of a signature."""

    feeds: Mapping[str, str]
    fetches: Mapping[str, str]  # in their order

    @classmethod
    def of(cls, question: Question) -> Names:
        """Each stands for itself."""
        fetches: Iterable[str] = question.message.fetch
        return cls({name: name for name in question.feeds}, {name: name for name in fetches})


@dataclass(frozen=True)
class Signature:
    """A signature as SessionRun sees it: aliases by tensors."""

    name: str
    inputs: Mapping[Tensor, str]
    outputs: Mapping[Tensor, str]

    def aliases(self, tensors: Names) -> Names | None:
        """Its aliases, if it feeds exactly these tensors and has all that are fetched."""
        feeds = {name: tensor_name(name) for name in tensors.feeds}
        fetches = {name: tensor_name(name) for name in tensors.fetches}
        fed = set(feeds.values())
        if (
            len(fed) < len(feeds)
            or fed != self.inputs.keys()
            or not self.outputs.keys() >= set(fetches.values())
        ):
            return None
        return Names(
            {name: self.inputs[tensor] for name, tensor in feeds.items()},
            {name: self.outputs[tensor] for name, tensor in fetches.items()},
        )


def aliases_of(signatures: Iterable[Signature], tensors: Names) -> tuple[str | None, Names]:
    """The signature that runs these tensors, by name, and its aliases for them.

    Best of all one that has no other outputs: then it is what Predict runs most. None, and the
    tensors, if there is none.
    """
    found: tuple[str | None, Names] = None, tensors
    for signature in signatures:
        aliases = signature.aliases(tensors)
        if aliases is None:
            continue
        if len(set(aliases.fetches.values())) == len(signature.outputs):
            return signature.name, aliases
        if found[0] is None:
            found = signature.name, aliases
    return found


def signatures_of(session: SavedModelSession) -> list[Signature]:
    """Those that Predict runs and that have an alias for each tensor that they feed."""
    found = []
    described = session.describe()
    for name, signature_def in session.signature_defs.items():
        told = described[name]
        if told["broken"] or told["method_name"] not in _METHOD_NAMES:
            continue
        inputs = {tensor_name(tensor): alias for alias, (tensor, _) in told["inputs"].items()}
        outputs = {tensor_name(tensor): alias for alias, (tensor, _) in told["outputs"].items()}
        if len(inputs) == len(signature_def.inputs):  # type: ignore[attr-defined]
            found.append(Signature(name, inputs, outputs))
    return found
