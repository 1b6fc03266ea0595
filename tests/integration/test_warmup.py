"""Warm-up runs requests on a loaded model on the way of served ones, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy
import pytest
import uvloop

from tests.conftest import tensorflow_version
from tests.functional.messages import array, floats, predict_request, tensor
from tests.graphs import FLOAT, INT32, STRING, Graph
from tests.inference import CLASSIFY as CLASSIFY_METHOD
from tests.inference import REGRESS as REGRESS_METHOD
from tests.inference import classification_request, input_of, regression_request
from tests.unit.gil import lets_others_run
from tfsrv import _counters
from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._memory import live_blocks
from tfsrv._proto import message_class
from tfsrv._run import run
from tfsrv._serving_map import ServingMap
from tfsrv._session import SavedModelSession
from tfsrv._workers import WorkerPool
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.config import GrpcChannelArguments, ModelConfig, ServerOptions
from tfsrv.core.servable import ServableId
from tfsrv.errors import Code, ServingError
from tfsrv.handlers._session_method import SessionMethod
from tfsrv.handlers._warmup import WarmupRunner
from tfsrv.handlers.python_threads import PythonThreads
from tfsrv.parts import run_methods
from tfsrv.servables.warmup import CLASSIFY, MULTI_INFERENCE, PREDICT, REGRESS, WarmUp

pytestmark = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")

NO_LIMIT = 2**63 - 1

MultiInferenceRequest: Any = message_class("tensorflow.serving.MultiInferenceRequest")
MultiInferenceResponse: Any = message_class("tensorflow.serving.MultiInferenceResponse")
PredictResponse: Any = message_class("tensorflow.serving.PredictResponse")


class Stage:
    """A runner, and the methods whose requests it runs; their workers are not started."""

    def __init__(self, **options: Any) -> None:
        self.serving_map = ServingMap()
        self.methods: dict[int, SessionMethod] = run_methods(
            ServerOptions(models=(ModelConfig("m", "/m"),), **options),
            self.serving_map,
            WorkerPool(),
            PythonThreads(),
        )
        self._runner = WarmupRunner(self.methods)
        self._sessions: list[SavedModelSession] = []

    def load(self, path: Path | str, **options: Any) -> SavedModelSession:
        session = SavedModelSession.load(str(path), name="warm", version=3, **options)
        self._sessions.append(session)
        return session

    def run(
        self,
        session: SavedModelSession,
        kind: int,
        *parts: bytes | Any,
        timeout_seconds: float = 0.0,
    ) -> None:
        """Run one request, whose parts are in a record with something else around each."""
        record, places = b"", []
        for part in parts:
            data = part if isinstance(part, bytes) else part.SerializeToString()
            record += b"around"
            places.append((len(record), len(data)))
            record += data
        self._runner.run(
            session, "warm", 3, kind, record + b"after", places, timeout_seconds=timeout_seconds
        )

    def refusal(self, *run: Any, **options: Any) -> tuple[Code, str]:
        with pytest.raises(ServingError) as caught:
            self.run(*run, **options)
        return caught.value.code, caught.value.message

    def warm_up(self, session: SavedModelSession, folder: Path, **options: Any) -> None:
        WarmUp(self._runner.run, **options)(session, ServableId("warm", 3), str(folder))

    def close(self) -> None:
        while self._sessions:  # default values go with the object
            self._sessions.pop().close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()
    assert in_flight_bytes() == 0
    assert live_blocks() == 0


@pytest.fixture
def several(stage: Stage, models: Path) -> SavedModelSession:
    return stage.load(models / "several_signatures" / "1")


@pytest.fixture
def inference(stage: Stage, inference_models: Path) -> SavedModelSession:
    return stage.load(inference_models / "inference" / "1")


def multi_request(*signatures: tuple[str, str]) -> Any:
    request = MultiInferenceRequest()
    for name, method in signatures:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = "inference"
        task.model_spec.signature_name = name
    request.input.CopyFrom(input_of([{"x": 2.0}]))  # whose bytes are text, which classes are
    return request


def counted() -> dict[Any, tuple[int, ...]]:
    known = _counters.keys()
    return {key: _counters.read_codes(key) for key in known}


# --- what it leaves behind


def test_the_executor_of_a_signature_is_built(stage: Stage, inference: SavedModelSession) -> None:
    assert not inference.describe()["classify"]["built"]
    request = classification_request("any", [{"x": 1.0}], signature="classify")
    stage.run(inference, CLASSIFY, request)
    assert inference.describe()["classify"]["built"]


def test_the_executor_of_a_set_of_outputs_is_built(stage: Stage, models: Path) -> None:
    several = stage.load(models / "several_signatures" / "1")
    x = numpy.ones((2, 2), "float32")
    request = predict_request("any", {"x": x}, signature="rows", output_filter=["sum"])
    assert several.describe()["rows"]["other_sets"] == 0
    stage.run(several, PREDICT, request)
    assert several.describe()["rows"]["other_sets"] == 1
    stage.run(several, PREDICT, request)
    assert several.describe()["rows"]["other_sets"] == 1


def test_regress_is_run(stage: Stage, inference: SavedModelSession) -> None:
    request = regression_request("any", [{"x": 1.0}], signature="regress", context={"c": 2.0})
    stage.run(inference, REGRESS, request)
    assert inference.describe()["regress"]["built"]


def texts_and_lengths() -> Graph:
    """Of examples, as they are: `classify`, their texts as classes; `regress`, their lengths."""
    graph = Graph()
    examples = graph.add("examples", "Placeholder", dtype=STRING)
    axis = graph.add("axis", "Cast", graph.constant("one", 1), SrcT=FLOAT, DstT=INT32)
    column = graph.add("column", "ExpandDims", examples, axis, T=STRING, Tdim=INT32)
    length = graph.add("length", "StringLength", examples)
    number = graph.add("number", "Cast", length, SrcT=INT32, DstT=FLOAT)
    classify = graph.sign("classify", {"inputs": examples}, {"classes": column})
    regress = graph.sign("regress", {"inputs": examples}, {"outputs": number})
    classify.method_name, regress.method_name = CLASSIFY_METHOD, REGRESS_METHOD
    classify.inputs["inputs"].dtype = regress.inputs["inputs"].dtype = STRING
    classify.outputs["classes"].dtype = STRING
    return graph


def test_the_first_request_of_several_signatures_needs_no_worker(
    stage: Stage, tmp_path: Path
) -> None:
    """It runs in the loop's thread only if its executor is there and its runs were fast."""
    inference = stage.load(texts_and_lengths().save(tmp_path / "1"))
    request = multi_request(("classify", CLASSIFY_METHOD), ("regress", REGRESS_METHOD))
    for _ in range(1000):  # enough in a row are fast, on whatever machine
        stage.run(inference, MULTI_INFERENCE, request)
    request.tasks[0].model_spec.name = request.tasks[1].model_spec.name = "warm"
    stage.serving_map.publish({"warm": {3: inference}})
    loop = uvloop.new_event_loop()
    call_loop = CallLoop(loop)
    try:
        answer = loop.run_until_complete(
            asyncio.wait_for(
                call_loop.invoke(stage.methods[MULTI_INFERENCE], request.SerializeToString()), 20
            )
        )
    finally:
        stage.serving_map.publish({})
        call_loop.close()
        loop.close()
    results = MultiInferenceResponse.FromString(answer).results
    assert [result.model_spec.version.value for result in results] == [3, 3]
    assert results[1].regression_result.regressions[0].value > 0


def test_nothing_is_counted(stage: Stage, inference: SavedModelSession, models: Path) -> None:
    several = stage.load(models / "several_signatures" / "1")
    before = counted()
    stage.run(several, PREDICT, predict_request("any", {"x": floats(1)}))
    stage.run(inference, CLASSIFY, classification_request("any", [{"x": 1.0}]))
    stage.run(inference, REGRESS, regression_request("any", [{"x": 1.0}], signature="regress"))
    stage.run(inference, MULTI_INFERENCE, multi_request(("classify", CLASSIFY_METHOD)))
    stage.refusal(several, PREDICT, predict_request("any", {}))
    assert counted() == before


def test_which_model_and_version_are_asked_for_does_not_matter(
    stage: Stage, several: SavedModelSession
) -> None:
    for asked in ({"version": 99}, {"label": "unknown"}):
        stage.run(several, PREDICT, predict_request("other", {"x": floats(1)}, **asked))
    stage.run(several, PREDICT, predict_request("", {"x": floats(1)}))


def test_a_request_in_parts_is_one(stage: Stage, several: SavedModelSession) -> None:
    first = predict_request("m", {"x": floats(1)})
    second = predict_request("", {}, signature="double")
    stage.run(several, PREDICT, first, second, b"")


def test_a_request_without_bytes_is_one_for_the_default_signature(
    stage: Stage, several: SavedModelSession
) -> None:
    code, _ = stage.refusal(several, PREDICT)
    assert code is Code.INVALID_ARGUMENT
    assert stage.refusal(several, PREDICT, b"")[0] is code


# --- what fails


def test_a_request_that_fails_gets_the_clients_error(stage: Stage, models: Path) -> None:
    session = stage.load(models / "fails_for_negative" / "1")
    code, text = stage.refusal(session, PREDICT, predict_request("m", {"x": floats(-1)}))
    assert code is Code.INVALID_ARGUMENT
    assert "x must not be negative" in text
    stage.run(session, PREDICT, predict_request("m", {"x": floats(1)}))


def test_an_unknown_signature_gets_the_clients_error(
    stage: Stage, several: SavedModelSession
) -> None:
    request = predict_request("m", {"x": floats(1)}, signature="none")
    code, text = stage.refusal(several, PREDICT, request)
    assert (code, "none" in text) == (Code.FAILED_PRECONDITION, True)


def test_a_request_for_classes_of_no_classifier_gets_the_clients_error(
    stage: Stage, inference: SavedModelSession
) -> None:
    request = classification_request("m", [{"x": 1.0}], signature="regress")
    assert stage.refusal(inference, CLASSIFY, request)[0] is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("kind", [PREDICT, CLASSIFY, REGRESS, MULTI_INFERENCE])
def test_bytes_that_are_no_request_are_a_value_error(
    stage: Stage, several: SavedModelSession, kind: int
) -> None:
    with pytest.raises(ValueError, match=r"Failed to parse the \w+Request\."):
        stage.run(several, kind, b"\x0a\x05")


def test_bytes_behind_a_rare_field_that_are_no_request_are_a_value_error(
    stage: Stage, several: SavedModelSession
) -> None:
    with pytest.raises(ValueError, match=r"Failed to parse the PredictRequest\."):
        stage.run(several, PREDICT, b"\xa3\x06\xa4\x06\x0a\x05")


@pytest.mark.parametrize("place", [(0, 8), (8, 0), (7, 1), (2**63, 2**63), (2**64 - 1, 1)])
def test_places_outside_of_the_record_are_refused(
    stage: Stage, several: SavedModelSession, place: tuple[int, int]
) -> None:
    runner = WarmupRunner(stage.methods)
    with pytest.raises(ValueError, match="not in a record of 7"):
        runner.run(several, "m", 1, PREDICT, b"7 bytes", [place])


def test_a_closed_session_is_an_error(stage: Stage, several: SavedModelSession) -> None:
    several.close()
    code, _ = stage.refusal(several, PREDICT, predict_request("m", {"x": floats(1)}))
    assert code is Code.FAILED_PRECONDITION


def test_a_session_that_was_cancelled_is_an_error(stage: Stage, several: SavedModelSession) -> None:
    several.cancel()
    code, _ = stage.refusal(several, PREDICT, predict_request("m", {"x": floats(1)}))
    assert code is Code.CANCELLED


def test_a_graph_that_waits_for_ever_ends_with_its_time(stage: Stage, models: Path) -> None:
    session = stage.load(models / "blocker" / "1")
    request = predict_request("m", {"x": floats(1)})
    code, _ = stage.refusal(session, PREDICT, request, timeout_seconds=0.05)
    assert code is Code.DEADLINE_EXCEEDED


def test_a_request_for_which_there_is_no_room_is_an_error(
    stage: Stage, several: SavedModelSession
) -> None:
    set_max_in_flight_bytes(1)
    try:
        code, text = stage.refusal(several, PREDICT, predict_request("m", {"x": floats(1)}))
    finally:
        set_max_in_flight_bytes(NO_LIMIT)
    assert code is Code.RESOURCE_EXHAUSTED
    assert "--max_in_flight_bytes" in text


# --- what Python protobuf has to rewrite


def rare_request(size: int) -> Any:
    """A request with a field that the native reader does not know."""
    request = predict_request("m", {"x": numpy.ones(size, "float32")})
    request.predict_streamed_options.request_state = 1
    return request


def test_rare_requests_are_rewritten_and_run(stage: Stage, several: SavedModelSession) -> None:
    stage.run(several, PREDICT, rare_request(3))


def test_large_rare_requests_are_refused_as_those_of_clients(
    stage: Stage, several: SavedModelSession
) -> None:
    """Python protobuf would hold the loop up."""
    code, text = stage.refusal(several, PREDICT, rare_request(1 << 20))
    assert code is Code.RESOURCE_EXHAUSTED
    assert text.endswith("is too large.")


# --- large ones


def test_other_threads_go_on_while_a_large_request_is_copied(
    stage: Stage, several: SavedModelSession
) -> None:
    runner = WarmupRunner(stage.methods)
    record = b"\xff" * (64 << 20)  # a tag that is too long: refused after it was copied

    def run() -> None:
        with pytest.raises(ValueError, match="Failed to parse"):
            runner.run(several, "m", 1, PREDICT, record, [(0, len(record))])

    assert lets_others_run(run)


# --- batching


def widths(*allowed: int) -> BatchingParameters:
    return BatchingParameters(max_batch_size=allowed[-1], allowed_batch_sizes=allowed)


def runs_of(session: SavedModelSession) -> int:
    """How often `probe` has run before: it tells whoever asks, past batching."""
    request = predict_request("m", {"x": floats(1)}).SerializeToString()
    answer = PredictResponse.FromString(run(session, request, in_callers_thread=True))
    (number,) = array(answer.outputs["run"]).tolist()
    return int(number)


@pytest.mark.parametrize(
    ("rows", "runs"),
    [(1, 2), (3, 2), (4, 1), (8, 1), (9, 1), (0, 1)],
    ids=["padded to 4", "padded by one", "of a size", "of the largest", "too many", "none"],
)
def test_batches_are_run_as_they_will_be_padded(
    stage: Stage, models: Path, rows: int, runs: int
) -> None:
    session = stage.load(models / "probe" / "1", batching=widths(4, 8))
    before = runs_of(session)
    stage.run(session, PREDICT, predict_request("m", {"x": numpy.ones(rows, "float32")}))
    assert runs_of(session) - before - 1 == runs


def test_batches_of_any_size_are_not_padded(stage: Stage, models: Path) -> None:
    batching = BatchingParameters(max_batch_size=8)
    session = stage.load(models / "probe" / "1", batching=batching)
    before = runs_of(session)
    stage.run(session, PREDICT, predict_request("m", {"x": floats(1, 2, 3)}))
    assert runs_of(session) - before - 1 == 1


def test_examples_are_padded_too(stage: Stage, inference_models: Path) -> None:
    session = stage.load(inference_models / "inference" / "1", batching=widths(4, 8))
    request = classification_request("m", [{"x": 1.0}], signature="classify", context={"c": 1.0})
    stage.run(session, CLASSIFY, request)
    stage.run(session, MULTI_INFERENCE, multi_request(("classify", CLASSIFY_METHOD)))


def test_what_has_no_common_rows_is_run_as_it_is(stage: Stage, models: Path) -> None:
    session = stage.load(models / "sum_and_product" / "1", batching=widths(4, 8))
    inputs = {"a": floats(1), "b": floats(1, 2)}  # TensorFlow makes them of one size
    stage.run(session, PREDICT, predict_request("m", inputs))
    scalar: Any = tensor(numpy.float32(3).reshape(()))
    stage.run(session, PREDICT, predict_request("m", {"a": scalar, "b": floats(1)}))


def test_a_model_that_does_not_take_the_padding_is_run_without(
    stage: Stage, tmp_path: Path
) -> None:
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    y = graph.add("y", "Mul", x, graph.constant("three", 1, 2, 3), T=FLOAT)
    graph.sign("serving_default", {"x": x}, {"y": y})
    session = stage.load(graph.save(tmp_path / "1"), batching=widths(4, 8))
    stage.run(session, PREDICT, predict_request("m", {"x": floats(1, 2, 3)}))


def test_padding_for_which_there_is_no_room_is_left_out(stage: Stage, models: Path) -> None:
    session = stage.load(models / "probe" / "1", batching=widths(1 << 20))
    before = runs_of(session)
    request = predict_request("m", {"x": floats(1)})
    set_max_in_flight_bytes(1 << 20)
    try:
        stage.run(session, PREDICT, request)
    finally:
        set_max_in_flight_bytes(NO_LIMIT)
    assert runs_of(session) - before - 1 == 1


# --- requests that are made up


def test_made_up_requests_build_what_can_be_asked(
    stage: Stage, inference: SavedModelSession, tmp_path: Path
) -> None:
    stage.warm_up(inference, tmp_path, synthetic=True)
    described = inference.describe()
    assert not [
        name
        for name, facts in described.items()
        if not facts["built"] and list(facts["inputs"].values()) == [("numbers:0", FLOAT)]
    ]


@pytest.mark.parametrize(
    "model",
    ["half_plus_two", "keras_dense", "identity", "lookup_table", "default_inputs", "four_inputs"],
)
def test_made_up_requests_work_on_models_of_all_kinds(
    stage: Stage, models: Path, model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = stage.load(models / model / "1", batching=BatchingParameters(max_batch_size=4))
    stage.warm_up(session, tmp_path, synthetic=True)
    assert not caplog.messages
    assert all(facts["built"] or facts["broken"] for facts in session.describe().values())


# --- requests of all kinds of bytes


def fuzzed(random: Random) -> tuple[int, bytes]:
    """A kind, and a request with some bytes changed."""
    rows = [{"x": float(random.randrange(4))} for _ in range(random.randrange(4))]
    context = random.choice([None, {}, {"c": 2.0}])
    inputs = {"inputs": numpy.ones(random.randrange(5), "float32")}
    kind, request = random.choice(
        [
            (CLASSIFY, classification_request("m", rows, signature="classify", context=context)),
            (REGRESS, regression_request("m", rows, signature="regress", context=context)),
            (MULTI_INFERENCE, multi_request(("classify", CLASSIFY_METHOD))),
            (
                MULTI_INFERENCE,
                multi_request(("classify", CLASSIFY_METHOD), ("regress", REGRESS_METHOD)),
            ),
            (PREDICT, predict_request("m", inputs, signature="float_inputs")),
            (PREDICT, rare_request(random.randrange(5))),
        ]
    )
    data = bytearray(request.SerializeToString())
    for _ in range(random.randrange(4)):
        at = random.randrange(len(data) + 1)
        data[at : at + random.randrange(2)] = random.randbytes(random.randrange(2))
    return kind, bytes(data)


@pytest.mark.parametrize("allowed", [(), (4, 8)], ids=["alone", "padded"])
def test_whatever_is_in_a_request_it_runs_or_is_refused(
    inference_models: Path, allowed: tuple[int, ...]
) -> None:
    limit = GrpcChannelArguments(max_receive_message_length=1 << 20)  # a shape may say gigabytes
    stage = Stage(grpc_channel_arguments=limit)
    batching = widths(*allowed) if allowed else None
    session = stage.load(inference_models / "inference" / "1", batching=batching)
    outcomes = Counter[str]()
    for seed in range(2000):
        random = Random(seed)
        kind, request = fuzzed(random)
        cut = random.randrange(len(request) + 1)
        try:
            stage.run(session, kind, request[:cut], request[cut:])
            outcomes["run"] += 1
        except (ServingError, ValueError) as error:
            outcomes[type(error).__name__] += 1
    assert set(outcomes) == {"run", "ServingError", "ValueError"}
    stage.close()
    assert in_flight_bytes() == 0
    assert live_blocks() == 0
