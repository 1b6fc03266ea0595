"""Where a queue's runs go: what it finds out about the caller's thread, the pool and one thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tfsrv._batch_tuner import BatchTuner

CALLER, POOL, SINGLE = 0, 1, 2
EITHER, ANY = -1, -2
MILLISECOND = 1_000_000

Times = Callable[[int], float]  # of a run on an arm, in milliseconds


class Runs:
    """Runs of one row, one after the other, where the tuner wants them."""

    def __init__(self, arm: int) -> None:
        self.tuner = BatchTuner(8, arm=arm)
        self.now = 1

    def go(self, count: int, times: Times) -> Counter[int]:
        """How many of `count` runs went where."""
        seen: Counter[int] = Counter()
        for number in range(count):
            arm = self.tuner.choose_arm()
            seen[arm] += 1
            run_ns = int(times(arm) * (1 + number % 3 / 100) * MILLISECOND)
            self.tuner.began(self.now, 1, 1)
            self.now += run_ns
            self.tuner.ended(self.now, 1, run_ns, arm, 0, 0)
        return seen

    @property
    def place(self) -> str:
        return str(self.tuner.describe()["arm"])


def fast_on(best: int) -> Times:
    return lambda arm: 5 if arm == best else 8


@pytest.mark.parametrize(("best", "name"), [(CALLER, "caller"), (POOL, "pool"), (SINGLE, "single")])
def test_runs_go_where_they_are_fastest(best: int, name: str) -> None:
    runs = Runs(ANY)
    runs.go(400, fast_on(best))
    assert runs.place == name
    assert runs.go(100, fast_on(best))[best] >= 98


def test_all_are_tried_equally_often() -> None:
    runs = Runs(ANY)
    seen = runs.go(200, lambda arm: 5)  # no difference: tried as long as ever
    assert runs.place == "caller"
    assert seen[POOL] >= 48
    assert abs(seen[POOL] - seen[SINGLE]) <= 8  # two turns


def test_one_thread_is_not_tried_unless_all_are_allowed() -> None:
    runs = Runs(EITHER)
    assert set(runs.go(400, lambda arm: 5)) == {CALLER, POOL}


@pytest.mark.parametrize("arm", [CALLER, POOL, SINGLE])
def test_nothing_else_is_tried_where_one_is_given(arm: int) -> None:
    assert set(Runs(arm).go(200, lambda _: 5)) == {arm}


def test_short_runs_stay_in_the_callers_thread() -> None:
    assert set(Runs(ANY).go(2000, lambda arm: 0.05)) == {CALLER}


def test_runs_move_when_another_arm_has_become_faster() -> None:
    runs = Runs(ANY)
    runs.go(400, fast_on(CALLER))
    assert runs.place == "caller"
    # As when cores that were idle are taken: only runs in one thread are as fast as before.
    runs.go(10_000, lambda arm: 8 if arm == SINGLE else 14)
    assert runs.place == "single"
