"""Counts of runs of graphs and of batches: which bucket, and nothing lost between threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsrv import _run_counts

Read = tuple[tuple[int, ...], int]


def times() -> Read:
    return _run_counts.read_graph_runs()[0]


def inputs() -> Read:
    return _run_counts.read_batch_rows()[0]


def processed() -> Read:
    return _run_counts.read_batch_rows()[1]


def added(read: Callable[[], Read], add: Callable[[], None]) -> tuple[list[int], int]:
    """Which buckets `add` has added to, once for each time, and what to the sum."""
    before, sum_before = read()
    add()
    after, sum_after = read()
    buckets = [i for i, count in enumerate(after) for _ in range(count - before[i])]
    return buckets, sum_after - sum_before


def fits(bounds: tuple[float, ...], bucket: int, value: float) -> bool:
    above = bucket == 0 or bounds[bucket - 1] <= value
    return above and (bucket == len(bounds) or value < bounds[bucket])


@pytest.mark.parametrize(
    ("bounds", "buckets"),
    [
        (_run_counts.RUN_TIME_MICROS, 20),
        (_run_counts.RUN_BYTES, 14),
        (_run_counts.QUEUING_MICROS, 52),
        (_run_counts.ROWS, 14),
    ],
)
def test_bounds_ascend(bounds: tuple[float, ...], buckets: int) -> None:
    assert len(bounds) == buckets
    assert list(bounds) == sorted(set(bounds))


@given(st.integers(0, 2**40) | st.integers(0, 2**62))
def test_each_run_is_between_the_bounds_of_its_bucket(nanoseconds: int) -> None:
    (bucket,), took = added(times, lambda: _run_counts.add_graph_run(nanoseconds))
    assert took == nanoseconds
    assert fits(_run_counts.RUN_TIME_MICROS, bucket, nanoseconds / 1000)


@given(st.integers(0, 2**32) | st.integers(0, 2**62))
def test_each_wait_is_between_the_bounds_of_its_bucket(nanoseconds: int) -> None:
    add = lambda: _run_counts.add_batch(1, 0, nanoseconds, 1)  # noqa: E731
    (bucket,), waited = added(_run_counts.read_batch_queuing, add)
    assert waited == nanoseconds
    assert fits(_run_counts.QUEUING_MICROS, bucket, nanoseconds / 1000)


@given(st.integers(1, 2**20), st.integers(0, 2**16), st.integers(1, 5))
def test_each_size_is_between_the_bounds_of_its_bucket(rows: int, padding: int, size: int) -> None:
    add = lambda: _run_counts.add_batch(rows, padding, 0, size)  # noqa: E731
    before = inputs()
    (bucket,), sum_of_batch = added(processed, add)
    assert fits(_run_counts.ROWS, bucket, rows + padding)
    assert sum_of_batch == rows + padding
    grown = [after - old for old, after in zip(before[0], inputs()[0], strict=True)]
    assert sum(grown) == size
    assert fits(_run_counts.ROWS, grown.index(size), rows)
    assert inputs()[1] - before[1] == rows * size


def test_a_wait_below_zero_counts_as_none() -> None:
    add = lambda: _run_counts.add_batch(1, 0, -7, 1)  # noqa: E731
    assert added(_run_counts.read_batch_queuing, add) == ([0], 0)


def test_padding_is_told_for_each_size_of_batches() -> None:
    def padding(size: int) -> Read:
        return _run_counts.read_batch_padding().get(size, ((0,) * 15, 0))

    size = 7_654_321
    assert added(lambda: padding(size), lambda: _run_counts.add_batch(size - 3, 3, 0, 1)) == (
        [2],
        3,
    )
    assert added(lambda: padding(size), lambda: _run_counts.add_batch(size, 0, 0, 1)) == ([0], 0)


def test_runs_and_batches_are_counted() -> None:
    runs, batches = _run_counts.count_graph_runs(), _run_counts.read_batch_runs()
    _run_counts.add_graph_run(5)
    _run_counts.add_batch(1, 0, 0, 1)
    assert _run_counts.count_graph_runs() == runs + 1 == sum(times()[0])
    assert _run_counts.read_batch_runs() == batches + 1 == sum(processed()[0])


def test_native_threads_lose_no_run_and_no_batch() -> None:
    threads, adds = 4, 4 * 4096
    before = times(), inputs(), processed(), _run_counts.read_batch_queuing()
    runs = _run_counts.read_batch_runs()
    padding = sum(sum(counts) for counts, _ in _run_counts.read_batch_padding().values())
    _run_counts.stress(threads, adds)
    after = times(), inputs(), processed(), _run_counts.read_batch_queuing()
    assert _run_counts.read_batch_runs() - runs == threads * adds
    counted = [sum(new[0]) - sum(old[0]) for old, new in zip(before, after, strict=True)]
    assert counted == [threads * adds, 2 * threads * adds, threads * adds, threads * adds]
    sums = [new[1] - old[1] for old, new in zip(before, after, strict=True)]
    rows = sum(i % 64 + 1 for i in range(adds))
    nanoseconds = 1000 * sum(i % 4096 for i in range(adds))
    with_padding = rows + sum(i % 8 for i in range(adds))
    expected = [nanoseconds, 2 * rows, with_padding, nanoseconds]
    assert sums == [threads * each for each in expected]
    now = sum(sum(counts) for counts, _ in _run_counts.read_batch_padding().values())
    assert now - padding == threads * adds


def test_sizes_beyond_those_that_are_told_apart_are_told_together() -> None:
    """The last one: from here on the table is full."""
    known = len(_run_counts.read_batch_padding())
    for size in range(10_000_000, 10_000_000 + 1100):
        _run_counts.add_batch(size, 0, 0, 1)
    told = _run_counts.read_batch_padding()
    assert len(told) == 1024
    others = told[0]
    assert sum(others[0]) == 1100 - (1023 - known)
