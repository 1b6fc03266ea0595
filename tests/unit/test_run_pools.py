"""TensorFlow's threads for runs that must stop at their deadline."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tfsrv._proto import message_class
from tfsrv._run_pools import add_run_pools, give_run_pool, pools_are_shared, take_run_pool

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


@pytest.mark.parametrize(
    ("config", "shared"),
    [
        ({}, True),
        ({"inter_op_parallelism_threads": 3, "intra_op_parallelism_threads": 2}, True),
        ({"session_inter_op_thread_pool": [{"global_name": "a"}, {"global_name": "b"}]}, True),
        ({"session_inter_op_thread_pool": [{"global_name": "a"}, {"num_threads": 1}]}, False),
        ({"use_per_session_threads": True}, False),
    ],
)
def test_sessions_share_all_pools_unless_their_config_says_otherwise(
    config: dict[str, Any], shared: bool
) -> None:
    assert pools_are_shared(ConfigProto(**config).SerializeToString()) is shared


def test_a_config_that_cannot_be_read_shares_nothing() -> None:
    assert not pools_are_shared(b"\xff")


PRIME_AND_COUNT = """
import os, sys
from tfsrv import _tf
from tfsrv._run_pools import prime_pools
from tfsrv._session import SavedModelSession
_tf.open_library()
counts = [len(os.listdir("/proc/self/task"))]
print(prime_pools(b""), prime_pools(b""), prime_pools(b"\\xff"))
counts.append(len(os.listdir("/proc/self/task")))
session = SavedModelSession.load(sys.argv[1])
counts.append(len(os.listdir("/proc/self/task")))
print(*counts)
"""


def test_priming_makes_all_threads_that_a_session_would(models: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRIME_AND_COUNT, models / "half_plus_two" / "1"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    told, counts = done.stdout.splitlines()
    assert told == "True True False"
    opened, primed, loaded = map(int, counts.split())
    assert opened + 64 < primed == loaded


def test_a_config_with_pools_of_its_own_or_that_cannot_be_read_stays_as_it_is() -> None:
    own = ConfigProto(session_inter_op_thread_pool=[{"num_threads": 5}]).SerializeToString()
    assert add_run_pools(own) == (own, False)
    assert add_run_pools(b"\xff") == (b"\xff", False)
