"""What was counted, as values that exporters print.

Counting itself is native (`_counters`) and goes on while a snapshot is taken: each number is
right, but two of them may be a request apart.
"""

from __future__ import annotations

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
