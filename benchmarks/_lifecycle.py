"""What the measurements of bench_lifecycle.py share: settings, servers, and what they find."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from _client import POLL_SECONDS, Answer, Client, predict_request, predict_response
from _load import WrongAnswerError
from _report import number
from _servers import Server, ServerKind, config_file_command, config_text, tfsrv_command
from _versions import History, Model, VersionDirectories
from _workloads import Workload

MEGABYTE = 1e6
MODEL = "m"
X = 1.0
FIRST_VERSION = 1000  # numbers up to 16383 have two bytes in an answer: all have the same size
SETTLE_SECONDS = 3.0  # until memory that can go back to the system has gone back
GIVE_UP_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """What to serve, where, and how much of it."""

    directory: Path  # for files of one measurement
    small: Model
    large: Model
    transport: str = "native"
    flags: Sequence[str] = ()
    seconds: float = 200.0  # of swaps
    rounds: int = 5
    models: int = 1000
    large_swaps: int = 50
    stuck_seconds: float = 30.0
    renames: int = 20


def workload(model: Model, name: str, base_path: Path, version: int) -> Workload:
    """A request for the latest version, which is `version`."""
    response = predict_response(name, version, model.answer(version, X))
    return Workload(name, name, base_path, predict_request(name, X), response, "", "")


def single_model(settings: Settings, versions: VersionDirectories, version: int) -> Server:
    """A server of one base path, not yet started."""
    command = tfsrv_command(settings.transport, settings.flags)
    kind = ServerKind(f"tfsrv, {settings.transport}", command)
    return Server(kind, workload(versions.model, MODEL, versions.base_path, version))


def several_models(
    settings: Settings, models: dict[str, Path], asked: Workload, *flags: str
) -> Server:
    """A server of a config file, not yet started; it is up when it answers to `asked`."""
    config_file = settings.directory / f"{len(models)}.config"
    config_file.write_text(config_text(models))
    command = config_file_command(settings.transport, config_file, [*settings.flags, *flags])
    return Server(ServerKind(f"tfsrv, {settings.transport}", command), asked)


def settled_memory(server: Server) -> int:
    """Resident bytes, when nothing more is given back."""
    time.sleep(SETTLE_SECONDS)
    return server.memory_bytes()["VmRSS"]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Ask again and again. Raises WrongAnswerError when it does not come to be."""
    deadline = time.perf_counter() + GIVE_UP_SECONDS
    while not condition():
        if time.perf_counter() > deadline:
            raise WrongAnswerError(f"{what}: not within {GIVE_UP_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def ask_until(
    version: int,
    client: Client,
    history: History,
    wrong: list[str],
    pause: float = POLL_SECONDS,
) -> float:
    """Ask until `version` answers; the time at which it had, by time.perf_counter().

    `pause` is the number of seconds from an answer to the next request. What is wrong with answers
    on the way is added to `wrong`. Raises WrongAnswerError when the version does not answer.
    """
    deadline = time.perf_counter() + GIVE_UP_SECONDS
    while time.perf_counter() < deadline:
        answer = checked(client, history, wrong)
        if answer is not None and answer.version == version:
            return answer.received
        time.sleep(pause)
    raise WrongAnswerError(
        "; ".join([f"version {version} did not answer in {GIVE_UP_SECONDS:.0f} s", *wrong[:2]])
    )


def checked(client: Client, history: History, wrong: list[str]) -> Answer | None:
    """One answer; what is wrong with it is added to `wrong`, and so is a failure."""
    try:
        answer = client.predict(MODEL, X)
    except grpc.RpcError as error:
        wrong.append(f"{error.code().name}: {error.details()}")
        return None
    if complaint := history.complaint(answer):
        wrong.append(complaint)
    return answer


def milliseconds(seconds: float) -> str:
    return f"{number(seconds * 1e3)} ms"


def megabytes(count: float) -> str:
    return f"{count / MEGABYTE:.1f}"
