"""When calls of the client are repeated, and how long that may take."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tfsrv.client.retries import FIRST_DELAY, LONGEST_DELAY, Deadline, delays, seconds


def test_waits_grow_up_to_a_limit() -> None:
    longest = list(delays(10, lambda: 1.0))
    assert longest[0] == FIRST_DELAY
    assert all(later == min(2 * wait, LONGEST_DELAY) for wait, later in pairwise(longest))
    assert longest[-1] == LONGEST_DELAY


def test_waits_are_drawn_between_half_and_all_of_it() -> None:
    assert list(delays(3, lambda: 0.0)) == [wait / 2 for wait in delays(3, lambda: 1.0)]
    assert all(FIRST_DELAY / 2 <= next(delays(1)) <= FIRST_DELAY for _ in range(100))


def test_without_retries_there_are_no_waits() -> None:
    assert list(delays(0)) == []


def test_a_deadline_counts_down_to_zero() -> None:
    now = [100.0]
    deadline = Deadline(3.0, lambda: now[0])
    assert deadline.left() == 3
    assert deadline.allows(2.9)
    assert not deadline.allows(3.0)
    now[0] = 102
    assert deadline.left() == 1
    now[0] = 200
    assert deadline.left() == 0
    assert not deadline.allows(0)


def test_without_a_time_out_there_is_always_time() -> None:
    deadline = Deadline(None)
    assert deadline.left() is None
    assert deadline.allows(1e9)


def test_infinity_is_no_time_out() -> None:
    assert seconds(float("inf")) is None
    assert seconds(0) == 0
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="a time-out of"):
            seconds(wrong)
