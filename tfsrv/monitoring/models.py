"""The models: states of versions, labels, and what waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from tfsrv._session import BatchNumbers, QueueNumbers
from tfsrv.core.servable import ServableState
from tfsrv.metrics import Cell
from tfsrv.monitoring.families import STEP, Families, Family, Sample

_LABELS = ("model", "version", "signature")


class StateMonitor(Protocol):
    """The part of ServableStateMonitor that is used here."""

    def names(self) -> list[str]: ...

    def versions(self, name: str) -> dict[int, ServableState]: ...


class Core(Protocol):
    """The part of ServerCore that is used here."""

    @property
    def monitor(self) -> StateMonitor: ...

    def model_names(self) -> tuple[str, ...]: ...

    def version_labels(self, name: str) -> Mapping[str, int]: ...


class Session(Protocol):
    """The part of SavedModelSession that is used here."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def queues_size(self) -> int: ...
    def queue_numbers(self, index: int) -> QueueNumbers | None: ...


class ModelFamilies:
    """A source: what ServerCore knows of each version of each servable."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def __call__(self) -> Families:
        yield Family(
            "tfsrv_model_version_state",
            "gauge",
            "1 for the state in which a version of a model is: START, LOADING, AVAILABLE, "
            "UNLOADING or END, which is unloaded or failed.",
            ("model", "version", "state"),
            self._states(),
        )
        yield Family(
            "tfsrv_model_version_error",
            "gauge",
            "1 for the code of the error by which a version of a model has failed.",
            ("model", "version", "code"),
            self._errors(),
        )
        yield Family(
            "tfsrv_model_version_label",
            "gauge",
            "1 for the version of a model that a label points to.",
            ("model", "label", "version"),
            self._labels(),
        )

    def _states(self) -> Iterator[Sample | None]:
        for state in self._versions():
            if state is not STEP:
                yield (state.id.name, str(state.id.version), state.manager_state.name), 1

    def _errors(self) -> Iterator[Sample | None]:
        for state in self._versions():
            if state is not STEP and state.error is not None:
                yield (state.id.name, str(state.id.version), state.error.code.name), 1
            else:
                yield STEP

    def _versions(self) -> Iterator[ServableState | None]:
        for name in self._core.monitor.names():
            yield from self._core.monitor.versions(name).values()
            yield STEP

    def _labels(self) -> Iterator[Sample | None]:
        for name in self._core.model_names():
            for label, version in self._core.version_labels(name).items():
                yield (name, label, str(version)), 1
            yield STEP


class QueueFamilies:
    """A source: what waits for each signature of each session, and what its batches were.

    Those of a version go with it: they are no sums over the time that the server runs.
    """

    def __init__(self, sessions: Callable[[], Iterable[Session]]) -> None:
        self._sessions = sessions

    def __call__(self) -> Families:
        queues: list[tuple[Cell, QueueNumbers]] = []
        for session in self._sessions():
            version = str(session.version)
            for index in range(session.queues_size):
                numbers = session.queue_numbers(index)
                if numbers is not None:
                    queues.append(((session.name, version, numbers.signature_name), numbers))
                yield STEP
            yield STEP
        yield Family(
            "tfsrv_queue_depth",
            "gauge",
            "What waits to be run: rows where requests are batched, else requests.",
            _LABELS,
            ((cell, numbers.waiting) for cell, numbers in queues),
        )
        yield from _of_batches(
            [(cell, of.batches) for cell, of in queues if of.batches is not None]
        )


def _of_batches(batches: list[tuple[Cell, BatchNumbers]]) -> Families:
    def family(name: str, kind: str, help: str, read: Callable[[BatchNumbers], int]) -> Family:
        samples = ((cell, read(numbers)) for cell, numbers in batches)
        return Family(name, "gauge" if kind == "gauge" else "counter", help, _LABELS, samples)

    yield family("tfsrv_batches_running", "gauge", "Batches that run now.", lambda of: of.running)
    yield family("tfsrv_batches_total", "counter", "Batches that ran.", lambda of: of.batches)
    yield family(
        "tfsrv_batched_requests_total",
        "counter",
        "Requests in batches; one that is split is in several.",
        lambda of: of.requests,
    )
    yield family(
        "tfsrv_batched_rows_total", "counter", "Rows of these requests.", lambda of: of.rows
    )
    yield family(
        "tfsrv_batch_padding_rows_total",
        "counter",
        "Rows that were added to batches to come to an allowed size.",
        lambda of: of.padding_rows,
    )
    yield family(
        "tfsrv_batches_run_apart_total",
        "counter",
        "Batches that failed, so that their requests ran again in smaller ones.",
        lambda of: of.run_apart,
    )
    yield Family(
        "tfsrv_batch_refusals_total",
        "counter",
        "Requests that were not run: the queue was full, it was too late, or nobody waited for "
        "them any more.",
        (*_LABELS, "reason"),
        (
            ((*cell, reason), count)
            for cell, of in batches
            for reason, count in (
                ("full", of.refused_full),
                ("late", of.refused_late),
                ("unwanted", of.refused_unwanted),
            )
        ),
    )
