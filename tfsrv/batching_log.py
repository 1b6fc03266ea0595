"""What batching has learned and chosen, in the log whenever it changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

MOST_SIZES = 6  # of the learned curve in one line
PLACES = {
    "caller": "in the threads that form them",
    "pool": "on TensorFlow's pool",
    "single": "each in one thread",
}

logger = logging.getLogger("tfsrv")


class BatchedSession(Protocol):
    """The part of SavedModelSession that is used here."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    def describe_batching(self) -> Mapping[str, Mapping[str, Any]]: ...


class BatchingLog:
    """Looks at all sessions when it is told to, and logs the choices that are new."""

    def __init__(self, sessions: Callable[[], Iterable[BatchedSession]]) -> None:
        self._sessions = sessions
        self._seen: dict[tuple[str, int, str], int] = {}

    def look(self) -> None:
        """Log a line for each signature whose choices have changed since the last look."""
        seen = {}
        for session in self._sessions():
            for signature, facts in session.describe_batching().items():
                key = (session.name, session.version, signature)
                seen[key] = facts["changes"]
                if facts["changes"] != self._seen.get(key, 0):
                    what = signature or "MultiInference"
                    logger.info("Batching %s version %d, %s: %s", *key[:2], what, sentence(facts))
        self._seen = seen  # what was unloaded is forgotten


def sentence(facts: Mapping[str, Any]) -> str:
    """The choices, the learned run times and what came of them."""
    choices = [f"batches of up to {facts['rows_limit']} rows"]
    if facts["wait_ns"]:
        choices.append(f"waiting up to {_time(facts['wait_ns'])} for more")
    choices.append(f"{facts['concurrency']} at a time" + (" while busy" * facts["saturated"]))
    choices.append(PLACES[facts["arm"]])
    text = ", ".join(choices)
    curve = _chosen(facts["curve_ns"])
    if curve:
        text += "; runs take " + ", ".join(f"{_time(ns)} for {rows}" for rows, ns in curve)
    if facts["p99_ns"]:
        text += f"; 99 % of requests are through in {_time(facts['p99_ns'])}"
    return text


def _chosen(curve: Mapping[int, int]) -> list[tuple[int, int]]:
    """At most MOST_SIZES points of a curve, the first and the last among them."""
    points = sorted(curve.items())
    if len(points) <= MOST_SIZES:
        return points
    last = len(points) - 1
    return [points[round(i * last / (MOST_SIZES - 1))] for i in range(MOST_SIZES)]


def _time(nanoseconds: float) -> str:
    """Three digits with the unit that suits them."""
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds / 1e3:.3g} µs"
