"""Versions come and go while clients ask; loads take long, fail, or never end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.functional.conftest import Serve, config_file, serving
from tests.functional.gated_model import GatedModel
from tests.functional.launching import SECONDS, Client, Launched, client, launched, until
from tests.functional.messages import array, floats, predict_request
from tests.functional.sites import (
    AVAILABLE,
    END,
    LOADING,
    UNLOADING,
    Site,
    ask_for,
    break_version,
    errors,
    problems,
    refusal,
    states,
    under_load,
)

INVALID_ARGUMENT, NOT_FOUND, DATA_LOSS = 3, 5, 15


# --- versions that come and go


def test_new_versions_are_served_under_load_without_a_failed_request(
    site: Site, transport: str
) -> None:
    site.add(1)
    with serving({"m": site.base()}, f"--grpc_transport={transport}") as server:
        with client(server.address()) as ask, under_load(server) as load:
            site.add(2)
            until(lambda: states(ask) == {2: AVAILABLE, 1: END})
            site.copy_slowly(3, seconds=2.5)
            until(lambda: states(ask) == {3: AVAILABLE, 2: END, 1: END})
            assert [status.status.error_code for status in ask.model_status("m")] == [0, 0, 0]
        # Two clients may hear the last of the old version after the first of the new one.
        assert set(load.versions) == {1, 2, 3}
        assert load.versions[-1] == 3
        assert load.versions.index(2) < load.versions.index(3)


def test_when_the_latest_version_goes_the_one_before_comes_back(site: Site, transport: str) -> None:
    site.add(1)
    site.add(2)
    with serving({"m": site.base()}, f"--grpc_transport={transport}") as server:
        with client(server.address()) as ask, under_load(server) as load:
            assert states(ask) == {2: AVAILABLE}
            site.remove(2)
            until(lambda: states(ask) == {2: END, 1: AVAILABLE})
        assert set(load.versions) == {1, 2}
        assert load.versions[-1] == 1


def test_a_version_that_vanishes_alone_goes_on_being_served(site: Site, serve: Serve) -> None:
    site.add(1)
    server = serve({"m": site.base()}, errors_are_meant=True)
    with client(server.address()) as ask:
        site.remove(1)
        server.line_with("What is loaded of it stays.")
        assert states(ask) == {1: AVAILABLE}
        assert array(ask.predict(ask_for(2)).outputs["y"]) == [3.0]
        site.add(2)
        until(lambda: states(ask) == {2: AVAILABLE, 1: END})


def test_broken_new_versions_leave_the_good_ones_serving(site: Site, serve: Serve) -> None:
    ways = {"graph": DATA_LOSS, "variables": NOT_FOUND, "nothing": NOT_FOUND}
    for name in ways:
        site.add(1, name)
    server = serve({name: site.base(name) for name in ways}, errors_are_meant=True)
    with client(server.address()) as ask, under_load(server, "variables") as load:
        for name in ways:
            staging = site.staging()
            staging.mkdir()
            break_version(staging, name, site)
            staging.rename(site.base(name) / "7")
        for name, code in ways.items():
            until(lambda name=name: states(ask, name) == {7: END, 1: AVAILABLE})  # type: ignore[misc]
            failed, good = ask.model_status(name)
            assert failed.status.error_code == code
            assert good.status.error_code == 0
            assert refusal(ask, ask_for(1, name, version=7)) == (
                "NOT_FOUND",
                f"Servable not found for request: Specific({name}, 7)",
            )
        time.sleep(1.5)  # the source looks again, and changes nothing
        for name in ways:
            (line,) = [line for line in errors(server) if f"{name} version 7" in line]
            failed, good = ask.model_status(name)
            assert failed.status.error_message in line.replace("\\n", "\n")
            assert good.state == AVAILABLE
    assert set(load.versions) == {1}
    assert len(errors(server)) == 3


def test_a_request_in_flight_ends_on_the_version_that_it_began_with(
    site: Site, serve: Serve
) -> None:
    site.add(1, model="sleeper")
    with client(serve({"m": site.base()}).address()) as ask:
        request = predict_request("m", {"seconds": floats(3)})
        began = ask.predict_future(request)
        future = ask.predict_future(request)  # both workers of one signature
        site.add(2, model="sleeper")
        until(lambda: states(ask) == {2: AVAILABLE, 1: UNLOADING})
        assert not future.done()
        assert refusal(ask, predict_request("m", {}, version=1))[0] == "NOT_FOUND"
        assert began.result().model_spec.version.value == 1
        assert future.result().model_spec.version.value == 1
        until(lambda: states(ask) == {2: AVAILABLE, 1: END})


# --- models that are not there, or not right


def test_bad_models_are_told_once_and_hold_up_nobody(site: Site, serve: Serve) -> None:
    site.add(2, "good")
    site.base("empty").mkdir()
    ways = {"broken_graph": "graph", "no_variables": "variables", "no_graph": "nothing"}
    for name, how in ways.items():
        folder = site.base(name) / "1"
        folder.mkdir(parents=True)
        break_version(folder, how, site)
    site.add(1, "cut_off")
    data = next((site.base("cut_off") / "1" / "variables").glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:-1])

    bad = (*ways, "cut_off")
    absent = ("missing", "empty")
    names = ("good", *absent, *bad)
    server = serve({name: site.base(name) for name in names}, ready=False, errors_are_meant=True)
    with client(server.address()) as ask:
        assert array(ask.predict(ask_for(2, "good")).outputs["y"]) == [4.0]
        for name in bad:
            until(lambda name=name: ask.states(name) == [END])  # type: ignore[misc]
            (status,) = ask.model_status(name)
            assert status.status.error_code
            assert status.status.error_message
        for name in (*absent, *bad):
            # Waits until it is known that there is nothing, and no longer.
            assert refusal(ask, ask_for(1, name)) == (
                "NOT_FOUND",
                f"Servable not found for request: Latest({name})",
            )
        for name in absent:
            assert ask.states(name) == []
        time.sleep(1.5)  # the source looks once more
        assert array(ask.predict(ask_for(2, "good")).outputs["y"]) == [4.0]
        for name in names[1:]:
            assert len([line for line in problems(server) if name in line]) == 1, name

        # A model that comes later is served.
        site.add(1, "missing")
        site.add(3, "empty")
        site.add(2, "broken_graph")
        for name in ("missing", "empty", "broken_graph"):
            until(lambda name=name: AVAILABLE in ask.states(name))  # type: ignore[misc]
            assert array(ask.predict(ask_for(0, name)).outputs["y"]) >= 2


# --- requests that come before their model


@pytest.fixture
def gated(tmp_path: Path) -> GatedModel:
    return GatedModel(tmp_path / "gated")


def test_requests_wait_for_a_model_that_is_loading(
    site: Site, gated: GatedModel, transport: str
) -> None:
    site.add(1, "good")
    paths = {"good": site.base("good"), "gated": gated.path}
    with (
        serving(paths, f"--grpc_transport={transport}", ready=False) as server,
        client(server.address()) as ask,
        client(server.address()) as other,
    ):
        waiting = [ask.predict_future(ask_for(x, "gated")) for x in range(300)]
        until(lambda: ask.states("gated") == [LOADING])
        # Nobody else waits: the other model, and those who ask for what nobody knows.
        assert array(other.predict(ask_for(2, "good")).outputs["y"]) == [3.0]
        assert refusal(other, ask_for(1, "nosuch"))[0] == "NOT_FOUND"
        # A deadline and a cancellation end the wait.
        error = other.predict_future(ask_for(1, "gated"), 0.3).exception()
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        leaving = other.predict_future(ask_for(1, "gated"))
        leaving.cancel()
        assert not any(future.done() for future in waiting)

        gated.open()
        for x, future in enumerate(waiting):
            assert array(future.result().outputs["y"]) == [x]
        assert ask.states("gated") == [AVAILABLE]


def test_requests_that_waited_for_a_load_that_fails_are_refused(
    tmp_path: Path, transport: str
) -> None:
    gated = GatedModel(tmp_path / "gated", fails=True)
    flag = f"--grpc_transport={transport}"
    with (
        serving({"gated": gated.path}, flag, ready=False, errors_are_meant=True) as server,
        client(server.address()) as ask,
    ):
        waiting = [ask.predict_future(ask_for(x, "gated")) for x in range(20)]
        until(lambda: ask.states("gated") == [LOADING])
        gated.open()
        for future in waiting:
            error = future.exception()
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert error.details() == "Servable not found for request: Latest(gated)"
        (status,) = ask.model_status("gated")
        assert (status.state, status.status.error_code) == (END, INVALID_ARGUMENT)
        assert len(errors(server)) == 1


def test_requests_wait_for_a_model_that_is_still_copied(site: Site, transport: str) -> None:
    flag = f"--grpc_transport={transport}"
    site.base().mkdir()
    (site.base() / "1").mkdir()
    with (
        serving({"m": site.base()}, flag, ready=False) as server,
        client(server.address()) as ask,
        ThreadPoolExecutor(1) as thread,
    ):
        copying = thread.submit(site.copy_slowly, 1, seconds=2)
        waiting = [ask.predict_future(ask_for(x)) for x in range(20)]
        for x, future in enumerate(waiting):
            assert array(future.result().outputs["y"]) == [x / 2 + 2]
            assert copying.done()
        copying.result()


class LongWait:
    """A request whose model never finishes loading, while other tests run."""

    def __init__(self, server: Launched, ask: Client) -> None:
        self.server = server
        self.began = time.monotonic()
        self.ended: list[float] = []
        self.future = ask.predict_future(ask_for(1, "gated"), timeout=300)
        self.future.add_done_callback(lambda _: self.ended.append(time.monotonic()))


@pytest.fixture(scope="module", autouse=True)
def long_wait(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongWait]:
    gated = GatedModel(tmp_path_factory.mktemp("stuck") / "gated")
    with (
        launched(gated.path, "--port=0") as server,
        client(server.address()) as ask,
    ):
        yield LongWait(server, ask)


def test_open_ports_when_ready_waits_for_every_model(
    site: Site, gated: GatedModel, transport: str
) -> None:
    site.add(1, "good")
    bad = site.base("bad") / "1"
    bad.mkdir(parents=True)
    break_version(bad, "graph", site)
    paths = {name: site.base(name) for name in ("good", "bad", "missing")}
    flags = ("--port=0", "--bind_address=127.0.0.1", "--open_ports=when_ready")
    with (
        config_file(paths | {"gated": gated.path}) as config,
        launched(config, *flags, f"--grpc_transport={transport}") as server,
    ):
        server.line_with("good version 1 is available")
        server.line_with("bad version 1 failed to load")
        server.line_with("Could not find base path")
        assert not [line for line in server.log if "Serving gRPC at" in line]
        gated.open()
        with client(server.address()) as ask:  # open by now, and everything is decided
            assert ask.states("gated") == [AVAILABLE]
            assert ask.states("bad") == [END]
            assert array(ask.predict(ask_for(1, "gated")).outputs["y"]) == [1]
        assert server.stop() == 0


# --- the end


def test_sigterm_ends_a_server_whose_model_never_finishes_loading(gated: GatedModel) -> None:
    with (
        launched(gated.path, "--port=0", "--shutdown_grace_seconds=0.5") as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states("gated") == [LOADING])
        future = ask.predict_future(ask_for(1, "gated"))
        assert server.stop() == 0
        error = future.exception(SECONDS)
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_after_30_seconds_a_request_waits_no_longer(long_wait: LongWait) -> None:
    """The last of this file: the request was sent before the first."""
    error = long_wait.future.exception(60)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == "Model gated is still loading"
    assert 29.9 < long_wait.ended[0] - long_wait.began < 60
    assert long_wait.server.process.poll() is None
