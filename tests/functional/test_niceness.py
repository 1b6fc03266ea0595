"""Loads give way to requests: threads that load are nice, and no thread that serves is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.functional.conftest import serving
from tests.functional.gated_model import GatedModel
from tests.functional.launching import Launched, client, until
from tests.functional.messages import array, floats, predict_request
from tests.functional.sites import AVAILABLE

LOADING = 20  # ModelVersionStatus.State
NICE = 10  # of threads that load


@pytest.fixture
def mine() -> int:
    """The niceness that the server inherits."""
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    if mine >= NICE:
        pytest.skip("the tests are as nice as loads are")
    return mine


def niceness(server: Launched) -> list[int]:
    """Of each of its threads, as the kernel tells it."""
    found = []
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found.append(int((task / "stat").read_text().rpartition(")")[2].split()[16]))
    return found


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")], ids=["good-first", "held-first"])
def test_threads_that_load_are_nice_and_those_that_run_models_are_not(
    models: Path, tmp_path: Path, mine: int, order: tuple[str, str]
) -> None:
    good, held = order
    gated = GatedModel(tmp_path / "held")
    paths = {good: models / "half_plus_two", held: gated.path}
    with (
        serving(dict(sorted(paths.items())), ready=False) as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states(good) == [AVAILABLE] and ask.states(held) == [LOADING])
        request = predict_request(good, {"x": floats(2)})
        for timeout in (30, 1):  # without a pool of its own, and with one
            assert array(ask.predict(request, timeout).outputs["y"]) == [5.0]
        until(lambda: sorted(niceness(server))[-2:] == [mine, NICE])
        threads = niceness(server)
        assert threads.count(mine) == len(threads) - 1 > 64  # TensorFlow's pools are among them
        gated.open()
        until(lambda: ask.states(held) == [AVAILABLE])
        until(lambda: set(niceness(server)) == {mine})


def test_no_kind_of_model_leaves_a_nice_thread_behind(models: Path, mine: int) -> None:
    names = sorted(path.name for path in models.iterdir())
    paths = {name: models / name for name in names}
    with serving(paths, "--xla_cpu_compilation_enabled") as server:
        until(lambda: set(niceness(server)) == {mine})
