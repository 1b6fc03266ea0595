"""ServerCore with a platform of puppets and the real serving map."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.puppets import PuppetLoader, PuppetServable, permanent
from tests.unit.waiting import eventually
from tfsrv._serving_map import ServingMap
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.core.loader import Loader
from tfsrv.core.platform import Platform
from tfsrv.core.servable import ManagerState, ServableData, ServableId
from tfsrv.core.source import SourceAdapter
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.server_core import ServerCore

LONG = 30.0


class PuppetAdapter(SourceAdapter[StoragePath, Loader]):
    """Makes puppets of directories: `fails` and `stuck` in a version tell what they do."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def convert(self, version: ServableData[StoragePath]) -> Loader:
        path = Path(version.data)
        failures = [permanent("broken model")] if (path / "fails").exists() else []
        gate = self.gate if (path / "stuck").exists() else None
        return PuppetLoader(version.id, failures, gate=gate)


class Exists:
    def is_complete(self, path: str, *, is_settled: bool = False) -> bool:
        return not (Path(path) / "incomplete").exists()


class Site:
    """A folder of models, and a core that serves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.serving_map = ServingMap()
        self.adapter = PuppetAdapter()
        self.core: ServerCore | None = None
        self.decided: list[str] = []

    def add(self, name: str, version: int, marker: str = "") -> None:
        """Put a version into place, whole."""
        staging = self.folder / "staging"
        staging.mkdir()
        if marker:
            (staging / marker).touch()
        (self.folder / name).mkdir(exist_ok=True)
        staging.rename(self.folder / name / str(version))

    def serve(self, *names: str, poll: int = 1) -> ServerCore:
        models = tuple(ModelConfig(name, str(self.folder / name)) for name in names)
        self.core = ServerCore(
            ServerOptions(models=models, file_system_poll_wait_seconds=poll),
            self.serving_map,
            {"tensorflow": Platform(self.adapter, Exists())},
        )
        self.core.subscribe_decided(self.decided.append)
        self.core.start()
        return self.core

    def latest(self, name: str) -> int:
        with self.serving_map.acquire(name) as handle:
            return handle.version

    def code(self, name: str) -> Code:
        """The code with which a request for `name` is refused, OK if it isn't."""
        try:
            self.serving_map.acquire(name).release()
        except ServingError as error:
            return error.code
        return Code.OK


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    threads_before = set(threading.enumerate())
    site = Site(tmp_path)
    yield site
    site.adapter.gate.set()
    if site.core is not None:
        assert site.core.stop(LONG)
    eventually(lambda: not set(threading.enumerate()) - threads_before)


def test_serves_what_is_in_the_base_path(site: Site) -> None:
    site.add("a", 1)
    site.add("a", 2)
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    assert site.latest("a") == 2
    assert list(core.monitor.versions("a")) == [2]


def test_picks_up_a_new_version_and_lets_requests_finish_on_the_old_one(site: Site) -> None:
    site.add("a", 1)
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    with site.serving_map.acquire("a") as handle:
        site.add("a", 2)
        eventually(lambda: site.latest("a") == 2)
        eventually(lambda: _state(core, "a", 1) is ManagerState.UNLOADING)
        assert handle.version == 1
        assert isinstance(handle.servable, PuppetServable)
        assert handle.servable.is_loaded
    eventually(lambda: _state(core, "a", 1) is ManagerState.END)


def test_model_is_pending_while_its_first_version_loads(site: Site) -> None:
    site.add("a", 1, "stuck")
    core = site.serve("a")
    eventually(lambda: _state(core, "a", 1) is ManagerState.LOADING)
    assert core.pending_names() == {"a"}
    assert site.code("a") is Code.UNAVAILABLE
    assert not core.wait_until_decided(0.01)
    site.adapter.gate.set()
    assert core.wait_until_decided(LONG)
    assert site.code("a") is Code.OK
    eventually(lambda: site.decided == ["a"])


def test_unknown_model_is_not_waited_for(site: Site) -> None:
    site.add("a", 1, "stuck")
    site.serve("a")
    assert site.code("b") is Code.NOT_FOUND


def test_model_that_failed_is_pending_no_more(site: Site) -> None:
    site.add("a", 1, "fails")
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    assert site.code("a") is Code.NOT_FOUND
    error = core.monitor.versions("a")[1].error
    assert error is not None
    assert error.message == "broken model"
    eventually(lambda: site.decided == ["a"])


def test_model_without_a_base_path_is_pending_no_more_after_the_first_look(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    core = site.serve("missing")
    assert core.wait_until_decided(LONG)
    assert site.code("missing") is Code.NOT_FOUND
    assert core.monitor.versions("missing") == {}
    assert "Could not find base path" in caplog.text


def test_model_whose_base_path_appears_later_is_served(site: Site) -> None:
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    site.add("a", 1)
    eventually(lambda: site.code("a") is Code.OK)


def test_version_that_is_still_written_keeps_the_model_pending(site: Site) -> None:
    site.add("a", 1, "incomplete")
    core = site.serve("a", poll=0)
    assert not core.wait_until_decided(0.2)
    (site.folder / "a" / "1" / "incomplete").unlink()
    assert core.wait_until_decided(LONG)  # also without polling, it looked again
    assert site.latest("a") == 1


def test_nothing_is_pending_when_nobody_ever_looks(site: Site) -> None:
    site.add("a", 1)
    core = site.serve("a", poll=-1)
    assert core.wait_until_decided(0)
    assert site.code("a") is Code.NOT_FOUND


def test_stuck_broken_and_missing_models_hold_up_no_good_one(site: Site) -> None:
    site.add("stuck", 1, "stuck")
    site.add("broken", 1, "fails")
    site.add("good", 1)
    core = site.serve("stuck", "broken", "missing", "good")
    eventually(lambda: site.code("good") is Code.OK)
    eventually(lambda: core.pending_names() == {"stuck"})
    site.add("good", 2)
    eventually(lambda: site.latest("good") == 2)


def test_vanished_base_path_keeps_the_model(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.add("a", 1)
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    (site.folder / "a").rename(site.folder / "elsewhere")
    eventually(lambda: "What is loaded of it stays." in caplog.text)
    assert site.latest("a") == 1


def test_stop_unloads_everything(site: Site) -> None:
    site.add("a", 1)
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    assert core.stop(LONG)
    assert site.code("a") is Code.NOT_FOUND


def test_signature_defs_are_those_of_the_latest_version(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PuppetServable, "signature_defs", {"serving_default": 1}, raising=False)
    core = site.serve("a")
    assert core.signature_defs("a") is None
    site.add("a", 1)
    eventually(lambda: site.code("a") is Code.OK)
    assert core.signature_defs("a") == {"serving_default": 1}


def test_states_can_be_heard(site: Site) -> None:
    site.add("a", 1)
    heard: list[ManagerState] = []
    core = site.serve("missing", "a", poll=0)
    end: Callable[[], None] = core.subscribe_states(lambda state: heard.append(state.manager_state))
    assert core.wait_until_decided(LONG)
    core.stop(LONG)
    end()
    assert heard[-1] is ManagerState.END


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            (ModelConfig("a", "/a"), ModelConfig("a", "/b")),
            "Illegal to list model a multiple times in config list",
        ),
        (
            (ModelConfig("a", "/a", platform="caffe"),),
            "Model a requests unsupported platform caffe",
        ),
    ],
)
def test_refuses_models_that_cannot_be_served(
    models: tuple[ModelConfig, ...], message: str
) -> None:
    platforms = {"tensorflow": Platform(PuppetAdapter(), Exists())}
    with pytest.raises(ServingError) as caught:
        ServerCore(ServerOptions(models=models), ServingMap(), platforms)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == message


def _state(core: ServerCore, name: str, version: int) -> ManagerState | None:
    state = core.monitor.state(ServableId(name, version))
    return None if state is None else state.manager_state
