"""Serialized requests for Classify, Regress and MultiInference, and what they mean to protobuf.

`InferenceMaker` puts messages together from raw pieces, as WireMaker does. `check_reading` compares
what tfsrv reads with what Python protobuf reads of the same bytes. There examples and contexts are
fields of bytes: nobody looks into them before the graph does.
"""

from __future__ import annotations

from typing import Any, NoReturn

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from tests.wire_messages import Fields, WireMaker, uses_rare
from tfsrv import _proto
from tfsrv._inference_request import parse_inference_request
from tfsrv.errors import Code, ServingError

LIMIT = 1 << 14  # bytes; larger tensors are refused in these tests
STRING_BYTES = 24  # of a string in memory, besides its text
DT_STRING = 7

TEXT = """
name: "raw.proto" package: "raw" syntax: "proto3"
dependency: "tensorflow_serving/apis/model.proto"
message_type { name: "List"
  field { name: "examples" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "ListWithContext"
  field { name: "examples" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
  field { name: "context" number: 2 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Input" oneof_decl { name: "kind" }
  field { name: "example_list" number: 1 label: LABEL_OPTIONAL
          type: TYPE_MESSAGE type_name: ".raw.List" oneof_index: 0 }
  field { name: "example_list_with_context" number: 2 label: LABEL_OPTIONAL
          type: TYPE_MESSAGE type_name: ".raw.ListWithContext" oneof_index: 0 } }
message_type { name: "Request"
  field { name: "model_spec" number: 1 label: LABEL_OPTIONAL
          type: TYPE_MESSAGE type_name: ".tensorflow.serving.ModelSpec" }
  field { name: "input" number: 2 label: LABEL_OPTIONAL
          type: TYPE_MESSAGE type_name: ".raw.Input" } }
message_type { name: "Task"
  field { name: "model_spec" number: 1 label: LABEL_OPTIONAL
          type: TYPE_MESSAGE type_name: ".tensorflow.serving.ModelSpec" }
  field { name: "method_name" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING } }
message_type { name: "MultiRequest"
  field { name: "tasks" number: 1 label: LABEL_REPEATED
          type: TYPE_MESSAGE type_name: ".raw.Task" }
  field { name: "input" number: 2 label: LABEL_OPTIONAL
          type: TYPE_MESSAGE type_name: ".raw.Input" } }
message_type { name: "Class"
  field { name: "label" number: 1 label: LABEL_OPTIONAL type: TYPE_BYTES }
  field { name: "score" number: 2 label: LABEL_OPTIONAL type: TYPE_FLOAT } }
message_type { name: "Classifications"
  field { name: "classes" number: 1 label: LABEL_REPEATED
          type: TYPE_MESSAGE type_name: ".raw.Class" } }
message_type { name: "ClassificationResult"
  field { name: "classifications" number: 1 label: LABEL_REPEATED
          type: TYPE_MESSAGE type_name: ".raw.Classifications" } }
message_type { name: "ClassificationResponse"
  field { name: "result" number: 1 label: LABEL_OPTIONAL
          type: TYPE_MESSAGE type_name: ".raw.ClassificationResult" }
  field { name: "model_spec" number: 2 label: LABEL_OPTIONAL
          type: TYPE_MESSAGE type_name: ".tensorflow.serving.ModelSpec" } }
"""

# As uses_rare() wants them; of the one kind of requests and of the other.
SUB_MESSAGES: dict[bool, Fields] = {
    False: {(): {1, 2}, (1,): {2}, (2,): {1, 2}},
    True: {(): {1, 2}, (1,): {1}, (1, 1): {2}, (2,): {1, 2}},
}
RARE_FIELDS: Fields = {(2, 1): {8}, (2, 2): {8}}


def raw_class(name: str) -> Any:
    """One of the messages above: examples and labels are bytes."""
    pool = descriptor_pool.DescriptorPool()
    descriptors = _proto._DESCRIPTORS.read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        pool.AddSerializedFile(file.SerializeToString())
    made = text_format.Parse(TEXT, descriptor_pb2.FileDescriptorProto())
    pool.AddSerializedFile(made.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"raw.{name}"))


# Requests by whether they are for MultiInference, and the answer of Classify.
RAW = {False: raw_class("Request"), True: raw_class("MultiRequest")}
RawClassificationResponse = raw_class("ClassificationResponse")


class InferenceMaker(WireMaker):
    """Makes requests for Classify and Regress, or with `multi` for MultiInference."""

    def example(self) -> bytes:
        return self.raw(self.random.choice([0, 3, 12, 40, 130]))

    def list_unknown(self) -> bytes:
        """An unknown field of a list, not often the one that is rare there."""
        field = self.unknown()
        while field[0] & 0x7F == 8 << 3 | 2 and not self.chance(10):
            field = self.unknown()
        return field

    def list_of(self, kind: int) -> bytes:
        pieces = self.some(lambda: self.block(1, self.example()), most=5)
        if kind == 2 or self.chance(8):
            pieces += self.some(lambda: self.block(2, self.example()), most=2)
        if self.chance(6):
            pieces.append(self.list_unknown())
        return self.shuffled(pieces)

    def input(self) -> bytes:
        """Mostly lists of one kind; sometimes it changes."""
        kind = self.random.choice([1, 2])
        pieces = []
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 3])):
            if self.chance(4):
                kind = 3 - kind
            pieces.append(self.block(kind, self.list_of(kind)))
        return self.shuffled(pieces + self.maybe_unknown())

    def task(self) -> bytes:
        pieces = self.some(lambda: self.block(1, self.model_spec()), most=2)
        pieces += self.some(lambda: self.block(2, self.text()), most=2)
        return self.shuffled(pieces + self.maybe_unknown())

    def inference_request(self, *, multi: bool) -> bytes:
        first = self.task if multi else self.model_spec
        pieces = self.some(lambda: self.block(1, first()))
        pieces += [self.block(2, self.input()) for _ in range(self.random.choice([0, 1, 1, 1, 2]))]
        return self.shuffled(pieces + self.maybe_unknown())


class TooLarge(Exception):
    """Examples above LIMIT."""


def expected_strings(request: Any) -> list[bytes]:
    """Each example with all contexts before it, as they merge. TooLarge."""
    kind = request.input.WhichOneof("kind")
    chosen: Any = getattr(request.input, kind) if kind else None
    examples = list(chosen.examples) if kind else []
    context = b"".join(chosen.context) if kind == "example_list_with_context" else b""
    strings = [context + example for example in examples]
    if context and sum(field_bytes(len(string)) for string in strings) > LIMIT:
        raise TooLarge
    if sum(STRING_BYTES + len(string) for string in strings) > LIMIT:
        raise TooLarge
    return strings


def field_bytes(size: int) -> int:
    """Bytes of a field of `size` bytes: tag, length, content."""
    return 1 + max(1, (size.bit_length() + 6) // 7) + size


def expected_spec(spec: Any) -> dict[str, Any]:
    choice = spec.WhichOneof("version_choice")
    return {
        "name": spec.name,
        "signature_name": spec.signature_name,
        "version": spec.version.value if choice == "version" else None,
        "version_label": spec.version_label if choice == "version_label" else None,
    }


def expected_request(data: bytes, *, multi: bool) -> dict[str, Any]:
    """What parse_inference_request should give, from Python protobuf. DecodeError, TooLarge."""
    request = RAW[multi].FromString(data)
    tasks = (
        [(expected_spec(task.model_spec), task.method_name) for task in request.tasks]
        if (multi)
        else []
    )
    if multi:
        spec = tasks[0][0] if tasks else expected_spec(RAW[False]().model_spec)
    else:
        spec = expected_spec(request.model_spec)
    strings = expected_strings(request)
    tensor = {
        "dtype": DT_STRING,
        "shape": (len(strings),),
        "unknown_rank": False,
        "values": strings,
    }
    return {
        **spec,
        "has_model_spec": multi or request.HasField("model_spec"),
        "inputs": {"inputs": tensor} if strings else {},
        "output_filter": [],
        "tasks": tasks,
    }


def check_reading(data: bytes, *, multi: bool) -> str:
    """Compare, and tell what came out: "read", "refused", "rare" or "too large"."""
    expected: dict[str, Any] | None = None
    outcome = "read"
    try:
        expected = expected_request(data, multi=multi)
    except DecodeError:
        outcome = "refused"
    except TooLarge:
        outcome = "too large"
    try:
        read = parse_inference_request(data, multi, LIMIT)
    except ServingError as error:
        if error.code == Code.UNIMPLEMENTED:
            is_rare = uses_rare(data, sub_messages=SUB_MESSAGES[multi], rare_fields=RARE_FIELDS)
            return "rare" if is_rare else fail(data, "there is nothing rare in it")
        codes = {"refused": Code.INTERNAL, "too large": Code.RESOURCE_EXHAUSTED}
        if codes.get(outcome) == error.code:
            return outcome
        fail(data, f"{error}, but protobuf says: {outcome}")
    if outcome != "read":
        fail(data, f"it was read, but protobuf says: {outcome}")
    if read != expected:
        fail(data, f"read: {read}\nprotobuf: {expected}")
    return outcome


def fail(data: bytes, reason: str) -> NoReturn:
    raise AssertionError(f"{data.hex()}: {reason}")
