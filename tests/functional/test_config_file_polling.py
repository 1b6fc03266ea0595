"""--model_config_file_poll_wait_seconds: the file is followed while the server runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.functional.conftest import config_text, ends_well
from tests.functional.launching import Client, Launched, client, launched, until
from tests.functional.managing import CALL, FILE, Management, model, reload
from tests.functional.messages import array
from tests.functional.sites import (
    AVAILABLE,
    END,
    Site,
    ask_for,
    errors,
    refusal,
    states,
    under_load,
)


class Polled:
    """A server that reads its file each second."""

    def __init__(self, file: Path, server: Launched, ask: Client) -> None:
        self.file = file
        self.server = server
        self.ask = ask
        self.management = Management(ask)

    def write(self, text: str) -> None:
        """Replace the file as one should, so that nobody reads half of it."""
        staging = self.file.with_suffix(".new")
        staging.write_text(text)
        staging.rename(self.file)


@contextmanager
def polled(file: Path, *flags: str) -> Iterator[Polled]:
    where = ("--port=0", "--bind_address=127.0.0.1", "--enable_model_management")
    period = "--model_config_file_poll_wait_seconds=1"
    with launched(f"--model_config_file={file}", *where, period, *flags) as server:
        with client(server.address()) as ask:
            yield Polled(file, server, ask)
        ends_well(server, errors_are_meant=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc" / "models.config"


def answers(ask: Client, name: str, files: int) -> bool:
    return bool(array(ask.predict(ask_for(2, name)).outputs["y"]) == [2.0 + files])


def is_unknown(ask: Client, name: str) -> bool:
    return refusal(ask, ask_for(1, name))[0] == "NOT_FOUND"


def test_a_change_of_the_file_is_followed_under_load(site: Site, file: Path) -> None:
    for version in (1, 2):
        site.link(version)
        site.link(version, "n")
    file.write_text(config_text({"m": site.base()}))
    with polled(file) as it, under_load(it.server) as load:
        it.write(config_text({"m": site.base(), "n": site.base("n")}))
        it.server.line_with("n version 2 is available")
        assert answers(it.ask, "n", 2)
        specific = "model_version_policy { specific { versions: 1 } }"
        labels = "version_labels { key: 'old' value: 1 }"
        it.write(config_text({"m": site.base()}, m=f"{specific} {labels}"))
        until(lambda: states(it.ask) == {2: END, 1: AVAILABLE})
        until(lambda: states(it.ask, "n") == {2: END})
        assert it.ask.predict(ask_for(2, label="old")).model_spec.version.value == 1
        assert set(load.versions) == {1, 2}
        assert errors(it.server) == []
        lines = [line for line in it.server.log if "has changed: the models are reloaded" in line]
        assert len(lines) == 2
        assert str(file) in lines[0]
        assert it.management.model("m").set_by == FILE


WRONG = {
    "model_config_list {\n  config { nme: 'a' }\n}": (
        "Error parsing text-format tensorflow.serving.ModelServerConfig: {file}:2:12: "
    ),
    "\n\n model_config_list: }": (
        "Error parsing text-format tensorflow.serving.ModelServerConfig: {file}:3:"
    ),
    "model_config_list {\n config { base_path: '/m' model_platform: 'tensorflow' } }": (
        "Expected a model to have a name; got none for base_path()=/m ({file}:2)"
    ),
    "\nmodel_config_list { config { name: 'n' base_path: '/m' model_platform: 'nosuch' } }": (
        "Model n requests unsupported platform nosuch ({file}:2)"
    ),
    "\nmodel_config_list { config { name: 'm' base_path: '/m' model_platform: 'nosuch' } }": (
        "Illegal to change a model's platform. For model m platform was tensorflow"
        " and new platform requested is nosuch ({file}:2)"
    ),
}


def test_wrong_content_is_told_once_with_its_place_and_changes_nothing(
    site: Site, file: Path
) -> None:
    site.link(1)
    site.link(2, "n")
    good = config_text({"m": site.base()})
    file.write_text(good)
    with polled(file) as it:
        until(lambda: it.ask.states("m") == [AVAILABLE])
        before = it.management.models()
        for content, message in WRONG.items():
            it.write(content)
            message = message.format(file=file)
            line = it.server.line_with(message)
            assert " ERROR Failed to read ModelServerConfig file: INVALID_ARGUMENT: " in line
            assert line.endswith(". The models stay as they are.")
            assert it.management.models() == before
        it.write(good)  # is not what was read last: it is taken once more
        it.server.line_with("has changed: the models are reloaded")
        assert answers(it.ask, "m", 1)
        it.write(config_text({"m": site.base(), "n": site.base("n")}))
        it.server.line_with("n version 2 is available")
        assert len(errors(it.server)) == len(WRONG)  # each was told once


def test_what_a_call_has_set_stays_until_the_content_changes(site: Site, file: Path) -> None:
    for name in ("m", "by_call", "n"):
        site.link(1, name)
    text = config_text({"m": site.base()})
    file.write_text(text)
    with polled(file) as it:
        until(lambda: it.ask.states("m") == [AVAILABLE])
        it.management.set(model("by_call", site.base("by_call")))
        assert {name: each.set_by for name, each in it.management.models().items()} == {
            "m": FILE,
            "by_call": CALL,
        }
        it.write(text)  # another file with the same content
        time.sleep(2.2)  # it is read at least once, and changes nothing
        assert answers(it.ask, "by_call", 1)
        reload(it.ask, model("by_call", site.base("by_call")))
        assert {name: each.set_by for name, each in it.management.models().items()} == {
            "by_call": CALL
        }
        it.write(config_text({"m": site.base(), "n": site.base("n")}))
        it.server.line_with("has changed: the models are reloaded")
        until(lambda: is_unknown(it.ask, "by_call"))
        assert {name: each.set_by for name, each in it.management.models().items()} == {
            "m": FILE,
            "n": FILE,
        }
        assert errors(it.server) == []


def test_a_file_that_is_gone_or_no_file_changes_nothing(site: Site, file: Path) -> None:
    site.link(1)
    site.link(2, "n")
    file.write_text(config_text({"m": site.base()}))
    with polled(file) as it:
        until(lambda: it.ask.states("m") == [AVAILABLE])
        before = it.management.models()
        file.unlink()
        prefix = "ERROR Failed to read ModelServerConfig file: "
        assert f"{prefix}NOT_FOUND: {file}; No such file or directory." in (
            it.server.line_with("No such file or directory")
        )
        file.mkdir()
        assert f"{prefix}INVALID_ARGUMENT: {file}; Is a directory." in (
            it.server.line_with("Is a directory")
        )
        file.rmdir()
        os.symlink(file, file)
        assert prefix in it.server.line_with("Too many levels of symbolic links")
        assert it.management.models() == before
        assert answers(it.ask, "m", 1)
        file.unlink()
        file.write_bytes(b"")  # says nothing of models: nothing changes
        time.sleep(1.2)
        it.write(config_text({"n": site.base("n")}))
        it.server.line_with("n version 2 is available")
        until(lambda: states(it.ask) == {1: END})
        assert len(errors(it.server)) == 3


def test_relative_base_paths_start_at_the_folder_of_the_file(site: Site, file: Path) -> None:
    site.link(1, "etc/m")
    site.link(2, "n")
    config = 'config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" }}'
    m, n = config.format("m", "m"), config.format("n", "../n")
    file.write_text(f"model_config_list {{ {m} }}")
    with polled(file) as it:
        until(lambda: it.ask.states("m") == [AVAILABLE])
        it.write(f"model_config_list {{ {m} {n} }}")
        it.server.line_with("n version 2 is available")
        assert it.management.model("m").config.base_path == str(file.with_name("m"))
        assert it.management.model("n").config.base_path == str(file.parent / ".." / "n")


def test_models_of_a_new_list_that_do_not_come_are_told_in_one_line(site: Site, file: Path) -> None:
    site.link(1)
    file.write_text(config_text({"m": site.base()}))
    with polled(file) as it:
        it.write(config_text({"m": site.base(), "missing": site.base("missing")}))
        line = it.server.line_with("model(s) did not become available")
        start = f" ERROR {file}: 1 model(s) did not become available: {{{{missing due to error: "
        assert start in line
        assert answers(it.ask, "m", 1)


def test_without_a_period_the_file_is_read_once(site: Site, file: Path) -> None:
    site.link(1)
    file.write_text(config_text({"m": site.base()}))
    with polled(file, "--model_config_file_poll_wait_seconds=0") as it:
        until(lambda: it.ask.states("m") == [AVAILABLE])
        it.write("nonsense")
        time.sleep(1.2)
        assert errors(it.server) == []
        assert answers(it.ask, "m", 1)
