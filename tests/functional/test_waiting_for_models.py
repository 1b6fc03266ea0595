"""--wait_for_models: a server that does not go on without one of its models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.conftest import config_file, ends_well
from tests.functional.gated_model import GatedModel, NeedsRoom
from tests.functional.launching import client, launched, until
from tests.functional.messages import array
from tests.functional.sites import AVAILABLE, LOADING, Site, ask_for, break_version

WHERE = ("--port=0", "--bind_address=127.0.0.1")


@pytest.mark.parametrize("open_ports", ["at_once", "when_ready"])
def test_ends_with_the_reason_of_each_model_that_did_not_come(site: Site, open_ports: str) -> None:
    site.link(1, "good")
    folder = site.base("broken") / "1"
    folder.mkdir(parents=True)
    break_version(folder, "graph", site)
    site.base("empty").mkdir()
    paths = {name: site.base(name) for name in ("good", "broken", "empty", "missing")}
    flags = ("--wait_for_models=2", f"--open_ports={open_ports}")
    with config_file(paths) as config, launched(config, *WHERE, *flags) as server:
        assert server.wait() == 1
        (line,) = [line for line in server.log if line.startswith("Failed to start server.")]
        line = line.replace(f" ({config.partition('=')[2]}:1)", "")  # where they are configured
        assert line == (
            "Failed to start server. Error: UNKNOWN: 3 model(s) did not become available within"
            " 2 s (--wait_for_models): {"
            "{broken due to error: DATA_LOSS: {name: broken version: 1}:"
            f" Can't parse {folder}/saved_model.pb as binary proto}}, "
            "{empty due to error: NOT_FOUND: No versions of servable empty found under base path"
            f" {site.base('empty')}. Did you forget to name your leaf directory as a number"
            " (eg. '/1/')?}, "
            "{missing due to error: NOT_FOUND: Could not find base path"
            f" {site.base('missing')} for servable missing with error NOT_FOUND:"
            f" No such file or directory: {site.base('missing')}.}}}}"
        )
        is_open = any("Serving gRPC at" in line for line in server.log)
        assert is_open == (open_ports == "at_once")
        assert not [line for line in server.log if "Traceback" in line]


@pytest.mark.parametrize("open_ports", ["at_once", "when_ready"])
def test_ends_when_a_model_is_not_there_in_time(
    site: Site, tmp_path: Path, open_ports: str
) -> None:
    site.link(1, "good")
    late = NeedsRoom(tmp_path / "late")  # is tried again in a minute
    paths = {"good": site.base("good"), "late": late.path}
    flags = ("--wait_for_models=1.5", f"--open_ports={open_ports}")
    with config_file(paths) as config, launched(config, *WHERE, *flags) as server:
        assert server.wait() == 1
        (line,) = [line for line in server.log if line.startswith("Failed to start server.")]
        assert line == (
            "Failed to start server. Error: UNKNOWN: 1 model(s) did not become available within"
            " 1.5 s (--wait_for_models): {{late due to error: DEADLINE_EXCEEDED:"
            " it is not available yet}}"
        )


def test_goes_on_when_all_have_come_and_opens_the_ports_then(site: Site, tmp_path: Path) -> None:
    site.link(1, "good")
    site.link(1, "partly")
    (site.base("partly") / "2").mkdir()  # the version before will do
    gated = GatedModel(tmp_path / "gated")
    paths = {"good": site.base("good"), "partly": site.base("partly"), "gated": gated.path}
    flags = ("--wait_for_models=60", "--open_ports=when_ready")
    with config_file(paths) as config, launched(config, *WHERE, *flags) as server:
        server.line_with("good version 1 is available")
        server.line_with("partly version 1 is available")
        assert not [line for line in server.log if "Serving gRPC at" in line]
        gated.open()
        with client(server.address()) as ask:
            for name in paths:
                assert AVAILABLE in ask.states(name)
            assert array(ask.predict(ask_for(3, "gated")).outputs["y"]) == [3]
        ends_well(server, errors_are_meant=True)


def test_a_model_that_is_lost_later_ends_nothing(site: Site) -> None:
    site.add(1)
    with (
        config_file({"m": site.base()}) as config,
        launched(config, *WHERE, "--wait_for_models=60") as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states("m") == [AVAILABLE])
        site.remove(1)
        server.line_with("What is loaded of it stays.")
        assert array(ask.predict(ask_for(2)).outputs["y"]) == [3.0]
        ends_well(server, errors_are_meant=True)


def test_a_signal_ends_the_wait(tmp_path: Path) -> None:
    gated = GatedModel(tmp_path / "gated")
    flags = ("--wait_for_models=60", "--shutdown_grace_seconds=0")
    with (
        config_file({"gated": gated.path}) as config,
        launched(config, *WHERE, *flags) as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states("gated") == [LOADING])
        gated.open()  # so that nothing but the wait could hold it up
        assert server.stop() == 0
