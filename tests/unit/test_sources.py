"""The file-system source: which directories become versions, and when it says so."""

from __future__ import annotations

import dataclasses
import errno
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import inotify_simple  # type: ignore[import-untyped]
import pytest

from tests.unit.waiting import eventually
from tfsrv.config import AllVersions, LatestVersions, SpecificVersions, VersionPolicy
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.sources.file_system import FileSystemStoragePathSource
from tfsrv.sources.storage import check_scheme
from tfsrv.sources.version_policy import Version
from tfsrv.sources.watched import Looked, ServableToMonitor, WatchedServable


class MarkerInspector:
    """A version is complete with a file `complete`, and broken with a file `broken`."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def is_complete(self, path: str, *, is_settled: bool = False) -> bool:
        self.asked.append(Path(path).name)
        if (Path(path) / "broken").exists():
            raise ServingError(Code.NOT_FOUND, f"nothing in {Path(path).name}")
        return (Path(path) / "complete").exists()


class Watch:
    """A source over one servable, "m", and what it says."""

    def __init__(
        self,
        base_path: Path,
        policy: VersionPolicy | None = None,
        *,
        always_present: bool = True,
        only_version: int | None = None,
    ) -> None:
        self.base_path = base_path
        self.inspector = MarkerInspector()
        self.emitted: list[list[ServableData[StoragePath]]] = []
        self.nothing_found: list[ServingError] = []
        self.source = FileSystemStoragePathSource(
            [
                ServableToMonitor(
                    "m",
                    str(base_path),
                    self.inspector,
                    policy or LatestVersions(),
                    only_version,
                )
            ],
            servable_versions_always_present=always_present,
            on_looked=self._note,
        )
        self.source.set_aspired_versions_callback(self._hear)

    def _note(self, looked: Looked) -> None:
        if looked.error is not None and not self.emitted:
            self.nothing_found.append(looked.error)

    def _hear(self, name: str, versions: Sequence[ServableData[StoragePath]]) -> None:
        assert name == "m"
        self.emitted.append(list(versions))

    def poll(self) -> dict[int, str]:
        """Look once; the versions of the last message by number, a directory's name or "!"."""
        self.source.poll()
        if not self.emitted:
            return {}
        return {
            version.id.version: Path(version.data.path).name if version.error is None else "!"
            for version in self.emitted[-1]
        }


def make(base_path: Path, *names: str, marker: str = "complete") -> None:
    for name in names:
        (base_path / name).mkdir(parents=True, exist_ok=True)
        if marker:
            (base_path / name / marker).touch()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# -- which versions


def test_serves_the_latest_version(tmp_path: Path) -> None:
    make(tmp_path, "1", "2", "10")
    assert Watch(tmp_path).poll() == {10: "10"}


def test_serves_the_latest_n_versions(tmp_path: Path) -> None:
    make(tmp_path, "1", "2", "10")
    assert Watch(tmp_path, LatestVersions(2)).poll() == {10: "10", 2: "2"}


@pytest.mark.parametrize("num_versions", [0, -1])
def test_latest_without_a_number_is_one(tmp_path: Path, num_versions: int) -> None:
    make(tmp_path, "1", "2")
    assert Watch(tmp_path, LatestVersions(num_versions)).poll() == {2: "2"}


def test_serves_all_versions(tmp_path: Path) -> None:
    make(tmp_path, "1", "2", "10")
    assert set(Watch(tmp_path, AllVersions()).poll()) == {1, 2, 10}


def test_serves_specific_versions_and_names_those_that_are_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "1", "2", "3")
    watch = Watch(tmp_path, SpecificVersions(frozenset({1, 3, 7})))
    watch.poll()
    assert set(watch.poll()) == {1, 3}
    assert lines(caplog) == [
        f"Version 7 of servable m, which was requested, is not found under base path {tmp_path}"
    ]


def test_no_specific_versions_unload_the_model(tmp_path: Path) -> None:
    make(tmp_path, "1")
    watch = Watch(tmp_path, SpecificVersions(frozenset()))
    watch.poll()
    assert watch.emitted == [[]]


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("00000123", 123),
        ("+5", 5),
        ("-5", -5),
        (" 7 ", 7),
        ("0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
    ],
)
def test_directory_names_that_are_integers_are_versions(
    tmp_path: Path, name: str, version: int
) -> None:
    make(tmp_path, name)
    assert Watch(tmp_path).poll() == {version: name}


@pytest.mark.parametrize("name", ["v1", "1.0", "1a", "0x1", "1_0", "١", "tmp", "1-2", "--1"])
def test_other_names_are_no_versions(tmp_path: Path, name: str) -> None:
    make(tmp_path, name)
    watch = Watch(tmp_path)
    assert watch.poll() == {}
    assert watch.inspector.asked == []


@pytest.mark.parametrize("name", ["9223372036854775808", "-9223372036854775809", "9" * 200])
def test_version_beyond_64_bits_is_ignored_with_one_warning(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "1", name)
    watch = Watch(tmp_path)
    watch.poll()
    assert watch.poll() == {1: "1"}
    assert len(caplog.records) == 1
    assert f"{tmp_path / name} is ignored" in caplog.text


def test_of_two_names_for_one_number_the_later_wins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "1", "001")
    assert Watch(tmp_path).poll() == {1: "1"}
    assert "001 is ignored" in caplog.text


def test_file_with_a_number_as_name_is_no_version(tmp_path: Path) -> None:
    make(tmp_path, "1")
    (tmp_path / "2").touch()
    assert Watch(tmp_path).poll() == {1: "1"}


def test_link_to_a_directory_is_a_version_and_a_dangling_one_is_none(tmp_path: Path) -> None:
    make(tmp_path, "real")
    (tmp_path / "1").symlink_to(tmp_path / "real")
    (tmp_path / "2").symlink_to(tmp_path / "gone")
    assert Watch(tmp_path).poll() == {1: "1"}


def test_only_version_is_the_base_path_itself(tmp_path: Path) -> None:
    make(tmp_path / "model", "5")
    (tmp_path / "model" / "complete").touch()
    assert Watch(tmp_path / "model", only_version=1).poll() == {1: "model"}


# -- completeness


def test_version_counts_only_when_it_is_complete(tmp_path: Path) -> None:
    make(tmp_path, "1")
    make(tmp_path, "2", marker="")
    watch = Watch(tmp_path)
    assert watch.poll() == {1: "1"}
    assert watch.source.poll()  # something is being written
    (tmp_path / "2" / "complete").touch()
    assert watch.poll() == {2: "2"}
    assert not watch.source.poll()


def test_complete_version_is_not_asked_about_again(tmp_path: Path) -> None:
    make(tmp_path, "1")
    watch = Watch(tmp_path)
    watch.poll()
    watch.poll()
    assert watch.inspector.asked == ["1"]


def test_version_that_went_and_came_back_is_asked_about_again(tmp_path: Path) -> None:
    make(tmp_path, "1", "2")
    watch = Watch(tmp_path)
    watch.poll()
    (tmp_path / "2").rename(tmp_path / "old")
    watch.poll()
    (tmp_path / "old").rename(tmp_path / "2")
    watch.poll()
    assert watch.inspector.asked == ["2", "1", "2"]


def test_latest_does_not_ask_about_versions_that_it_does_not_want(tmp_path: Path) -> None:
    make(tmp_path, "1", "2", "3")
    watch = Watch(tmp_path)
    watch.poll()
    assert watch.inspector.asked == ["3"]


def test_broken_version_is_told_with_its_error_beside_the_next_good_one(tmp_path: Path) -> None:
    make(tmp_path, "1")
    make(tmp_path, "2", marker="broken")
    watch = Watch(tmp_path)
    assert watch.poll() == {2: "!", 1: "1"}
    assert watch.emitted[0][0] == ServableData[StoragePath](
        ServableId("m", 2), error=ServingError(Code.NOT_FOUND, "nothing in 2")
    )


def test_broken_version_stays_so_until_its_files_change(tmp_path: Path) -> None:
    make(tmp_path, "1")
    make(tmp_path, "2", marker="broken")
    watch = Watch(tmp_path)
    watch.poll()
    watch.poll()
    assert watch.inspector.asked == ["2", "1"]
    (tmp_path / "2" / "broken").unlink()
    (tmp_path / "2" / "complete").touch()
    assert watch.poll() == {2: "2"}


def test_incomplete_first_version_is_not_reported_as_missing(tmp_path: Path) -> None:
    make(tmp_path, "1", marker="")
    watch = Watch(tmp_path)
    watch.poll()
    assert watch.emitted == []
    assert watch.nothing_found == []


# -- news


def test_says_something_only_when_it_is_new(tmp_path: Path) -> None:
    make(tmp_path, "1")
    watch = Watch(tmp_path)
    watch.poll()
    watch.poll()
    assert len(watch.emitted) == 1
    make(tmp_path, "2")
    watch.poll()
    assert len(watch.emitted) == 2


def test_removed_version_gives_way_to_the_next(tmp_path: Path) -> None:
    make(tmp_path, "1", "2")
    watch = Watch(tmp_path)
    watch.poll()
    (tmp_path / "2").rename(tmp_path / "removed")
    assert watch.poll() == {1: "1"}


def test_emptied_base_path_does_not_unload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "1")
    watch = Watch(tmp_path)
    watch.poll()
    (tmp_path / "1").rename(tmp_path / "removed")
    assert watch.poll() == {1: "1"}
    assert len(watch.emitted) == 1
    assert "What is loaded of it stays." in caplog.text
    assert watch.nothing_found == []


def test_emptied_base_path_unloads_if_versions_need_not_be_present(tmp_path: Path) -> None:
    make(tmp_path, "1")
    watch = Watch(tmp_path, always_present=False)
    watch.poll()
    (tmp_path / "1").rename(tmp_path / "removed")
    assert watch.poll() == {}
    assert watch.emitted[-1] == []


@pytest.mark.parametrize("always_present", [True, False])
def test_vanished_base_path_does_not_unload(tmp_path: Path, always_present: bool) -> None:
    make(tmp_path / "m", "1")
    watch = Watch(tmp_path / "m", always_present=always_present)
    watch.poll()
    (tmp_path / "m").rename(tmp_path / "removed")
    assert watch.poll() == {1: "1"}
    assert len(watch.emitted) == 1


def test_missing_base_path_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch(tmp_path / "none")
    watch.poll()
    assert [error.code for error in watch.nothing_found] == [Code.NOT_FOUND]
    assert lines(caplog) == [
        f"Could not find base path {tmp_path / 'none'} for servable m with error "
        f"NOT_FOUND: No such file or directory: {tmp_path / 'none'}."
    ]
    assert caplog.records[0].levelname == "ERROR"


def test_base_path_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    watch = Watch(tmp_path / "file")
    watch.poll()
    assert watch.nothing_found[0].code is Code.FAILED_PRECONDITION


def test_base_path_without_versions_is_told_with_a_hint(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.poll()
    assert "Did you forget to name your leaf directory as a number" in str(watch.nothing_found[0])


def test_repeated_problem_is_damped_and_its_end_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tfsrv")
    watch = Watch(tmp_path / "m")
    for _ in range(10):
        watch.poll()
    assert len(caplog.records) == 4  # the first, second, fourth and eighth time
    make(tmp_path / "m", "1")
    assert watch.poll() == {1: "1"}
    watch.poll()
    assert lines(caplog)[4:] == ["Versions of servable m are found again"]


# -- several servables


def test_fault_of_one_servable_does_not_touch_the_others(tmp_path: Path) -> None:
    make(tmp_path / "good", "1")
    heard: list[str] = []

    class Faulty:
        def is_complete(self, path: str, *, is_settled: bool = False) -> bool:
            raise RuntimeError("a fault")

    make(tmp_path / "faulty", "1")
    inspector = MarkerInspector()
    source = FileSystemStoragePathSource(
        [
            ServableToMonitor("missing", str(tmp_path / "missing"), inspector),
            ServableToMonitor("faulty", str(tmp_path / "faulty"), Faulty()),
            ServableToMonitor("good", str(tmp_path / "good"), inspector),
        ]
    )
    source.set_aspired_versions_callback(lambda name, versions: heard.append(name))
    source.poll()
    assert heard == ["good"]


# -- the thread


class Running:
    """A source that looks by itself at the base path of "m"."""

    def __init__(self, poll_wait_seconds: float, *servables: ServableToMonitor) -> None:
        self.inspector = MarkerInspector()
        self.looks: list[Looked] = []
        self.heard: dict[str, list[Version]] = {}
        self.source = FileSystemStoragePathSource(
            servables, poll_wait_seconds=poll_wait_seconds, on_looked=self.looks.append
        )
        self.source.set_aspired_versions_callback(self._hear)
        self.source.start()

    def _hear(self, name: str, versions: Sequence[Version]) -> None:
        self.heard[name] = list(versions)

    def versions(self, name: str = "m") -> list[int] | None:
        heard = self.heard.get(name)
        return None if heard is None else [version.id.version for version in heard]


Run = Callable[..., Running]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start a source; `run(1)` watches "m" in tmp_path."""
    started: list[Running] = []

    def start(poll_wait_seconds: float, *servables: ServableToMonitor) -> Running:
        servables = servables or (monitor("m", tmp_path),)
        started.append(Running(poll_wait_seconds, *servables))
        return started[-1]

    yield start
    for running in started:
        running.source.stop()
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"tfsrv-file-system-source", "tfsrv-look", "tfsrv-notify"}


def monitor(
    name: str, base_path: Path, policy: VersionPolicy | None = None, **changes: Any
) -> ServableToMonitor:
    inspector = changes.pop("inspector", None) or MarkerInspector()
    return ServableToMonitor(name, str(base_path), inspector, policy or LatestVersions(), **changes)


def test_polls_with_its_period(tmp_path: Path, run: Run) -> None:
    make(tmp_path, "1")
    running = run(0.01)
    eventually(lambda: len(running.looks) > 3)


def test_poll_period_of_zero_looks_once(tmp_path: Path, run: Run) -> None:
    make(tmp_path, "1")
    running = run(0)
    eventually(lambda: running.versions() == [1])
    make(tmp_path, "2")
    running.source.update([monitor("m", tmp_path), monitor("other", tmp_path)])
    eventually(lambda: running.versions("other") == [2])
    assert len([looked for looked in running.looks if looked.servable.name == "other"]) == 1


def test_poll_period_of_zero_looks_again_at_what_was_being_written(
    tmp_path: Path, run: Run
) -> None:
    make(tmp_path, "1", marker="")
    running = run(0)
    eventually(lambda: running.looks)
    assert running.looks[0].is_changing
    (tmp_path / "1" / "complete").touch()
    eventually(lambda: running.versions() == [1])


def test_negative_poll_period_never_looks(tmp_path: Path, run: Run) -> None:
    make(tmp_path, "1")
    running = run(-1)
    running.source.look_again({"m"})
    assert running.looks == []


def test_stop_ends_the_wait_at_once(tmp_path: Path, run: Run) -> None:
    make(tmp_path, "1")
    running = run(3600)
    eventually(lambda: running.versions() == [1])
    running.source.stop()


# -- notification: with a period of an hour, nothing but notification shows a change


def test_new_version_is_seen_without_a_poll(tmp_path: Path, run: Run) -> None:
    make(tmp_path, "1")
    running = run(3600)
    eventually(lambda: running.versions() == [1])
    make(tmp_path, "2")
    eventually(lambda: running.versions() == [2])
    (tmp_path / "2").rename(tmp_path / "gone")
    eventually(lambda: running.versions() == [1])


def test_version_that_is_renamed_into_place_is_settled(tmp_path: Path, run: Run) -> None:
    class Unsettled:
        def is_complete(self, path: str, *, is_settled: bool = False) -> bool:
            return is_settled

    make(tmp_path / "staging", "1")
    (tmp_path / "m").mkdir()
    running = run(3600, monitor("m", tmp_path / "m", inspector=Unsettled()))
    eventually(lambda: running.looks)
    (tmp_path / "staging" / "1").rename(tmp_path / "m" / "1")
    eventually(lambda: running.versions() == [1])


def test_base_path_that_was_replaced_by_another_is_watched_again(tmp_path: Path, run: Run) -> None:
    make(tmp_path / "m", "1")
    running = run(3600, monitor("m", tmp_path / "m"))
    eventually(lambda: running.versions() == [1])
    (tmp_path / "m").rename(tmp_path / "old")
    eventually(lambda: running.looks[-1].error is not None)
    make(tmp_path / "m", "2")
    running.source.look_again({"m"})
    eventually(lambda: running.versions() == [2])
    make(tmp_path / "m", "3")
    eventually(lambda: running.versions() == [3])


def test_two_servables_may_share_a_base_path(tmp_path: Path, run: Run) -> None:
    make(tmp_path, "1")
    running = run(3600, monitor("a", tmp_path), monitor("b", tmp_path, AllVersions()))
    eventually(lambda: running.versions("a") == running.versions("b") == [1])
    make(tmp_path, "2")
    eventually(lambda: running.versions("a") == [2])
    eventually(lambda: running.versions("b") == [2, 1])


def test_without_inotify_changes_are_polled(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_inotify() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(inotify_simple, "INotify", no_inotify)
    make(tmp_path, "1")
    running = run(0.01)
    make(tmp_path, "2")
    eventually(lambda: running.versions() == [2])
    assert "No notification of changes" in caplog.text


# -- another configuration


def test_update_looks_at_what_is_new_at_once(tmp_path: Path, run: Run) -> None:
    make(tmp_path / "m", "1")
    make(tmp_path / "n", "5")
    running = run(3600, monitor("m", tmp_path / "m"))
    eventually(lambda: running.versions() == [1])
    running.source.update([monitor("m", tmp_path / "m"), monitor("n", tmp_path / "n")])
    eventually(lambda: running.versions("n") == [5])


def test_update_unloads_what_is_left_out(tmp_path: Path, run: Run) -> None:
    make(tmp_path, "1")
    running = run(3600)
    eventually(lambda: running.versions() == [1])
    running.source.update([])
    assert running.versions() == []


def test_update_with_another_policy_is_followed_at_once(tmp_path: Path, run: Run) -> None:
    make(tmp_path, "1", "2", "3")
    inspector = MarkerInspector()
    running = run(3600, monitor("m", tmp_path, inspector=inspector))
    eventually(lambda: running.versions() == [3])
    specific = SpecificVersions(frozenset({1, 3}))
    running.source.update([monitor("m", tmp_path, specific, inspector=inspector)])
    eventually(lambda: running.versions() == [3, 1])
    assert inspector.asked == ["3", "1"]  # what is known of the same base path is not asked again


def test_update_to_a_missing_base_path_keeps_the_versions(
    tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "m", "1")
    running = run(3600, monitor("m", tmp_path / "m"))
    eventually(lambda: running.versions() == [1])
    running.source.update([monitor("m", tmp_path / "none")])
    eventually(lambda: running.looks[-1].error is not None)
    assert running.versions() == [1]
    assert "What is loaded of it stays." in caplog.text


def test_update_to_another_base_path_tells_other_paths(tmp_path: Path, run: Run) -> None:
    make(tmp_path / "m", "1")
    make(tmp_path / "n", "1")
    running = run(3600, monitor("m", tmp_path / "m"))
    eventually(lambda: running.versions() == [1])
    running.source.update([monitor("m", tmp_path / "n")])
    eventually(lambda: running.heard["m"][0].data.path == str(tmp_path / "n" / "1"))


def test_look_that_hangs_holds_up_no_other_servable(tmp_path: Path, run: Run) -> None:
    gate = threading.Event()

    class Hangs(MarkerInspector):
        def is_complete(self, path: str, *, is_settled: bool = False) -> bool:
            gate.wait()
            return True

    for name in ("stuck", "also-stuck", "good"):
        make(tmp_path / name, "1")
    hangs = Hangs()
    running = run(
        1,
        monitor("stuck", tmp_path / "stuck", inspector=hangs),
        monitor("also-stuck", tmp_path / "also-stuck", inspector=hangs),
        monitor("good", tmp_path / "good"),
    )
    try:
        eventually(lambda: running.versions("good") == [1])
        make(tmp_path / "good", "2")
        eventually(lambda: running.versions("good") == [2])
        # Its configuration changes while a look at the old one hangs, whose end is of no interest.
        make(tmp_path / "other", "7")
        others = [monitor("stuck", tmp_path / "other"), monitor("good", tmp_path / "good")]
        running.source.update(others)
        eventually(lambda: running.versions("stuck") == [7])
    finally:
        gate.set()
    eventually(lambda: not running.source._looking)
    assert running.versions("stuck") == [7]


# -- what is wanted afresh


def test_failed_version_is_wanted_afresh_when_its_files_have_changed(tmp_path: Path) -> None:
    make(tmp_path, "1")
    watch = Watch(tmp_path)
    watch.poll()
    watch.source.note_failed(ServableId("m", 1))
    watch.poll()
    assert len(watch.emitted) == 1
    (tmp_path / "1" / "weights").write_text("repaired")
    watch.poll()
    (first,), (second,) = watch.emitted
    assert first.data.path == second.data.path
    assert first.data != second.data


def test_files_of_a_version_that_is_loaded_may_change(tmp_path: Path) -> None:
    make(tmp_path, "1")
    watch = Watch(tmp_path)
    watch.poll()
    (tmp_path / "1" / "weights").write_text("edited")
    watch.poll()
    assert len(watch.emitted) == 1


def test_version_that_comes_back_with_other_files_is_wanted_afresh(tmp_path: Path) -> None:
    make(tmp_path, "1")
    watch = Watch(tmp_path)
    watch.poll()
    (tmp_path / "1").rename(tmp_path / "old")
    watch.poll()
    make(tmp_path, "1")
    watch.poll()
    assert [version.data.revision for (version,) in watch.emitted] == [0, 1]


def test_version_that_comes_back_as_it_was_is_the_same(tmp_path: Path) -> None:
    make(tmp_path, "1")
    watch = Watch(tmp_path)
    watch.poll()
    (tmp_path / "1").rename(tmp_path / "away")
    watch.poll()
    (tmp_path / "away").rename(tmp_path / "1")
    watch.poll()
    assert len(watch.emitted) == 1


def test_directory_that_took_the_place_of_another_is_wanted_afresh(tmp_path: Path) -> None:
    make(tmp_path, "1")
    make(tmp_path, "new")
    (tmp_path / "new" / "other").touch()
    watch = Watch(tmp_path)
    watch.poll()
    (tmp_path / "1").rename(tmp_path / "old")  # and nobody looks in between
    (tmp_path / "new").rename(tmp_path / "1")
    watch.poll()
    assert [version.data.revision for (version,) in watch.emitted] == [0, 1]


def test_version_that_is_replaced_in_pieces_stays_until_it_is_complete(tmp_path: Path) -> None:
    make(tmp_path, "1", "2")
    watch = Watch(tmp_path)
    watch.poll()
    (tmp_path / "2").rename(tmp_path / "old")
    make(tmp_path, "2", marker="")  # somebody copies the new one
    (tmp_path / "2" / "other").touch()
    watch.poll()
    assert [version.id.version for version in watch.emitted[-1]] == [2]  # and not 1
    (tmp_path / "2" / "complete").touch()
    watch.poll()
    assert [version.data.revision for (version,) in watch.emitted] == [0, 1]


def test_base_path_may_end_with_a_slash(tmp_path: Path) -> None:
    make(tmp_path, "123")
    watch = Watch(tmp_path)
    watch.source.update([dataclasses.replace(monitor("m", tmp_path), base_path=f"{tmp_path}/")])
    watch.poll()
    (tmp_path / "123").rename(tmp_path / "00123")
    watch.poll()
    assert len(watch.emitted) == 1


def test_version_whose_directory_is_renamed_is_the_same(tmp_path: Path) -> None:
    make(tmp_path, "123")
    watch = Watch(tmp_path)
    watch.poll()
    (tmp_path / "123").rename(tmp_path / "00123")
    watch.poll()
    assert len(watch.emitted) == 1
    assert watch.inspector.asked == ["123"]


def test_arrival_counts_for_the_next_look_only(tmp_path: Path) -> None:
    asked: list[bool] = []

    class Asked:
        def is_complete(self, path: str, *, is_settled: bool = False) -> bool:
            asked.append(is_settled)
            return False

    make(tmp_path, "1")
    watched = WatchedServable(monitor("m", tmp_path, inspector=Asked()))
    watched.note_arrived("1")
    watched.look()
    watched.look()
    assert asked == [True, False]


def test_many_broken_versions_are_looked_at_up_to_a_number(tmp_path: Path) -> None:
    make(tmp_path, *map(str, range(100, 130)), marker="broken")
    watch = Watch(tmp_path)
    watch.poll()
    assert len(watch.inspector.asked) == 10


def test_many_missing_versions_are_named_up_to_a_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "1")
    Watch(tmp_path, SpecificVersions(frozenset(range(1000)))).poll()
    assert len(caplog.records) == 10


def test_base_path_that_nobody_has_any_more_is_not_watched(tmp_path: Path, run: Run) -> None:
    make(tmp_path / "m", "1")
    make(tmp_path / "n", "1")
    running = run(3600, monitor("m", tmp_path / "m"), monitor("n", tmp_path / "n"))
    eventually(lambda: running.versions("m") == running.versions("n") == [1])
    running.source.update([monitor("m", tmp_path / "m")])
    assert running.source._notification is not None
    assert list(running.source._notification._watches) == [str(tmp_path / "m")]


def test_version_that_is_written_for_long_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfsrv.sources.watched.LONG_SECONDS", -1.0)
    make(tmp_path, "1", marker="")
    watch = Watch(tmp_path)
    for _ in range(4):
        watch.poll()
    (line,) = lines(caplog)
    assert "version 1 is not loaded yet" in line


# -- storages


def test_file_uri_is_a_local_path(tmp_path: Path) -> None:
    make(tmp_path, "1")
    watch = Watch(Path("/"))
    watch.source.update([monitor("m", tmp_path)])
    watch.source.update(
        [dataclasses.replace(monitor("m", tmp_path), base_path=f"file://{tmp_path}")]
    )
    assert watch.poll() == {1: "1"}


def test_unknown_scheme_is_refused_with_what_is_supported() -> None:
    with pytest.raises(ServingError, match=r"'s3' not implemented .*; supported are local paths"):
        check_scheme("s3://bucket/model")
