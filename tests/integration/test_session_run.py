"""Any tensors of a loaded model by their names, in the process: the errors above all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import tensorflow_version
from tests.graphs import FLOAT, STRING, Graph, PredictRequest, answers, floats, request
from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._proto import message_class
from tfsrv._python_method import PythonMethod
from tfsrv._run import run
from tfsrv._serving_map import ServingMap
from tfsrv._session import SavedModelSession
from tfsrv._session_run import check_names, run_tensors, tensor_name
from tfsrv.errors import Code, ServingError
from tfsrv.handlers import session_run as session_run_module
from tfsrv.handlers.call_threads import MAX_THREADS
from tfsrv.handlers.servables import Servables
from tfsrv.handlers.session_run import IN_LOOP_BYTES, SessionRun
from tfsrv.handlers.session_run_request import Question, read_question

pytestmark = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SavedModelSession]:
    """x → y = x + 1, s → t = s, and `fail`, which no file is for."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    graph.add("y", "AddV2", x, graph.constant("one", 1.0), T=FLOAT)
    graph.add("t", "Identity", graph.add("s", "Placeholder", dtype=STRING), T=STRING)
    graph.add("fail", "ReadFile", graph.constant("path", "/nonexistent/file"))
    session = SavedModelSession.load(
        graph.save(tmp_path_factory.mktemp("session_run") / "1"), name="m", version=1
    )
    yield session
    session.close()


@pytest.fixture(autouse=True)
def budget() -> Iterator[None]:
    """Whatever a run does, nothing is counted as in flight after it."""
    yield
    set_max_in_flight_bytes(2**63 - 1)
    assert in_flight_bytes() == 0


def text(value: bytes) -> Any:
    tensor: Any = message_class("tensorflow.TensorProto")(dtype=STRING, string_val=[value])
    return tensor


def refused(session: SavedModelSession, *arguments: Any, **options: Any) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        run_tensors(session, *arguments, **options)
    return caught.value.code, caught.value.message


def test_outputs_come_under_the_names_that_they_were_fetched_by(
    session: SavedModelSession,
) -> None:
    message = request(feed={"x:0": floats(1, 2), "s": text(b"long enough to be on the heap, say")})
    response, metadata = run_tensors(session, message, ["x:0", "s"], ["t", "y:0", "one"], ["y"])
    assert answers(response) == {
        "t": [b"long enough to be on the heap, say"],
        "y:0": [2.0, 3.0],
        "one": [1.0],
    }
    assert metadata == b""


def test_a_traced_run_brings_metadata(session: SavedModelSession) -> None:
    options: Any = message_class("tensorflow.RunOptions")(trace_level=1, timeout_in_ms=60_000)
    _, metadata = run_tensors(
        session,
        request(x=(1, 2)),
        ["x"],
        ["y"],
        [],
        options=options.SerializeToString(),
        timed=True,
        wants_metadata=True,
    )
    assert message_class("tensorflow.RunMetadata").FromString(metadata).HasField("step_stats")


def test_errors_of_the_run_come_through_and_leave_nothing(session: SavedModelSession) -> None:
    message = request(x=(1, 2))
    code, said = refused(session, message, ["x"], ["y", "fail"], [], wants_metadata=True)
    assert (code, "/nonexistent/file" in said) == (Code.NOT_FOUND, True)
    code, said = refused(session, request(feed={"x": text(b"a")}), ["x"], ["y"], [])
    assert (code, "float but string" in said) == (Code.INVALID_ARGUMENT, True)
    code, said = refused(session, request(), [], ["y"], [])
    assert (code, "You must feed a value" in said) == (Code.INVALID_ARGUMENT, True)


def test_what_is_no_tensor_is_refused(session: SavedModelSession) -> None:
    bad = floats(1, 2)
    bad.tensor_shape.dim[0].size = -1
    first_good = request(feed={"s": text(b"a"), "x": bad})
    parsing = (Code.INVALID_ARGUMENT, "tensor parsing error: x")
    assert refused(session, first_good, ["s", "x"], ["y"], []) == parsing
    missing = (Code.INVALID_ARGUMENT, "There is no tensor for the feed s")
    assert refused(session, request(x=(1,)), ["x", "s"], ["y"], []) == missing
    assert refused(session, b"\xff", ["x"], ["y"], [])[0] is Code.INTERNAL


def test_the_memory_that_tensors_take_is_limited(session: SavedModelSession) -> None:
    huge: Any = message_class("tensorflow.TensorProto")(dtype=FLOAT, float_val=[1.0])
    huge.tensor_shape.dim.add(size=1 << 28)  # one value, repeated
    message = request(feed={"x": huge})
    code, said = refused(session, message, ["x"], ["y"], [], max_message_bytes=1 << 20)
    assert (code, said) == (
        Code.RESOURCE_EXHAUSTED,
        "The request's tensors are larger than a message may be.",
    )
    set_max_in_flight_bytes(1 << 20)
    code, said = refused(session, message, ["x"], ["y"], [])
    assert (code, said) == (
        Code.RESOURCE_EXHAUSTED,
        "Too many bytes are in flight (--max_in_flight_bytes).",
    )


def test_the_memory_that_outputs_take_is_limited(session: SavedModelSession) -> None:
    message = request(x=range(1000))
    set_max_in_flight_bytes(15_000)
    assert run_tensors(session, message, ["x"], ["one"], [])
    code, said = refused(session, message, ["x"], ["y"], [])
    assert (code, said) == (
        Code.RESOURCE_EXHAUSTED,
        "Too many bytes are in flight (--max_in_flight_bytes).",
    )


def test_a_version_that_goes_before_predict_finds_it_gives_way_to_the_next(
    tmp_path: Path,
) -> None:
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    y = graph.add("y", "Identity", x, T=FLOAT)
    graph.sign("serving_default", {"in": x}, {"out": y})
    folder = graph.save(tmp_path / "1")
    first, second = (
        SavedModelSession.load(folder, name="m", version=version) for version in (1, 2)
    )
    serving_map = ServingMap()
    serving_map.publish({"m": {1: first}})
    asked: list[int] = []

    async def predict(serialized: bytes) -> bytes:
        message: Any = PredictRequest.FromString(serialized)
        asked.append(message.model_spec.version.value)
        assert (list(message.inputs), list(message.output_filter)) == (["in"], ["out"])
        if len(asked) < 2:
            serving_map.publish({"m": {2: second}})
            serving_map.acquire("m", asked[0])  # raises
        return run(second, serialized)

    async def ask(**spec: int) -> Any:
        loop = asyncio.get_running_loop()
        calls = CallLoop(loop)
        servables = Servables(serving_map, lambda _: None, loop)
        session_run = SessionRun(servables, PythonMethod("Predict", predict), calls)
        question: Any = message_class("tensorflow.serving.SessionRunRequest")(fetch=["y:0"])
        question.model_spec.name = "m"
        if spec:
            question.model_spec.version.value = spec["version"]
        question.feed.add(name="x", tensor=floats(3))
        try:
            response = await session_run(question.SerializeToString(), None)
        finally:
            calls.close()
        return message_class("tensorflow.serving.SessionRunResponse").FromString(response)

    response = asyncio.run(ask())
    assert asked == [1, 2]
    assert response.model_spec.version.value == 2
    assert [(named.name, list(named.tensor.float_val)) for named in response.tensor] == [
        ("y:0", [3.0])
    ]
    # Who asks for the version by its number is told that it is gone.
    asked.clear()
    serving_map.publish({"m": {1: first}})
    with pytest.raises(ServingError, match="not found for request: Specific"):
        asyncio.run(ask(version=1))
    assert asked == [1]
    serving_map.publish({})
    for session in (first, second):
        session.close()


def test_long_requests_are_taken_apart_off_the_loop_and_none_is_one_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    graph.sign("serving_default", {"in": x}, {"out": graph.add("y", "Identity", x, T=FLOAT)})
    loaded = SavedModelSession.load(graph.save(tmp_path / "1"), name="m", version=1)
    serving_map = ServingMap()
    serving_map.publish({"m": {1: loaded}})
    readers: list[threading.Thread] = []

    def read(serialized: bytes) -> Question:
        readers.append(threading.current_thread())
        return read_question(serialized)

    async def predict(serialized: bytes) -> bytes:
        return run(loaded, serialized)

    async def ask(count: int, values: int) -> list[bytes]:
        loop = asyncio.get_running_loop()
        calls = CallLoop(loop)
        servables = Servables(serving_map, lambda _: None, loop)
        session_run = SessionRun(servables, PythonMethod("Predict", predict), calls)
        question: Any = message_class("tensorflow.serving.SessionRunRequest")(fetch=["y:0"])
        question.model_spec.name = "m"
        question.feed.add(name="x", tensor=floats(*range(values)))
        serialized = question.SerializeToString()
        try:
            return await asyncio.gather(*(session_run(serialized, None) for _ in range(count)))
        finally:
            calls.close()

    monkeypatch.setattr(session_run_module, "read_question", read)
    assert len(asyncio.run(ask(1, 3))) == 1
    assert readers == [threading.main_thread()]
    assert len(asyncio.run(ask(3 * MAX_THREADS, IN_LOOP_BYTES))) == 3 * MAX_THREADS
    assert threading.main_thread() not in readers[1:]
    serving_map.publish({})
    loaded.close()


def test_runs_go_on_side_by_side(session: SavedModelSession) -> None:
    def run_one(i: int) -> list[Any]:
        response, _ = run_tensors(session, request(x=(i, 2 * i)), ["x"], ["y"], [])
        return answers(response)["y"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run_one, range(100))) == [[i + 1.0, 2 * i + 1.0] for i in range(100)]


def test_a_session_that_is_closed_runs_nothing(tmp_path: Path) -> None:
    graph = Graph()
    graph.constant("one", 1.0)
    session = SavedModelSession.load(graph.save(tmp_path / "1"))
    check_names(session, [], ["one"], ["one"])
    session.close()
    assert refused(session, request(), [], ["one"], [])[0] is Code.FAILED_PRECONDITION
    with pytest.raises(ServingError):
        check_names(session, [], ["one"], [])


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("x", ("x", 0)),
        ("x:0", ("x", 0)),
        ("a/b:12", ("a/b", 12)),
        ("a:b", ("a:b", 0)),
        ("a:1:2", ("a:1", 2)),
        ("x:", ("x:", 0)),
        ("x:-1", ("x:-1", 0)),
        ("x:²", ("x:²", 0)),
        ("x:9999999999", ("x:9999999999", 0)),
        (":1", ("", 1)),
        ("", ("", 0)),
    ],
)
def test_names_of_tensors(name: str, tensor: tuple[str, int]) -> None:
    assert tensor_name(name) == tensor
