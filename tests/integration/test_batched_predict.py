"""Predict in batches, from bytes to bytes, with small graphs and without a transport.

A batch waits until it is full and no longer, so that the tests decide what runs together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.conftest import tensorflow_version
from tests.functional.gated_model import Gate
from tests.functional.messages import Array, array, predict_request, tensor
from tests.graphs import FLOAT, INT32, STRING, Graph
from tests.integration.test_predict import Predictor, PredictResponse
from tests.unit.waiting import eventually
from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._counters import read_histograms
from tfsrv._session import SavedModelSession
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.errors import Code, ServingError

pytestmark = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")

AN_HOUR = 3_600_000_000
SECONDS = 20.0
BOOL = 10
NO_LIMIT = 2**63 - 1


@contextmanager
def batched(
    graph: Graph, path: Path, rows: int, **parameters: Any
) -> Iterator[tuple[SavedModelSession, Callable[..., list[Any]]]]:
    """A session of the graph, and what asks it for several requests at once."""
    graph.save(path / "1")
    session = SavedModelSession.load(
        str(path / "1"),
        name="m",
        version=1,
        batching=BatchingParameters(
            max_batch_size=rows, **{"batch_timeout_micros": AN_HOUR, **parameters}
        ),
    )
    predictor = Predictor({"m": {1: session}})

    async def ask_all(requests: tuple[Any, ...]) -> list[Any]:
        return await asyncio.wait_for(
            asyncio.gather(*(ask(predictor, one) for one in requests), return_exceptions=True),
            SECONDS,
        )

    try:
        yield session, lambda *requests: predictor.run(lambda: ask_all(requests))
    finally:
        predictor.close()
        session.close()
    assert in_flight_bytes() == 0


async def ask(predictor: Predictor, request: Any) -> Any:
    answer = await predictor.call_loop.invoke(predictor.method, request.SerializeToString())
    return PredictResponse.FromString(answer)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until something is so; Predictor.run() sets the limit."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def rows_of(*shape: int, signature: str = "") -> Any:
    """A request for an x of ones."""
    return predict_request("m", {"x": numpy.ones(shape, "float32")}, signature=signature)


def shape(response: Any) -> tuple[int, ...]:
    if isinstance(response, BaseException):
        raise response
    values: Array = array(response.outputs["y"])
    assert (values == 1).all()
    return values.shape


def counts(session: SavedModelSession, signature: str = "serving_default") -> dict[str, Any]:
    return session.describe_batching()[signature]


def any_rank_two(info: Any) -> None:
    for _ in range(2):
        info.tensor_shape.dim.add(size=-1)


def identity() -> Graph:
    """x [n, m] → y = x."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    signature = graph.sign(
        "serving_default", {"x": x}, {"y": graph.add("y", "Identity", x, T=FLOAT)}
    )
    any_rank_two(signature.inputs["x"])
    any_rank_two(signature.outputs["y"])
    return graph


def largest() -> Graph:
    """x [n, m] → y [n]: the largest value of each row."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    axis = graph.add("axis", "Cast", graph.constant("one", 1), SrcT=FLOAT, DstT=INT32)
    y = graph.add("y", "Max", x, axis, T=FLOAT, Tidx=INT32)
    signature = graph.sign("serving_default", {"x": x}, {"y": y})
    any_rank_two(signature.inputs["x"])
    signature.outputs["y"].tensor_shape.dim.add(size=-1)
    return graph


def fours() -> Graph:
    """x [n, m] → y: its values in rows of four, so that there are n of them only if m is 4."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    sizes = graph.constant("sizes", -1, 4)
    whole = graph.add("whole", "Cast", sizes, SrcT=FLOAT, DstT=INT32)
    y = graph.add("y", "Reshape", x, whole, T=FLOAT, Tshape=INT32)
    signature = graph.sign("serving_default", {"x": x}, {"y": y})
    any_rank_two(signature.inputs["x"])
    any_rank_two(signature.outputs["y"])
    return graph


def test_one_kind_of_requests_with_other_rows_does_not_end_batching_for_the_others(
    tmp_path: Path,
) -> None:
    with batched(fours(), tmp_path, rows=2) as (session, ask):
        assert [shape(one) for one in ask(rows_of(1, 4), rows_of(1, 4))] == [(1, 4)] * 2
        assert [shape(one) for one in ask(rows_of(1, 8), rows_of(1, 8))] == [(2, 4)] * 2
        assert [shape(one) for one in ask(rows_of(1, 8))] == [(2, 4)]  # waits for nobody by now
        assert [shape(one) for one in ask(rows_of(1, 4), rows_of(1, 4))] == [(1, 4)] * 2
        # A batch is counted after its answers.
        eventually(lambda: counts(session)["sizes"] == {1: 1, 2: 3})
        assert counts(session)["run_apart"] == 1
        assert session.describe()["serving_default"]["batched"]


def test_a_kind_of_long_rows_with_other_rows_is_remembered_where_rows_are_padded(
    tmp_path: Path,
) -> None:
    with batched(fours(), tmp_path, rows=2, pad_variable_length_inputs=True) as (_, ask):
        assert [shape(one) for one in ask(rows_of(1, 4), rows_of(1, 4))] == [(1, 4)] * 2
        assert [shape(one) for one in ask(repeated(20_000), repeated(20_000))] == [(5_000, 4)] * 2
        assert [shape(one) for one in ask(repeated(20_000))] == [(5_000, 4)]  # waits for nobody


def test_outputs_that_never_had_rows_end_batching(tmp_path: Path) -> None:
    with batched(fours(), tmp_path, rows=2) as (session, ask):
        assert [shape(one) for one in ask(rows_of(1, 8), rows_of(1, 8))] == [(2, 4)] * 2
        assert [shape(one) for one in ask(rows_of(1, 12))] == [(3, 4)]  # waits for nobody
        assert not session.describe()["serving_default"]["batched"]


def repeated(columns: int) -> Any:
    """A request of a few bytes for one long row of ones."""
    request = rows_of(1, 1)
    request.inputs["x"].tensor_shape.dim[1].size = columns
    return request


@contextmanager
def at_most_in_flight(limit: int) -> Iterator[None]:
    set_max_in_flight_bytes(limit)
    try:
        yield
    finally:
        set_max_in_flight_bytes(NO_LIMIT)


def test_inner_padding_counts_against_the_bytes_in_flight(tmp_path: Path) -> None:
    """A long row among short ones would make them all as long."""
    long = repeated(16_000)
    with (
        batched(largest(), tmp_path, rows=4, pad_variable_length_inputs=True) as (session, ask),
        at_most_in_flight(96_000),
    ):
        responses = ask(rows_of(1, 1), rows_of(1, 1), long, rows_of(1, 2))
        assert [shape(one) for one in responses] == [(1,)] * 4
        assert counts(session)["run_apart"] == 1


def test_a_very_long_row_does_not_wait_for_short_ones(tmp_path: Path) -> None:
    """Nor they for it: they would all become as long."""
    parameters = {"pad_variable_length_inputs": True, "batch_timeout_micros": 0}
    with batched(largest(), tmp_path, rows=4, **parameters) as (session, ask):
        responses = ask(rows_of(1, 1), repeated(1_000_000), rows_of(1, 2))
        assert [shape(one) for one in responses] == [(1,)] * 3
        eventually(lambda: counts(session)["batches"] >= 2)  # counted after their answers
        assert counts(session)["padding_rows"] == 0


def test_padding_rows_count_against_the_bytes_in_flight(tmp_path: Path) -> None:
    with (
        batched(
            identity(), tmp_path, 1000, allowed_batch_sizes=(1000,), batch_timeout_micros=0
        ) as (_, ask),
        at_most_in_flight(10_000_000),
    ):
        (error,) = ask(rows_of(1, 5000))
        assert isinstance(error, ServingError)
        assert error.code == Code.RESOURCE_EXHAUSTED
        assert "--max_in_flight_bytes" in error.message
        assert [shape(one) for one in ask(rows_of(1, 5))] == [(1, 5)]


def test_padding_of_texts_counts_with_what_is_copied(tmp_path: Path) -> None:
    graph = identity()
    for info in (
        *graph.meta.signature_def["serving_default"].inputs.values(),
        *graph.meta.signature_def["serving_default"].outputs.values(),
    ):
        info.dtype = STRING
    for node in graph.meta.graph_def.node:
        node.attr["dtype" if node.op == "Placeholder" else "T"].type = STRING
    text = numpy.array([[b"x" * 60_000]], object)
    words = numpy.array([[b"word"] * 200], object)
    with (
        batched(graph, tmp_path, rows=2, pad_variable_length_inputs=True) as (session, ask),
        at_most_in_flight(5_000_000),
    ):
        responses = ask(*(predict_request("m", {"x": tensor(value)}) for value in (text, words)))
        assert [array(one.outputs["y"]).tolist() for one in responses] == [
            text.tolist(), words.tolist(),
        ]  # fmt: skip
        assert counts(session)["run_apart"] == 1


def test_a_bad_tensor_is_told_by_the_name_that_its_own_signature_has_for_it(
    tmp_path: Path,
) -> None:
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=BOOL)
    y = graph.add("y", "Identity", x, T=BOOL)
    for name, alias in (("one", "p"), ("other", "q")):
        signature = graph.sign(name, {alias: x}, {"y": y})
        for info in (signature.inputs[alias], signature.outputs["y"]):
            info.dtype = BOOL
            info.tensor_shape.dim.add(size=-1)
    good = predict_request("m", {"p": tensor(numpy.array([True]))}, signature="one")
    bad = predict_request("m", {"q": tensor(numpy.array([True]))}, signature="other")
    bad.inputs["q"].ClearField("bool_val")
    bad.inputs["q"].tensor_content = b"\x07"
    with batched(graph, tmp_path, rows=5) as (session, ask):
        answer, *errors, last = ask(good, bad, bad, bad, good)
        assert [array(one.outputs["y"]).tolist() for one in (answer, last)] == [[True]] * 2
        for error in errors:
            assert isinstance(error, ServingError)
            assert (error.code, error.message) == (
                Code.INVALID_ARGUMENT, "tensor parsing error: q",
            )  # fmt: skip
        eventually(lambda: counts(session, "one")["batches"] == 1)


def test_nothing_waits_that_comes_when_nobody_new_should_come(tmp_path: Path) -> None:
    with batched(identity(), tmp_path, rows=2) as (session, ask):
        assert [shape(one) for one in ask(rows_of(1, 4), rows_of(1, 4))] == [(1, 4)] * 2
        session.hurry()
        for _ in range(3):
            assert [shape(one) for one in ask(rows_of(1, 4))] == [(1, 4)]


def test_nothing_waits_in_a_queue_that_is_made_when_nobody_new_comes(tmp_path: Path) -> None:
    with batched(identity(), tmp_path, rows=2) as (session, ask):
        session.hurry()
        assert [shape(one) for one in ask(rows_of(1, 4))] == [(1, 4)]


def test_runs_that_failed_are_counted_as_runs(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    sizes = graph.add("whole", "Cast", graph.constant("sizes", 3, 5), SrcT=FLOAT, DstT=INT32)
    y = graph.add("y", "Reshape", x, sizes, T=FLOAT, Tshape=INT32)
    signature = graph.sign("fails", {"x": x}, {"y": y})
    any_rank_two(signature.inputs["x"])
    any_rank_two(signature.outputs["y"])
    with batched(graph, tmp_path, rows=2) as (_, ask):
        for error in ask(rows_of(1, 4, signature="fails"), rows_of(1, 4, signature="fails")):
            assert error.code == Code.INVALID_ARGUMENT
        _, queue, run = read_histograms(("m", 1, "fails", "Predict"))
        assert (sum(queue[0]), sum(run[0])) == (2, 2)


def one_gate_a_run(path: Path) -> Graph:
    """path [n] string → y = path, after "ran" was written into that file: n is 1, or it fails."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=STRING)
    empty = graph.add("empty", "Const", dtype=INT32, value={"tensor": no_dims()})
    file = graph.add("file", "Reshape", x, empty, T=STRING, Tshape=INT32)
    graph.add("write", "WriteFile", file, graph.constant("word", "ran"))
    y = graph.add("y", "Identity", x, "^write", T=STRING)
    signature = graph.sign("serving_default", {"x": x}, {"y": y})
    for info in (signature.inputs["x"], signature.outputs["y"]):
        info.dtype = STRING
        info.tensor_shape.dim.add(size=-1)
    return graph


def no_dims() -> Any:
    return tensor(numpy.zeros(0, "int32"))


def test_who_is_through_does_not_wait_for_others_of_a_batch_that_failed(tmp_path: Path) -> None:
    def for_file(path: Path) -> Any:
        return predict_request("m", {"x": tensor(numpy.array([str(path).encode()], object))})

    gate = Gate(tmp_path / "gate")
    one_gate_a_run(tmp_path).save(tmp_path / "m" / "1")
    session = SavedModelSession.load(
        str(tmp_path / "m" / "1"),
        name="m",
        version=1,
        batching=BatchingParameters(max_batch_size=2, batch_timeout_micros=AN_HOUR),
    )
    predictor = Predictor({"m": {1: session}})

    async def test() -> None:
        first = asyncio.ensure_future(ask(predictor, for_file(tmp_path / "file")))
        second = asyncio.ensure_future(ask(predictor, for_file(gate.path)))
        try:
            await asyncio.wait_for(asyncio.shield(first), SECONDS)
            assert not second.done()
        finally:
            await asyncio.to_thread(gate.open)
        await asyncio.wait_for(second, SECONDS)

    try:
        predictor.run(test)
    finally:
        predictor.close()
        session.close()


def test_sweeping_frees_what_cancelled_requests_hold(tmp_path: Path) -> None:
    identity().save(tmp_path / "1")
    session = SavedModelSession.load(
        str(tmp_path / "1"),
        batching=BatchingParameters(max_batch_size=8, batch_timeout_micros=AN_HOUR),
    )
    predictor = Predictor({"m": {1: session}})

    async def cancel_and_sweep() -> None:
        asking = asyncio.ensure_future(ask(predictor, rows_of(2, 1000)))
        await until(lambda: in_flight_bytes() > 8000)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert in_flight_bytes() > 8000  # it would wait for an hour
        session.sweep()
        await until(lambda: in_flight_bytes() == 0)

    try:
        predictor.run(cancel_and_sweep)
    finally:
        predictor.close()
        session.close()
    session.sweep()  # there is nothing any more
