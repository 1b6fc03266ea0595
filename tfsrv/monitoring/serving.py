"""TensorFlow Serving's metrics and TensorFlow's, with their names, labels and bounds.

Where each is counted there: servables/tensorflow/{util,saved_model_warmup_util}.cc and
machine_learning_metadata.cc, batching/{batching_session.cc,batching_util.h} of TensorFlow Serving;
cc/saved_model/loader.cc and core/framework/metrics.cc of TensorFlow. Some are not quite what they
are there: Examples are counted whatever the method; of an error in warm-up the status is the
code's name; and runtime_latency is the run alone, without waiting for the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

from tfsrv import _run_counts
from tfsrv.metrics import (
    COUNTERS,
    MLMD_MAP,
    REST,
    WARMUP_MICROS,
    Cell,
    Histogram,
    OfRequests,
    RequestCount,
    RequestMetrics,
    prometheus_name,
)
from tfsrv.monitoring.families import Families, Family, Sample, Value, of_cells, single
from tfsrv.monitoring.uncounted import HELP, UNCOUNTED

_APIS_OF_REST = {"Predict": "predict", "Classify": "classify", "Regress": "regress"}
_RUNTIME = "TF1"  # sessions

_SERVING = ":tensorflow:serving:"
_BATCHING = _SERVING + "batching_session:"
_CORE = ":tensorflow:core:"
_SAVED_MODEL = ":tensorflow:cc:saved_model:"

_COUNTER_HELP = {
    _SAVED_MODEL
    + "load_attempt_count": "Loads of SavedModels that have ended, by what came of them.",
    _SAVED_MODEL + "load_latency": "Microseconds that loads of SavedModels took, all together.",
    _SERVING + "model_warmup_records_read": "Warm-up records that were run.",
    _BATCHING + "wrapped_run_count": "Batches that ran.",
    _CORE + "graph_runs": "Runs of graphs for requests and for warming up.",
    _CORE + "direct_session_runs": "Runs of sessions for requests and for warming up.",
    _CORE + "graph_run_time_usecs": "Microseconds that runs of graphs took, all together.",
}


class RequestSums:
    """The metrics of requests, which have no label of a version or a signature: summed up."""

    def __init__(self) -> None:
        self.counts: dict[Cell, int] = {}
        self.latencies: dict[Cell, Histogram] = {}
        self.run_times: dict[Cell, Histogram] = {}
        self.examples: dict[Cell, Histogram] = {}

    def add(self, requests: RequestMetrics) -> None:
        """Add the requests of one method on one signature."""
        model, method = requests.model_name, requests.method
        by_rest = requests.entrypoint == REST
        is_counted = method in RequestCount.METHODS
        if by_rest or is_counted:
            for code, count in requests.codes.items():
                cell = (model, code.name)
                self.counts[cell] = self.counts.get(cell, 0) + count
            api = _APIS_OF_REST.get(method, "") if by_rest else method
            _add(self.latencies, (model, api, requests.entrypoint), requests.total)
        if is_counted:
            _add(self.run_times, (model, method, _RUNTIME), requests.run)
        _add(self.examples, (model,), requests.examples)


def _add(cells: dict[Cell, Histogram], cell: Cell, histogram: Histogram) -> None:
    if histogram.count:
        before = cells.get(cell)
        cells[cell] = histogram if before is None else before.plus(histogram)


def serving_families(sums: RequestSums) -> Families:
    """All of them in the order of their names, as on TensorFlow Serving's page."""
    families = {family.name: family for family in _counted(sums)}
    families |= {name: Family(name, kind, HELP) for name, kind in UNCOUNTED.items()}
    for name in sorted(families):
        yield families[name]


def _counted(sums: RequestSums) -> Iterator[Family]:
    yield from _of_requests(sums)
    yield from _of_batches()
    yield from _of_graphs()
    for metric in COUNTERS:
        if not isinstance(metric, OfRequests):
            name = prometheus_name(metric.name)
            yield of_cells(name, "counter", _COUNTER_HELP[name], metric.labels, metric.cells())
    yield of_cells(
        prometheus_name(WARMUP_MICROS.name),
        "histogram",
        "Microseconds that it took to run all warm-up records of a version.",
        WARMUP_MICROS.labels,
        WARMUP_MICROS.cells(),
    )
    yield of_cells(
        prometheus_name(MLMD_MAP.name),
        "gauge",
        "Versions that came with a UUID of ML Metadata; always 0.",
        MLMD_MAP.labels,
        MLMD_MAP.cells(),
    )


def _of_requests(sums: RequestSums) -> Iterator[Family]:
    yield of_cells(
        _SERVING + "request_count",
        "counter",
        "Requests answered: Predict, Classify and Regress through gRPC, and all by REST.",
        ("model_name", "status"),
        sums.counts,
    )
    yield Family(
        _SERVING + "request_latency",
        "histogram",
        "Microseconds from receiving a request to answering it, of those with status OK.",
        ("model_name", "API", "entrypoint"),
        _drained(sums.latencies),
    )
    yield Family(
        _SERVING + "runtime_latency",
        "histogram",
        "Microseconds that the run of the model took of which a request was a part.",
        ("model_name", "API", "runtime"),
        _drained(sums.run_times),
    )
    yield Family(
        _SERVING + "request_example_counts",
        "histogram",
        "tensorflow.Examples in a request to Classify, Regress or MultiInference.",
        ("model",),
        _drained(sums.examples),
    )
    yield of_cells(
        _SERVING + "request_example_count_total",
        "counter",
        "tensorflow.Examples in all of these requests.",
        ("model",),
        {cell: int(histogram.sum) for cell, histogram in sums.examples.items()},
    )


def _drained(cells: dict[Cell, Histogram]) -> Iterator[Sample]:
    """All of them, each of which is gone after its turn: to free them at once takes too long."""
    for cell in list(cells):
        yield cell, cells.pop(cell)


def _of_batches() -> Iterator[Family]:
    counts, nanoseconds = _run_counts.read_batch_queuing()
    queuing = Histogram(_run_counts.QUEUING_MICROS, counts, nanoseconds / 1000)
    yield of_cells(
        _BATCHING + "queuing_latency",
        "histogram",
        "Microseconds that requests, or parts of them, waited for their batch to run.",
        ("thread_pool_name",),
        _if_any(("",), queuing),  # TensorFlow Serving's server gives its pool no name here
    )
    inputs, processed = (
        Histogram(_run_counts.ROWS, *rows) for rows in _run_counts.read_batch_rows()
    )
    yield of_cells(
        _BATCHING + "input_batch_size", "histogram", "Rows of inputs of requests.", (),
        _if_any((), inputs),
    )  # fmt: skip
    yield of_cells(
        _BATCHING + "processed_batch_size", "histogram", "Rows of batches, with padding.", (),
        _if_any((), processed),
    )  # fmt: skip
    yield of_cells(
        _BATCHING + "padding_size",
        "histogram",
        "Rows of padding in batches, by the rows that the batch has with them.",
        ("execution_batch_size",),
        {
            (str(size) if size else "other",): Histogram(_run_counts.ROWS, *rows)
            for size, rows in _run_counts.read_batch_padding().items()
        },
    )


def _of_graphs() -> Iterator[Family]:
    (times, nanoseconds), inputs, outputs = _run_counts.read_graph_runs()
    of_times = Histogram(_run_counts.RUN_TIME_MICROS, times, nanoseconds // 1000)
    for name, help, histogram in (
        ("graph_run_time_usecs_histogram", "Microseconds that a run of a graph took.", of_times),
        (
            "graph_run_input_tensor_bytes",
            "Bytes of the tensors that a run of a graph was given.",
            Histogram(_run_counts.RUN_BYTES, *inputs),
        ),
        (
            "graph_run_output_tensor_bytes",
            "Bytes of the tensors that came of a run of a graph.",
            Histogram(_run_counts.RUN_BYTES, *outputs),
        ),
    ):
        yield single(_CORE + name, "histogram", help, histogram if histogram.count else None)


def _if_any(cell: Cell, histogram: Histogram) -> dict[Cell, Value]:
    return {cell: histogram} if histogram.count else {}
