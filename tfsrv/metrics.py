"""What was counted, as values that exporters print.

Counting of requests itself is native (`_counters`), and so is that of runs and batches
(`_run_counts`). It goes on while a snapshot is taken: each number is right, but two of them may be
a request apart.

What happens seldom is counted by a Counter. Names are TensorFlow's metric paths, so that
dashboards and clients made for TensorFlow Serving find them; COUNTERS has all that only grow.

    counter("/tensorflow/serving/request_count").cells()    # {("my_model", "OK"): 17, ...}
    counter(":tensorflow:serving:request_count").total()    # the same, spelt as Prometheus does
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tfsrv import _counters, _run_counts
from tfsrv.errors import Code

Key = tuple[str, int, str, str]  # model, version, signature, method
Cell = tuple[str, ...]  # the values of a metric's labels, in their order

NO_VERSION = -1  # of requests that are about a model, but no version of it
GRPC, REST = "GRPC", "REST"  # entrypoints, as TensorFlow Serving prints them


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values fell between which bounds.

    `counts[i]` is of values below `bounds[i]` and not below the bound before; the last count, one
    more than there are bounds, is of those beyond.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many values there are in all."""
        return sum(self.counts)

    def plus(self, other: Histogram) -> Histogram:
        """Both together; they have the same bounds."""
        counts = tuple(map(int.__add__, self.counts, other.counts))
        return Histogram(self.bounds, counts, self.sum + other.sum)


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """The requests of one method on one signature that came in one way. Times are in microseconds.

    Requests refused before a servable was known stand under model "", version 0, signature "";
    those that Python answers about a model and no version of it under NO_VERSION.
    """

    model_name: str
    version: int
    signature_name: str
    method: str
    entrypoint: str
    codes: Mapping[Code, int]  # how many were answered with it; no zeros
    total: Histogram  # received to answered, of OK ones only
    queue: Histogram  # received to run, of those that got there
    run: Histogram  # the session's run
    failed: Mapping[Code, Histogram]  # received to answered, of others than OK, as far as known
    examples: Histogram  # tensorflow.Examples in each request that has some


def snapshot() -> list[RequestMetrics]:
    """All that was counted since the process began, in the order of models, versions ..."""
    return [read for key in sorted(_counters.keys()) for read in requests_of(key)]


def requests_of(key: Key) -> Iterator[RequestMetrics]:
    """What was counted of one method on one signature, for each entrypoint that was used."""
    for entrypoint, by_rest in ((GRPC, False), (REST, True)):
        codes = codes_of(key, by_rest)
        if not codes:
            continue
        total, queue, run = _counters.read_histograms(key, by_rest)
        failed = _counters.read_failed(key, by_rest)
        yield RequestMetrics(
            *key,
            entrypoint,
            codes,
            _micros(*total),
            _micros(*queue),
            _micros(*run),
            {_CODES[code]: _micros(*read) for code, read in failed.items()},
            Histogram(_counters.EXAMPLE_BOUNDS, *_counters.read_examples(key, by_rest)),
        )


def codes_of(key: Key, by_rest: bool) -> dict[Code, int]:
    """How many requests were answered with each code; no zeros."""
    counts = _counters.read_codes(key, by_rest)
    return {_CODES[code]: count for code, count in enumerate(counts) if count}


_CODES = tuple(Code)


def _micros(counts: tuple[int, ...], sum_nanoseconds: int) -> Histogram:
    return Histogram(_counters.BOUNDS_MICROS, counts, sum_nanoseconds / 1000)


# --- counters by name


class Metric(ABC):
    """A number for each combination of values of its labels."""

    def __init__(self, name: str, *labels: str) -> None:
        """`name` is TensorFlow's path of it, such as "/tensorflow/serving/request_count"."""
        self.name = name
        self.labels = labels

    @abstractmethod
    def cells(self) -> Mapping[Cell, int]:
        """The numbers of now, by the values of the labels in their order."""

    def total(self) -> int:
        """The sum of all cells."""
        return sum(self.cells().values())

    def _check(self, values: Cell) -> None:
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {values}")


class Counter(Metric):
    """Counts what happens too seldom to be counted natively. Any thread may call."""

    def __init__(self, name: str, *labels: str) -> None:
        super().__init__(name, *labels)
        self._lock = threading.Lock()
        self._cells: dict[Cell, int] = {}

    def add(self, *values: str, by: int = 1) -> None:
        """Count for these values of the labels."""
        self._check(values)
        with self._lock:
            self._cells[values] = self._cells.get(values, 0) + by

    def cells(self) -> Mapping[Cell, int]:
        with self._lock:
            return dict(self._cells)


class Presence(Counter):
    """Says of which values of its labels there is something: a gauge that shows 0 for each.

    That is how TensorFlow Serving prints gauges that hold a text.
    """

    def show(self, *values: str) -> None:
        """There is something."""
        self.add(*values, by=0)


class Distribution:
    """A histogram for each combination of values of its labels; for what is seldom. Any thread."""

    def __init__(self, name: str, bounds: tuple[float, ...], *labels: str) -> None:
        self.name = name
        self.bounds = bounds
        self.labels = labels
        self._lock = threading.Lock()
        self._cells: dict[Cell, Histogram] = {}

    def add(self, *values: str, value: float) -> None:
        """Count `value` for these values of the labels."""
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {values}")
        bucket = bisect_right(self.bounds, value)
        counts = tuple(int(i == bucket) for i in range(len(self.bounds) + 1))
        one = Histogram(self.bounds, counts, value)
        with self._lock:
            before = self._cells.get(values)
            self._cells[values] = one if before is None else before.plus(one)

    def cells(self) -> Mapping[Cell, Histogram]:
        """The histograms of now, by the values of the labels in their order."""
        with self._lock:
            return dict(self._cells)


class Native(Metric):
    """A number that native code counts, without labels."""

    def __init__(self, name: str, read: Callable[[], int]) -> None:
        super().__init__(name)
        self._read = read

    def cells(self) -> Mapping[Cell, int]:
        return {(): self._read()}


class OfRequests(Metric):
    """A number that is made of the native counters of requests."""

    def cells(self) -> Mapping[Cell, int]:
        cells: dict[Cell, int] = {}
        keys = _counters.keys()
        for key in keys:
            for cell, count in self.of(key):
                cells[cell] = cells.get(cell, 0) + count
        return dict(sorted(cells.items()))

    @abstractmethod
    def of(self, key: Key) -> Iterable[tuple[Cell, int]]:
        """What the counters of one method on one signature add to which cells."""


class RequestCount(OfRequests):
    """Requests that were answered, counted as in TensorFlow Serving's servables/tensorflow/util.cc.

    Through gRPC only of the three methods that it counts, and by REST all that has to do with
    models. Under model "" are those that were refused before it was known whether there is such a
    model: TensorFlow Serving counts these under whatever a REST client calls it.
    """

    METHODS = frozenset({"Predict", "Classify", "Regress"})

    def __init__(self) -> None:
        super().__init__("/tensorflow/serving/request_count", "model_name", "status")

    def of(self, key: Key) -> Iterable[tuple[Cell, int]]:
        for by_rest in (False, True):
            if by_rest or key[3] in self.METHODS:
                for code, count in codes_of(key, by_rest).items():
                    yield (key[0], code.name), count


class ExampleCount(OfRequests):
    """The tensorflow.Examples of all requests that have some, whatever their method.

    TensorFlow Serving counts those of MultiInference only, since Classify and Regress stopped to
    call RecordRequestExampleCount.
    """

    def __init__(self) -> None:
        super().__init__("/tensorflow/serving/request_example_count_total", "model")

    def of(self, key: Key) -> Iterable[tuple[Cell, int]]:
        for by_rest in (False, True):
            counts, examples = _counters.read_examples(key, by_rest)
            if any(counts):
                yield (key[0],), examples


def _graph_run_micros() -> int:
    return _run_counts.read_graph_runs()[0][1] // 1000


# Of TensorFlow's cc/saved_model/loader.cc. The status is "success" or "fail", and the latency, of
# either, is in microseconds.
SAVED_MODEL_LOADS = Counter("/tensorflow/cc/saved_model/load_attempt_count", "model_path", "status")
SAVED_MODEL_LOAD_MICROS = Counter("/tensorflow/cc/saved_model/load_latency", "model_path")

# Of TensorFlow Serving's servables/tensorflow/saved_model_warmup_util.cc. The status is the name of
# a code: there it is the whole text of the error.
WARMUP_RECORDS = Counter("/tensorflow/serving/model_warmup_records_read", "model_path", "status")
WARMUP_MICROS = Distribution(
    "/tensorflow/serving/model_warmup_latency", _counters.BOUNDS_MICROS, "model_path", "status"
)

# Of servables/tensorflow/machine_learning_metadata.cc, about models with a file of that kind.
MLMD_MAP = Presence("/tensorflow/serving/mlmd_map", "model_name", "version")

COUNTERS: tuple[Metric, ...] = (
    RequestCount(),
    ExampleCount(),
    SAVED_MODEL_LOADS,
    SAVED_MODEL_LOAD_MICROS,
    WARMUP_RECORDS,
    Native("/tensorflow/serving/batching_session/wrapped_run_count", _run_counts.read_batch_runs),
    Native("/tensorflow/core/graph_runs", _run_counts.count_graph_runs),
    Native("/tensorflow/core/direct_session_runs", _run_counts.count_graph_runs),
    Native("/tensorflow/core/graph_run_time_usecs", _graph_run_micros),
)


def prometheus_name(name: str) -> str:
    """A metric's path as Prometheus spells it: TensorFlow Serving's util/prometheus_exporter.cc."""
    return re.sub("[^a-zA-Z0-9_]", ":", name)


_BY_NAME = {
    spelling: metric
    for metric in COUNTERS
    for spelling in (metric.name, prometheus_name(metric.name))
}


def counter(name: str) -> Metric | None:
    """The counter of that name, which may be TensorFlow's path of it or Prometheus' spelling."""
    return _BY_NAME.get(name)
