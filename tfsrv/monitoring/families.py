"""Families of metrics, as whoever shows them gets them: one after the other, and in small steps.

A server with a thousand models has a hundred thousand numbers. Whoever shows them runs in the
loop's thread, so that nothing here may take long at a time: families and samples come from
generators, each step of which takes some ten microseconds. A step that has nothing to show yet is
STEP, upon which the loop may do something else just as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tfsrv.metrics import Cell, Histogram

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Value: TypeAlias = int | float | Histogram
STEP: Final = None
Sample: TypeAlias = tuple[Cell, Value]  # the values of the labels, and the metric's


@dataclass(frozen=True)
class Family:
    """One metric with all of its values, which are read as `samples` is gone through, once."""

    name: str  # as Prometheus spells it
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    samples: Iterable[Sample | None] = ()


Families: TypeAlias = Iterator[Family | None]
Source: TypeAlias = Callable[[], Families]


def single(name: str, kind: Kind, help: str, value: Value | None) -> Family:
    """A family without labels; it has no value if that is None."""
    return Family(name, kind, help, (), () if value is None else [((), value)])


def of_cells(
    name: str, kind: Kind, help: str, labels: tuple[str, ...], cells: Mapping[Cell, Value]
) -> Family:
    """A family whose values are known already."""
    return Family(name, kind, help, labels, cells.items())


def joined(sources: Iterable[Source]) -> Families:
    """The families of all sources."""
    for source in sources:
        yield from source()
