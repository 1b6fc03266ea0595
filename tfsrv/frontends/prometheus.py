"""The page that Prometheus reads: metrics in its text format.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format. Histograms and
labels are printed as TensorFlow Serving's util/prometheus_exporter.cc does it, but for what is
wrong there: line feeds in labels are escaped, and sums have all of their digits. Besides, each
metric says what it is.

The page is made in the loop's thread, in slices: after STEPS_IN_A_SLICE steps of some ten
microseconds the loop has its turn.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from itertools import accumulate

from tfsrv.frontends.http_messages import HttpRequest, HttpResponse
from tfsrv.metrics import Cell, Histogram
from tfsrv.monitoring.families import Families, Family, Source, Value

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEPS_IN_A_SLICE = 16

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_ESCAPED_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


class PrometheusMetrics:
    """An HttpHandler: the page with the families of a source. For one loop."""

    def __init__(self, families: Source) -> None:
        self._families = families
        self._making: asyncio.Task[bytes] | None = None
        self._next: asyncio.Task[bytes] | None = None

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a GET; whatever follows `?` does not matter."""
        return HttpResponse(200, await self._page(), CONTENT_TYPE)

    async def _page(self) -> bytes:
        """A page that is begun after this was asked for.

        One is made at a time, however many ask: whoever comes meanwhile shares the one after it.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._make_after(self._making))
        return await asyncio.shield(self._next)

    async def _make_after(self, before: asyncio.Task[bytes] | None) -> bytes:
        if before is not None:
            await asyncio.wait([before])
        self._making, self._next = self._next, None
        try:
            return await self._make()
        finally:
            self._making = None  # nobody else keeps the page

    async def _make(self) -> bytes:
        page = io.BytesIO()  # which gives its bytes away without copying them
        for steps, text in enumerate(text_of(self._families()), 1):
            page.write(text.encode("utf-8", "replace"))
            if steps % STEPS_IN_A_SLICE == 0:
                await asyncio.sleep(0)
        return page.getvalue()


def text_of(families: Families) -> Iterator[str]:
    """The page, piece by piece; a step that has nothing to show is an empty piece."""
    for family in families:
        if family is None:
            yield ""
            continue
        help = family.help.translate(_ESCAPED_HELP)
        yield f"# HELP {family.name} {help}\n# TYPE {family.name} {family.kind}\n"
        for sample in family.samples:
            yield "" if sample is None else sample_text(family, *sample)


def sample_text(family: Family, cell: Cell, value: Value) -> str:
    """The lines of one value of a metric; `cell` has the values of its labels."""
    labels = ",".join(
        f'{label}="{text.translate(_ESCAPED)}"'
        for label, text in zip(family.labels, cell, strict=True)
    )
    if isinstance(value, Histogram):
        return _histogram_text(family.name, labels, value)
    return f"{family.name}{{{labels}}} {number_text(value)}\n"


def _histogram_text(name: str, labels: str, histogram: Histogram) -> str:
    prefix = f"{name}_bucket{{{labels},le=" if labels else f"{name}_bucket{{le="
    totals = list(accumulate(histogram.counts))
    lines = [
        f"{prefix}{bound} {total}\n"
        for bound, total in zip(_bounds(histogram.bounds), totals, strict=True)
    ]
    return (
        f"{''.join(lines)}{name}_sum{{{labels}}} {number_text(histogram.sum)}\n"
        f"{name}_count{{{labels}}} {totals[-1]}\n"
    )


def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """The ends of the lines' labels: six digits of each bound, as TensorFlow Serving has them."""
    known = _known_bounds.get(bounds)
    if known is None:
        known = (*(f'"{bound:g}"}}' for bound in bounds), '"+Inf"}')
        _known_bounds[bounds] = known
    return known


_known_bounds: dict[tuple[float, ...], tuple[str, ...]] = {}  # there are a handful


def number_text(value: float) -> str:
    """A number in Go's form, as short as can be without loss."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
