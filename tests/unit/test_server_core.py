"""ServerCore with a platform of puppets and the real serving map."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.puppets import PuppetLoader, PuppetServable, permanent
from tests.unit.waiting import eventually
from tfsrv._serving_map import ServingMap
from tfsrv.config import AllVersions, ModelConfig, ServerOptions, SpecificVersions
from tfsrv.core.loader import Loader
from tfsrv.core.platform import Platform
from tfsrv.core.servable import ManagerState, ServableData, ServableId
from tfsrv.core.source import Source, SourceAdapter
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.model_listing import SetBy
from tfsrv.reloading import Reloading
from tfsrv.server_core import ServerCore

LONG = 30.0


class PuppetAdapter(SourceAdapter[StoragePath, Loader]):
    """Makes puppets of directories: `fails` and `stuck` in a version tell what they do."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.made: list[PuppetLoader] = []

    def convert(self, version: ServableData[StoragePath]) -> Loader:
        path = Path(version.data)
        failures = [permanent("broken model")] if (path / "fails").exists() else []
        gate = self.gate if (path / "stuck").exists() else None
        loader = PuppetLoader(version.id, failures, gate=gate, origin=version.data)
        self.made.append(loader)
        return loader


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

    def model(self, name: str, **fields: Any) -> ModelConfig:
        return ModelConfig(name, str(self.folder / name), **fields)

    def serve(self, *names: str, poll: int = 1, **options: Any) -> ServerCore:
        models = options.pop("models", tuple(self.model(name) for name in names))
        sources = options.pop("sources", ())
        self.core = ServerCore(
            ServerOptions(
                models=models,
                model_config_file=options.pop("model_config_file", "models.config"),
                file_system_poll_wait_seconds=poll,
                **options,
            ),
            self.serving_map,
            {
                "tensorflow": Platform(self.adapter, Exists()),
                "other": Platform(PuppetAdapter(), Exists()),
            },
            sources=sources,
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


def test_changes_of_the_list_of_models_can_be_heard(site: Site) -> None:
    site.add("a", 1)
    site.add("b", 1)
    heard: list[tuple[str, ...]] = []
    core = site.serve("a")
    end = core.subscribe_models(heard.append)
    reload(site, "a", "b")
    reload(site, "b", "a")  # the same ones
    core.remove_model("a")
    end()
    reload(site)
    assert heard == [("a", "b"), ("b",)]


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


# -- another list of models


def reload(site: Site, *models: ModelConfig | str) -> Reloading:
    """Ask for another list, by a call."""
    assert site.core is not None
    listed = [site.model(each) if isinstance(each, str) else each for each in models]
    return site.core.reload(listed, SetBy.CALL)


def results(reloading: Reloading) -> Mapping[str, ServingError | None]:
    assert reloading.wait(LONG)
    return reloading.results()


def failure(reloading: Reloading, name: str) -> tuple[Code, str]:
    error = results(reloading)[name]
    assert error is not None
    return error.code, error.message


def served_path(site: Site, name: str) -> str:
    with site.serving_map.acquire(name) as handle:
        (loader,) = (each for each in site.adapter.made if each.has_loaded(handle.servable))
        return str(loader.origin)


def test_reload_serves_what_is_new_and_unloads_what_is_left_out(site: Site) -> None:
    site.add("a", 1)
    site.add("b", 1)
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    assert results(reload(site, "b")) == {"b": None}
    assert core.model_names() == ("b",)
    assert site.code("b") is Code.OK
    eventually(lambda: site.code("a") is Code.NOT_FOUND)


def test_reload_of_the_same_list_tells_how_everything_stands(site: Site) -> None:
    site.add("a", 1)
    assert site.serve("a", "missing").wait_until_decided(LONG)
    reloading = reload(site, "a", "missing")
    assert results(reloading)["a"] is None
    assert failure(reloading, "missing")[0] is Code.NOT_FOUND


def test_same_list_once_more_waits_for_what_is_still_loading(site: Site) -> None:
    site.add("stuck", 1, "stuck")
    site.serve()
    first, second = reload(site, "stuck"), reload(site, "stuck")
    assert not second.wait(0.05)
    site.adapter.gate.set()
    assert results(first) == results(second) == {"stuck": None}


def test_reload_that_changes_something_tells_what_else_is_wrong_without_waiting(site: Site) -> None:
    site.add("stuck", 1, "stuck")
    site.add("broken", 1, "fails")
    site.add("moved", 1)
    site.add("good", 1)
    core = site.serve("broken", "missing", "moved")
    assert core.wait_until_decided(LONG)
    moved = ModelConfig("moved", str(site.folder / "broken"))
    assert failure(reload(site, "broken", "missing", moved), "moved")[0] is Code.NOT_FOUND
    reload(site, "broken", "missing", moved, "stuck")
    told = results(reload(site, "broken", "missing", moved, "stuck", "good"))
    assert {name for name, error in told.items() if error is not None} == {
        "broken",
        "missing",
        "moved",
    }
    assert "stuck" not in told


def test_model_that_is_removed_while_it_is_pending_is_decided(site: Site) -> None:
    site.add("stuck", 1, "stuck")
    core = site.serve("stuck")
    eventually(lambda: _state(core, "stuck", 1) is ManagerState.LOADING)
    reload(site)
    assert core.wait_until_decided(LONG)
    assert site.decided == ["stuck"]


def test_change_of_one_model_waits_for_no_other(site: Site) -> None:
    site.add("good", 1)
    core = site.serve("late")
    assert core.wait_until_decided(LONG)
    site.add("late", 1, "stuck")
    eventually(lambda: _state(core, "late", 1) is ManagerState.LOADING)
    assert results(core.set_model(site.model("good"))) == {"good": None}


def test_reload_waits_for_a_version_that_it_names_and_that_is_still_written(site: Site) -> None:
    site.add("a", 1)
    site.add("a", 2, "incomplete")
    site.serve()
    policy = SpecificVersions(frozenset({1, 2}))
    reloading = reload(site, site.model("a", version_policy=policy))
    eventually(lambda: site.code("a") is Code.OK)
    assert not reloading.wait(0.05)
    (site.folder / "a" / "2" / "incomplete").unlink()
    assert results(reloading) == {"a": None}
    assert site.latest("a") == 2


@pytest.mark.parametrize("poll", [0, 1])
def test_reload_tells_what_became_of_each_model(site: Site, poll: int) -> None:
    site.add("good", 1)
    site.add("broken", 1, "fails")
    site.serve(poll=poll)
    reloading = reload(site, "good", "broken", "missing")
    assert results(reloading)["good"] is None
    assert failure(reloading, "broken") == (
        Code.NOT_FOUND,
        "{name: broken version: 1}: broken model",
    )
    code, text = failure(reloading, "missing")
    assert code is Code.NOT_FOUND
    assert "Could not find base path" in text


def test_second_reload_of_a_model_that_failed_is_answered_too(site: Site) -> None:
    site.add("broken", 1, "fails")
    site.serve()
    first = reload(site, "broken", "missing")
    assert failure(first, "broken")[1] == "{name: broken version: 1}: broken model"
    second = reload(site, "broken", "missing")
    assert failure(second, "broken") == failure(first, "broken")
    assert failure(second, "missing") == failure(first, "missing")


def test_reload_does_not_wait_for_another_one(site: Site) -> None:
    site.add("stuck", 1, "stuck")
    site.add("good", 1)
    site.serve()
    waiting = reload(site, "stuck")
    assert not waiting.wait(0.05)
    assert results(reload(site, "stuck", "good")) == {"good": None}
    assert not waiting.wait(0)
    site.adapter.gate.set()
    assert results(waiting) == {"stuck": None}


def test_model_that_is_removed_is_waited_for_no_more(site: Site) -> None:
    site.add("stuck", 1, "stuck")
    site.serve()
    waiting = reload(site, "stuck")
    reload(site)
    assert failure(waiting, "stuck")[0] is Code.CANCELLED
    assert site.code("stuck") is Code.NOT_FOUND


def test_new_model_is_pending_until_it_is_decided(site: Site) -> None:
    site.add("stuck", 1, "stuck")
    core = site.serve()
    reload(site, "stuck")
    assert core.pending_names() == {"stuck"}
    assert site.code("stuck") is Code.UNAVAILABLE
    site.adapter.gate.set()
    assert core.wait_until_decided(LONG)


def test_reload_with_another_base_path_loads_the_same_version_from_there(site: Site) -> None:
    site.add("a", 1)
    site.add("elsewhere", 1)
    assert site.serve("a").wait_until_decided(LONG)
    moved = ModelConfig("a", str(site.folder / "elsewhere"))
    assert results(reload(site, moved)) == {"a": None}
    assert served_path(site, "a") == str(site.folder / "elsewhere" / "1")


def test_other_base_path_that_fails_leaves_the_old_version_and_is_told(site: Site) -> None:
    site.add("a", 1)
    site.add("elsewhere", 1, "fails")
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    moved = reload(site, ModelConfig("a", str(site.folder / "elsewhere")))
    assert failure(moved, "a")[1] == "{name: a version: 1}: broken model"
    assert served_path(site, "a") == str(site.folder / "a" / "1")
    nowhere = reload(site, ModelConfig("a", str(site.folder / "nowhere")))
    assert failure(nowhere, "a")[0] is Code.NOT_FOUND
    assert site.code("a") is Code.OK


def test_reload_with_another_policy_is_followed(site: Site) -> None:
    for version in (1, 2, 3):
        site.add("a", version)
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    both = site.model("a", version_policy=SpecificVersions(frozenset({1, 3})))
    assert results(reload(site, both)) == {"a": None}
    assert _state(core, "a", 1) is ManagerState.AVAILABLE
    everything = site.model("a", version_policy=AllVersions())
    assert results(reload(site, everything)) == {"a": None}
    assert _state(core, "a", 2) is ManagerState.AVAILABLE


def test_one_good_version_is_enough_for_a_model_to_be_fine(site: Site) -> None:
    site.add("a", 1)
    site.add("a", 2, "fails")
    site.serve()
    assert results(reload(site, site.model("a", version_policy=AllVersions()))) == {"a": None}


@pytest.mark.parametrize(
    ("models", "code", "message"),
    [
        (
            ["b", "b"],
            Code.INVALID_ARGUMENT,
            "Illegal to list model b multiple times in config list",
        ),
        (
            ["b", ModelConfig("c", "/c", platform="caffe", place="models.config:7")],
            Code.INVALID_ARGUMENT,
            "Model c requests unsupported platform caffe (models.config:7)",
        ),
        (
            ["b", ModelConfig("a", "/a", platform="other")],
            Code.INVALID_ARGUMENT,
            "Illegal to change a model's platform. For model a platform was tensorflow and new "
            "platform requested is other",
        ),
        (
            ["b", ModelConfig("c", "s3://bucket/c")],
            Code.UNIMPLEMENTED,
            "File system scheme 's3' not implemented (file: 's3://bucket/c'); supported are local "
            "paths and file://. Mount the files, or copy them. This is of model c.",
        ),
    ],
)
def test_list_that_is_refused_changes_nothing(
    site: Site, models: list[ModelConfig | str], code: Code, message: str
) -> None:
    site.add("a", 1)
    site.add("b", 1)
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    before = core.list_models()
    with pytest.raises(ServingError) as caught:
        reload(site, *models)
    assert (caught.value.code, caught.value.message) == (code, message)
    assert core.list_models() == before
    assert site.code("a") is Code.OK
    assert site.code("b") is Code.NOT_FOUND


def test_reload_where_nobody_ever_looks_is_answered(site: Site) -> None:
    site.add("a", 1)
    site.serve(poll=-1)
    assert failure(reload(site, "a"), "a")[0] is Code.FAILED_PRECONDITION
    assert site.code("a") is Code.NOT_FOUND


def test_model_can_be_added_changed_and_removed_alone(site: Site) -> None:
    site.add("a", 1)
    site.add("b", 1)
    site.add("elsewhere", 7)
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    assert results(core.set_model(site.model("b"))) == {"b": None}
    assert results(core.set_model(ModelConfig("b", str(site.folder / "elsewhere")))) == {"b": None}
    eventually(lambda: site.latest("b") == 7)
    core.remove_model("a")
    eventually(lambda: site.code("a") is Code.NOT_FOUND)
    assert core.model_names() == ("b",)
    with pytest.raises(ServingError, match="Model a is not configured"):
        core.remove_model("a")


def test_list_tells_who_has_set_what(site: Site) -> None:
    site.add("a", 1)
    core = site.serve("a", model_config_file="")
    core.set_model(site.model("b"))
    assert [(each.config.name, each.set_by) for each in core.list_models()] == [
        ("a", SetBy.FLAGS),
        ("b", SetBy.CALL),
    ]
    core.reload([site.model("a"), site.model("b")], SetBy.FILE)
    assert {each.set_by for each in core.list_models()} == {SetBy.FILE}


def test_list_tells_why_a_model_is_not_available(site: Site) -> None:
    site.add("broken", 1, "fails")
    site.add("good", 1)
    core = site.serve("broken", "good", "missing")
    assert core.wait_until_decided(LONG)
    why = core.unavailable()
    assert set(why) == {"broken", "missing"}
    assert why["broken"].message == "{name: broken version: 1}: broken model"
    assert "Could not find base path" in why["missing"].message


def test_disk_that_goes_away_during_a_load_changes_nothing(site: Site) -> None:
    site.add("a", 1, "stuck")
    core = site.serve("a")
    eventually(lambda: _state(core, "a", 1) is ManagerState.LOADING)
    (site.folder / "a").rename(site.folder / "away")
    eventually(lambda: core.list_models()[0].error is not None)
    assert core.pending_names() == {"a"}
    site.adapter.gate.set()
    assert core.wait_until_decided(LONG)
    assert site.code("a") is Code.OK


def test_model_that_loads_for_long_is_waited_for_once(site: Site) -> None:
    site.add("a", 1, "stuck")
    core = site.serve("a")
    eventually(lambda: _state(core, "a", 1) is ManagerState.LOADING)
    for _ in range(20):
        core._source.poll()
    assert len(core._manager._waiting["a"]) == 1
    site.adapter.gate.set()
    assert core.wait_until_decided(LONG)


def test_version_that_failed_is_loaded_when_its_files_are_repaired(site: Site) -> None:
    site.add("a", 1, "fails")
    core = site.serve("a")
    assert core.wait_until_decided(LONG)
    (site.folder / "a" / "1" / "fails").unlink()
    eventually(lambda: site.code("a") is Code.OK)


# -- labels


def test_label_can_be_set_together_with_the_version_that_it_points_to(site: Site) -> None:
    site.add("a", 1)
    labelled = site.model("a", version_labels=(("stable", 1),))
    core = site.serve(models=(labelled,))
    assert core.wait_until_decided(LONG)
    eventually(lambda: core.list_models()[0].labels == {"stable": 1})
    assert site.serving_map.acquire("a", label="stable").version == 1


def test_label_moves_when_its_version_is_available(site: Site) -> None:
    both = {"version_policy": SpecificVersions(frozenset({1, 2}))}
    site.add("a", 1)
    core = site.serve(models=(site.model("a", version_labels=(("stable", 1),), **both),))
    assert core.wait_until_decided(LONG)
    site.add("a", 2, "stuck")
    reloading = reload(site, site.model("a", version_labels=(("stable", 2),), **both))
    eventually(lambda: _state(core, "a", 2) is ManagerState.LOADING)
    with site.serving_map.acquire("a", label="stable") as handle:
        assert handle.version == 1
    assert not reloading.wait(0)
    site.adapter.gate.set()
    assert results(reloading) == {"a": None}
    with site.serving_map.acquire("a", label="stable") as handle:
        assert handle.version == 2


@pytest.mark.parametrize("before", [{1}, {1, 2}])
def test_label_keeps_its_version_until_the_new_one_is_available(
    site: Site, before: set[int]
) -> None:
    for version in (1, 2):
        site.add("a", version)
    old = site.model(
        "a", version_labels=(("stable", 1),), version_policy=SpecificVersions(frozenset(before))
    )
    core = site.serve(models=(old,))
    eventually(lambda: core.list_models()[0].labels == {"stable": 1})
    site.add("a", 3, "stuck")
    new = site.model(
        "a", version_labels=(("stable", 3),), version_policy=SpecificVersions(frozenset({2, 3}))
    )
    reloading = reload(site, new)
    eventually(lambda: _state(core, "a", 3) is ManagerState.LOADING)
    eventually(lambda: _state(core, "a", 2) is ManagerState.AVAILABLE)
    with site.serving_map.acquire("a", label="stable") as handle:
        assert handle.version == 1
    site.adapter.gate.set()
    assert results(reloading) == {"a": None}
    with site.serving_map.acquire("a", label="stable") as handle:
        assert handle.version == 3
    eventually(lambda: _state(core, "a", 1) is ManagerState.END)


def test_label_to_nowhere_is_told(site: Site) -> None:
    site.add("a", 1)
    site.serve()
    reloading = reload(site, site.model("a", version_labels=(("stable", 9),)))
    assert failure(reloading, "a") == (
        Code.FAILED_PRECONDITION,
        "Request to assign label to version 9 of model a, which is not currently available for "
        "inference",
    )
    assert site.code("a") is Code.OK


def test_change_of_labels_alone_is_answered(site: Site) -> None:
    site.add("a", 1)
    assert site.serve("a", poll=0).wait_until_decided(LONG)
    assert results(reload(site, site.model("a", version_labels=(("x", 1),)))) == {"a": None}
    assert site.serving_map.acquire("a", label="x").version == 1


# -- further sources


class ListedSource(Source[StoragePath]):
    """Says what a test tells it to say."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def tell(self, name: str, version: int, path: Path) -> None:
        self._emit(name, [ServableData(ServableId(name, version), StoragePath(str(path)))])


def test_further_source_tells_of_servables_beside_the_configured_models(site: Site) -> None:
    site.add("a", 1)
    site.add("plugged", 3)
    source = ListedSource()
    core = site.serve("a", sources=[source])
    source.tell("plugged", 3, site.folder / "plugged" / "3")
    eventually(lambda: site.code("plugged") is Code.OK)
    assert core.wait_until_decided(LONG)
    core.stop(LONG)
    assert source.calls == ["start", "stop"]


def test_source_that_cannot_start_ends_the_start(site: Site) -> None:
    class Broken(ListedSource):
        def start(self) -> None:
            raise FileNotFoundError(2, "No such file or directory", "versions.txt")

    with pytest.raises(ServingError, match=r"Broken cannot be started: No such file") as caught:
        site.serve("a", sources=[Broken()])
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("hangs", [True, False])
def test_source_that_does_not_stop_keeps_nothing_from_stopping(
    site: Site, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr("tfsrv.further_sources.STOP_SECONDS", 0.05)
    gate = threading.Event()

    class Stubborn(ListedSource):
        def stop(self) -> None:
            if not hangs:
                raise SystemExit(3)
            gate.wait()

    site.add("a", 1)
    core = site.serve("a", sources=[Stubborn()])
    assert core.wait_until_decided(LONG)
    assert core.stop(LONG)
    gate.set()


def test_further_source_cannot_take_the_name_of_a_configured_model(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.add("a", 1)
    source = ListedSource()
    core = site.serve("a", sources=[source])
    assert core.wait_until_decided(LONG)
    source.tell("a", 9, site.folder / "a" / "1")
    assert "ListedSource tells of versions of a, which is configured" in caplog.text
    assert list(core.monitor.versions("a")) == [1]


def _state(core: ServerCore, name: str, version: int) -> ManagerState | None:
    state = core.monitor.state(ServableId(name, version))
    return None if state is None else state.manager_state
