"""The platform "tensorflow": when a directory is a complete SavedModel, and its loader."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from tfsrv.batching_parameters import BatchingParameters
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.metrics import MLMD_MAP, SAVED_MODEL_LOAD_MICROS, SAVED_MODEL_LOADS
from tfsrv.servables.saved_model import (
    SavedModelInspector,
    SavedModelOptions,
    SavedModelSourceAdapter,
    saved_model_platform,
)

ID = ServableId("m", 7)


class Clock:
    """Time that passes when told, starting now: ctimes can't be set."""

    def __init__(self) -> None:
        self.now = time.time() + 0.01

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inspector(clock: Clock) -> SavedModelInspector:
    return SavedModelInspector(1.0, clock=clock)


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("content")
    return folder


WHOLE = ("saved_model.pb", "variables/variables.index", "assets/words.txt")


@pytest.mark.parametrize("graph", ["saved_model.pb", "saved_model.pbtxt"])
def test_saved_model_is_complete_when_it_was_left_alone(
    tmp_path: Path, inspector: SavedModelInspector, clock: Clock, graph: str
) -> None:
    version = write(tmp_path / "1", graph)
    assert not inspector.is_complete(str(version))
    clock.now += 1.5
    assert inspector.is_complete(str(version))


def test_any_file_that_changes_makes_it_incomplete(
    tmp_path: Path, inspector: SavedModelInspector, clock: Clock
) -> None:
    version = write(tmp_path / "1", *WHOLE)
    clock.now = time.time() + 0.5
    assert not inspector.is_complete(str(version))


def test_time_of_modification_that_was_kept_by_the_copy_does_not_deceive(
    tmp_path: Path, inspector: SavedModelInspector
) -> None:
    version = write(tmp_path / "1", *WHOLE)
    for path in version.rglob("*"):
        os.utime(path, (1, 1))  # as `cp -p` and rsync do
    assert not inspector.is_complete(str(version))


def test_old_tree_that_was_renamed_into_place_is_complete_at_once(tmp_path: Path) -> None:
    version = write(tmp_path / "staging", *WHOLE)
    time.sleep(0.06)  # real time: what is tested is what the file system does at a rename
    os.rename(version, tmp_path / "1")
    assert SavedModelInspector(0.05).is_complete(str(tmp_path / "1"))


def test_directory_without_a_graph_is_waited_for_and_then_an_error(
    tmp_path: Path, inspector: SavedModelInspector, clock: Clock
) -> None:
    version = write(tmp_path / "1", "variables/variables.index")
    assert not inspector.is_complete(str(version))
    clock.now += 1.5
    with pytest.raises(ServingError, match=r"Could not find saved_model\.pb or") as caught:
        inspector.is_complete(str(version))
    assert caught.value.code is Code.NOT_FOUND


def test_empty_directory_is_waited_for_and_then_an_error(
    tmp_path: Path, inspector: SavedModelInspector, clock: Clock
) -> None:
    (tmp_path / "1").mkdir()
    assert not inspector.is_complete(str(tmp_path / "1"))
    clock.now += 1.5
    with pytest.raises(ServingError, match="Could not find"):
        inspector.is_complete(str(tmp_path / "1"))


def test_directory_that_vanished_is_not_complete(
    tmp_path: Path, inspector: SavedModelInspector
) -> None:
    assert not inspector.is_complete(str(tmp_path / "gone"))


def test_file_server_whose_clock_is_ahead_does_not_block_for_ever(
    tmp_path: Path, inspector: SavedModelInspector, clock: Clock
) -> None:
    version = write(tmp_path / "1", *WHOLE)
    clock.now -= 3600
    assert not inspector.is_complete(str(version))
    clock.now += 0.5
    assert not inspector.is_complete(str(version))
    clock.now += 0.6
    assert inspector.is_complete(str(version))  # it did not change while we looked


class FakeSession:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def hurry(self) -> None:
        self.calls.append("hurry")

    def close(self) -> None:
        self.calls.append("close")

    def cancel(self) -> None:
        self.calls.append("cancel")


class Loading:
    """Stands in for SavedModelSession.load."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.batching: list[BatchingParameters | None] = []
        self.session = FakeSession()

    def __call__(
        self,
        export_dir: str,
        *,
        tags: Sequence[str],
        config: bytes,
        name: str,
        version: int,
        batching: BatchingParameters | None,
    ) -> FakeSession:
        self.asked.append((export_dir, tags, config, name, version))
        self.batching.append(batching)
        return self.session


def test_link_that_leads_nowhere_does_not_keep_a_version_from_being_complete(
    tmp_path: Path, inspector: SavedModelInspector, clock: Clock
) -> None:
    version = write(tmp_path / "1", "saved_model.pb")
    (version / ".#lock").symlink_to(tmp_path / "nowhere")
    clock.now += 100
    assert inspector.is_complete(str(version))


def test_loader_loads_serves_and_closes_a_session() -> None:
    loading = Loading()
    options = SavedModelOptions(tags=("serve", "gpu"), session_config=b"config")
    loader = SavedModelSourceAdapter(options, load_session=loading).convert(
        ServableData(ID, StoragePath("/models/m/7"))
    )
    assert loading.asked == []
    loader.load()
    assert loading.asked == [("/models/m/7", ("serve", "gpu"), b"config", "m", 7)]
    assert loader.servable() is loading.session
    loader.quiesce()
    loader.unload()
    loader.quiesce()
    assert loading.session.calls == ["hurry", "close"]


def test_loads_are_counted_with_how_they_ended_and_how_long_they_took(tmp_path: Path) -> None:
    path = str(tmp_path / "7")  # counters live as long as the process

    def fail(*_: object, **__: object) -> FakeSession:
        raise ServingError(Code.DATA_LOSS, "broken")

    version = ServableData(ID, StoragePath(path))
    for _ in range(2):
        SavedModelSourceAdapter(load_session=Loading()).convert(version).load()
    with pytest.raises(ServingError):
        SavedModelSourceAdapter(load_session=fail).convert(version).load()
    loads = SAVED_MODEL_LOADS.cells()
    assert (loads[path, "success"], loads[path, "fail"]) == (2, 1)
    assert SAVED_MODEL_LOAD_MICROS.cells()[path,] >= 0


def test_versions_from_ml_metadata_are_told(tmp_path: Path) -> None:
    name = uuid.uuid4().hex  # what was told is told as long as the process lives
    (tmp_path / "8" / "assets.extra").mkdir(parents=True)
    (tmp_path / "8" / "assets.extra" / "mlmd_uuid").write_text("some-uuid")
    for version in (7, 8):
        data = ServableData(ServableId(name, version), StoragePath(str(tmp_path / str(version))))
        SavedModelSourceAdapter(load_session=Loading()).convert(data).load()
    told = {cell: value for cell, value in MLMD_MAP.cells().items() if cell[0] == name}
    assert told == {(name, "8"): 0}


def test_loader_cancels_what_is_loaded_only() -> None:
    loading = Loading()
    adapter = SavedModelSourceAdapter(load_session=loading)
    loader = adapter.convert(ServableData(ID, StoragePath("/models/m/7")))
    loader.cancel()
    loader.load()
    loader.cancel()
    loader.unload()
    loader.cancel()
    assert loading.session.calls == ["cancel", "close"]


# -- batching

SHARED = BatchingParameters(max_batch_size=16, num_batch_threads=3, thread_pool_name="all")


def load(path: Path, options: SavedModelOptions) -> BatchingParameters | None:
    """What the session of a version is told of batching."""
    loading = Loading()
    adapter = SavedModelSourceAdapter(options, load_session=loading)
    adapter.convert(ServableData(ID, StoragePath(str(path)))).load()
    (batching,) = loading.batching
    return batching


def per_model(shared: BatchingParameters | None = SHARED) -> SavedModelOptions:
    return SavedModelOptions(
        batching=shared,
        enable_per_model_batching_parameters=True,
        batching_target_latency_ms=5.0,
    )


def with_parameters(folder: Path, text: str) -> Path:
    write(folder, "saved_model.pb")
    (folder / "batching_params.pbtxt").write_text(text)
    return folder


def test_session_is_not_batched_without_batching(tmp_path: Path) -> None:
    version = with_parameters(tmp_path / "7", "max_batch_size { value: 8 }")
    assert load(version, SavedModelOptions()) is None
    assert load(version, per_model(None)) is None


def test_session_is_batched_with_the_shared_parameters(tmp_path: Path) -> None:
    version = with_parameters(tmp_path / "7", "this is not looked at")
    assert load(version, SavedModelOptions(batching=SHARED)) is SHARED


def test_version_has_its_own_parameters_and_the_shared_threads(tmp_path: Path) -> None:
    text = "max_batch_size { value: 8 } num_batch_threads { value: 1 }"
    made = load(with_parameters(tmp_path / "7", text), per_model())
    assert made == BatchingParameters(
        max_batch_size=8, num_batch_threads=3, thread_pool_name="all", target_latency_ms=5.0
    )


def test_version_without_parameters_of_its_own_is_not_batched(tmp_path: Path) -> None:
    assert load(write(tmp_path / "7", "saved_model.pb"), per_model()) is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_batch_size: 8", "Invalid protobuf file: '{file}'"),
        ("max_batch_size { value: 0 }", "input_batch_size_limit must be positive; was 0 ({file}:1"),
    ],
)
def test_version_with_wrong_parameters_fails_before_its_graph_is_loaded(
    tmp_path: Path, text: str, error: str
) -> None:
    version = with_parameters(tmp_path / "7", text)
    loading = Loading()
    adapter = SavedModelSourceAdapter(per_model(), load_session=loading)
    loader = adapter.convert(ServableData(ID, StoragePath(str(version))))
    with pytest.raises(ServingError) as caught:
        loader.load()
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message.startswith(error.format(file=version / "batching_params.pbtxt"))
    assert loading.asked == []
    (version / "batching_params.pbtxt").write_text("max_batch_size { value: 8 }")
    loader.load()  # another try reads the file again
    assert [each and each.max_batch_size for each in loading.batching] == [8]


def test_batching_parameters_are_among_the_files_that_must_have_come_to_rest(
    tmp_path: Path, inspector: SavedModelInspector, clock: Clock
) -> None:
    version = write(tmp_path / "1", *WHOLE)
    clock.now += 1.5
    assert inspector.is_complete(str(version))
    clock.now = time.time() + 0.5
    with_parameters(version, "max_batch_size { value: 8 }")
    assert not inspector.is_complete(str(version))


def test_what_the_server_was_told_of_batching_reaches_the_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[SavedModelOptions] = []
    monkeypatch.setattr(
        "tfsrv.servables.saved_model.SavedModelSourceAdapter", lambda options: given.append(options)
    )
    saved_model_platform(
        ServerOptions(
            models=(ModelConfig("m", str(tmp_path)),),
            batching=SHARED,
            enable_per_model_batching_parameters=True,
            batching_target_latency_ms=5.0,
        )
    )
    (options,) = given
    assert options.batching is SHARED
    assert options.enable_per_model_batching_parameters
    assert options.batching_target_latency_ms == 5.0
