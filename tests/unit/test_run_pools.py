"""TensorFlow's threads for runs that must stop at their deadline."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tfsrv._proto import message_class
from tfsrv._run_pools import add_run_pools, give_run_pool, take_run_pool

ConfigProto: Any = message_class("tensorflow.ConfigProto")


def test_each_run_gets_a_pool_of_its_own_until_there_is_none() -> None:
    pools = [take_run_pool() for _ in range(66)]
    assert sorted(pools) == [0, 0, *range(1, 65)]
    give_run_pool(17)
    assert take_run_pool() == 17
    for pool in pools:
        give_run_pool(pool)
    assert take_run_pool() == 1
    give_run_pool(1)


def test_no_pool_is_given_to_two_threads_at_once() -> None:
    in_use: set[int] = set()
    turn = threading.Lock()

    def work() -> None:
        for _ in range(2000):
            pool = take_run_pool()
            with turn:
                assert pool not in in_use
                in_use.add(pool)
            with turn:
                in_use.remove(pool)
            give_run_pool(pool)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(work) for _ in range(8)]:
            done.result()


def test_pools_are_added_to_what_a_config_says() -> None:
    config = ConfigProto(inter_op_parallelism_threads=3, allow_soft_placement=True)
    serialized, added = add_run_pools(config.SerializeToString())
    assert added
    filled = ConfigProto.FromString(serialized)
    shared, *pools = filled.session_inter_op_thread_pool
    assert (shared.num_threads, shared.global_name) == (0, "tfsrv")
    assert [pool.num_threads for pool in pools] == [1] * 64
    assert len({pool.global_name for pool in pools}) == 64
    del filled.session_inter_op_thread_pool[:]
    assert filled == config


def test_a_session_with_threads_of_its_own_keeps_them() -> None:
    config = ConfigProto(use_per_session_threads=True)
    serialized, added = add_run_pools(config.SerializeToString())
    assert added
    assert ConfigProto.FromString(serialized).session_inter_op_thread_pool[0].global_name == ""


def test_a_config_with_pools_of_its_own_or_that_cannot_be_read_stays_as_it_is() -> None:
    own = ConfigProto(session_inter_op_thread_pool=[{"num_threads": 5}]).SerializeToString()
    assert add_run_pools(own) == (own, False)
    assert add_run_pools(b"\xff") == (b"\xff", False)
