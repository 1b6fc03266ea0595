"""Tests that fail today: see bugs_functional.md. Each goes to the file that it names."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.functional.conftest import Serve, config_text
from tests.functional.gated_model import GatedModel
from tests.functional.launching import Client, client, launched, until
from tests.functional.managing import (
    RELOAD,
    Management,
    ReloadConfigResponse,
    call_future,
    model,
    refusal_of,
    refused_reload,
    reload,
    reload_future,
    reload_request,
)
from tests.functional.messages import array
from tests.functional.sites import AVAILABLE, LOADING, Site, ask_for, break_version, states

WHERE = ("--port=0", "--bind_address=127.0.0.1")


@pytest.mark.parametrize("more", [(), ("--wait_for_models=60",)])
def test_ports_open_when_the_last_pending_model_is_removed(
    site: Site, tmp_path: Path, more: tuple[str, ...]
) -> None:
    site.link(1)
    gated = GatedModel(tmp_path / "gated")
    file = tmp_path / "models.config"
    file.write_text(config_text({"m": site.base(), "gated": gated.path}))
    flags = ("--open_ports=when_ready", "--model_config_file_poll_wait_seconds=1", *more)
    with launched(f"--model_config_file={file}", *WHERE, *flags) as server:
        server.line_with("m version 1 is available")
        file.write_text(config_text({"m": site.base()}))
        server.line_with("has changed: the models are reloaded")
        with client(server.address()) as ask:  # waits 30 s for the port
            assert ask.states("m") == [AVAILABLE]
        gated.open()
        assert server.stop() == 0


def test_the_same_call_again_waits_too(tmp_path: Path, managed: Client) -> None:
    management = Management(managed)
    gated = GatedModel(tmp_path / "gated")
    calls = []
    for _ in range(2):
        calls.append(management.future("SetModel", config=model("twice", gated.path)))
        until(lambda: managed.states("twice") == [LOADING])
    calls.append(reload_future(managed, model("twice", gated.path)))
    time.sleep(0.5)
    try:
        assert not [call for call in calls if call.done()]
    finally:
        gated.open()
    for call in calls:
        call.result()
    assert managed.states("twice") == [AVAILABLE]


@pytest.mark.parametrize("how", ["broken", "missing"])
def test_new_files_that_do_not_load_are_told_each_time(
    site: Site, managed: Client, how: str
) -> None:
    site.link(1, "kept")
    if how == "broken":
        folder = site.base(how) / "1"
        folder.mkdir(parents=True)
        break_version(folder, "graph", site)
    name = f"kept_{how}"
    reload(managed, model(name, site.base("kept")))
    first = refused_reload(managed, model(name, site.base(how)))
    assert refused_reload(managed, model(name, site.base(how))) == first


def test_a_label_to_nowhere_is_told_each_time(site: Site, managed: Client) -> None:
    site.link(1, "lost")
    config = model("lost", site.base("lost"), labels={"stable": 7})
    first = refused_reload(managed, config)
    assert refused_reload(managed, config) == first


def test_a_label_to_a_version_that_was_just_copied_is_waited_for(
    site: Site, models: Path, managed: Client
) -> None:
    site.link(1, "copied")
    path = site.base("copied")
    reload(managed, model("copied", path, all_versions=True, labels={"stable": 1}))
    shutil.copytree(models / "half_plus_two" / "2", path / "2")
    reload(managed, model("copied", path, all_versions=True, labels={"stable": 2}))
    assert managed.predict(ask_for(1, "copied", label="stable")).model_spec.version.value == 2


def test_a_specific_version_that_was_just_copied_is_waited_for(
    site: Site, models: Path, managed: Client
) -> None:
    site.link(1, "specific")
    path = site.base("specific")
    shutil.copytree(models / "half_plus_two" / "2", path / "2")
    reload(managed, model("specific", path, specific=(1, 2)))
    assert states(managed, "specific") == {1: AVAILABLE, 2: AVAILABLE}


def test_set_model_waits_for_its_model_only(
    site: Site, tmp_path: Path, managed: Client, management: Management
) -> None:
    site.link(1, "mine")
    refused_reload(managed, model("theirs", tmp_path / "theirs"))
    gated = GatedModel(tmp_path / "theirs")
    until(lambda: managed.states("theirs") == [LOADING])
    try:
        future = management.future("SetModel", config=model("mine", site.base("mine")), timeout=5)
        assert future.exception() is None
    finally:
        gated.open()


def test_a_long_list_does_not_keep_a_processor_busy(site: Site, serve: Serve) -> None:
    site.link(1)
    flags = ("--reload_timeout_seconds=1", "--enable_model_management")
    server = serve({"m": site.base()}, *flags, errors_are_meant=True)
    with client(server.address()) as ask:
        many = [model(f"n{i}", "/nonexistent/x") for i in range(20_000)]
        future = reload_future(ask, model("m", site.base()), *many, timeout=25)
        assert "model(s) did not become available" in refusal_of(future)[1]
        until(lambda: not any(listed.pending for listed in Management(ask).models().values()))
        assert server.cpu_seconds() < 30


def test_many_metric_names_stop_nobody(site: Site, serve: Serve) -> None:
    site.link(1)
    server = serve({"m": site.base()})
    request = reload_request(model("m", site.base())).SerializeToString()
    request += b"\x12\x00" * (8 * 2**20 - len(request))
    longest = 0.0
    stop = threading.Event()

    def keep_asking() -> None:
        nonlocal longest
        with client(server.address()) as ask:
            while not stop.is_set():
                began = time.monotonic()
                ask.predict(ask_for(1))
                longest = max(longest, time.monotonic() - began)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    with client(server.address()) as ask:
        call_future(ask, RELOAD, request, ReloadConfigResponse).exception()
    stop.set()
    thread.join()
    assert longest < 1  # 4 to 6 s today


def test_a_model_whose_load_is_stuck_can_be_sent_elsewhere(
    site: Site, tmp_path: Path, managed: Client
) -> None:
    site.link(1, "good")
    gated = GatedModel(tmp_path / "gated")
    stuck = reload_future(managed, model("unstuck", gated.path))
    until(lambda: managed.states("unstuck") == [LOADING])
    try:
        elsewhere = reload_future(managed, model("unstuck", site.base("good")), timeout=5)
        assert elsewhere.exception() is None
        assert array(managed.predict(ask_for(2, "unstuck")).outputs["y"]) == [3.0]
    finally:
        gated.open()
        stuck.exception()


def test_an_unknown_scheme_is_told_with_model_file_and_line(
    tmp_path: Path, managed: Client
) -> None:
    assert "remote" in refused_reload(managed, model("remote", "s3://b/m"))[1]
    file = tmp_path / "models.config"
    file.write_text("\n" + config_text({"remote": Path("x")}).replace('"x"', '"s3://b/m"'))
    with launched(f"--model_config_file={file}", *WHERE) as server:
        assert server.wait() == 1
        (line,) = server.log
        assert "remote" in line
        assert f"{file}:2" in line


def test_a_missing_base_path_is_told_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("\n" + config_text({"m": tmp_path / "missing"}))
    flags = (*WHERE, "--enable_model_management")
    with launched(f"--model_config_file={file}", *flags) as server, client(server.address()) as ask:
        line = server.line_with("Could not find base path")
        until(lambda: Management(ask).model("m").status.error_code != 0)
        assert f"{file}:2" in line
        assert f"{file}:2" in Management(ask).model("m").status.error_message


def test_a_label_to_nowhere_has_tensorflow_servings_code_and_text(
    site: Site, managed: Client
) -> None:
    site.link(1, "code")
    assert refused_reload(managed, model("code", site.base("code"), labels={"a": 7})) == (
        "FAILED_PRECONDITION",
        "Request to assign label to version 7 of model code,"
        " which is not currently available for inference",
    )


def test_a_base_path_that_is_a_file_is_no_matter_of_inotify(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "file").write_text("x")
    server = serve({"m": tmp_path / "file"}, ready=False, errors_are_meant=True)
    server.line_with("Not a directory")
    server.line_with("Could not find base path")
    assert not [line for line in server.log if "max_user_watches" in line]


def test_a_stuck_load_does_not_delay_the_exit_of_wait_for_models(tmp_path: Path) -> None:
    gated = GatedModel(tmp_path / "gated")
    began = time.monotonic()
    with launched(gated.path, *WHERE, "--wait_for_models=1") as server:
        assert server.wait() == 1
        assert time.monotonic() - began < 5


def test_a_file_that_is_gone_twice_is_told_twice(site: Site, tmp_path: Path) -> None:
    site.link(1)
    file = tmp_path / "models.config"
    text = config_text({"m": site.base()})
    file.write_text(text)
    period = "--model_config_file_poll_wait_seconds=1"
    with launched(f"--model_config_file={file}", *WHERE, period) as server:

        def told() -> int:
            return len([line for line in server.log if "No such file or directory" in line])

        server.address()
        file.unlink()
        until(lambda: told() == 1)
        file.write_text(text)
        time.sleep(2.2)
        file.unlink()
        until(lambda: told() == 2)


def test_a_stuck_load_delays_no_other(site: Site, tmp_path: Path, serve: Serve) -> None:
    site.link(1)
    site.link(1, "n")
    server = serve({"m": site.base()})
    gated = GatedModel(tmp_path / "gated")
    with client(server.address()) as ask:
        stuck = reload_future(ask, model("m", site.base()), model("gated", gated.path))
        until(lambda: ask.states("gated") == [LOADING])
        began = time.monotonic()
        more = (model("gated", gated.path), model("n", site.base("n")))
        second = reload_future(ask, model("m", site.base()), *more)
        until(lambda: ask.states("n") == [AVAILABLE])
        took = time.monotonic() - began
        gated.open()
        stuck.result()
        second.result()
        assert took < 3
