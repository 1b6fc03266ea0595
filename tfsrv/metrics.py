"""What was counted, as values that exporters print.

Counting of requests itself is native (`_counters`) and goes on while a snapshot is taken: each
number is right, but two of them may be a request apart.

What happens seldom is counted by a Counter. Names are TensorFlow's metric paths, so that
dashboards and clients made for TensorFlow Serving find them; COUNTERS has them all.

    counter("/tensorflow/serving/request_count").cells()    # {("my_model", "OK"): 17, ...}
    counter(":tensorflow:serving:request_count").total()    # the same, spelt as Prometheus does
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from tfsrv import _counters
from tfsrv.errors import Code


@dataclass(frozen=True)
class Histogram:
    """How many values fell between which bounds.

    `counts[i]` is of values below `bounds_micros[i]` and not below the bound before; the last
    count, one more than there are bounds, is of those beyond.
    """

    bounds_micros: tuple[float, ...]
    counts: tuple[int, ...]
    sum_micros: float

    @property
    def count(self) -> int:
        """How many values there are in all."""
        return sum(self.counts)


@dataclass(frozen=True)
class RequestMetrics:
    """The requests of one method on one signature.

    Requests refused before a servable was known stand under model "", version 0, signature "".
    """

    model_name: str
    version: int
    signature_name: str
    method: str
    codes: Mapping[Code, int]  # how many were answered with it; no zeros
    total: Histogram  # received to answered, of OK ones only
    queue: Histogram  # received to run, of those that got there
    run: Histogram  # the session's run


def snapshot() -> list[RequestMetrics]:
    """All that was counted since the process began, in the order of models, versions ..."""
    return [_read(key) for key in sorted(_counters.keys())]


def _read(key: tuple[str, int, str, str]) -> RequestMetrics:
    histograms = (
        Histogram(_counters.BOUNDS_MICROS, counts, sum_nanoseconds / 1000)
        for counts, sum_nanoseconds in _counters.read_histograms(key)
    )
    codes = {Code(code): count for code, count in enumerate(_counters.read_codes(key)) if count}
    return RequestMetrics(*key, codes, *histograms)


# --- counters by name


class Metric(ABC):
    """A number that only grows, for each combination of values of its labels."""

    def __init__(self, name: str, *labels: str) -> None:
        """`name` is TensorFlow's path of it, such as "/tensorflow/serving/request_count"."""
        self.name = name
        self.labels = labels

    @abstractmethod
    def cells(self) -> Mapping[tuple[str, ...], int]:
        """The numbers of now, by the values of the labels in their order."""

    def total(self) -> int:
        """The sum of all cells."""
        return sum(self.cells().values())


class Counter(Metric):
    """Counts what happens too seldom to be counted natively. Any thread may call."""

    def __init__(self, name: str, *labels: str) -> None:
        super().__init__(name, *labels)
        self._lock = threading.Lock()
        self._cells: dict[tuple[str, ...], int] = {}

    def add(self, *values: str, by: int = 1) -> None:
        """Count for these values of the labels."""
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {values}")
        with self._lock:
            self._cells[values] = self._cells.get(values, 0) + by

    def cells(self) -> Mapping[tuple[str, ...], int]:
        with self._lock:
            return dict(self._cells)


class RequestCount(Metric):
    """Requests that were answered, counted as in TensorFlow Serving's servables/tensorflow/util.cc.

    Only of the three methods that it counts; under model "" are those that were refused before
    it was known whether there is such a model.
    """

    METHODS = frozenset({"Predict", "Classify", "Regress"})

    def __init__(self) -> None:
        super().__init__("/tensorflow/serving/request_count", "model_name", "status")

    def cells(self) -> Mapping[tuple[str, ...], int]:
        cells: dict[tuple[str, ...], int] = {}
        for key in sorted(_counters.keys()):
            model, _, _, method = key
            if method not in self.METHODS:
                continue
            for code, count in enumerate(_counters.read_codes(key)):
                if count:
                    cell = (model, Code(code).name)
                    cells[cell] = cells.get(cell, 0) + count
        return cells


# Of TensorFlow's cc/saved_model/loader.cc. The status is "success" or "fail", and the latency, of
# either, is in microseconds.
SAVED_MODEL_LOADS = Counter("/tensorflow/cc/saved_model/load_attempt_count", "model_path", "status")
SAVED_MODEL_LOAD_MICROS = Counter("/tensorflow/cc/saved_model/load_latency", "model_path")

COUNTERS: tuple[Metric, ...] = (RequestCount(), SAVED_MODEL_LOADS, SAVED_MODEL_LOAD_MICROS)


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
