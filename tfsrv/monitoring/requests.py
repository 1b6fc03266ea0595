"""Requests by model, version, signature, method, entrypoint and code.

The counters are read once for each family: what was read is not kept, for tens of thousands of
objects that live for a while are what Python's garbage collector stops everything for.
"""

from __future__ import annotations

from collections.abc import Iterator

from tfsrv import _counters
from tfsrv.errors import Code
from tfsrv.metrics import NO_VERSION, Cell, Histogram, Key, RequestMetrics, requests_of
from tfsrv.monitoring.families import STEP, Families, Family, Sample
from tfsrv.monitoring.serving import RequestSums, serving_families

_LABELS = ("model", "version", "signature", "method", "entrypoint")
_SECONDS = tuple(bound / 1e6 for bound in _counters.BOUNDS_MICROS)


def serving_request_families() -> Families:
    """A source: TensorFlow Serving's metrics, for which requests are summed up first."""
    sums = RequestSums()
    keys = _counters.keys()
    for key in keys:
        for requests in requests_of(key):
            sums.add(requests)
        yield STEP
    yield from serving_families(sums)


def request_families() -> Families:
    """A source: ours."""
    keys = _counters.keys()
    yield Family(
        "tfsrv_requests_total",
        "counter",
        "Requests answered. What was refused before a model was found has no model.",
        (*_LABELS, "code"),
        _counts(keys),
    )
    yield Family(
        "tfsrv_request_duration_seconds",
        "histogram",
        "From receiving a request to answering it.",
        (*_LABELS, "code"),
        _durations(keys),
    )
    yield Family(
        "tfsrv_queue_duration_seconds",
        "histogram",
        "From receiving a request to the run of the model, of requests that got there.",
        _LABELS,
        _queue_durations(keys),
    )
    yield Family(
        "tfsrv_run_duration_seconds",
        "histogram",
        "The run of the model of which the request was a part, of requests that got there.",
        _LABELS,
        _run_durations(keys),
    )


def _counts(keys: list[Key]) -> Iterator[Sample | None]:
    for cell, requests in _read(keys):
        for code, count in requests.codes.items():
            yield (*cell, code.name), count
        yield STEP


def _durations(keys: list[Key]) -> Iterator[Sample | None]:
    for cell, requests in _read(keys):
        if requests.total.count:
            yield (*cell, Code.OK.name), _in_seconds(requests.total)
        for code, histogram in requests.failed.items():
            yield (*cell, code.name), _in_seconds(histogram)
        yield STEP


def _queue_durations(keys: list[Key]) -> Iterator[Sample | None]:
    for cell, requests in _read(keys):
        yield (cell, _in_seconds(requests.queue)) if requests.queue.count else STEP


def _run_durations(keys: list[Key]) -> Iterator[Sample | None]:
    for cell, requests in _read(keys):
        yield (cell, _in_seconds(requests.run)) if requests.run.count else STEP


def _read(keys: list[Key]) -> Iterator[tuple[Cell, RequestMetrics]]:
    for key in keys:
        for requests in requests_of(key):
            yield _cell(requests), requests


def _cell(requests: RequestMetrics) -> Cell:
    """The values of the labels. Without a model there is no version, whatever its number."""
    is_known = requests.model_name != "" and requests.version != NO_VERSION
    return (
        requests.model_name,
        str(requests.version) if is_known else "",
        requests.signature_name,
        requests.method,
        requests.entrypoint,
    )


def _in_seconds(micros: Histogram) -> Histogram:
    return Histogram(_SECONDS, micros.counts, micros.sum / 1e6)
