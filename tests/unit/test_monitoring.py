"""Which metrics there are, under which names, and that their values move with what happens."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.serving_metrics import BOUNDS, LABELS, TYPES
from tfsrv import __version__, _counters, _run_counts
from tfsrv._budget import give_in_flight_bytes, set_max_in_flight_bytes, take_in_flight_bytes
from tfsrv._session import BatchNumbers, QueueNumbers
from tfsrv.config import memory_bytes
from tfsrv.core.servable import ManagerState, ServableId, ServableState
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.prometheus import text_of
from tfsrv.metrics import COUNTERS, MLMD_MAP, NO_VERSION, WARMUP_MICROS, WARMUP_RECORDS, Histogram
from tfsrv.monitoring.families import Families, Family, Source, joined
from tfsrv.monitoring.models import ModelFamilies, QueueFamilies
from tfsrv.monitoring.process import ProcessFamilies, start_time_seconds
from tfsrv.monitoring.requests import request_families, serving_request_families
from tfsrv.monitoring.server import ServerFamilies
from tfsrv.monitoring.uncounted import UNCOUNTED

SERVING = ":tensorflow:serving:"
CORE = ":tensorflow:core:"


@pytest.fixture
def model() -> str:
    """A model that nobody has counted yet: counters live as long as the process."""
    return uuid.uuid4().hex


def families(source: Source) -> dict[str, Family]:
    return {family.name: family for family in source() if family is not None}


def values(source: Source, name: str) -> dict[tuple[str, ...], int | float | Histogram]:
    """The values of a metric by those of its labels."""
    return dict(sample for sample in families(source)[name].samples if sample is not None)


def of_model(source: Source, name: str, model: str) -> dict[tuple[str, ...], int | float]:
    """A metric of one model by the values of its other labels; of a histogram how many values."""
    return {
        cell[1:]: value.count if isinstance(value, Histogram) else value
        for cell, value in values(source, name).items()
        if cell[0] == model
    }


def page(*sources: Source) -> dict[str, Metric]:
    text = "".join(text_of(joined(sources)))
    return {family.name: family for family in text_string_to_metric_families(text)}


# -- TensorFlow Serving's


@pytest.fixture
def everything_counted(model: str) -> None:
    """All that can be counted has been, once at least."""
    for method in ("Predict", "Classify", "Regress"):
        for rest in (False, True):
            _counters.add_request(model, 1, "s", method, 0, 1000, 10, 10, rest=rest, examples=2)
    _run_counts.add_batch(3, 1, 1000, 1)
    _run_counts.stress(1, 1)
    for counter in COUNTERS:
        if hasattr(counter, "add"):
            counter.add(*counter.labels)
    WARMUP_MICROS.add("path", "OK", value=20.0)
    MLMD_MAP.show("m", "1")


@pytest.mark.usefixtures("everything_counted")
def test_there_is_every_metric_of_tensorflow_serving_with_its_type_in_its_order() -> None:
    shown = [family for family in serving_request_families() if family is not None]
    assert {family.name: family.kind for family in shown} == TYPES
    assert [family.name for family in shown] == sorted(TYPES)
    assert all(family.help for family in shown)


@pytest.mark.usefixtures("everything_counted")
def test_labels_and_bounds_are_those_of_tensorflow_serving() -> None:
    compared = set()
    for name, family in page(serving_request_families).items():
        name = f"{name}_total" if f"{name}_total" in TYPES else name
        if not family.samples or name not in LABELS:
            continue
        labels = tuple(label for label in family.samples[0].labels if label != "le")
        assert labels == LABELS[name]
        if name in BOUNDS:
            bounds = [s.labels["le"] for s in family.samples if s.name.endswith("_bucket")]
            assert tuple(bounds[: len(BOUNDS[name])]) == BOUNDS[name]
        compared.add(name)
    assert compared == set(LABELS) - set(UNCOUNTED)


@pytest.mark.usefixtures("everything_counted")
def test_what_is_counted_and_what_is_not_is_told_apart() -> None:
    have_values = {
        name for name, family in families(serving_request_families).items() if list(family.samples)
    }
    assert have_values == set(TYPES) - set(UNCOUNTED)
    assert f"{SERVING}request_log_count" in UNCOUNTED


def test_labels_that_were_not_recorded_are_those_of_its_sources(model: str) -> None:
    shown = families(serving_request_families)
    assert shown[f"{SERVING}model_warmup_latency"].labels == ("model_path", "status")
    assert shown[f"{SERVING}model_warmup_records_read"].labels == ("model_path", "status")
    assert shown[f"{SERVING}request_example_counts"].labels == ("model",)
    assert shown[f"{SERVING}request_example_count_total"].labels == ("model",)
    assert shown[f"{SERVING}mlmd_map"].labels == ("model_name", "version")


def test_bounds_that_were_not_recorded_are_those_of_its_sources(model: str) -> None:
    _counters.add_request(model, 1, "s", "Classify", 0, 1, examples=3)
    WARMUP_MICROS.add(model, "OK", value=20.0)
    shown = page(serving_request_families)

    def bounds(name: str) -> list[str]:
        samples = [s for s in shown[SERVING + name].samples if model in s.labels.values()]
        return [s.labels["le"] for s in samples if s.name.endswith("_bucket")]

    powers = [str(2**i) for i in range(15)]
    assert bounds("request_example_counts") == [*powers, "+Inf"]
    assert tuple(bounds("model_warmup_latency")) == BOUNDS[f"{SERVING}request_latency"]


def test_requests_are_counted_by_model_and_status(model: str) -> None:
    for version in (1, 2):
        _counters.add_request(model, version, "a", "Predict", Code.OK, 1)
    _counters.add_request(model, 1, "b", "Predict", Code.OK, 1, rest=True)
    _counters.add_request(model, 1, "b", "Regress", Code.INVALID_ARGUMENT, 1)
    _counters.add_request(model, 1, "", "MultiInference", Code.OK, 1)  # it does not count these
    name = f"{SERVING}request_count"
    assert of_model(serving_request_families, name, model) == {
        ("OK",): 3,
        ("INVALID_ARGUMENT",): 1,
    }


def test_what_python_answers_by_rest_is_counted_as_there(model: str) -> None:
    _counters.add_request(model, NO_VERSION, "", "GetModelStatus", Code.OK, 1, rest=True)
    _counters.add_request(model, NO_VERSION, "", "GetModelStatus", Code.NOT_FOUND, 1, rest=True)
    _counters.add_request(model, NO_VERSION, "", "GetModelStatus", Code.OK, 1)
    count = of_model(serving_request_families, f"{SERVING}request_count", model)
    latency = of_model(serving_request_families, f"{SERVING}request_latency", model)
    assert count == {("OK",): 1, ("NOT_FOUND",): 1}
    assert latency == {("", "REST"): 1}


def test_latency_is_told_by_api_and_entrypoint_of_requests_that_went_well(model: str) -> None:
    for method in ("Predict", "Classify", "Regress"):
        _counters.add_request(model, 1, "s", method, Code.OK, 20_000)
        for _ in range(2):
            _counters.add_request(model, 1, "s", method, Code.OK, 20_000, rest=True)
        _counters.add_request(model, 1, "s", method, Code.INTERNAL, 20_000)
    name = f"{SERVING}request_latency"
    assert of_model(serving_request_families, name, model) == {
        ("Predict", "GRPC"): 1,
        ("Classify", "GRPC"): 1,
        ("Regress", "GRPC"): 1,
        ("predict", "REST"): 2,
        ("classify", "REST"): 2,
        ("regress", "REST"): 2,
    }
    histogram = values(serving_request_families, name)[model, "predict", "REST"]
    assert isinstance(histogram, Histogram)
    assert (histogram.counts[2], histogram.sum) == (2, 40.0)


def test_runs_are_told_by_api_whatever_the_entrypoint(model: str) -> None:
    _counters.add_request(model, 1, "s", "Predict", Code.OK, 9000, 10, 3000)
    _counters.add_request(model, 2, "s", "Predict", Code.OK, 9000, 10, 4000, rest=True)
    _counters.add_request(model, 2, "s", "Predict", Code.OK, 9000)  # never ran
    name = f"{SERVING}runtime_latency"
    assert of_model(serving_request_families, name, model) == {("Predict", "TF1"): 2}
    histogram = values(serving_request_families, name)[model, "Predict", "TF1"]
    assert isinstance(histogram, Histogram)
    assert histogram.sum == 7.0


def test_examples_are_counted_by_model(model: str) -> None:
    _counters.add_request(model, 1, "s", "Classify", Code.OK, 1, examples=5)
    _counters.add_request(model, 1, "", "MultiInference", Code.OK, 1, examples=7, rest=True)
    counts = of_model(serving_request_families, f"{SERVING}request_example_counts", model)
    total = of_model(serving_request_families, f"{SERVING}request_example_count_total", model)
    assert (counts, total) == ({(): 2}, {(): 12})


def test_values_move_by_what_has_happened(model: str) -> None:
    def now() -> dict[str, int | float]:
        shown = {
            name: list(family.samples)
            for name, family in families(serving_request_families).items()
        }
        return {
            name: sum(
                value.count if isinstance(value, Histogram) else value
                for sample in samples
                if sample is not None
                for value in sample[1:]
                if not isinstance(value, tuple)
            )
            for name, samples in shown.items()
        }

    before = now()
    _run_counts.add_graph_run(2_000_000)
    _run_counts.add_batch(3, 1, 1000, 2)
    WARMUP_RECORDS.add(model, "OK", by=4)
    after = now()
    assert {name: after[name] - old for name, old in before.items() if after[name] != old} == {
        f"{CORE}graph_runs": 1,
        f"{CORE}direct_session_runs": 1,
        f"{CORE}graph_run_time_usecs": 2000,
        f"{CORE}graph_run_time_usecs_histogram": 1,
        f"{CORE}graph_run_input_tensor_bytes": 1,
        f"{CORE}graph_run_output_tensor_bytes": 1,
        f"{SERVING}batching_session:wrapped_run_count": 1,
        f"{SERVING}batching_session:queuing_latency": 1,
        f"{SERVING}batching_session:input_batch_size": 2,
        f"{SERVING}batching_session:processed_batch_size": 1,
        f"{SERVING}batching_session:padding_size": 1,
        f"{SERVING}model_warmup_records_read": 4,
    }


# -- ours


def test_ours_tell_requests_apart_by_all_that_is_known_of_them(model: str) -> None:
    _counters.add_request(model, 3, "s", "Predict", Code.OK, 20_000, 10_000, 5_000)
    _counters.add_request(model, 3, "s", "Predict", Code.OK, 20_000, 10_000, 5_000, rest=True)
    _counters.add_request(model, 3, "s", "Predict", Code.UNAVAILABLE, 7_000, rest=True)
    grpc, rest = ("3", "s", "Predict", "GRPC"), ("3", "s", "Predict", "REST")
    shown = {(*grpc, "OK"): 1, (*rest, "OK"): 1, (*rest, "UNAVAILABLE"): 1}
    assert of_model(request_families, "tfsrv_requests_total", model) == shown
    assert of_model(request_families, "tfsrv_request_duration_seconds", model) == shown
    assert of_model(request_families, "tfsrv_queue_duration_seconds", model) == {grpc: 1, rest: 1}
    assert of_model(request_families, "tfsrv_run_duration_seconds", model) == {grpc: 1, rest: 1}


def test_ours_are_in_seconds(model: str) -> None:
    _counters.add_request(model, 1, "s", "Predict", Code.OK, 2_500_000_000)
    durations = values(request_families, "tfsrv_request_duration_seconds")
    histogram = durations[model, "1", "s", "Predict", "GRPC", "OK"]
    assert isinstance(histogram, Histogram)
    assert histogram.sum == 2.5
    bucket = histogram.counts.index(1)
    assert histogram.bounds[bucket - 1] <= 2.5 < histogram.bounds[bucket]


def test_without_a_model_or_a_version_there_is_no_version(model: str) -> None:
    _counters.add_request("", 0, "", model, Code.NOT_FOUND, 1)
    _counters.add_request(model, NO_VERSION, "", "GetModelStatus", Code.OK, 1, rest=True)
    _counters.add_request(model, 0, "s", "Predict", Code.OK, 1)  # there is such a version
    shown = values(request_families, "tfsrv_requests_total")
    assert shown["", "", "", model, "GRPC", "NOT_FOUND"] == 1
    assert shown[model, "", "", "GetModelStatus", "REST", "OK"] == 1
    assert shown[model, "0", "s", "Predict", "GRPC", "OK"] == 1


def test_prometheus_reads_all_of_it(model: str) -> None:
    nasty = f'{model}"\\\n'
    _counters.add_request(nasty, 1, "s", "Predict", Code.OK, 20_000, 10_000, 5_000, rest=True)
    shown = page(serving_request_families, request_families, ProcessFamilies())
    assert len(shown) == len(TYPES) + 4 + 7
    count = f"{SERVING}request_count"
    assert any(sample.labels["model_name"] == nasty for sample in shown[count].samples)
    for name in ("tfsrv_requests", "tfsrv_request_duration_seconds", "tfsrv_run_duration_seconds"):
        assert any(sample.labels["model"] == nasty for sample in shown[name].samples)


def test_no_two_families_have_one_name() -> None:
    core = ModelFamilies(FakeCore({}, {}))
    sources = (
        serving_request_families,
        request_families,
        core,
        QueueFamilies(list),
        ServerFamilies(FakeCalls(), {}),
        ProcessFamilies(),
    )
    names = [family.name for family in joined(sources) if family is not None]
    assert len(names) == len(set(names))


class FakeCore:
    """A core whose monitor it is itself."""

    def __init__(
        self, states: dict[str, list[ServableState]], labels: dict[str, dict[str, int]]
    ) -> None:
        self._states = states
        self._labels = labels
        self.monitor = self

    def names(self) -> list[str]:
        return list(self._states)

    def versions(self, name: str) -> dict[int, ServableState]:
        return {state.id.version: state for state in self._states[name]}

    def model_names(self) -> tuple[str, ...]:
        return tuple(self._labels)

    def version_labels(self, name: str) -> Mapping[str, int]:
        return self._labels[name]


def test_versions_show_their_states_errors_and_labels() -> None:
    error = ServingError(Code.NOT_FOUND, "no such file")
    states = {
        "a": [
            ServableState(ServableId("a", 2), ManagerState.LOADING),
            ServableState(ServableId("a", 1), ManagerState.AVAILABLE),
        ],
        "b": [ServableState(ServableId("b", 7), ManagerState.END, error)],
    }
    source = ModelFamilies(FakeCore(states, {"a": {"stable": 1}, "b": {}}))
    assert values(source, "tfsrv_model_version_state") == {
        ("a", "2", "LOADING"): 1,
        ("a", "1", "AVAILABLE"): 1,
        ("b", "7", "END"): 1,
    }
    assert values(source, "tfsrv_model_version_error") == {("b", "7", "NOT_FOUND"): 1}
    assert values(source, "tfsrv_model_version_label") == {("a", "stable", "1"): 1}


class FakeSession:
    name = "m"
    version = 3

    def __init__(self, *queues: QueueNumbers | None) -> None:
        self._queues = queues
        self.queues_size = len(queues)

    def queue_numbers(self, index: int) -> QueueNumbers | None:
        return self._queues[index]


def test_queues_show_what_waits_and_what_their_batches_were() -> None:
    batches = BatchNumbers(
        batches=2,
        requests=5,
        rows=9,
        padding_rows=7,
        run_apart=1,
        refused_full=3,
        refused_late=4,
        refused_unwanted=6,
        running=8,
    )
    session = FakeSession(None, QueueNumbers("a", 11, batches), QueueNumbers("b", 12, None))
    source = QueueFamilies(lambda: [session])
    cell = ("m", "3", "a")
    assert values(source, "tfsrv_queue_depth") == {cell: 11, ("m", "3", "b"): 12}
    shown = {name: values(source, name) for name in families(source)}
    del shown["tfsrv_queue_depth"]
    assert shown == {
        "tfsrv_batches_running": {cell: 8},
        "tfsrv_batches_total": {cell: 2},
        "tfsrv_batched_requests_total": {cell: 5},
        "tfsrv_batched_rows_total": {cell: 9},
        "tfsrv_batch_padding_rows_total": {cell: 7},
        "tfsrv_batches_run_apart_total": {cell: 1},
        "tfsrv_batch_refusals_total": {
            (*cell, "full"): 3,
            (*cell, "late"): 4,
            (*cell, "unwanted"): 6,
        },
    }


class FakeCalls:
    in_flight = 5


@dataclass
class Connected:
    open_connections: int | None


@pytest.fixture
def limit() -> Iterator[int]:
    set_max_in_flight_bytes(1_000_000)
    yield 1_000_000
    set_max_in_flight_bytes(memory_bytes() // 2)


def test_the_server_shows_what_it_holds_and_who_is_connected(limit: int) -> None:
    source = ServerFamilies(
        FakeCalls(), {"grpc": Connected(2), "http": Connected(3), "x": Connected(None)}
    )
    (before,) = values(source, "tfsrv_in_flight_bytes").values()
    assert take_in_flight_bytes(1000)
    (after,) = values(source, "tfsrv_in_flight_bytes").values()
    give_in_flight_bytes(1000)
    assert isinstance(before, int)
    assert after == before + 1000
    assert values(source, "tfsrv_in_flight_bytes_limit") == {(): limit}
    assert values(source, "tfsrv_in_flight_requests") == {(): 5}
    assert values(source, "tfsrv_connections") == {("grpc",): 2, ("http",): 3}
    ((version, _, python),) = values(source, "tfsrv_build_info")
    assert version == __version__
    assert python.startswith("3.")


# -- the process


def process(name: str) -> float:
    (value,) = values(ProcessFamilies(), f"process_{name}").values()
    assert isinstance(value, (int, float))
    return value


def test_the_process_shows_what_it_takes() -> None:
    assert 0 < process("cpu_seconds_total") <= time.process_time()
    assert 2**20 < process("resident_memory_bytes") <= process("virtual_memory_bytes")
    assert process("max_fds") >= process("open_fds")


def test_the_process_shows_when_it_began() -> None:
    began = process("start_time_seconds")
    assert began == start_time_seconds()
    assert time.time() - 24 * 3600 < began <= time.time()


def test_the_process_shows_its_open_files() -> None:
    before = process("open_fds")
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
    try:
        assert process("open_fds") == before + 200
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_files_are_counted_where_linux_does_not_tell_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = process("open_fds")

    class Nothing:
        st_size = 0

    monkeypatch.setattr(os, "stat", lambda path: Nothing())
    assert process("open_fds") == told


def test_the_process_shows_its_threads() -> None:
    before = process("threads")
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert process("threads") == before + 1
    finally:
        end.set()
        thread.join()


def test_what_the_system_does_not_tell_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no /proc")

    monkeypatch.setattr("tfsrv.monitoring.process._read", lambda path: "")
    monkeypatch.setattr(os, "stat", refuse)
    shown = {name: list(family.samples) for name, family in families(ProcessFamilies()).items()}
    assert {name for name, samples in shown.items() if samples} == {
        "process_cpu_seconds_total",
        "process_max_fds",
    }


def test_sources_follow_each_other() -> None:
    def one() -> Families:
        yield Family("a", "gauge", "")

    def other() -> Families:
        yield Family("b", "gauge", "")

    assert [family and family.name for family in joined([one, other])] == ["a", "b"]
