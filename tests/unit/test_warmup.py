"""Warm-up with a session and a runner that only pretend: what is run, and what is told."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.functional.messages import floats, predict_request
from tests.inference import classification_request, regression_request
from tfsrv._proto import message_class
from tfsrv._tfrecord import write_records
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.metrics import WARMUP_MICROS, WARMUP_RECORDS
from tfsrv.servables.saved_model import SavedModelOptions, SavedModelSourceAdapter, warm_up
from tfsrv.servables.warmup import (
    CLASSIFY,
    FILE_NAME,
    MULTI_INFERENCE,
    PREDICT,
    REGRESS,
    SYNTHETIC_SECONDS,
    WarmUp,
    batch_sizes,
    synthetic_requests,
)

ID = ServableId("m", 7)
FLOAT, INT32, STRING = 1, 3, 7

PredictionLog: Any = message_class("tensorflow.serving.PredictionLog")
PredictRequest: Any = message_class("tensorflow.serving.PredictRequest")
MultiInferenceRequest: Any = message_class("tensorflow.serving.MultiInferenceRequest")
SignatureDef: Any = message_class("tensorflow.SignatureDef")

Inputs = dict[str, tuple[int, list[int] | None]]  # dtype and shape; None: of unknown rank


class FakeSession:
    """A model with these signatures."""

    def __init__(
        self,
        signatures: dict[str, Inputs] | None = None,
        *,
        batching: BatchingParameters | None = None,
        broken: tuple[str, ...] = (),
        defaults: tuple[str, ...] = (),
    ) -> None:
        self.batching = batching
        self.signature_defs = {
            name: signature_def(inputs) for name, inputs in (signatures or {}).items()
        }
        self._broken = broken
        self._defaults = defaults

    def describe(self) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "broken": "no such tensor" if name in self._broken else "",
                "defaults": [alias for alias in signature.inputs if alias in self._defaults],
                "inputs": {alias: (f"{alias}:0", INT32) for alias in signature.inputs},
            }
            for name, signature in self.signature_defs.items()
        }


def signature_def(inputs: Inputs) -> Any:
    made = SignatureDef()
    for alias, (dtype, shape) in inputs.items():
        info = made.inputs[alias]
        info.dtype = dtype
        if shape is None:
            info.tensor_shape.unknown_rank = True
        for size in shape or []:
            info.tensor_shape.dim.add(size=size)
    return made


class FakeRunner:
    """Notes the requests, and fails for those that `answer` does not like."""

    def __init__(self, answer: Callable[[int, bytes], None] = lambda kind, request: None) -> None:
        self._answer = answer
        self.runs: list[tuple[int, bytes]] = []
        self.timeouts: list[float] = []
        self.targets: set[tuple[Any, str, int]] = set()

    def __call__(
        self,
        session: Any,
        name: str,
        version: int,
        kind: int,
        record: bytes,
        places: list[tuple[int, int]],
        timeout_seconds: float = 0.0,
    ) -> None:
        request = b"".join(record[first : first + size] for first, size in places)
        self.runs.append((kind, request))
        self.timeouts.append(timeout_seconds)
        self.targets.add((session, name, version))
        self._answer(kind, request)

    def predicted(self) -> list[Any]:
        """The PredictRequests."""
        return [PredictRequest.FromString(request) for _, request in self.runs]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """The folder of a version without a warm-up file."""
    return tmp_path


def file_of(version: Path) -> Path:
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    assert str(path) == os.path.join(version, FILE_NAME)
    path.parent.mkdir(exist_ok=True)
    return path


def write(version: Path, *records: bytes) -> Path:
    path = file_of(version)
    write_records(path, records)
    return path


def predict_log(number: int) -> bytes:
    """A log of a PredictRequest with that number in it."""
    return log("predict_log", request(number))


def request(number: int) -> Any:
    return predict_request("written for another model", {"x": floats(number)}, version=99)


def log(field: str, request: Any) -> bytes:
    made = PredictionLog()
    getattr(made, field).request.CopyFrom(request)
    serialized: bytes = made.SerializeToString()
    return serialized


def refusal(warm: WarmUp, version: Path, session: FakeSession | None = None) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        warm(session or FakeSession(), ID, str(version))
    return caught.value.code, caught.value.message


def counted(version: Path) -> tuple[dict[str, int], dict[str, tuple[int, float]]]:
    """Records that were run, and how many warm-ups took how many microseconds; by status."""
    path = str(version)  # counters live as long as the process
    records = {status: n for (of, status), n in WARMUP_RECORDS.cells().items() if of == path}
    micros = {
        status: (histogram.count, histogram.sum)
        for (of, status), histogram in WARMUP_MICROS.cells().items()
        if of == path
    }
    return records, micros


# --- the file


def test_records_are_counted_with_the_time_that_all_took(version: Path) -> None:
    write(version, *map(predict_log, range(5)))
    clock = Clock()

    def take_a_while(*_: object) -> None:
        clock.now += 0.25

    for _ in range(2):
        WarmUp(FakeRunner(take_a_while), clock=clock)(FakeSession(), ID, str(version))
    assert counted(version) == ({"OK": 10}, {"OK": (2, 2_500_000.0)})


def test_what_failed_is_counted_by_its_code(version: Path) -> None:
    write(version, *map(predict_log, range(5)))

    def fail_at_two(kind: int, sent: bytes) -> None:
        if sent == request(2).SerializeToString():
            raise ServingError(Code.INVALID_ARGUMENT, "of which there may be many")

    refusal(WarmUp(FakeRunner(fail_at_two)), version)
    records, micros = counted(version)
    assert records == {"INVALID_ARGUMENT": 2}
    assert micros.keys() == {"INVALID_ARGUMENT"}


def test_without_a_file_nothing_is_counted(version: Path) -> None:
    WarmUp(FakeRunner(), synthetic=True)(FakeSession(), ID, str(version))
    assert counted(version) == ({}, {})


def test_runs_each_record_once_in_the_order_of_the_file(version: Path) -> None:
    write(version, *map(predict_log, range(5)))
    runner, session = FakeRunner(), FakeSession()
    WarmUp(runner)(session, ID, str(version))
    assert runner.runs == [(PREDICT, request(i).SerializeToString()) for i in range(5)]
    assert runner.targets == {(session, "m", 7)}
    assert set(runner.timeouts) == {0.0}


def test_runs_all_kinds_that_models_are_asked(version: Path) -> None:
    multi = MultiInferenceRequest()
    multi.tasks.add().model_spec.name = "m"
    requests = {
        "classify_log": (CLASSIFY, classification_request("m", [{"x": 1.0}])),
        "regress_log": (REGRESS, regression_request("m", [{"x": 1.0}])),
        "multi_inference_log": (MULTI_INFERENCE, multi),
        "predict_log": (PREDICT, request(1)),
    }
    write(version, *(log(field, sent) for field, (_, sent) in requests.items()))
    runner = FakeRunner()
    WarmUp(runner)(FakeSession(), ID, str(version))
    assert runner.runs == [(kind, sent.SerializeToString()) for kind, sent in requests.values()]


def test_runs_each_record_as_often_as_told_before_the_next(version: Path) -> None:
    write(version, predict_log(1), predict_log(2))
    runner = FakeRunner()
    WarmUp(runner, num_request_iterations=3)(FakeSession(), ID, str(version))
    first, second = (request(i).SerializeToString() for i in (1, 2))
    assert [sent for _, sent in runner.runs] == [first] * 3 + [second] * 3


def test_skips_logs_that_are_empty(version: Path) -> None:
    metadata = PredictionLog()
    metadata.log_metadata.model_spec.name = "m"
    write(version, b"", metadata.SerializeToString(), predict_log(1))
    runner = FakeRunner()
    WarmUp(runner)(FakeSession(), ID, str(version))
    assert len(runner.runs) == 1


def test_tells_what_it_has_done(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(version, predict_log(1), predict_log(2))
    clock = Clock()

    def take_a_second(kind: int, request: bytes) -> None:
        clock.now += 1.0

    WarmUp(FakeRunner(take_a_second), clock=clock)(FakeSession(), ID, str(version))
    assert caplog.messages == ["m version 7 was warmed up with 2 requests in 2.000 s"]


def test_without_a_file_nothing_is_run_nor_told(
    version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runner = FakeRunner()
    WarmUp(runner)(FakeSession({"serving_default": {"x": (FLOAT, [-1])}}), ID, str(version))
    assert (runner.runs, caplog.messages) == ([], [])


def test_a_file_is_not_read_when_warm_up_is_off(version: Path) -> None:
    file_of(version).write_bytes(b"no TFRecord")
    runner = FakeRunner()
    WarmUp(runner, enabled=False)(FakeSession(), ID, str(version))
    assert runner.runs == []


def test_a_file_without_records_is_no_error(version: Path) -> None:
    write(version)
    runner = FakeRunner()
    WarmUp(runner, synthetic=True)(FakeSession({"a": {}}), ID, str(version))
    assert runner.runs == []


def test_a_thousand_records_are_run(version: Path) -> None:
    write(version, *[predict_log(0)] * 1000)
    runner = FakeRunner()
    WarmUp(runner)(FakeSession(), ID, str(version))
    assert len(runner.runs) == 1000


def test_more_than_a_thousand_records_are_an_error(version: Path) -> None:
    path = write(version, *[predict_log(0)] * 1002)
    runner = FakeRunner()
    assert refusal(WarmUp(runner), version) == (
        Code.INVALID_ARGUMENT,
        f"Number of warmup records exceeds the maximum (1000) at {path}",
    )
    assert len(runner.runs) == 1001  # as TensorFlow Serving counts


def test_empty_records_count(version: Path) -> None:
    write(version, *[b""] * 1001)
    code, text = refusal(WarmUp(FakeRunner()), version)
    assert code is Code.INVALID_ARGUMENT
    assert text.startswith("Number of warmup records exceeds")


@pytest.mark.parametrize(("field", "number"), [("session_run_log", 5), ("predict_streamed_log", 7)])
def test_other_kinds_are_not_supported(version: Path, field: str, number: int) -> None:
    made = PredictionLog()
    getattr(made, field).SetInParent()
    path = write(version, predict_log(1), made.SerializeToString())
    runner = FakeRunner()
    code, text = refusal(WarmUp(runner), version)
    assert code is Code.UNIMPLEMENTED
    assert text.startswith(f"Unsupported log_type for warmup: {number}")
    assert f"record 2 of {path}" in text
    assert len(runner.runs) == 1


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (b"this is no log", "this is no log"),
        (b"\x1b[2J\n\xff\x00", r"\x1b[2J\n\xff\x00"),
        (b"\xff" * 100_000, r"\xff" * 64),
    ],
    ids=["text", "what moves a cursor", "long"],
)
def test_a_record_that_is_no_log_is_told_by_its_beginning(
    version: Path, record: bytes, shown: str
) -> None:
    path = write(version, predict_log(1), record)
    runner = FakeRunner()
    assert refusal(WarmUp(runner), version) == (
        Code.INVALID_ARGUMENT,
        f"Failed to parse warmup record: {shown} from {path}",
    )
    assert len(runner.runs) == 1


def test_a_request_that_does_not_parse_is_told_as_its_record(version: Path) -> None:
    path = write(version, b"\x32\x04\x0a\x02zz")

    def refuse(kind: int, request: bytes) -> None:
        raise ValueError("Failed to parse the PredictRequest.")

    assert refusal(WarmUp(FakeRunner(refuse)), version) == (
        Code.INVALID_ARGUMENT,
        rf"Failed to parse warmup record: 2\x04\n\x02zz from {path}",
    )


def test_a_request_that_fails_ends_the_warm_up_with_its_code(version: Path) -> None:
    path = write(version, *map(predict_log, range(4)))

    def dislike_two(kind: int, sent: bytes) -> None:
        if sent == request(2).SerializeToString():
            raise ServingError(Code.OUT_OF_RANGE, "not two")

    runner = FakeRunner(dislike_two)
    assert refusal(WarmUp(runner, num_request_iterations=2), version) == (
        Code.OUT_OF_RANGE,
        f"not two (warm-up record 3 of {path})",
    )
    assert len(runner.runs) == 5


def test_a_file_that_is_no_tfrecord_is_data_loss(version: Path) -> None:
    file_of(version).write_bytes(b"these are no records, but some text")
    code, text = refusal(WarmUp(FakeRunner()), version)
    assert code is Code.DATA_LOSS
    assert text == (
        "corrupted record at 0 (Is this even a TFRecord file?). "
        "Please verify your warmup data is in TFRecord format."
    )


def test_records_before_a_damaged_one_are_run(version: Path) -> None:
    path = write(version, predict_log(1), predict_log(2))
    path.write_bytes(path.read_bytes()[:-1])
    runner = FakeRunner()
    code, text = refusal(WarmUp(runner), version)
    assert code is Code.DATA_LOSS
    assert text.startswith("truncated record at ")
    assert text.endswith("Please verify your warmup data is in TFRecord format.")
    assert len(runner.runs) == 1


def test_data_loss_of_a_request_is_not_taken_for_one_of_the_file(version: Path) -> None:
    write(version, predict_log(1))

    def lose(kind: int, request: bytes) -> None:
        raise ServingError(Code.DATA_LOSS, "in the model's own file")

    code, text = refusal(WarmUp(FakeRunner(lose)), version)
    assert code is Code.DATA_LOSS
    assert text.startswith("in the model's own file")
    assert "TFRecord format" not in text


# --- what is no file


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_directory, make_fifo, make_link_to_a_device])
def test_what_is_no_regular_file_is_refused_at_once(
    version: Path, make: Callable[[Path], None]
) -> None:
    make(file_of(version))
    code, text = refusal(WarmUp(FakeRunner()), version)
    assert code is Code.FAILED_PRECONDITION
    assert f"{file_of(version)} is no regular file" in text


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [make_dangling_link, make_loop])
def test_links_that_lead_to_no_file_are_no_file(
    version: Path, make: Callable[[Path], None]
) -> None:
    make(file_of(version))
    WarmUp(FakeRunner())(FakeSession(), ID, str(version))


def test_a_link_to_a_file_is_followed(version: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "elsewhere", [predict_log(1)])
    file_of(version).symlink_to(tmp_path / "elsewhere")
    runner = FakeRunner()
    WarmUp(runner)(FakeSession(), ID, str(version))
    assert len(runner.runs) == 1


def test_no_file_stays_open_after_an_error(version: Path) -> None:
    write(version, predict_log(1), b"this is no log")
    before = len(os.listdir("/proc/self/fd"))
    refusal(WarmUp(FakeRunner()), version)
    assert len(os.listdir("/proc/self/fd")) == before


# --- requests that are made up


def made_up(session: FakeSession) -> list[tuple[str, int, Any]]:
    return [
        (name, rows, PredictRequest.FromString(sent))
        for name, rows, sent in synthetic_requests(session)
    ]


def shapes(sent: Any) -> dict[str, list[int]]:
    return {
        alias: [dim.size for dim in tensor.tensor_shape.dim]
        for alias, tensor in sent.inputs.items()
    }


def rows_run(session: FakeSession) -> list[int]:
    return [rows for _, rows, _ in made_up(session)]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([-1], [1]),
        ([-1, 3], [1, 3]),
        ([-1, -1, 3], [1, 1, 3]),
        ([], []),
        ([2, 3], [2, 3]),
        ([2, -1], [2, 1]),
        ([-1, 0], [1, 0]),
        (None, [1]),
    ],
)
def test_makes_inputs_of_the_signatures_shape(shape: list[int] | None, expected: list[int]) -> None:
    ((_, rows, sent),) = made_up(FakeSession({"serving_default": {"x": (FLOAT, shape)}}))
    assert rows == 1
    assert shapes(sent) == {"x": expected}
    assert sent.inputs["x"].dtype == FLOAT
    assert not sent.inputs["x"].tensor_shape.unknown_rank


def test_makes_inputs_without_values_which_stand_for_zeros() -> None:
    ((_, _, sent),) = made_up(FakeSession({"a": {"x": (STRING, [-1])}}))
    bare = PredictRequest()
    bare.model_spec.signature_name = "a"
    bare.inputs["x"].dtype = STRING
    bare.inputs["x"].tensor_shape.dim.add(size=1)
    assert sent == bare


def test_takes_the_dtype_of_the_graph_where_the_signature_has_none() -> None:
    ((_, _, sent),) = made_up(FakeSession({"a": {"x": (0, [-1])}}))
    assert sent.inputs["x"].dtype == INT32


def test_asks_all_signatures_the_default_one_first() -> None:
    inputs: Inputs = {"x": (FLOAT, [-1])}
    session = FakeSession({"b": inputs, "serving_default": inputs, "a": inputs})
    assert [name for name, _, _ in made_up(session)] == ["serving_default", "a", "b"]
    assert [sent.model_spec.signature_name for _, _, sent in made_up(session)] == [
        "serving_default",
        "a",
        "b",
    ]


def test_asks_signatures_without_inputs() -> None:
    ((name, rows, sent),) = made_up(FakeSession({"get": {}}, batching=BatchingParameters()))
    assert (name, rows, len(sent.inputs)) == ("get", 1, 0)


def test_leaves_out_signatures_that_cannot_be_served() -> None:
    session = FakeSession({"init": {}, "good": {}}, broken=("init",))
    assert [name for name, _, _ in made_up(session)] == ["good"]


def test_leaves_out_inputs_with_defaults() -> None:
    session = FakeSession(
        {"a": {"x": (FLOAT, [-1]), "scale": (FLOAT, [])}},
        defaults=("scale",),
        batching=BatchingParameters(max_batch_size=2),
    )
    sent = made_up(session)
    assert [rows for _, rows, _ in sent] == [1, 2]
    assert [list(each.inputs) for _, _, each in sent] == [["x"], ["x"]]


def test_makes_no_inputs_that_are_too_large() -> None:
    session = FakeSession(
        {"small": {"x": (FLOAT, [-1, 1 << 20])}, "large": {"x": (FLOAT, [1 << 40])}},
        batching=BatchingParameters(max_batch_size=32),
    )
    assert [(name, rows) for name, rows, _ in made_up(session)] == [
        ("small", rows) for rows in (1, 2, 4, 8)
    ]


def test_takes_all_sizes_of_batches() -> None:
    batching = BatchingParameters(max_batch_size=8)
    session = FakeSession({"a": {"x": (FLOAT, [-1, 3]), "y": (INT32, [-1])}}, batching=batching)
    assert rows_run(session) == [1, 2, 4, 8]
    assert [shapes(sent) for _, _, sent in made_up(session)] == [
        {"x": [rows, 3], "y": [rows]} for rows in (1, 2, 4, 8)
    ]


@pytest.mark.parametrize("shape", [[4], [], [4, -1]])
def test_takes_one_size_where_an_input_has_a_fixed_number_of_rows(shape: list[int]) -> None:
    batching = BatchingParameters(max_batch_size=8)
    inputs: Inputs = {"x": (FLOAT, [-1]), "fixed": (FLOAT, shape)}
    assert rows_run(FakeSession({"a": inputs}, batching=batching)) == [1]


@pytest.mark.parametrize(
    ("batching", "sizes"),
    [
        (None, [1]),
        (BatchingParameters(max_batch_size=1), [1]),
        (BatchingParameters(max_batch_size=8), [1, 2, 4, 8]),
        (BatchingParameters(max_batch_size=10), [1, 2, 4, 8, 10]),
        (BatchingParameters(max_batch_size=12, allowed_batch_sizes=(3, 12)), [3, 12]),
        (
            BatchingParameters(
                max_batch_size=64, max_execution_batch_size=4, enable_large_batch_splitting=True
            ),
            [1, 2, 4],
        ),
    ],
)
def test_sizes_are_those_that_batching_will_run(
    batching: BatchingParameters | None, sizes: list[int]
) -> None:
    assert batch_sizes(batching) == sizes


def test_runs_made_up_requests_where_there_is_no_file(
    version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runner = FakeRunner()
    session = FakeSession({"a": {"x": (FLOAT, [-1])}, "b": {}})
    WarmUp(runner, synthetic=True, num_request_iterations=5, clock=Clock())(
        session, ID, str(version)
    )
    assert [sent.model_spec.signature_name for sent in runner.predicted()] == ["a", "b"]
    assert {kind for kind, _ in runner.runs} == {PREDICT}
    assert runner.timeouts == [SYNTHETIC_SECONDS] * 2
    assert caplog.messages == ["m version 7 was warmed up with 2 requests in 0.000 s"]


def test_runs_made_up_requests_where_the_file_is_not_to_be_read(version: Path) -> None:
    file_of(version).write_bytes(b"no TFRecord")
    runner = FakeRunner()
    WarmUp(runner, enabled=False, synthetic=True)(FakeSession({"b": {}}), ID, str(version))
    assert len(runner.runs) == 1


def test_runs_nothing_made_up_where_there_is_a_file(version: Path) -> None:
    write(version, predict_log(1))
    runner = FakeRunner()
    WarmUp(runner, synthetic=True)(FakeSession({"b": {}}), ID, str(version))
    assert [sent for _, sent in runner.runs] == [request(1).SerializeToString()]


def test_made_up_requests_that_fail_are_told_and_no_error(
    version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def dislike_a(kind: int, sent: bytes) -> None:
        if PredictRequest.FromString(sent).model_spec.signature_name == "a":
            raise ServingError(Code.INVALID_ARGUMENT, "x must not be zero")

    runner = FakeRunner(dislike_a)
    session = FakeSession(
        {"a": {"x": (FLOAT, [-1])}, "b": {}}, batching=BatchingParameters(max_batch_size=2)
    )
    WarmUp(runner, synthetic=True, clock=Clock())(session, ID, str(version))
    assert len(runner.runs) == 3
    assert caplog.messages == [
        f"m version 7 does not take made-up inputs: a with {rows} rows:"
        " INVALID_ARGUMENT: x must not be zero"
        for rows in (1, 2)
    ] + ["m version 7 was warmed up with 1 requests in 0.000 s"]


def test_a_version_that_is_given_up_runs_nothing_more(version: Path) -> None:
    def end(kind: int, sent: bytes) -> None:
        raise ServingError(Code.CANCELLED, "Session has been closed.")

    runner = FakeRunner(end)
    session = FakeSession({"a": {}, "b": {}})
    code, _ = refusal(WarmUp(runner, synthetic=True), version, session)
    assert code is Code.CANCELLED
    assert len(runner.runs) == 1


def test_made_up_requests_end_when_they_take_long(
    version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()

    def take_twenty_seconds(kind: int, request: bytes) -> None:
        clock.now += 20.0

    runner = FakeRunner(take_twenty_seconds)
    session = FakeSession({name: {} for name in "abcd"})
    WarmUp(runner, synthetic=True, clock=clock)(session, ID, str(version))
    assert runner.timeouts == [30.0, 10.0]
    assert caplog.messages == ["Warm-up of m version 7 takes long, and ends here"]


# --- how a server's options get there


def options(**more: Any) -> ServerOptions:
    return ServerOptions(models=(ModelConfig("m", "/m"),), **more)


def test_warm_up_is_on_by_default() -> None:
    runner = FakeRunner()
    assert warm_up(options(), runner) == WarmUp(runner)


def test_flags_say_how_to_warm_up() -> None:
    runner = FakeRunner()
    asked = options(
        enable_model_warmup=False, synthetic_warmup=True, num_request_iterations_for_warmup=4
    )
    assert warm_up(asked, runner) == WarmUp(
        runner, enabled=False, num_request_iterations=4, synthetic=True
    )


@pytest.mark.parametrize("iterations", [-1, 0, 1])
def test_each_request_is_run_once_unless_told_otherwise(iterations: int) -> None:
    made = warm_up(options(num_request_iterations_for_warmup=iterations), FakeRunner())
    assert made is not None
    assert made.num_request_iterations == 1


def test_there_is_no_warm_up_with_all_flags_off() -> None:
    assert warm_up(options(enable_model_warmup=False), FakeRunner()) is None


def test_there_is_no_warm_up_where_nobody_can_run_requests() -> None:
    assert warm_up(options(synthetic_warmup=True), None) is None


def test_a_loader_warms_up_what_it_has_loaded(version: Path) -> None:
    class Loaded:
        def hurry(self) -> None: ...

        def close(self) -> None: ...

        def cancel(self) -> None: ...

    session = Loaded()
    warmed: list[tuple[Any, ServableId, str]] = []
    adapter = SavedModelSourceAdapter(
        SavedModelOptions(warm_up=lambda *told: warmed.append(told)),
        load_session=lambda *args, **kwargs: session,
    )
    loader = adapter.convert(ServableData(ID, StoragePath(str(version))))
    loader.warm_up()
    assert warmed == []
    loader.load()
    loader.warm_up()
    assert warmed == [(session, ID, str(version))]
