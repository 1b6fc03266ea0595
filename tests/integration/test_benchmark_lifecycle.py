"""The measurements of bench_lifecycle.py on a real server, as short as they can be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import _lifecycle
import _memory
import _rename
import _stuck
import _swaps
import _thousand
from _lifecycle import FIRST_VERSION, Settings, single_model
from _report import Finding
from _swaps import Ticker
from _versions import Model, VersionDirectories
from tests.unit.waiting import eventually

h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load")


@pytest.fixture(autouse=True)
def _no_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lifecycle, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(_thousand, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(_swaps, "CAPACITY_SECONDS", 0.5)


@pytest.fixture
def settings(models: Path, tmp_path: Path) -> Settings:
    sources = tuple(models / "half_plus_two" / version for version in "123")
    model = Model(sources, (2.0, 3.0, 4.0))
    return Settings(
        tmp_path,
        small=model,
        large=model,
        seconds=2.0,
        rounds=1,
        models=3,
        large_swaps=3,
        stuck_seconds=2.0,
        renames=2,
    )


@pytest.fixture
def mistaken(settings: Settings) -> Settings:
    """One of three versions answers otherwise than it should: not the first."""
    model = replace(settings.small, offsets=(2.0, 3.0, 5.0))
    assert model.answer(FIRST_VERSION, 0.0) == 3.0
    return replace(settings, small=model, large=model)


def figures(finding: Finding) -> str:
    return "\n".join(goal[0] for goal in finding.goals)


@h2load
def test_swaps_under_load(settings: Settings) -> None:
    finding = _swaps.measure(settings)
    assert finding.failures == []
    (quiet,), (swapped,) = finding.details["quiet"], finding.details["swapped"]
    assert quiet["failed"] == swapped["failed"] == 0
    assert quiet["swaps"] == []
    assert len(swapped["swaps"]) >= 1
    assert len(quiet["looks"]) > 1
    # h2load keeps to the pace, or falls behind it on a busy machine.
    half = finding.details["capacity"] / 2
    assert quiet["sample"]["requests_per_second"] < 1.2 * half
    assert "p99 with swaps" in figures(finding)


@h2load
def test_swaps_notice_a_version_that_answers_wrongly(mistaken: Settings) -> None:
    finding = _swaps.measure(mistaken)
    assert f"version {FIRST_VERSION + 1} answered 4.5, not 5.5" in finding.failures


def test_many_models_and_more(settings: Settings) -> None:
    finding = _thousand.measure(settings)
    assert finding.failures == []
    assert len(finding.details["added_answer_seconds"]) == _thousand.ADDED
    assert finding.details["loaded_bytes"] > finding.details["one_model_bytes"] / 2
    assert "memory of each model, loaded" in figures(finding)


def test_memory_of_swaps(settings: Settings) -> None:
    finding = _memory.measure(settings)
    assert finding.failures == []
    assert len(finding.details["after_swaps"]) == 3
    assert finding.details["peak"] >= max(finding.details["after_swaps"])
    assert [row[0] for row in finding.rows] == ["0", "1", "2", "3"]


def test_memory_of_swaps_notices_a_version_that_answers_wrongly(mistaken: Settings) -> None:
    assert _memory.measure(mistaken).failures == [
        f"version {FIRST_VERSION + 1} answered 4.5, not 5.5"
    ]


def test_a_stuck_model_beside_a_good_one(settings: Settings) -> None:
    finding = _stuck.measure(settings)
    assert finding.failures == []
    assert finding.details["answers"] > 1
    assert "reload to the good model's new version" in figures(finding)


def test_a_stuck_model_beside_one_that_answers_wrongly(mistaken: Settings) -> None:
    """The reload leads to the version that does."""
    failures = _stuck.measure(mistaken).failures
    assert failures[0] == "good: version 2 answered 4.5"


def test_renames(settings: Settings) -> None:
    finding = _rename.measure(settings)
    assert finding.failures == []
    assert [len(seconds) for seconds in finding.details.values()] == [2, 2]
    assert "files written just before" in figures(finding)


def test_renames_notice_a_version_that_answers_wrongly(mistaken: Settings) -> None:
    failures = _rename.measure(mistaken).failures
    assert f"version {FIRST_VERSION + 1} answered 4.5, not 5.5" in failures


def test_a_ticker_ends_with_the_first_error(settings: Settings) -> None:
    versions = VersionDirectories(settings.small, settings.directory / "m")
    versions.add(FIRST_VERSION)
    steps = []

    def step(_: object) -> None:
        steps.append(1)
        raise OSError("the disk is full")

    with single_model(settings, versions, FIRST_VERSION) as server:
        server.wait_until_ready()
        with Ticker(server, 0.0, step) as ticker:
            eventually(lambda: ticker.error)
    assert ticker.error == "the disk is full"
    assert steps == [1]
