"""A config file that is read again: what changes anything, and what is only logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.waiting import eventually
from tfsrv.config import ModelConfig
from tfsrv.errors import Code, ServingError
from tfsrv.model_config_poller import ModelConfigPoller

ONE = 'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" } }'
TWO = ONE.replace('"a"', '"b"')


class Polled:
    """A poller of a file that had `ONE` in it at the start."""

    def __init__(self, folder: Path, period_seconds: float = 3600) -> None:
        self.file = folder / "models.config"
        self.file.write_text(ONE)
        self.applied: list[list[str]] = []
        self.refusal: ServingError | None = None
        self.poller = ModelConfigPoller(str(self.file), ONE.encode(), period_seconds, self._apply)

    def _apply(self, models: tuple[ModelConfig, ...]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.applied.append([model.name for model in models])


@pytest.fixture
def polled(tmp_path: Path) -> Polled:
    return Polled(tmp_path)


def test_same_content_changes_nothing(polled: Polled) -> None:
    polled.file.write_text(ONE)
    polled.poller.poll()
    assert polled.applied == []


def test_other_content_is_applied_once(polled: Polled) -> None:
    polled.file.write_text(TWO)
    polled.poller.poll()
    polled.poller.poll()
    assert polled.applied == [["b"]]


def test_wrong_content_is_logged_once_with_its_place(
    polled: Polled, caplog: pytest.LogCaptureFixture
) -> None:
    polled.file.write_text("model_config_list {\n  nonsense: 1\n}")
    polled.poller.poll()
    polled.poller.poll()
    assert polled.applied == []
    (record,) = caplog.records
    assert "Failed to read ModelServerConfig file: " in record.getMessage()
    assert f"{polled.file}:2:3" in record.getMessage()


def test_goes_on_after_wrong_content(polled: Polled) -> None:
    polled.file.write_text("nonsense")
    polled.poller.poll()
    polled.file.write_text(TWO)
    polled.poller.poll()
    assert polled.applied == [["b"]]


def test_file_that_went_away_and_came_back_as_it_was_changes_nothing(
    polled: Polled, caplog: pytest.LogCaptureFixture
) -> None:
    polled.file.unlink()
    polled.poller.poll()
    polled.poller.poll()
    assert len(caplog.records) == 1
    polled.file.write_text(ONE)
    polled.poller.poll()
    assert polled.applied == []


def test_content_that_says_nothing_of_models_changes_nothing(polled: Polled) -> None:
    polled.file.write_text("# being edited")
    polled.poller.poll()
    assert polled.applied == []


def test_refused_content_is_logged_and_not_tried_again(
    polled: Polled, caplog: pytest.LogCaptureFixture
) -> None:
    polled.refusal = ServingError(Code.INVALID_ARGUMENT, "unsupported platform")
    polled.file.write_text(TWO)
    polled.poller.poll()
    polled.poller.poll()
    assert len(caplog.records) == 1
    assert "unsupported platform" in caplog.text


def test_reads_with_its_period_until_it_is_stopped(tmp_path: Path) -> None:
    polled = Polled(tmp_path, 0.01)
    polled.poller.start()
    polled.file.write_text(TWO)
    eventually(lambda: polled.applied == [["b"]])
    polled.poller.stop()
