"""Batches: who runs with whom, who gets which answer, and who waits for nobody.

Rules and texts: TensorFlow Serving's batching/batching_session.cc and batching_util.cc, and
TensorFlow's SharedBatchScheduler (tensorflow/core/kernels/batching_util).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.functional.batched import (
    FLAGS,
    answers,
    arrived,
    batched_model,
    error,
    outputs,
    patient,
    rows,
    send,
    together,
    values,
)
from tests.functional.conftest import serving
from tests.functional.launching import Client, Launched, client
from tests.functional.messages import (
    Array,
    floats,
    predict_request,
    scalar,
    strings,
    tensor,
)
from tests.graphs import FLOAT, Graph

SPLITTING = "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }"
FULL = "max_enqueued_batches { value: 2 }"
NEGATIVE = "x must not be negative"

# name: the model of tests/models.py, its BatchingParameters. Each test has models of its own,
# since requests that wait are found by the next ones.
MODELS: dict[str, tuple[str, str | None]] = {
    "formed": ("probe", patient(4)),
    "closed": ("probe", patient(4)),
    "too_large": ("probe", patient(4)),
    "default": ("probe", ""),
    "allowed": ("probe", patient(4, "allowed_batch_sizes: [2, 4]")),
    "padded": ("probe", patient(4, "pad_variable_length_inputs: true")),
    "split": ("probe", patient(10, SPLITTING)),
    "split_too_large": ("probe", patient(10, SPLITTING)),
    "split_full": ("probe", patient(10, SPLITTING + FULL)),
    "split_allowed": ("probe", patient(10, SPLITTING + "allowed_batch_sizes: [2, 4, 10]")),
    "split_strings": ("identity", patient(10, SPLITTING)),
    "split_failing": ("fails_for_negative", patient(10, SPLITTING)),
    "split_invalid": ("probe", patient(10, SPLITTING)),
    "full": ("probe", patient(4, FULL)),
    "left": ("probe", patient(4, FULL)),
    "batched": ("probe", patient(2)),
    "not_batched": ("probe", None),
    "filtered": ("probe", patient(2)),
    "signatures": ("probe", patient(2)),
    "versions": ("probe", patient(2)),
    "shapes": ("probe", patient(4)),
    "dtypes": ("identity", patient(2)),
    "no_rows": ("probe", patient(4)),
    "alone": ("probe", patient(4)),
    "scalars": ("identity", patient(4)),
    "unequal": ("sum_and_product", patient(4)),
    "defaults": ("default_inputs", patient(4)),
    "one_value": ("spinner", patient(2)),
    "empty_rows": ("probe", patient(4)),
    "empty_padded": ("probe", patient(4, "pad_variable_length_inputs: true")),
    "texts": ("identity", patient(4)),
    "images": ("identity_image", patient(4)),
    "other_rank": ("sum_and_product", patient(2)),
    "failing": ("fails_for_negative", patient(8)),
    "invalid": ("probe", patient(4)),
    "wrong_dtype": ("probe", patient(4)),
    "cancelled": ("probe", patient(4)),
    "größe ☃": ("probe", patient(2)),
}
VERSIONS = {"versions": "model_version_policy { all {} }"}


def unicode_names(folder: Path) -> Path:
    """größe [n] → länge [n] = größe, of a signature of that kind."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    y = graph.add("y", "Identity", x, T=FLOAT)
    signature = graph.sign("größe☃", {"größe": x}, {"länge": y})
    signature.inputs["größe"].tensor_shape.dim.add(size=-1)
    signature.outputs["länge"].tensor_shape.dim.add(size=-1)
    graph.save(folder / "1")
    (folder / "1" / "batching_params.pbtxt").write_text(patient(2))
    return folder


@pytest.fixture(scope="module")
def server(
    models: Path, transport: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("batched")
    paths = {
        name: batched_model(
            folder / name, models / model, parameters, *((1, 2) if name == "versions" else ())
        )
        for name, (model, parameters) in MODELS.items()
    }
    paths["unicode"] = unicode_names(folder / "unicode")
    with serving(paths, f"--grpc_transport={transport}", *FLAGS, texts=VERSIONS) as server:
        yield server


@pytest.fixture
def ask(server: Launched) -> Iterator[Client]:
    with client(server.address()) as ask:
        yield ask


def wide(name: str, values: list[list[float]] | Array) -> Any:
    """A request for the signature `inner` of `probe`."""
    return predict_request(name, {"x": numpy.array(values, "float32")}, signature="inner")


# --- forming


def test_requests_run_together_when_they_fill_a_batch(ask: Client) -> None:
    futures = send(ask, *(rows("formed", i) for i in range(3)))
    assert not any(future.done() for future in futures)
    futures += send(ask, rows("formed", 3))
    responses = answers(futures)
    assert [values(response) for response in responses] == [[0], [1], [2], [3]]
    assert [together(response) for response in responses] == [[0, 1, 2, 3]] * 4
    assert [outputs(response)["run"].tolist() for response in responses] == [[1]] * 4


def test_a_request_that_does_not_fit_closes_the_batch(ask: Client) -> None:
    futures = send(ask, rows("closed", 0, 1, 2), rows("closed", 3, 4))
    (first,) = answers(futures[:1])
    assert together(first) == [0, 1, 2]
    assert not futures[1].done()
    futures += send(ask, rows("closed", 5, 6))
    assert [together(response) for response in answers(futures[1:])] == [[3, 4, 5, 6]] * 2
    assert [values(response) for response in answers(futures)] == [[0, 1, 2], [3, 4], [5, 6]]


def test_a_request_may_not_have_more_rows_than_a_batch(ask: Client) -> None:
    (future,) = send(ask, rows("too_large", *range(5)))
    assert error(future) == (
        "INVALID_ARGUMENT",
        "Task size 5 is larger than maximum input batch size 4",
    )
    (response,) = answers(send(ask, rows("too_large", *range(4))))
    assert values(response) == [0, 1, 2, 3]


def test_a_batch_has_a_thousand_rows_by_default(ask: Client) -> None:
    answered, refused = send(ask, rows("default", *range(1000)), rows("default", *range(1001)))
    assert values(*answers([answered])) == list(range(1000))
    assert error(refused) == (
        "INVALID_ARGUMENT",
        "Task size 1001 is larger than maximum input batch size 1000",
    )


def test_a_batch_is_padded_to_an_allowed_size_with_the_first_row_of_its_last_request(
    ask: Client,
) -> None:
    futures = send(ask, rows("allowed", 1), rows("allowed", 2, 3), rows("allowed", 4, 5, 6, 7))
    responses = answers(futures)
    assert [together(response) for response in responses] == [[1, 2, 3, 2]] * 2 + [[4, 5, 6, 7]]
    assert [values(response) for response in responses] == [[1], [2, 3], [4, 5, 6, 7]]


def test_a_batch_of_one_request_is_padded_as_well(ask: Client) -> None:
    responses = answers(send(ask, rows("allowed", 8), rows("allowed", 9, 10, 11, 12)))
    assert together(responses[0]) == [8, 8]
    assert values(responses[0]) == [8]


def test_inner_dimensions_are_padded_with_the_first_value_of_the_tensor(ask: Client) -> None:
    futures = send(
        ask, wide("padded", [[1]]), wide("padded", [[2, 3], [4, 5]]), wide("padded", [[6, 7, 8]])
    )
    responses = answers(futures)
    assert [outputs(response)["y"].tolist() for response in responses] == [
        [[1, 1, 1]],
        [[2, 3, 2], [4, 5, 2]],
        [[6, 7, 8]],
    ]
    assert together(responses[0]) == [1, 1, 1, 2, 3, 2, 4, 5, 2, 6, 7, 8]


# --- splitting


def test_a_large_request_runs_in_several_batches(ask: Client) -> None:
    futures = send(ask, rows("split", *range(10)))
    assert not futures[0].done()  # the last two rows wait for others
    futures += send(ask, rows("split", 10, 11))
    whole, rest = answers(futures)
    assert values(whole) == list(range(10))
    assert outputs(whole)["together"].tolist() == (
        [b"0,1,2,3"] * 4 + [b"4,5,6,7"] * 4 + [b"8,9,10,11"] * 2
    )
    assert values(rest) == [10, 11]
    assert together(rest) == [8, 9, 10, 11]


def test_a_large_request_fills_the_open_batch_first(ask: Client) -> None:
    futures = send(ask, rows("split", 0), rows("split", *range(1, 8)))
    first, large = answers(futures)
    assert together(first) == [0, 1, 2, 3]
    assert values(large) == list(range(1, 8))
    assert outputs(large)["together"].tolist() == [b"0,1,2,3"] * 3 + [b"4,5,6,7"] * 4


def test_a_request_may_not_have_more_rows_than_may_be_split(ask: Client) -> None:
    (future,) = send(ask, rows("split_too_large", *range(11)))
    assert error(future) == (
        "INVALID_ARGUMENT",
        "Task size 11 is larger than maximum input batch size 10",
    )


def test_strings_of_a_large_request_come_in_their_order(ask: Client) -> None:
    texts = [b"%d" % i * (i * 1000) for i in range(8)]
    request = predict_request("split_strings", {"x": strings(*texts)}, signature="string")
    (response,) = answers(send(ask, request))
    assert outputs(response)["y"].tolist() == texts


def test_a_large_request_fails_as_a_whole_and_alone(ask: Client) -> None:
    bad = rows("split_failing", 0, 1, 2, 3, 4, -5)
    good = rows("split_failing", 6, 7)
    failed, answered = send(ask, bad, good)
    code, text = error(failed)
    assert code == "INVALID_ARGUMENT"
    assert NEGATIVE in text
    assert values(*answers([answered])) == [6, 7]


def test_a_large_request_with_a_bad_tensor_fails_alone(ask: Client) -> None:
    bad = rows("split_invalid", *range(6))
    bad.inputs["x"].ClearField("float_val")
    bad.inputs["x"].tensor_content = b"\0" * 23
    failed, *answered = send(ask, bad, rows("split_invalid", 6, 7), rows("split_invalid", 8, 9))
    assert error(failed)[0] == "INVALID_ARGUMENT"
    assert [values(response) for response in answers(answered)] == [[6, 7], [8, 9]]


def test_the_open_batch_is_filled_with_a_part_of_a_request(ask: Client) -> None:
    futures = send(ask, rows("split_allowed", 0), rows("split_allowed", *range(1, 8)))
    first, large = answers(futures)
    assert together(first) == [0, 1, 2, 3]
    assert values(large) == list(range(1, 8))


# --- the queue


def test_a_full_queue_refuses(ask: Client) -> None:
    waiting = send(ask, *(wide("full", numpy.zeros((3, size))) for size in (1, 2)))
    (refused,) = send(ask, wide("full", numpy.zeros((3, 3))))
    assert error(refused) == (
        "UNAVAILABLE",
        "The batch scheduling queue to which this task was submitted is full; currently 2 batches "
        "enqueued and max_enqueued_batches is 2",
    )
    waiting += send(ask, *(wide("full", numpy.zeros((1, size))) for size in (1, 2)))
    answers(waiting)
    (again,) = send(ask, wide("full", numpy.zeros((4, 3))))
    answers([again])


def test_requests_that_nobody_waits_for_do_not_fill_a_queue(ask: Client) -> None:
    left = send(ask, *(wide("left", numpy.zeros((3, size))) for size in (1, 2)))
    kept = send(ask, wide("left", numpy.zeros((1, 3))))
    for future in left:
        future.cancel()
    arrived(ask)
    kept += send(ask, wide("left", numpy.ones((3, 3))))
    assert [together(response) for response in answers(kept)] == [[0] * 3 + [1] * 9] * 2


def test_a_full_queue_tells_what_would_fit_if_requests_are_split(ask: Client) -> None:
    waiting = send(ask, *(wide("split_full", numpy.zeros((3, size))) for size in (1, 2)))
    (refused,) = send(ask, wide("split_full", numpy.zeros((5, 3))))
    assert error(refused) == (
        "UNAVAILABLE",
        "The batch scheduling queue to which this task was submitted is full; task size is 5 but "
        "scheduling capacity is only 4 (num_enqueued_batches=2, max_enqueued_batches=2, "
        "open_batch_size=2, max_execution_batch_size=4)",
    )
    waiting += send(ask, *(wide("split_full", numpy.zeros((1, size))) for size in (1, 2)))
    answers(waiting)


# --- who shares


def test_only_models_with_parameters_of_their_own_are_batched(ask: Client) -> None:
    waiting, answered = send(ask, rows("batched", 1), rows("not_batched", 2))
    assert together(*answers([answered])) == [2]
    assert not waiting.done()
    send(ask, rows("batched", 3))
    assert together(*answers([waiting])) == [1, 3]


def test_a_batch_has_requests_for_the_same_outputs(ask: Client) -> None:
    filters: list[tuple[str, ...]] = [
        ("together",),
        ("y", "together"),
        (),
        ("together", "y"),
        ("together", "run", "y"),
        ("together",),
    ]
    futures = send(ask, *(rows("filtered", i, output_filter=f) for i, f in enumerate(filters)))
    responses = answers(futures)
    assert [together(r) for r in responses] == [[0, 5], [1, 3], [2, 4], [1, 3], [2, 4], [0, 5]]
    assert [set(response.outputs) for response in responses] == [
        set(asked) or {"y", "together", "run"} for asked in filters
    ]
    assert [values(r) for r in responses if "y" in r.outputs] == [[1], [2], [3], [4]]


def test_a_batch_has_requests_of_the_same_signature(ask: Client) -> None:
    names = ["", "plus_one", "serving_default", "plus_one"]
    futures = send(ask, *(rows("signatures", i, signature=s) for i, s in enumerate(names)))
    responses = answers(futures)
    assert [together(response) for response in responses] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert [values(response) for response in responses] == [[0], [2], [2], [4]]
    assert [response.model_spec.signature_name for response in responses] == [
        "serving_default",
        "plus_one",
        "serving_default",
        "plus_one",
    ]


def test_a_batch_has_requests_of_the_same_version(ask: Client) -> None:
    versions = [1, 2, None, 1]
    futures = send(ask, *(rows("versions", i, version=v) for i, v in enumerate(versions)))
    responses = answers(futures)
    assert [together(response) for response in responses] == [[0, 3], [1, 2], [1, 2], [0, 3]]
    assert [response.model_spec.version.value for response in responses] == [1, 2, 2, 1]


def test_requests_of_different_shapes_run_apart(ask: Client) -> None:
    sizes = [1, 2, 3] * 4
    requests = [wide("shapes", [[i] * size]) for i, size in enumerate(sizes)]
    responses = answers(send(ask, *requests))
    for i, size in enumerate(sizes):
        assert outputs(responses[i])["y"].tolist() == [[i] * size]
        assert set(together(responses[i])) == {j for j in range(12) if sizes[j] == size}


def test_requests_of_different_dtypes_and_ranks_run_apart(ask: Client) -> None:
    inputs: dict[str, list[Array]] = {
        "float": [floats(1), floats(2), floats(3, 4).reshape(1, 2), floats(5, 6).reshape(1, 2)],
        "int64": [numpy.array([i], "int64") for i in range(2)],
        "string": [strings("a"), strings("b" * 1000)],
        "bool": [numpy.array([True]), numpy.array([False])],
        "complex128": [numpy.array([1j, 2]).astype("complex128"), numpy.array([3 + 0j, 4 + 1j])],
    }
    asked = [(name, x) for name, xs in inputs.items() for x in xs]
    asked = asked[::2] + asked[1::2]
    futures = send(ask, *(predict_request("dtypes", {"x": x}, signature=s) for s, x in asked))
    for (_, x), response in zip(asked, answers(futures), strict=True):
        y = outputs(response)["y"]
        assert y.dtype == x.dtype
        assert y.tolist() == x.tolist()


# --- who runs alone


def test_a_request_without_rows_is_answered_at_once(ask: Client) -> None:
    (waiting, empty) = send(ask, rows("no_rows", 1), rows("no_rows"))
    response = answers([empty])[0]
    assert values(response) == []
    assert outputs(response)["together"].shape == (0,)
    assert not waiting.done()
    answers([waiting, *send(ask, rows("no_rows", 2, 3, 4))])


def test_a_scalar_is_answered_at_once(ask: Client) -> None:
    request = predict_request("scalars", {"x": numpy.array(3.0, "float32")}, signature="float")
    text = predict_request("scalars", {"x": scalar(b"text")}, signature="string")
    first, second = answers(send(ask, request, text))
    assert outputs(first)["y"].shape == ()
    assert outputs(second)["y"].tolist() == b"text"


def test_unequal_numbers_of_rows_are_answered_at_once(ask: Client) -> None:
    request = predict_request("unequal", {"a": floats(1, 2, 3), "b": floats(2)})
    (response,) = answers(send(ask, request))
    assert outputs(response)["product"].tolist() == [2, 4, 6]


def test_a_rank_that_is_not_the_signatures_is_answered_at_once(ask: Client) -> None:
    """[1] + [1, 1] is [1, 1], but [2] + [2, 1] would be [2, 2]: each with values of the other."""
    requests = [
        predict_request("other_rank", {"a": floats(i), "b": floats(10).reshape(1, 1)})
        for i in range(2)
    ]
    responses = answers(send(ask, *requests))
    assert [outputs(response)["sum"].tolist() for response in responses] == [[[10]], [[11]]]


def test_default_values_are_used_at_once(ask: Client) -> None:
    (response,) = answers(send(ask, rows("defaults", 1, 2)))
    assert values(response) == [3, 5]


def test_a_model_with_one_value_for_all_rows_is_run_for_each_request(ask: Client) -> None:
    seconds = [0.001, 0.002]
    requests = [predict_request("one_value", {"seconds": floats(s)}) for s in seconds]
    for _ in range(2):
        responses = answers(send(ask, *requests))
        assert [values(response) for response in responses] == [
            [pytest.approx(0.001)],
            [pytest.approx(0.002)],
        ]
    answers(send(ask, requests[0]))  # known by now to wait for nobody


def test_rows_of_nothing_are_rows(ask: Client) -> None:
    empty = numpy.zeros((2, 0), "float32")
    responses = answers(send(ask, wide("empty_rows", empty), wide("empty_rows", empty)))
    assert [outputs(response)["y"].shape for response in responses] == [(2, 0)] * 2
    assert [len(outputs(response)["together"]) for response in responses] == [2, 2]


def test_rows_of_nothing_are_not_padded(ask: Client) -> None:
    waiting, empty = send(
        ask, wide("empty_padded", [[1, 2]]), wide("empty_padded", numpy.zeros((2, 0)))
    )
    assert outputs(*answers([empty]))["y"].shape == (2, 0)
    assert not waiting.done()
    answers([waiting, *send(ask, wide("empty_padded", [[1, 2]] * 3))])


# --- content


def test_strings_of_any_length_share_a_batch(ask: Client) -> None:
    texts = [b"", b"x" * 70_000, "ü☃".encode(), b"\0\xff" * 40_000]
    futures = send(
        ask,
        *(predict_request("texts", {"x": strings(t)}, signature="string") for t in texts),
    )
    assert [outputs(response)["y"].tolist() for response in answers(futures)] == [
        [text] for text in texts
    ]


def test_large_rows_share_a_batch(ask: Client) -> None:
    pixels = numpy.random.default_rng(1).random((5, 150528), "float32")
    parts = [pixels[:1], pixels[1:3], pixels[3:4]]
    futures = send(ask, *(predict_request("images", {"x": part}) for part in parts))
    for part, response in zip(parts, answers(futures), strict=True):
        assert (outputs(response)["y"] == part).all()


def test_names_in_unicode_are_batched(ask: Client) -> None:
    first, second = answers(
        send(
            ask,
            *(predict_request("unicode", {"größe": floats(i)}, signature="größe☃") for i in (1, 2)),
        )
    )
    assert outputs(first)["länge"].tolist() == [1]
    assert outputs(second)["länge"].tolist() == [2]
    responses = answers(send(ask, rows("größe ☃", 1), rows("größe ☃", 2)))
    assert [together(response) for response in responses] == [[1, 2]] * 2
    assert {response.model_spec.name for response in responses} == {"größe ☃"}


# --- errors


@pytest.mark.parametrize(
    "bad", [{0}, {7}, {3, 4}, {0, 2, 4, 6}, {1, 2, 3, 4, 5, 6, 7}, set(range(8))], ids=str
)
def test_only_requests_for_which_the_model_fails_get_its_error(ask: Client, bad: set[int]) -> None:
    futures = send(ask, *(rows("failing", -i - 1 if i in bad else i) for i in range(8)))
    for i, future in enumerate(futures):
        if i not in bad:
            assert values(*answers([future])) == [i]
            continue
        code, text = error(future)
        assert code == "INVALID_ARGUMENT"
        assert NEGATIVE in text
        assert str(-i - 1) in text  # it is the error of its own run


def test_only_a_request_with_a_bad_tensor_gets_the_error(ask: Client) -> None:
    bad = rows("invalid", 9)
    bad.inputs["x"].ClearField("float_val")
    bad.inputs["x"].tensor_content = b"\0\0\0"
    futures = send(ask, rows("invalid", 1), bad, rows("invalid", 2), rows("invalid", 3))
    assert error(futures.pop(1))[0] == "INVALID_ARGUMENT"
    futures += send(ask, rows("invalid", 4))
    responses = answers(futures)
    assert [values(response) for response in responses] == [[1], [2], [3], [4]]
    assert 9 not in together(responses[0])


def test_a_wrong_dtype_disturbs_nobody(ask: Client) -> None:
    waiting = send(ask, *(rows("wrong_dtype", i) for i in range(3)))
    bad = predict_request("wrong_dtype", {"x": tensor(numpy.array([1], "int32"))})
    (failed,) = send(ask, bad)
    assert error(failed)[0] == "INVALID_ARGUMENT"
    assert not any(future.done() for future in waiting)
    waiting += send(ask, rows("wrong_dtype", 3))
    # grpcio tells of requests that came together in any order.
    together_sorted = [sorted(together(response)) for response in answers(waiting)]
    assert together_sorted == [[0, 1, 2, 3]] * 4


# --- those that nobody waits for


def test_a_cancelled_request_never_runs(ask: Client) -> None:
    kept, left = send(ask, rows("cancelled", 1), rows("cancelled", 2))
    left.cancel()
    futures = [kept, *send(ask, rows("cancelled", 3), rows("cancelled", 4))]
    filled = answer_all("cancelled", ask, futures)
    assert all(2 not in together(response) for response in filled)


def answer_all(name: str, ask: Client, futures: list[Any]) -> list[Any]:
    """Send rows of 100 until all these, and they themselves, are answered."""
    while not all(future.done() for future in futures):
        futures = [*futures, *send(ask, rows(name, 100))]
        arrived(ask)
    return answers(futures)
