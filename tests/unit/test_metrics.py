"""Counters by TensorFlow's names."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tfsrv import _counters, _run_counts
from tfsrv.handlers.reload import totals
from tfsrv.metrics import (
    COUNTERS,
    WARMUP_RECORDS,
    Counter,
    Distribution,
    Histogram,
    Presence,
    counter,
    prometheus_name,
)

REQUESTS = "/tensorflow/serving/request_count"


def new_name() -> str:
    """No other test counts under it: native counters live as long as the process."""
    return uuid.uuid4().hex


def test_a_counter_has_a_cell_for_each_combination_of_labels() -> None:
    loads = Counter("/loads", "path", "status")
    loads.add("/a", "success")
    loads.add("/a", "success")
    loads.add("/a", "fail", by=5)
    loads.add("/b", "success")
    assert loads.cells() == {("/a", "success"): 2, ("/a", "fail"): 5, ("/b", "success"): 1}
    assert loads.total() == 8


def test_a_counter_refuses_labels_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="has the labels"):
        Counter("/loads", "path").add("/a", "success")


def test_a_counter_counts_what_several_threads_add() -> None:
    counted = Counter("/counted", "which")

    def add(which: str) -> None:
        for _ in range(2000):
            counted.add(which)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, ["a", "b", "a", "b"]))
    assert counted.cells() == {("a",): 4000, ("b",): 4000}


def test_a_distribution_has_a_histogram_for_each_combination_of_labels() -> None:
    took = Distribution("/took", (10.0, 20.0), "path")
    for value in (9.0, 10.0, 19.0, 20.0, 1e9):
        took.add("/a", value=value)
    took.add("/b", value=5.0)
    assert took.cells() == {
        ("/a",): Histogram((10.0, 20.0), (1, 2, 2), 1e9 + 58.0),
        ("/b",): Histogram((10.0, 20.0), (1, 0, 0), 5.0),
    }
    with pytest.raises(ValueError, match="has the labels"):
        took.add(value=5.0)


def test_a_presence_shows_zero_for_what_there_is() -> None:
    there = Presence("/there", "model")
    for _ in range(2):
        there.show("a")
    assert there.cells() == {("a",): 0}


def test_every_number_that_only_grows_is_there_by_its_name() -> None:
    names = {metric.name for metric in COUNTERS}
    assert names == {
        "/tensorflow/cc/saved_model/load_attempt_count",
        "/tensorflow/cc/saved_model/load_latency",
        "/tensorflow/core/direct_session_runs",
        "/tensorflow/core/graph_run_time_usecs",
        "/tensorflow/core/graph_runs",
        "/tensorflow/serving/batching_session/wrapped_run_count",
        "/tensorflow/serving/model_warmup_records_read",
        "/tensorflow/serving/request_count",
        "/tensorflow/serving/request_example_count_total",
    }


def test_totals_move_by_what_has_happened() -> None:
    model = new_name()
    names = sorted(metric.name for metric in COUNTERS)
    before = totals(names)
    _counters.add_request(model, 1, "", "Predict", 0, 1, rest=True, examples=3)
    _run_counts.add_graph_run(5_000_000)
    _run_counts.add_batch(1, 0, 0, 1)
    WARMUP_RECORDS.add(model, "OK", by=4)
    after = totals(names)
    assert {name: after[name] - before[name] for name in names if after[name] > before[name]} == {
        "/tensorflow/core/direct_session_runs": 1,
        "/tensorflow/core/graph_run_time_usecs": 5000,
        "/tensorflow/core/graph_runs": 1,
        "/tensorflow/serving/batching_session/wrapped_run_count": 1,
        "/tensorflow/serving/model_warmup_records_read": 4,
        "/tensorflow/serving/request_count": 1,
        "/tensorflow/serving/request_example_count_total": 3,
    }


def test_names_are_found_in_both_spellings() -> None:
    for metric in COUNTERS:
        assert counter(metric.name) is metric
        assert counter(prometheus_name(metric.name)) is metric
    assert prometheus_name(REQUESTS) == ":tensorflow:serving:request_count"
    for name in ("", "request_count", "/tensorflow/serving/nosuch", REQUESTS + "/"):
        assert counter(name) is None


def test_requests_are_counted_by_model_and_status_over_versions_signatures_and_methods() -> None:
    requests = counter(REQUESTS)
    assert requests is not None
    model = new_name()
    _counters.add_request(model, 1, "a", "Predict", 0, 1)
    _counters.add_request(model, 2, "b", "Classify", 0, 1)
    _counters.add_request(model, 2, "b", "Regress", 3, 1)
    _counters.add_request(model, 2, "b", "MultiInference", 0, 1)  # TensorFlow Serving does not
    cells = {cell: count for cell, count in requests.cells().items() if cell[0] == model}
    assert cells == {(model, "OK"): 2, (model, "INVALID_ARGUMENT"): 1}


def test_totals_are_of_the_names_that_were_given() -> None:
    _counters.add_request(new_name(), 1, "", "Predict", 0, 1)
    prometheus = prometheus_name(REQUESTS)
    shown = totals([REQUESTS, "nosuch", prometheus, REQUESTS])
    assert shown.keys() == {REQUESTS, prometheus}
    assert shown[REQUESTS] == shown[prometheus] > 0
