"""What a batch tuner learns and chooses, on simulated loads."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from operator import mul

import pytest

from tests.unit.batching_simulator import (
    CALLER,
    MS,
    POOL,
    US,
    Choices,
    Cost,
    Fixed,
    Noise,
    S,
    SharedCores,
    Simulation,
    affine,
    best_fixed,
    contended,
    padded,
)
from tfsrv._batch_tuner import BatchTuner

MODEL = affine(2 * MS, 50 * US)


def closed(
    tuner: Choices, clients: int, cost: Cost = MODEL, workers: int = 1, seed: int = 1
) -> Simulation:
    simulation = Simulation(tuner, cost, workers=workers, seed=seed)
    simulation.closed_loop(clients)
    return simulation


def opened(
    tuner: Choices, rows_per_second: float, cost: Cost = MODEL, workers: int = 1, seed: int = 1
) -> Simulation:
    simulation = Simulation(tuner, cost, workers=workers, seed=seed)
    simulation.open_loop(rows_per_second, until=100 * S)
    return simulation


def settled(simulation: Simulation, after_ns: int, for_ns: int = 3 * S) -> Simulation:
    """Run until the tuner should know, and then count."""
    simulation.run(after_ns)
    simulation.forget()
    simulation.run(for_ns)
    return simulation


class Changing:
    """A cost that becomes another one at some time."""

    def __init__(self, first: Cost, then: Cost, at_ns: int) -> None:
        self.first = first
        self.then = then
        self.at_ns = at_ns
        self.simulation: Simulation | None = None

    def __call__(self, rows: int, arm: int, running: int) -> float:
        assert self.simulation is not None
        cost = self.first if self.simulation.now < self.at_ns else self.then
        return cost(rows, arm, running)

    def closed(self, tuner: Choices, clients: int) -> Simulation:
        self.simulation = closed(tuner, clients, self)
        return self.simulation


def arms(caller: Cost, pool: Cost) -> Cost:
    return lambda rows, arm, running: (caller, pool)[arm](rows, arm, running)


def teach(tuner: BatchTuner, sizes: list[int], run_ns: Callable[[int], int], now: int = 0) -> int:
    """Runs of these sizes, one after another. The time when the last one ends."""
    for rows in sizes:
        tuner.began(now, rows, 1)
        now += run_ns(rows)
        tuner.ended(now, rows, run_ns(rows), CALLER, 0, 0)
    return now


# ------------------------------------------------------------------------------------- one tuner


def test_a_tuner_is_small() -> None:
    assert sys.getsizeof(BatchTuner(64)) < 4096


def test_knows_nothing_at_first() -> None:
    tuner = BatchTuner(64, max_concurrency=4)
    assert (tuner.run_ns(8), tuner.run_slow_ns(8), tuner.row_ns(), tuner.p99_ns()) == (0, 0, 0, 0)
    assert (tuner.rows_limit, tuner.wait_ns, tuner.concurrency, tuner.changes) == (64, 0, 4, 0)


@pytest.mark.parametrize("max_rows", [-1, 0, 1])
def test_a_run_has_at_least_one_row(max_rows: int) -> None:
    tuner = BatchTuner(max_rows, target_ns=1)
    teach(tuner, [1] * 100, lambda rows: 50 * MS)
    assert tuner.rows_limit == tuner.rows_now(100) == 1


def test_odd_values_do_no_harm() -> None:
    tuner = BatchTuner(1 << 62, max_concurrency=0, target_ns=MS)
    for now, rows, run_ns in [(5, 0, 0), (4, -3, -7), (0, 1 << 40, 1 << 60), (MS, 7, 1)]:
        tuner.arrived(rows)
        tuner.latency(run_ns)
        tuner.began(now, rows, 1)
        tuner.ended(now, rows, run_ns, POOL, 0, -1)
    assert tuner.run_ns(-5) >= 0
    assert tuner.run_ns(1 << 50) >= 0
    assert tuner.rows_limit >= 1


def test_a_failed_run_says_nothing_of_time() -> None:
    tuner = BatchTuner(64)
    tuner.began(0, 8, 1)
    tuner.ended(MS, 8, 0, CALLER, 0, 0)
    assert tuner.run_ns(8) == 0


def test_describes_what_it_knows() -> None:
    tuner = BatchTuner(64)
    teach(tuner, [1, 2, 4] * 20, lambda rows: MS * rows)
    facts = tuner.describe()
    assert list(facts["curve_ns"]) == [1, 2, 4, 8]
    assert facts["curve_ns"][4] == pytest.approx(4 * MS, rel=0.1)
    assert (facts["samples"], facts["rows_limit"], facts["arm"]) == (60, 64, "caller")


# ------------------------------------------------------------------------------------- the curve


def test_learns_the_time_of_runs_of_all_sizes() -> None:
    tuner = BatchTuner(1024)
    simulation = opened(tuner, 8000)
    simulation.run(S)
    for rows in (1, 10, 30, 60, 200):
        assert tuner.run_ns(rows) == pytest.approx(MODEL(rows, CALLER, 1), rel=0.15)


@pytest.mark.parametrize("rows", [4, 8, 9, 12, 16, 17, 24, 32])
def test_learns_the_steps_of_padded_sizes(rows: int) -> None:
    cost = padded(MODEL, (8, 16, 32))
    tuner = BatchTuner(32)
    sizes = [size for _ in range(20) for size in range(1, 33)]
    teach(tuner, sizes, lambda size: int(cost(size, CALLER, 1)))
    assert tuner.run_ns(rows) == pytest.approx(cost(rows, CALLER, 1), rel=0.15)


def test_steps_are_no_change_of_the_model() -> None:
    cost = padded(affine(0, 100 * US), (1, 16, 256))
    tuner = BatchTuner(256)
    now = teach(tuner, [1, 16, 17, 256] * 10, lambda size: int(cost(size, CALLER, 1)))
    teach(tuner, [17] * 200, lambda size: int(cost(size, CALLER, 1)), now)
    assert tuner.run_ns(1) == pytest.approx(cost(1, CALLER, 1), rel=0.5)
    assert tuner.run_ns(256) == pytest.approx(cost(256, CALLER, 1), rel=0.15)


def test_never_falls_with_more_rows() -> None:
    tuner = BatchTuner(1024)
    simulation = Simulation(tuner, MODEL, noise=Noise(0.5, 0.05))
    simulation.open_loop(5000, until=5 * S)
    simulation.run(5 * S)
    times = [tuner.run_ns(rows) for rows in range(1, 6000)]
    assert times == sorted(times)
    assert times[0] > 0


def test_a_first_run_that_compiles_is_forgotten_at_once() -> None:
    tuner = BatchTuner(64)
    teach(tuner, [8], lambda rows: S)
    teach(tuner, [8, 8], lambda rows: 2 * MS)
    assert tuner.run_ns(8) < 3 * MS


def test_outliers_hardly_count() -> None:
    tuner = BatchTuner(64)
    for _ in range(20):
        teach(tuner, [8] * 19, lambda rows: 2 * MS)
        teach(tuner, [8], lambda rows: 200 * MS)
    assert tuner.run_ns(8) == pytest.approx(2 * MS, rel=0.15)


def test_the_slow_time_is_kept_by_nineteen_of_twenty() -> None:
    tuner = BatchTuner(16)
    noise = Noise(0.3)
    simulation = Simulation(tuner, affine(2 * MS, 0), noise=noise)
    simulation.closed_loop(4)
    simulation.run(10 * S)
    slow = tuner.run_slow_ns(2) / tuner.run_ns(2)
    # Of a lognormal distribution with this spread 95 % lie below 1.64 spreads.
    assert slow == pytest.approx(1.64, rel=0.15)


@pytest.mark.parametrize("times", [3, 1 / 3])
def test_follows_a_change_of_the_model_within_a_second_at_all_sizes(times: float) -> None:
    cost = Changing(MODEL, affine(2 * MS * times, 50 * US * times), 5 * S)
    tuner = BatchTuner(1024)
    simulation = cost.closed(tuner, 64)
    simulation.run(6 * S)
    for rows in (1, 32, 64):
        assert tuner.run_ns(rows) == pytest.approx(times * MODEL(rows, CALLER, 1), rel=0.2)


def test_follows_a_slow_drift() -> None:
    tuner = BatchTuner(64)
    now = 0
    for row_us in range(1000, 2000, 5):
        now = teach(tuner, [8, 16], partial(mul, row_us * US), now)
    assert tuner.run_ns(8) == pytest.approx(8 * MS * 1.99, rel=0.15)


# ------------------------------------------------------------------------------------- the drain


@pytest.mark.parametrize("workers", [1, 2])
def test_learns_how_fast_a_backlog_drains(workers: int) -> None:
    tuner = BatchTuner(32, max_concurrency=workers)
    simulation = settled(closed(tuner, 256, workers=workers), 2 * S)
    assert tuner.row_ns() == pytest.approx(S / simulation.rows_per_second(), rel=0.1)


def test_without_a_backlog_the_drain_is_the_curve_s() -> None:
    tuner = BatchTuner(32, max_concurrency=2)
    teach(tuner, [1, 8, 32] * 10, lambda rows: int(MODEL(rows, CALLER, 1)))
    assert tuner.row_ns() == pytest.approx(MODEL(32, CALLER, 1) / 32 / 2, rel=0.15)


def test_a_drain_by_small_batches_does_not_hide_what_large_ones_would_drain() -> None:
    """Or else what waits would be refused for it, and the batches would stay small."""
    tuner = BatchTuner(32, max_concurrency=1)
    now = 0
    for _ in range(10):
        tuner.began(now, 1, 1)
        now += 20 * MS
        tuner.ended(now, 1, 20 * MS, CALLER, 0, 5)
    assert tuner.row_ns() <= 0.55 * 20 * MS  # before others were seen, half of a run is its rows'


# ------------------------------------------------------------------------------------- latency


@pytest.mark.parametrize("p99_ns", [3 * US, 100 * US, 20 * MS, 3 * S])
def test_tells_the_slowest_hundredth_of_latencies(p99_ns: int) -> None:
    tuner = BatchTuner(64)
    for _ in range(985):
        tuner.latency(p99_ns // 10)
    for _ in range(15):
        tuner.latency(p99_ns)
    assert tuner.p99_ns() == pytest.approx(p99_ns, rel=0.125, abs=2 * US)


def test_latency_of_some_seconds_ago_is_forgotten() -> None:
    tuner = BatchTuner(64)
    simulation = opened(tuner, 2000)
    simulation.run(S)
    for _ in range(1000):
        tuner.latency(S)
    assert tuner.p99_ns() > 800 * MS
    simulation.run(3 * S)
    assert tuner.p99_ns() < 20 * MS


@pytest.mark.parametrize("ns", [-5, 0, 1, 1 << 62])
def test_any_latency_is_counted(ns: int) -> None:
    tuner = BatchTuner(64)
    tuner.latency(ns)
    assert 0 <= tuner.p99_ns() <= 10 * S


# ------------------------------------------------------------------------------------- no target


def test_nothing_waits_without_a_target() -> None:
    tuner = BatchTuner(64, max_concurrency=2)
    simulation = closed(tuner, 32, contended(MODEL), workers=2)
    for _ in range(100):
        simulation.run(100 * MS)
        assert (tuner.wait_ns, tuner.rows_enough) == (0, 1)


def test_without_a_target_the_user_s_wait_is_fixed() -> None:
    tuner = BatchTuner(64, max_wait_ns=3 * MS)
    closed(tuner, 32).run(3 * S)
    assert (tuner.wait_ns, tuner.rows_enough, tuner.changes) == (3 * MS, 64, 0)


def test_gathers_all_clients_where_that_is_allowed() -> None:
    tuner = BatchTuner(1024, may_gather=True)
    simulation = settled(closed(tuner, 256), 8 * S, S)
    at_will = settled(closed(Fixed(1024), 256), S, S)
    assert simulation.mean_rows() > 250
    assert simulation.rows_per_second() > 1.08 * at_will.rows_per_second()


def test_rows_that_only_make_a_long_run_longer_are_cut() -> None:
    tuner = BatchTuner(4096)
    opened(tuner, 2100, affine(2 * MS, 500 * US)).run(20 * S)
    assert 40 <= tuner.rows_limit <= 250


def test_rows_that_make_others_cheaper_are_not_cut() -> None:
    tuner = BatchTuner(1024)
    opened(tuner, 19000).run(10 * S)
    assert tuner.rows_limit >= 512  # beyond that a row costs 3 % less at most


def taught(cost: Cost, max_wait_ns: int = 0) -> BatchTuner:
    """A tuner that has seen some sizes, with time between the runs."""
    tuner = BatchTuner(1024, max_concurrency=2, max_wait_ns=max_wait_ns)
    now = 0
    for rows in (1, 4, 16, 64, 128, 256) * 4:
        now += S
        tuner.began(now, rows, 1)
        run_ns = round(cost(rows, CALLER, 1))
        now += run_ns
        tuner.ended(now, rows, run_ns, CALLER, 0, 0)
    return tuner


def test_many_rows_that_are_there_at_once_are_shared_by_idle_workers() -> None:
    assert taught(MODEL).rows_now(256) == 128


def test_what_costs_little_more_together_runs_together() -> None:
    assert taught(MODEL).rows_now(16) == 1024
    assert taught(affine(2 * MS, 1 * US)).rows_now(256) == 1024


def test_batches_that_the_user_wants_full_are_not_shared() -> None:
    assert taught(MODEL, max_wait_ns=5 * MS).rows_now(256) == 1024


# ------------------------------------------------------------------------------------- a target


@pytest.mark.parametrize(
    ("clients", "target_ms"), [(256, 40), (256, 20), (64, 20), (64, 8), (16, 10)]
)
def test_keeps_the_target_near_the_best_throughput(clients: int, target_ms: int) -> None:
    target_ns = target_ms * MS
    best = best_fixed(
        lambda choices: closed(choices, clients),
        (8, 16, 32, 64, 128, 256),
        (0, 200 * US, MS, 4 * MS),
        target_ns=target_ns,
    )
    simulation = settled(closed(BatchTuner(1024, target_ns=target_ns), clients), 12 * S)
    assert simulation.p99_ns() <= target_ns
    assert simulation.rows_per_second() >= 0.9 * best


@pytest.mark.parametrize("rows_per_second", [500, 5000, 12000])
def test_keeps_the_target_under_an_open_load(rows_per_second: int) -> None:
    tuner = BatchTuner(1024, target_ns=20 * MS)
    simulation = settled(opened(tuner, rows_per_second), 5 * S)
    assert simulation.p99_ns() <= 20 * MS
    assert simulation.rows_per_second() == pytest.approx(rows_per_second, rel=0.1)


def test_serves_what_it_can_when_the_target_cannot_be_met() -> None:
    tuner = BatchTuner(1024, target_ns=MS)
    simulation = settled(closed(tuner, 64), 10 * S)
    at_will = settled(closed(Fixed(1024), 64), 2 * S)
    assert tuner.rows_limit >= 1
    assert simulation.rows_per_second() >= 0.9 * at_will.rows_per_second()


def test_a_load_that_grows_finds_no_limit_of_quiet_times() -> None:
    tuner = BatchTuner(1024, target_ns=10 * MS)
    simulation = opened(tuner, 100)
    simulation.run(5 * S)
    simulation.open_loop(10000, until=20 * S)
    simulation.run(S)
    simulation.forget()
    simulation.run(2 * S)
    assert simulation.rows_per_second() == pytest.approx(10000, rel=0.1)


def test_nothing_waits_under_a_light_load() -> None:
    tuner = BatchTuner(1024, target_ns=50 * MS, max_concurrency=2)
    simulation = settled(opened(tuner, 50, workers=2), 5 * S)
    assert tuner.wait_ns == 0
    assert simulation.p99_ns() <= 1.5 * MODEL(2, CALLER, 1)


def test_the_user_s_wait_is_an_upper_limit_under_a_target() -> None:
    tuner = BatchTuner(1024, target_ns=40 * MS, max_wait_ns=100 * US)
    simulation = closed(tuner, 64)
    for _ in range(100):
        simulation.run(100 * MS)
        assert tuner.wait_ns <= 100 * US


def test_a_wait_ends_when_all_clients_are_there() -> None:
    tuner = BatchTuner(1024, target_ns=40 * MS)
    closed(tuner, 64).run(12 * S)
    assert tuner.wait_ns > 0
    assert tuner.rows_enough == 64


# ------------------------------------------------------------------------------------- concurrency


@pytest.mark.parametrize("workers", [2, 4])
def test_one_run_at_a_time_where_runs_slow_each_other_down(workers: int) -> None:
    tuner = BatchTuner(1024, max_concurrency=workers)
    simulation = settled(closed(tuner, 256, contended(MODEL), workers), 8 * S, S)
    assert tuner.concurrency == 1
    assert simulation.mean_rows() == pytest.approx(128, rel=0.1)


@pytest.mark.parametrize("target_ms", [0, 20])
@pytest.mark.parametrize("cores", [1, 2, 4])
def test_as_many_runs_as_there_are_cores(cores: int, target_ms: int) -> None:
    tuner = BatchTuner(1024, max_concurrency=4, target_ns=target_ms * MS)
    simulation = SharedCores(tuner, MODEL, workers=4, cores=cores)
    simulation.closed_loop(256)
    settled(simulation, 20 * S, 4 * S)
    assert tuner.describe()["concurrency"] == cores
    # The best that all 256 clients can get is one batch a core, with all of them waiting for it.
    best = 256 * S / MODEL(256 // cores, CALLER, 1)
    assert simulation.rows_per_second() >= 0.8 * best
    if target_ms:
        assert simulation.p99_ns() <= target_ms * MS


@pytest.mark.parametrize("workers", [2, 4])
def test_as_many_runs_as_may_be_where_they_do_not(workers: int) -> None:
    tuner = BatchTuner(1024, max_concurrency=workers)
    simulation = settled(closed(tuner, 256, MODEL, workers), 8 * S, S)
    assert tuner.describe()["saturated"]
    assert tuner.concurrency == workers
    best = best_fixed(
        lambda choices: closed(choices, 256, MODEL, workers),
        (64, 85, 128),
        (0,),
        concurrency=workers,
    )
    assert simulation.rows_per_second() >= 0.9 * best


def test_runs_at_once_share_what_is_there() -> None:
    tuner = BatchTuner(1024, max_concurrency=2)
    simulation = settled(closed(tuner, 256, MODEL, workers=2), 5 * S, S)
    assert simulation.mean_rows() > 60
    assert max(simulation.batches) < 160


def test_light_load_gives_every_worker_back() -> None:
    tuner = BatchTuner(1024, max_concurrency=2)
    simulation = closed(tuner, 256, contended(MODEL), workers=2)
    simulation.run(5 * S)
    assert tuner.concurrency == 1
    simulation.events.clear()
    simulation.waiting.clear()
    simulation.running = 0
    tuner.began(simulation.now, 1, 1)
    simulation.now += 3 * MS
    tuner.ended(simulation.now, 1, 2 * MS, CALLER, 0, 0)
    simulation.open_loop(50, until=100 * S)
    simulation.run(S)
    assert tuner.concurrency == 2


def test_finds_another_concurrency_when_runs_come_to_slow_each_other_down() -> None:
    cost = Changing(MODEL, contended(MODEL), 8 * S)
    tuner = BatchTuner(1024, max_concurrency=2)
    cost.simulation = simulation = closed(tuner, 256, cost, workers=2)
    simulation.run(8 * S)
    assert tuner.concurrency == 2
    simulation.run(8 * S)
    assert tuner.concurrency == 1


# ------------------------------------------------------------------------------------- arms

SLOWER = affine(3 * MS, 75 * US)


def share_of_pool(simulation: Simulation) -> float:
    last = simulation.arms[-500:]
    return sum(last) / len(last)


@pytest.mark.parametrize(
    ("cost", "arm"), [(arms(SLOWER, MODEL), POOL), (arms(MODEL, SLOWER), CALLER)]
)
def test_settles_where_runs_are_faster(cost: Cost, arm: int) -> None:
    simulation = closed(BatchTuner(1024), 64, cost)
    simulation.run(5 * S)
    assert share_of_pool(simulation) == pytest.approx(arm, abs=0.05)


def test_the_curve_is_that_of_the_chosen_arm() -> None:
    tuner = BatchTuner(1024)
    closed(tuner, 64, arms(SLOWER, MODEL)).run(5 * S)
    assert tuner.run_ns(32) == pytest.approx(MODEL(32, POOL, 1), rel=0.1)


@pytest.mark.parametrize(
    "then", [arms(affine(6 * MS, 150 * US), SLOWER), arms(MODEL, affine(MS, 30 * US))]
)
def test_moves_when_the_other_arm_has_become_faster(then: Cost) -> None:
    cost = Changing(arms(MODEL, SLOWER), then, 5 * S)
    simulation = cost.closed(BatchTuner(1024), 64)
    simulation.run(5 * S)
    assert share_of_pool(simulation) < 0.1
    simulation.run(20 * S)
    assert share_of_pool(simulation) > 0.9


def test_short_runs_stay_with_the_caller() -> None:
    simulation = closed(BatchTuner(1024), 4, arms(affine(60 * US, 0), affine(30 * US, 0)))
    simulation.run(S)
    assert not any(simulation.arms)


@pytest.mark.parametrize("arm", [CALLER, POOL])
def test_a_fixed_arm_is_the_only_one(arm: int) -> None:
    simulation = closed(BatchTuner(1024, arm=arm), 64, arms(MODEL, SLOWER))
    simulation.run(S)
    assert set(simulation.arms) == {arm}


# ------------------------------------------------------------------------------------- no flapping


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("target_ms", [0, 3, 20])
def test_choices_come_to_rest(target_ms: int, seed: int) -> None:
    tuner = BatchTuner(1024, max_concurrency=2, target_ns=target_ms * MS)
    simulation = closed(tuner, 64, contended(MODEL), workers=2, seed=seed)
    simulation.run(20 * S)
    before = tuner.changes
    simulation.run(20 * S)
    assert tuner.changes - before <= 4


def test_steady_open_load_changes_nothing() -> None:
    tuner = BatchTuner(1024, max_concurrency=2, target_ns=20 * MS)
    simulation = opened(tuner, 3000, workers=2)
    simulation.run(10 * S)
    before = tuner.changes
    simulation.run(10 * S)
    assert tuner.changes - before <= 1
