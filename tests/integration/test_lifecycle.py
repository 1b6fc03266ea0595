"""SavedModels from their folders to the serving map, with TensorFlow."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.waiting import eventually
from tfsrv._serving_map import ServingMap
from tfsrv._session import SavedModelSession
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.core.servable import ManagerState, ServableId
from tfsrv.errors import Code, ServingError
from tfsrv.servables.saved_model import saved_model_platform
from tfsrv.server_core import ServerCore

LONG = 60.0


class Site:
    """A folder with one model, and a core that serves it."""

    def __init__(self, base_path: Path, saved_model: Path) -> None:
        self.base_path = base_path
        self.saved_model = saved_model
        self.serving_map = ServingMap()
        options = ServerOptions(models=(ModelConfig("m", str(base_path)),))
        platforms = {"tensorflow": saved_model_platform(options)}
        self.core = ServerCore(options, self.serving_map, platforms)

    def add(self, version: int, *, without: str = "") -> None:
        """Copy the model elsewhere, perhaps without a file, and rename it into place."""
        staging = self.base_path.parent / "staging"
        shutil.copytree(self.saved_model, staging)
        for path in staging.rglob(without) if without else ():
            path.unlink()
        self.base_path.mkdir(exist_ok=True)
        staging.rename(self.base_path / str(version))

    def latest(self) -> int | None:
        try:
            with self.serving_map.acquire("m") as handle:
                return handle.version
        except ServingError:
            return None

    def state(self, version: int) -> tuple[ManagerState, Code] | None:
        state = self.core.monitor.state(ServableId("m", version))
        if state is None:
            return None
        return state.manager_state, state.error.code if state.error else Code.OK


@pytest.fixture
def site(tmp_path: Path, models: Path) -> Iterator[Site]:
    site = Site(tmp_path / "m", models / "half_plus_two" / "1")
    yield site
    assert site.core.stop(LONG)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("tfsrv-")]


def test_saved_model_is_served_and_replaced_by_its_next_version(site: Site) -> None:
    site.add(1)
    site.core.start()
    assert site.core.wait_until_decided(LONG)
    assert set(site.core.signature_defs("m") or ()) >= {"serving_default"}
    with site.serving_map.acquire("m") as handle:
        assert isinstance(handle.servable, SavedModelSession)
        site.add(2)
        eventually(lambda: site.latest() == 2)
        assert site.state(1) == (ManagerState.UNLOADING, Code.OK)
    eventually(lambda: site.state(1) == (ManagerState.END, Code.OK))


def test_version_without_a_graph_ends_with_an_error_and_the_good_one_serves(site: Site) -> None:
    site.add(1)
    site.add(2, without="saved_model.pb")
    site.core.start()
    eventually(lambda: site.latest() == 1)
    eventually(lambda: site.state(2) == (ManagerState.END, Code.NOT_FOUND))


def test_broken_version_leaves_the_old_one_serving(site: Site) -> None:
    site.add(1)
    site.core.start()
    assert site.core.wait_until_decided(LONG)
    site.saved_model = site.base_path.parent / "broken"
    site.saved_model.mkdir()
    (site.saved_model / "saved_model.pb").write_bytes(b"this is no graph")
    site.add(2)
    eventually(lambda: (site.state(2) or ("", 0))[0] is ManagerState.END)
    assert site.latest() == 1
    assert site.core.monitor.versions("m")[2].error is not None
