"""The in-flight budget from Python: what it gives out, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tfsrv._budget import (
    give_in_flight_bytes,
    in_flight_bytes,
    set_max_in_flight_bytes,
    take_in_flight_bytes,
)


@pytest.fixture(autouse=True)
def budget() -> Iterator[None]:
    """The budget is the process': it is left as it was found."""
    assert in_flight_bytes() == 0
    yield
    set_max_in_flight_bytes(2**63 - 1)
    assert in_flight_bytes() == 0


def test_the_budget_gives_out_what_it_has_and_no_more() -> None:
    set_max_in_flight_bytes(100)
    assert take_in_flight_bytes(60)
    assert not take_in_flight_bytes(41)
    assert in_flight_bytes() == 60
    assert take_in_flight_bytes(40)
    give_in_flight_bytes(100)


def test_more_than_can_be_added_is_refused() -> None:
    set_max_in_flight_bytes(100)
    assert take_in_flight_bytes(60)
    assert not take_in_flight_bytes(2**63 - 1)
    assert in_flight_bytes() == 60
    give_in_flight_bytes(60)


def test_what_is_low_leaves_half_of_it_to_the_rest() -> None:
    set_max_in_flight_bytes(100)
    assert take_in_flight_bytes(40, low=True)
    assert not take_in_flight_bytes(11, low=True)
    assert take_in_flight_bytes(60)
    give_in_flight_bytes(100)
