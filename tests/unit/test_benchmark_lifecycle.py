"""bench_lifecycle.py judges which version may answer when; here that is judged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import bench_lifecycle
from _client import Answer, model_server_config, predict_response
from _lifecycle import Settings, workload
from _load import H2loadResult, WrongAnswerError
from _report import Finding
from _swaps import failed_requests
from _thousand import memory_of_each
from _versions import History, Model, VersionDirectories

SIZE = 50


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Two versions which add two and three."""
    sources = (tmp_path / "two", tmp_path / "three")
    for source in sources:
        source.mkdir()
        (source / "saved_model.pb").write_text(source.name)
    return Model(sources, (2.0, 3.0))


@pytest.fixture
def history(model: Model) -> History:
    """Version 10 came at 0, version 11 at 100."""
    history = History(model)
    history.place(10, 0.0)
    history.place(11, 100.0)
    return history


def old(sent: float, received: float, y: float = 2.5) -> Answer:
    return Answer(10, 1.0, y, sent, received)


def new(sent: float, received: float, y: float = 3.5) -> Answer:
    return Answer(11, 1.0, y, sent, received)


def test_the_old_version_may_answer_until_the_new_one_does(history: History) -> None:
    assert history.complaint(old(1, 2)) == ""
    assert history.complaint(old(200, 201)) == ""  # the new one is there, and not loaded yet
    assert history.complaint(new(202, 203)) == ""
    assert history.complaint(new(204, 205)) == ""


def test_what_was_sent_before_the_new_version_answered_may_be_the_old_ones(
    history: History,
) -> None:
    assert history.complaint(new(110, 120)) == ""
    assert history.complaint(old(119, 130)) == ""


def test_the_old_version_must_not_answer_after_the_new_one(history: History) -> None:
    assert history.complaint(new(110, 120)) == ""
    assert history.complaint(old(121, 122)) == "version 10 answered after version 11 had"


def test_the_first_of_all_answers_of_a_version_counts(history: History) -> None:
    assert history.complaint(new(110, 130)) == ""
    assert history.complaint(new(110, 120)) == ""  # another client heard of it earlier
    assert history.complaint(old(125, 131)) == "version 10 answered after version 11 had"


def test_a_version_must_not_answer_before_it_is_there(history: History) -> None:
    assert history.complaint(new(98, 99)) == "version 11 answered before it was in place"
    assert history.complaint(Answer(12, 1.0, 2.5, 300, 301)) != ""


@pytest.mark.parametrize("y", [3.5, 2.0, float("nan")])
def test_a_version_must_say_what_is_its_own(history: History, y: float) -> None:
    assert history.complaint(old(1, 2, y)) == f"version 10 answered {y}, not 2.5"


def test_many_swaps_later_the_oldest_versions_are_still_wrong(model: Model) -> None:
    history = History(model)
    for version in range(10, 30):
        history.place(version, version)
        y = model.answer(version, 1.0)
        assert history.complaint(Answer(version, 1.0, y, version + 0.1, version + 0.2)) == ""
    assert history.complaint(old(40, 41)) == "version 10 answered after version 29 had"


def test_versions_are_copies_in_turn_that_come_whole(model: Model, tmp_path: Path) -> None:
    versions = VersionDirectories(model, tmp_path / "m")
    for version in (4, 5, 6):
        versions.write(version)
    assert list(versions.base_path.iterdir()) == []
    for version in (4, 5, 6):
        versions.place(version)
    texts = [(versions.base_path / f"{n}" / "saved_model.pb").read_text() for n in (4, 5, 6)]
    assert texts == ["two", "three", "two"]
    versions.remove(4)
    assert sorted(path.name for path in versions.base_path.iterdir()) == ["5", "6"]


def test_the_history_knows_what_was_placed(model: Model, tmp_path: Path) -> None:
    versions = VersionDirectories(model, tmp_path / "m")
    versions.write(10)
    assert versions.history.complaint(old(0, 1e12)) != ""
    placed = versions.place(10)
    assert versions.history.complaint(old(placed, placed + 1)) == ""


@pytest.mark.parametrize(
    ("succeeded", "logged", "data_bytes", "failed"),
    [
        (10, 10, 10 * SIZE, 0),
        (10, 10, 9 * SIZE, 1),
        (10, 10, 0, 10),
        (10, 10, 10 * SIZE - 1, 1),
        (10, 10, 10 * SIZE + 1, 1),
        (7, 7, 7 * SIZE, 3),
        (10, 9, 10 * SIZE, 1),
    ],
    ids=["all right", "an error", "all errors", "cut off", "longer", "refused", "not logged"],
)
def test_counts_requests_that_failed(
    succeeded: int, logged: int, data_bytes: int, failed: int
) -> None:
    result = H2loadResult(10, succeeded, data_bytes, 1.0, [1] * logged)
    assert failed_requests(result, 10, SIZE) == failed


def test_a_workload_knows_the_answer_of_its_version(model: Model) -> None:
    asked = workload(model, "m", Path("m"), 11)
    assert asked.is_right(predict_response("m", 11, 3.5))
    assert not asked.is_right(predict_response("m", 10, 3.5))
    assert not asked.is_right(predict_response("m", 11, 2.5))


def test_memory_is_shared_out_among_the_models_after_the_first(
    model: Model, tmp_path: Path
) -> None:
    settings = Settings(tmp_path, small=model, large=model, models=11)
    found = memory_of_each(settings, 100_000_000, 105_000_000, 108_000_000)
    assert found == {"loaded": 0.5, "asked once": 0.8}


def test_a_config_lists_names_and_paths() -> None:
    (config,) = model_server_config({"m": Path("/models/m")}).model_config_list.config
    assert (config.name, config.base_path, config.model_platform) == (
        "m",
        "/models/m",
        "tensorflow",
    )


def test_tells_the_first_of_many_wrong_answers() -> None:
    finding = Finding("title", ["header"])
    finding.fail([f"wrong {number}" for number in range(5)])
    assert finding.failures == ["wrong 0", "wrong 1", "wrong 2", "… and 2 more like these"]


# --- the command line


def finding(*failures: str, reached: bool = True) -> Finding:
    found = Finding("title", ["a", "b"], rows=[["row", "1"]], failures=list(failures))
    found.judge("figure", "≤ 2", "1", reached)
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


class Run:
    """Runs the program with measurements that are told what to find."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.measured: list[str] = []
        self.output = ""
        monkeypatch.setattr(bench_lifecycle, "machine", dict)
        monkeypatch.setattr(bench_lifecycle, "machine_line", lambda facts: "the machine")
        monkeypatch.setattr(bench_lifecycle, "settings_of", lambda *_: None)
        monkeypatch.setattr(bench_lifecycle, "require_tools", lambda *_: None)

    def __call__(self, *arguments: str, found: Finding | Exception) -> int:
        def measurement(name: str) -> object:
            def measure(_: object) -> Finding:
                self.measured.append(name)
                if isinstance(found, Exception):
                    raise found
                return found

            return measure

        measurements = {name: measurement(name) for name in bench_lifecycle.MEASUREMENTS}
        self._monkeypatch.setattr(bench_lifecycle, "MEASUREMENTS", measurements)
        self._monkeypatch.setattr(sys, "argv", ["bench_lifecycle.py", *arguments])
        status = bench_lifecycle.main()
        self.output = self._capsys.readouterr().out
        return status


def test_measures_what_is_named_and_says_what_was_wanted(run: Run) -> None:
    assert run("stuck", "rename", found=finding()) == 0
    assert run.measured == ["stuck", "rename"]
    assert run.output.count("### title") == 2
    assert "reached" in run.output


def test_measures_everything_unless_told(run: Run) -> None:
    assert run(found=finding()) == 0
    assert run.measured == ["swaps", "thousand", "memory", "stuck", "rename"]


def test_a_missed_figure_does_not_change_the_exit_status(run: Run) -> None:
    assert run("rename", found=finding(reached=False)) == 0
    assert "MISSED" in run.output


@pytest.mark.parametrize(
    "found", [finding("a wrong answer"), WrongAnswerError("a wrong answer"), OSError("gone")]
)
def test_a_wrong_answer_does(run: Run, found: Finding | Exception) -> None:
    assert run("rename", found=found) == 1
    text = "gone" if isinstance(found, OSError) else "a wrong answer"
    assert f"FAILED rename: {text}" in run.output


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sideways", "'sideways' is none of swaps, thousand"),
        ("--renames=0", "--renames: at least 1"),
        ("--seconds=5000", "no more than 15,383 swaps"),
    ],
)
def test_refuses_what_it_cannot_measure(
    run: Run, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        run(argument, found=finding())
    assert message in capsys.readouterr().err
    assert run.measured == []
