"""One model stuck in load, one broken, one missing: what the good one beside them notices."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from _client import AVAILABLE, END, LOADING, POLL_SECONDS, Client, connected
from _lifecycle import (
    GIVE_UP_SECONDS,
    Settings,
    X,
    milliseconds,
    several_models,
    wait_until,
    workload,
)
from _load import WrongAnswerError
from _report import Finding, number
from _versions import Model
from _workloads import Workload
from tests.graphs import gated_graph

START_SECONDS = 1.0  # aim
RELOAD_SECONDS = 0.5  # aim: what a rename has
LOOK_SECONDS = 0.02  # from one answer to the next request
RELOAD_TIMEOUT_SECONDS = 600.0
GOOD, STUCK, BROKEN, MISSING = "good", "stuck", "broken", "missing"
STUCK_VERSION = 1


class Gate:
    """The FIFO that a load waits for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        """Let the load go on; waits until it has noticed."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            wait_until(lambda: _read(descriptor) != b"", "the load has gone on")
        finally:
            os.close(descriptor)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 100)
    except BlockingIOError:  # the writer is there, and has not written yet
        return b""


class Site:
    """The four base paths, and two versions of the good model in base paths of their own."""

    def __init__(self, settings: Settings) -> None:
        folder = settings.directory / "stuck"
        folder.mkdir()
        self.model = settings.small
        self.gate = Gate(folder / "gate")
        gated_graph(self.gate.path).save(folder / STUCK / str(STUCK_VERSION))
        broken = folder / BROKEN / "1" / "saved_model.pb"
        broken.parent.mkdir(parents=True)
        broken.write_bytes(b"\xff this is no graph")
        self._folder = folder
        self.old_version, self.new_version = 1, 2
        for version in (self.old_version, self.new_version):
            shutil.copytree(self.model.source(version), self.good(version) / str(version))

    def good(self, version: int) -> Path:
        """The good model's base path with this version."""
        return self._folder / f"{GOOD}{version}"

    def models(self, version: int) -> dict[str, Path]:
        bad = {name: self._folder / name for name in (STUCK, BROKEN, MISSING)}
        return {**bad, GOOD: self.good(version)}

    def workload(self) -> Workload:
        """A request to the good model, before the reload."""
        version = self.old_version
        return workload(self.model, GOOD, self.good(version), version)


class Looker:
    """Asks the good model, and keeps what was wrong and how long the longest answer took."""

    def __init__(self, client: Client, model: Model) -> None:
        self.wrong: list[str] = []
        self.most_seconds = 0.0
        self.count = 0
        self._client = client
        self._model = model

    def ask(self, *versions: int) -> int:
        """One request; the version of the answer, which should be among `versions`, 0 if none."""
        begin = time.perf_counter()
        try:
            answer = self._client.predict(GOOD, X)
        except grpc.RpcError as error:
            self.wrong.append(f"{GOOD}: {error.code().name}: {error.details()}")
            return 0
        finally:
            self.count += 1
            self.most_seconds = max(self.most_seconds, time.perf_counter() - begin)
        if answer.version not in versions or answer.y != self._model.answer(answer.version, X):
            self.wrong.append(f"{GOOD}: version {answer.version} answered {answer.y}")
        return answer.version


class Reload:
    """A HandleReloadConfigRequest, from the call to the answer."""

    def __init__(self, client: Client, models: dict[str, Path]) -> None:
        self.began = time.perf_counter()
        self._ended: list[float] = []
        self._future = client.reload(models, RELOAD_TIMEOUT_SECONDS)
        self._future.add_done_callback(lambda _: self._ended.append(time.perf_counter()))

    def outcome(self) -> Outcome:
        """Waits for it: the call may have to wait for models that are stuck."""
        error = self._future.exception(timeout=GIVE_UP_SECONDS)
        seconds = self._ended[0] - self.began
        if error is None:
            return Outcome(seconds, "OK", "")
        return Outcome(seconds, error.code().name, error.details())


@dataclass(frozen=True)
class Outcome:
    """When a call came back, and with what."""

    seconds: float  # after it was made
    status: str
    text: str  # of an error


@dataclass(frozen=True)
class Times:
    """Seconds until the good model answered."""

    alone: float  # from a start without the others
    start: float
    reload: float


def measure(settings: Settings) -> Finding:
    site = Site(settings)
    alone = start_alone(settings, site)
    with (
        several_models(settings, site.models(site.old_version), site.workload()) as server,
        connected(server) as client,
    ):
        server.wait_until_ready()
        wait_until_bad(client)
        looker = Looker(client, site.model)
        call = Reload(client, site.models(site.new_version))
        times = Times(alone, server.ready_seconds, ask_until_new(looker, site) - call.began)
        while time.perf_counter() < server.started_at + settings.stuck_seconds:
            looker.ask(site.new_version)
            time.sleep(LOOK_SECONDS)
        if (states := client.states(STUCK)) != {STUCK_VERSION: LOADING}:
            raise WrongAnswerError(f"{STUCK} was not loading any more: {states}")
        site.gate.open()
        wait_until(lambda: client.states(STUCK) == {STUCK_VERSION: AVAILABLE}, f"{STUCK} available")
        return finding_of(settings, times, looker, call.outcome())


def finding_of(settings: Settings, times: Times, looker: Looker, outcome: Outcome) -> Finding:
    finding = Finding(
        f"stuck: one model stuck in load for {settings.stuck_seconds:g} s, one broken, one missing",
        ["figure", "value"],
    )
    finding.rows = [
        ["start to first answer, alone, s", number(times.alone)],
        ["start to first answer beside them, s", number(times.start)],
        ["reload to first answer of the new version, ms", number(times.reload * 1e3)],
        ["longest of all answers, ms", number(looker.most_seconds * 1e3)],
        ["answers looked at", f"{looker.count:,}"],
    ]
    finding.judge(
        "start to the good model's first answer",
        f"≤ {START_SECONDS:g} s",
        f"{number(times.start)} s",
        times.start <= START_SECONDS,
    )
    finding.judge(
        "reload to the good model's new version",
        f"≤ {milliseconds(RELOAD_SECONDS)}",
        milliseconds(times.reload),
        times.reload <= RELOAD_SECONDS,
    )
    finding.note("that call came back", f"{outcome.status} after {milliseconds(outcome.seconds)}")
    finding.fail(looker.wrong)
    finding.details = {
        "seconds": asdict(times),
        "longest_answer_seconds": looker.most_seconds,
        "answers": looker.count,
        "call": asdict(outcome),
    }
    return finding


def start_alone(settings: Settings, site: Site) -> float:
    """Seconds to the first answer of the good model alone, with the files in the cache."""
    models = {GOOD: site.good(site.old_version)}
    seconds = 0.0
    for _ in range(2):
        with several_models(settings, models, site.workload()) as server:
            server.wait_until_ready()
            seconds = server.ready_seconds
    return seconds


def wait_until_bad(client: Client) -> None:
    """Until it is told of each model what is wrong with it."""
    wait_until(lambda: client.states(STUCK) == {STUCK_VERSION: LOADING}, f"{STUCK} loading")
    wait_until(lambda: client.states(BROKEN) == {1: END}, f"{BROKEN} failed")
    if states := client.states(MISSING):
        raise WrongAnswerError(f"{MISSING} has versions: {states}")


def ask_until_new(looker: Looker, site: Site) -> float:
    """Ask until the new version has answered; when that was. Until then the old one may."""
    deadline = time.perf_counter() + GIVE_UP_SECONDS
    while looker.ask(site.old_version, site.new_version) != site.new_version:
        if time.perf_counter() > deadline:
            raise WrongAnswerError(f"{GOOD}: nothing new {GIVE_UP_SECONDS:.0f} s after the reload")
        time.sleep(POLL_SECONDS)
    return time.perf_counter()
