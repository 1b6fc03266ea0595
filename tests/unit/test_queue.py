"""The bounded queue: order, limits, and what arrives when many threads push and pop."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsrv._queue import PointerQueue
from tfsrv._queue_stress import flow, stress


@pytest.mark.parametrize(
    ("asked", "capacity"), [(0, 2), (1, 2), (2, 2), (3, 4), (4, 4), (1000, 1024), (1025, 2048)]
)
def test_capacity_is_rounded_up_to_a_power_of_two(asked: int, capacity: int) -> None:
    queue = PointerQueue(asked)
    assert queue.capacity == capacity
    assert [queue.push(1) for _ in range(capacity + 1)] == [True] * capacity + [False]


def test_items_come_out_in_the_order_they_went_in() -> None:
    queue = PointerQueue(8)
    for item in (5, 3, 2**64 - 1, 3):
        assert queue.push(item)
    assert [queue.pop() for _ in range(5)] == [5, 3, 2**64 - 1, 3, None]


def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    queue = PointerQueue(2)
    assert [queue.push(item) for item in (1, 2, 3)] == [True, True, False]
    assert queue.pop() == 1
    assert queue.push(4)
    assert [queue.pop() for _ in range(3)] == [2, 4, None]


@given(st.integers(0, 9), st.lists(st.one_of(st.none(), st.integers(1, 2**64 - 1)), max_size=200))
def test_behaves_like_a_bounded_deque(capacity: int, steps: list[int | None]) -> None:
    queue = PointerQueue(capacity)
    model: deque[int] = deque()
    for step in steps:
        if step is None:
            assert queue.pop() == (model.popleft() if model else None)
        else:
            room = len(model) < queue.capacity
            assert queue.push(step) is room
            if room:
                model.append(step)
        assert len(queue) == len(model)


def test_zero_is_no_item() -> None:
    with pytest.raises(ValueError, match="empty queue"):
        PointerQueue(2).push(0)


@pytest.mark.parametrize("item", [-1, 2**64])
def test_an_item_has_to_fit_a_pointer(item: int) -> None:
    with pytest.raises(OverflowError):
        PointerQueue(2).push(item)


@pytest.mark.parametrize(("capacity", "error"), [(2**32 + 1, MemoryError), (-1, OverflowError)])
def test_an_impossible_capacity_is_refused(capacity: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        PointerQueue(capacity)


def test_a_closed_queue_is_full_and_empty() -> None:
    queue = PointerQueue(2)
    queue.push(1)
    queue.close()
    queue.close()
    assert queue.capacity == 0
    assert len(queue) == 0
    assert not queue.push(1)
    assert queue.pop() is None


@pytest.mark.parametrize(
    ("producers", "consumers", "items", "capacity"),
    [
        (1, 1, 100_000, 1024),
        (2, 2, 100_000, 1024),
        (4, 1, 50_000, 64),
        (1, 4, 100_000, 64),
        (4, 4, 10_000, 4),
        (2, 2, 10_000, 2),
    ],
)
def test_each_item_arrives_once_and_in_its_producers_order(
    producers: int, consumers: int, items: int, capacity: int
) -> None:
    seen = stress(producers, consumers, items, capacity)
    assert seen["popped"] == producers * items
    assert (seen["duplicates"], seen["strangers"], seen["misordered"]) == (0, 0, 0)


@pytest.mark.parametrize("threads", [(1, 1), (2, 2), (4, 2)])
def test_all_items_flow_through(threads: tuple[int, int]) -> None:
    assert flow(*threads, 20_000, 64)["popped"] == threads[0] * 20_000
