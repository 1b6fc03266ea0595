"""PredictionLogs: their kind and where their request is, against Python protobuf."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference import classification_request, regression_request
from tests.unit.gil import lets_others_run
from tests.wire_messages import WireMaker
from tfsrv._prediction_log import read_prediction_log
from tfsrv._proto import message_class
from tfsrv.errors import Code, ServingError

PredictionLog: Any = message_class("tensorflow.serving.PredictionLog")
PredictRequest: Any = message_class("tensorflow.serving.PredictRequest")
MultiInferenceRequest: Any = message_class("tensorflow.serving.MultiInferenceRequest")

FIELDS = {
    2: "classify_log",
    3: "regress_log",
    4: "multi_inference_log",
    5: "session_run_log",
    6: "predict_log",
    7: "predict_streamed_log",
}
MOST_PLACES = 1024

more = settings(max_examples=400, deadline=None)
randoms = st.integers(0, 2**64).map(Random)


def request_in(record: bytes) -> tuple[int, bytes]:
    """The kind of a log, and the bytes of its request."""
    kind, places = read_prediction_log(record)
    return kind, b"".join(record[first : first + size] for first, size in places)


def predict(name: str, signature: str = "", *, filters: tuple[str, ...] = ()) -> Any:
    request = PredictRequest(output_filter=filters)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    return request


def multi(*signatures: str) -> Any:
    request = MultiInferenceRequest()
    for signature in signatures:
        request.tasks.add().model_spec.signature_name = signature
    return request


def log(**fields: Any) -> bytes:
    """A log whose kind is the field; of values the one that a log of this kind has."""
    ((name, request),) = fields.items()
    made = PredictionLog()
    getattr(made, name).request.CopyFrom(request)
    serialized: bytes = made.SerializeToString()
    return serialized


def field(number: int, content: bytes) -> bytes:
    """A field that has a length, of less than 128 bytes."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def refused(record: bytes) -> str:
    with pytest.raises(ServingError) as caught:
        read_prediction_log(record)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


# --- kinds


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        (2, classification_request("m", [{"x": 1.0}, {"x": 2.0}], signature="classify")),
        (3, regression_request("m", [{"x": 1.0}], context={"c": 1.0})),
        (4, multi("classify", "regress")),
        (6, predict("m", "double", filters=("y", "z"))),
    ],
    ids=["classify", "regress", "multi_inference", "predict"],
)
def test_finds_the_request_of_each_kind(kind: int, request_: Any) -> None:
    record = log(**{FIELDS[kind]: request_})
    assert request_in(record) == (kind, request_.SerializeToString())
    assert len(read_prediction_log(record)[1]) == 1


def test_tells_the_kind_of_a_run_of_a_session() -> None:
    made = PredictionLog()
    made.session_run_log.request.feed.add(name="x")
    assert read_prediction_log(made.SerializeToString())[0] == 5


def test_tells_the_kind_of_a_streamed_log() -> None:
    made = PredictionLog()
    made.predict_streamed_log.SetInParent()
    assert read_prediction_log(made.SerializeToString())[0] == 7


def test_passes_over_the_response_and_the_metadata() -> None:
    made = PredictionLog()
    made.log_metadata.model_spec.name = "of the log"
    made.predict_log.request.CopyFrom(predict("m"))
    made.predict_log.response.outputs["y"].float_val.extend([1.0, 2.0])
    assert request_in(made.SerializeToString()) == (6, predict("m").SerializeToString())


def test_an_empty_record_has_no_kind() -> None:
    assert read_prediction_log(b"") == (0, [])


def test_a_log_of_metadata_has_no_kind() -> None:
    made = PredictionLog()
    made.log_metadata.model_spec.name = "m"
    assert read_prediction_log(made.SerializeToString()) == (0, [])


def test_a_log_without_a_request_has_a_kind_and_no_places() -> None:
    assert read_prediction_log(field(6, b"")) == (6, [])


def test_an_empty_request_is_a_place_of_no_bytes() -> None:
    assert read_prediction_log(field(6, field(1, b""))) == (6, [(4, 0)])


# --- what comes more than once


def test_logs_that_come_twice_merge() -> None:
    record = log(predict_log=predict("m")) + log(predict_log=predict("", "double"))
    kind, request = request_in(record)
    assert kind == 6
    assert PredictRequest.FromString(request) == predict("m", "double")
    assert (
        PredictRequest.FromString(request) == PredictionLog.FromString(record).predict_log.request
    )


def test_requests_that_come_twice_in_a_log_merge() -> None:
    first, second = (field(1, predict("", name).SerializeToString()) for name in ("a", "b"))
    record = field(6, first + second)
    assert PredictRequest.FromString(request_in(record)[1]) == predict("", "b")
    assert len(read_prediction_log(record)[1]) == 2


def test_of_several_kinds_the_last_one_counts() -> None:
    record = log(predict_log=predict("p")) + log(multi_inference_log=multi("a"))
    assert request_in(record) == (4, multi("a").SerializeToString())


def test_a_kind_that_comes_again_after_another_begins_anew() -> None:
    record = (
        log(predict_log=predict("m", "lost"))
        + log(multi_inference_log=multi("a"))
        + log(predict_log=predict("p"))
    )
    assert request_in(record) == (6, predict("p").SerializeToString())


def test_a_kind_without_a_request_takes_the_place_of_the_one_before() -> None:
    assert read_prediction_log(log(predict_log=predict("m")) + field(2, b"")) == (2, [])


def test_a_thousand_parts_are_merged_and_more_are_refused() -> None:
    part = field(6, field(1, field(3, b"y")))
    kind, request = request_in(part * MOST_PLACES)
    assert kind == 6
    assert len(PredictRequest.FromString(request).output_filter) == MOST_PLACES
    assert refused(part * (MOST_PLACES + 1))


def test_parts_of_kinds_that_do_not_count_are_not_counted() -> None:
    lost = field(6, field(1, b"")) * MOST_PLACES
    assert read_prediction_log(lost + field(2, field(1, b"")))[0] == 2


# --- what is wrong


@pytest.mark.parametrize(
    "record",
    [
        b"\x00",  # field 0
        b"\x32",  # no length
        b"\x32\x05\x0a",  # cut off
        field(6, b"\x0a\x05"),  # a request that is cut off
        field(6, b"\x0a"),
        field(6, b"\x00"),
        field(6, b"\x12\x05"),  # a response that is cut off
        b"\x32\x80\x80\x80\x80\x80\x00",  # a length of six bytes
        b"\x32\xff\xff\xff\xff\x0f",  # a length of 4 GiB
        b"\x80\x80\x80\x80\x80\x00",  # a tag of six bytes
        b"\x0d\x01",  # three bytes are missing
        b"\x09\x01",
        b"\x08" + b"\xff" * 11,
        b"\x3c",  # the end of a group that was never begun
        b"this is no log",
    ],
)
def test_refuses_what_protobuf_refuses(record: bytes) -> None:
    with pytest.raises(DecodeError):
        PredictionLog.FromString(record)
    assert refused(record) == "not a PredictionLog"


def test_groups_are_refused() -> None:
    group = b"\xa3\x06\xa4\x06"  # field 100, which nobody knows
    assert PredictionLog.FromString(group)
    assert refused(group)
    assert refused(field(6, group))


@pytest.mark.parametrize("record", [None, "text", bytearray(b"")])
def test_takes_bytes_and_nothing_else(record: Any) -> None:
    with pytest.raises(TypeError):
        read_prediction_log(record)


@pytest.mark.parametrize("number", FIELDS)
def test_a_known_field_of_another_type_is_unknown(number: int) -> None:
    record = log(predict_log=predict("m")) + bytes([number << 3 | 0, 1])
    assert request_in(record) == (6, predict("m").SerializeToString())


# --- against protobuf


def some_request(random: Random) -> bytes:
    if random.random() < 0.4:
        return WireMaker(random).request()
    messages = [
        predict(""),
        predict("m", random.choice("abc"), filters=("y",)),
        multi("a", "b"),
        classification_request("m", [{"x": 1.0}], context={"c": 2.0}),
        regression_request("m", [{"x": 1.0}] * 3),
    ]
    serialized: bytes = random.choice(messages).SerializeToString()
    return serialized


def written(number: int, content: bytes) -> bytes:
    size = len(content)
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


def some_log(random: Random) -> bytes:
    """Some fields of a log, in any order."""
    parts = [written(1, some_request(random)) for _ in range(random.randrange(3))]
    if random.random() < 0.2:
        parts.append(written(2, b""))
    if random.random() < 0.2:
        parts.append(b"\x98\x06\x05")  # an unknown field
    random.shuffle(parts)
    return b"".join(parts)


def some_record(random: Random) -> bytes:
    parts = [
        written(random.choice(list(FIELDS)), some_log(random)) for _ in range(random.randrange(4))
    ]
    if random.random() < 0.2:
        parts.append(written(1, b""))
    if random.random() < 0.1:
        parts.append(b"\x9d\x06\x05\x00\x00\x00")
    random.shuffle(parts)
    return b"".join(parts)


def mutated(random: Random, record: bytes) -> bytes:
    data = bytearray(record)
    for _ in range(random.randrange(1, 4)):
        if not data:
            break
        at = random.randrange(len(data))
        how = random.randrange(3)
        if how == 0:
            data[at] = random.randrange(256)
        elif how == 1:
            del data[at:]
        else:
            data.insert(at, random.randrange(256))
    return bytes(data)


def check(record: bytes) -> None:
    """What protobuf takes is taken, and means the same; groups, which nobody writes, are not."""
    try:
        expected = PredictionLog.FromString(record)
    except DecodeError:
        expected = None
    try:
        kind, request = request_in(record)
    except ServingError:
        assert expected is None or has_groups(record), record.hex()
        return
    if expected is None:
        return  # something that nobody looks at is wrong, or will be found in the request
    name = expected.WhichOneof("log_type")
    assert FIELDS.get(kind) == name, record.hex()
    if kind == 0:
        assert request == b""
    elif kind != 7:
        field = getattr(expected, FIELDS[kind]).request
        assert type(field).FromString(request) == field, record.hex()


def has_groups(record: bytes) -> bool:
    """Whether there may be a group where fields begin: a byte says so."""
    return any(byte & 7 in (3, 4) for byte in record)


@more
@given(randoms)
def test_logs_mean_what_protobuf_says(random: Random) -> None:
    check(some_record(random))


@more
@given(randoms)
def test_mutated_logs_are_refused_only_if_protobuf_refuses_them(random: Random) -> None:
    check(mutated(random, some_record(random)))


@more
@given(st.binary(max_size=40))
def test_any_bytes_are_refused_only_if_protobuf_refuses_them(data: bytes) -> None:
    check(data)


# --- the GIL


def test_other_threads_go_on_while_a_large_record_is_read() -> None:
    record = field(1, b"") * 30_000_000  # one field after the other
    assert lets_others_run(lambda: read_prediction_log(record))
