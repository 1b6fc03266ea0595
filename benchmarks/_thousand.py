"""A thousand models in one config file: how long, how much memory each, and one more."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _client import AVAILABLE, END, Client, connected
from _lifecycle import (
    MEGABYTE,
    Settings,
    milliseconds,
    settled_memory,
    several_models,
    workload,
)
from _load import WrongAnswerError
from _report import Finding, number
from _servers import Server

ALL_SECONDS = 60.0  # aim
MODEL_MEGABYTES = 0.8  # aim
ADD_SECONDS = 0.2  # aim
VERSION = 1
ADDED = 5
IDLE_SECONDS = 5.0
STATUS_SECONDS = 0.02  # between two questions whether a model is available
LOAD_SECONDS = 600.0  # no longer than this


def measure(settings: Settings) -> Finding:
    finding = Finding(
        f"thousand: {settings.models:,} models in one config file", ["figure", "value"]
    )
    paths = copies(settings, settings.models + ADDED)
    names = list(paths)
    served = {name: paths[name] for name in names[: settings.models]}
    added = {name: paths[name] for name in names[settings.models :]}
    with serving(settings, dict([next(iter(served.items()))])) as (server, _):
        alone = settled_memory(server)
    with serving(settings, served) as (server, client):
        seconds = wait_for_all(server, client, list(served))
        loaded = settled_memory(server)
        finding.fail(ask_all(settings, client, list(served)))
        asked = settled_memory(server)
        cpu = idle_cpu(server)
        call_seconds, answer_seconds = add_models(settings, client, added, finding)
    finding.rows = [
        ["process start to all available, s", number(seconds)],
        ["resident with one model, MB", number(alone / MEGABYTE)],
        ["resident with all, MB", number(loaded / MEGABYTE)],
        ["resident after a request to each, MB", number(asked / MEGABYTE)],
        [f"idle, CPU of one core over {IDLE_SECONDS:.0f} s", f"{cpu:.2%}"],
        ["SetModel of one more, median ms", number(statistics.median(call_seconds) * 1e3)],
        ["… and its first answer, median ms", number(statistics.median(answer_seconds) * 1e3)],
    ]
    judge(finding, seconds, memory_of_each(settings, alone, loaded, asked), max(answer_seconds))
    finding.note("CPU of one core when idle", f"{cpu:.2%}")
    finding.details = {
        "available_seconds": seconds,
        "one_model_bytes": alone,
        "loaded_bytes": loaded,
        "asked_bytes": asked,
        "idle_cores": cpu,
        "set_model_seconds": call_seconds,
        "added_answer_seconds": answer_seconds,
    }
    return finding


def judge(finding: Finding, seconds: float, each: dict[str, float], worst: float) -> None:
    finding.judge(
        "process start to all available",
        f"≤ {ALL_SECONDS:.0f} s",
        f"{number(seconds)} s",
        seconds <= ALL_SECONDS,
    )
    for when, memory in each.items():
        finding.judge(
            f"memory of each model, {when}",
            f"≤ {MODEL_MEGABYTES:g} MB",
            f"{memory:.3f} MB",
            memory <= MODEL_MEGABYTES,
        )
    finding.judge(
        f"one more, until it has answered: worst of {ADDED}",
        f"≤ {milliseconds(ADD_SECONDS)}",
        milliseconds(worst),
        worst <= ADD_SECONDS,
    )


def memory_of_each(settings: Settings, alone: int, loaded: int, asked: int) -> dict[str, float]:
    """Megabytes that a model more takes: what the server has with one is not counted."""
    more = max(1, settings.models - 1)
    when = {"loaded": loaded, "asked once": asked}
    return {name: (resident - alone) / more / MEGABYTE for name, resident in when.items()}


def copies(settings: Settings, count: int) -> dict[str, Path]:
    """Base paths by name, each with a copy of the small model."""
    paths = {}
    for index in range(count):
        base_path = settings.directory / "many" / f"half_plus_two_{index}"
        shutil.copytree(settings.small.source(VERSION), base_path / str(VERSION))
        paths[base_path.name] = base_path
    return paths


@contextmanager
def serving(settings: Settings, models: dict[str, Path]) -> Iterator[tuple[Server, Client]]:
    """A server that has given the first model's first answer."""
    name, base_path = next(iter(models.items()))
    asked = workload(settings.small, name, base_path, VERSION)
    with (
        several_models(settings, models, asked, "--enable_model_management") as server,
        connected(server) as client,
    ):
        server.wait_until_ready()
        yield server, client


def wait_for_all(server: Server, client: Client, names: list[str]) -> float:
    """Seconds from the start of the process until the last model is available."""
    for name in names:
        while (state := client.states(name).get(VERSION)) != AVAILABLE:
            if state == END:
                raise WrongAnswerError(f"{name}: {client.versions(name)[VERSION].error}")
            if time.perf_counter() > server.started_at + LOAD_SECONDS:
                raise WrongAnswerError(f"{name} was not available after {LOAD_SECONDS:.0f} s")
            time.sleep(STATUS_SECONDS)
    return time.perf_counter() - server.started_at


def ask_all(settings: Settings, client: Client, names: list[str]) -> list[str]:
    """One request to each; what is wrong with the answers."""
    wrong = (ask(settings, client, name) for name in names)
    return [complaint for complaint in wrong if complaint]


def ask(settings: Settings, client: Client, name: str) -> str:
    answer = client.predict(name)
    found = (answer.version, answer.y)
    wanted = (VERSION, settings.small.answer(VERSION, answer.x))
    return "" if found == wanted else f"{name}: version and value are {found}, not {wanted}"


def idle_cpu(server: Server) -> float:
    """The share of one core that a server takes which nobody asks."""
    before = server.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return (server.cpu_seconds() - before) / IDLE_SECONDS


def add_models(
    settings: Settings, client: Client, models: dict[str, Path], finding: Finding
) -> tuple[list[float], list[float]]:
    """Seconds until SetModel has come back, and until the first answer, for each."""
    calls, answers = [], []
    for name, base_path in models.items():
        begin = time.perf_counter()
        client.set_model(name, base_path)
        calls.append(time.perf_counter() - begin)
        complaint = ask(settings, client, name)
        answers.append(time.perf_counter() - begin)
        finding.fail([complaint] if complaint else [])
    return calls, answers
