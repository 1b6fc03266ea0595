"""The states that versions go through, as GetModelStatus tells them to those who watch.

The sequences are those of TensorFlow Serving's core/basic_manager.cc.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.functional.conftest import Serve
from tests.functional.gated_model import GatedModel, GatedRuns, NeedsRoom
from tests.functional.launching import Client, Launched, client, until
from tests.functional.managing import Management, model, refusal_of
from tests.functional.messages import array, predict_request, scalar
from tests.functional.sites import (
    AVAILABLE,
    END,
    LOADING,
    START,
    UNLOADING,
    Site,
    ask_for,
    break_version,
    refusal,
    states,
)
from tfsrv.servables.file_resources import estimate_from_files

OK, CANCELLED, NOT_FOUND, RESOURCE_EXHAUSTED, DATA_LOSS = 0, 1, 5, 8, 15

MANAGED = ("--enable_model_management", "--num_load_threads=4")

Seen = list[tuple[int, int]]  # states with the codes of their errors, in their order


class Watch:
    """Asks for a model's status again and again, and notes what changes."""

    def __init__(self, server: Launched, name: str, version: int) -> None:
        self.seen: Seen = []
        self._arguments = (server.address(), name, version)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        address, name, version = self._arguments
        with client(address) as ask:
            while not self._stop.wait(0.002):
                if not ask.states(name):
                    continue
                for status in ask.model_status(name):
                    now = (status.state, status.status.error_code)
                    if status.version == version and self.seen[-1:] != [now]:
                        self.seen.append(now)

    def until(self, state: int, code: int = OK) -> None:
        until(lambda: self.seen[-1:] == [(state, code)])

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def watching(server: Launched, name: str, version: int = 1) -> Iterator[Watch]:
    watch = Watch(server, name, version)
    try:
        yield watch
    finally:
        watch.end()


def in_order(seen: Seen, expected: Seen) -> bool:
    """Whether nothing was seen but what is expected, in that order.

    A state may be too short for anybody to see it.
    """
    left = iter(expected)
    return all(each in left for each in seen)


# --- the sequences


def test_a_good_version(tmp_path: Path, serve: Serve) -> None:
    first, gated = GatedModel(tmp_path / "first"), GatedModel(tmp_path / "gated")
    server = serve({}, "--enable_model_management", "--num_load_threads=1")
    with client(server.address()) as ask, watching(server, "gated") as watch:
        management = Management(ask)
        waiting = [management.future("SetModel", config=model("first", first.path))]
        until(lambda: ask.states("first") == [LOADING])
        waiting.append(management.future("SetModel", config=model("gated", gated.path)))
        watch.until(START)  # the only thread is taken
        first.open()
        watch.until(LOADING)
        gated.open()
        watch.until(AVAILABLE)
        for future in waiting:
            future.result()
        management.remove("gated")
        watch.until(END)
        assert watch.seen[:3] == [(START, OK), (LOADING, OK), (AVAILABLE, OK)]
        assert in_order(watch.seen[3:], [(UNLOADING, OK), (END, OK)])


def test_a_version_that_is_held_by_a_request_is_unloading(tmp_path: Path, serve: Serve) -> None:
    runs = GatedRuns(tmp_path / "held")
    gate = runs.gate()
    server = serve({"held": runs.path}, "--enable_model_management")
    with client(server.address()) as ask, watching(server, "held") as watch:
        watch.until(AVAILABLE)
        future = ask.predict_future(gated_run("held", gate.path))
        ask.predict(predict_request("held", {"x": array(ask_for(1).inputs["x"])}, signature="fast"))
        Management(ask).remove("held")
        watch.until(UNLOADING)
        gate.open()
        future.result()
        watch.until(END)
        assert watch.seen[-3:] == [(AVAILABLE, OK), (UNLOADING, OK), (END, OK)]


def gated_run(name: str, path: Path) -> Any:
    return predict_request(name, {"path": scalar(str(path).encode())})


def test_a_version_that_does_not_load(
    site: Site, managed_server: Launched, management: Management
) -> None:
    folder = site.base() / "1"
    folder.mkdir(parents=True)
    break_version(folder, "graph", site)
    with watching(managed_server, "broken") as watch:
        future = management.future("SetModel", config=model("broken", site.base()))
        assert refusal_of(future)[0] == "DATA_LOSS"
        watch.until(END, DATA_LOSS)
        assert in_order(watch.seen, [(START, OK), (LOADING, OK), (END, DATA_LOSS)])


def test_retries_cannot_be_seen(tmp_path: Path, serve: Serve) -> None:
    needs_room = NeedsRoom(tmp_path / "m")
    flags = ("--max_num_load_retries=2", "--load_retry_interval_micros=50000")
    server = serve({}, *MANAGED, *flags, errors_are_meant=True)
    with client(server.address()) as ask, watching(server, "m") as watch:
        future = Management(ask).future("SetModel", config=model("m", needs_room.path))
        assert refusal_of(future)[0] == "RESOURCE_EXHAUSTED"
        watch.until(END, RESOURCE_EXHAUSTED)
        assert in_order(watch.seen, [(START, OK), (LOADING, OK), (END, RESOURCE_EXHAUSTED)])
        assert (LOADING, OK) in watch.seen
        (status,) = ask.model_status("m")
        assert "No space left on device" in status.status.error_message
    retries = [line for line in server.log if "m version 1 failed to load, retry" in line]
    assert [line.partition("retry ")[2].partition(" in ")[0] for line in retries] == [
        "1 of 2",
        "2 of 2",
    ]


def test_a_load_that_fails_once_is_tried_again_and_serves(tmp_path: Path, serve: Serve) -> None:
    needs_room = NeedsRoom(tmp_path / "m")
    flags = ("--max_num_load_retries=1000", "--load_retry_interval_micros=-1")
    server = serve({}, *MANAGED, *flags)
    with client(server.address()) as ask, watching(server, "m") as watch:
        setting = Management(ask).future("SetModel", config=model("m", needs_room.path))
        server.line_with("m version 1 failed to load, retry 1 of 1000")
        request = ask.predict_future(ask_for(3))
        needs_room.make_room()
        setting.result()
        assert array(request.result().outputs["y"]) == [3]  # it has waited
        watch.until(AVAILABLE)
        assert in_order(watch.seen, [(START, OK), (LOADING, OK), (AVAILABLE, OK)])


def test_removing_a_model_ends_the_wait_for_its_next_try(
    tmp_path: Path, managed_server: Launched, management: Management
) -> None:
    needs_room = NeedsRoom(tmp_path / "m")
    config = model("retried", needs_room.path)
    with watching(managed_server, "retried") as watch:
        setting = management.future("SetModel", config=config)
        managed_server.line_with("retry 1 of 5 in 60 s: RESOURCE_EXHAUSTED")
        management.remove("retried")
        assert refusal_of(setting)[0] == "CANCELLED"
        watch.until(END, CANCELLED)
        # Back again, it is loaded at once.
        needs_room.make_room()
        management.set(config)
        watch.until(AVAILABLE)


def test_the_server_stops_at_once_while_a_try_is_due_in_a_minute(
    tmp_path: Path, serve: Serve
) -> None:
    needs_room = NeedsRoom(tmp_path / "m")
    server = serve({"m": needs_room.path}, ready=False)
    server.line_with("retry 1 of 5 in 60 s: RESOURCE_EXHAUSTED")


def test_a_version_whose_load_is_given_up(
    tmp_path: Path, managed_server: Launched, managed: Client, management: Management
) -> None:
    gated = GatedModel(tmp_path / "gated")
    with watching(managed_server, "gated") as watch:
        setting = management.future("SetModel", config=model("gated", gated.path))
        watch.until(LOADING)
        management.remove("gated")
        assert refusal_of(setting)[0] == "CANCELLED"
        gated.open()
        watch.until(END, CANCELLED)
        assert in_order(watch.seen, [(START, OK), (LOADING, OK), (END, CANCELLED)])
        (status,) = managed.model_status("gated")
        assert status.status.error_message == "Loading of servable cancelled"


def test_a_version_that_the_adapter_has_no_loader_for(
    site: Site, managed_server: Launched, management: Management
) -> None:
    (site.base() / "1").mkdir(parents=True)
    with watching(managed_server, "no_graph") as watch:
        future = management.future("SetModel", config=model("no_graph", site.base()))
        assert refusal_of(future)[0] == "NOT_FOUND"
        watch.until(END, NOT_FOUND)
        assert watch.seen == [(END, NOT_FOUND)]


# --- room in memory


def test_a_version_that_does_not_fit_ends_at_once_and_is_loaded_when_there_is_room(
    site: Site, serve: Serve
) -> None:
    site.link(1, "small")
    site.add(1, "big")
    with (site.base("big") / "1" / "padding").open("wb") as file:
        file.truncate(100 * 2**20)
    limit = estimate_from_files(str(site.base("big") / "1"))  # just big, and nothing else
    flags = (*MANAGED, f"--total_model_memory_limit_bytes={limit}")
    server = serve({"small": site.base("small")}, *flags, errors_are_meant=True)
    with client(server.address()) as ask, watching(server, "big") as watch:
        management = Management(ask)
        assert refusal_of(management.future("SetModel", config=model("big", site.base("big")))) == (
            "RESOURCE_EXHAUSTED",
            "Model big: {name: big version: 1}:"
            " Insufficient resources to load servable {name: big version: 1}",
        )
        watch.until(END, RESOURCE_EXHAUSTED)
        assert in_order(watch.seen, [(START, OK), (END, RESOURCE_EXHAUSTED)])
        assert array(ask.predict(ask_for(2, "small")).outputs["y"]) == [3.0]
        management.remove("small")
        watch.until(AVAILABLE)
        assert array(ask.predict(ask_for(2, "big")).outputs["y"]) == [3.0]
        assert (END, OK) not in watch.seen


def test_a_new_version_that_does_not_fit_leaves_the_old_one_serving(
    site: Site, serve: Serve
) -> None:
    site.link(1)
    server = serve(
        {"m": site.base()}, "--total_model_memory_limit_bytes=40000000", errors_are_meant=True
    )
    with client(server.address()) as ask:
        staging = site.staging()
        shutil.copytree(site.base() / "1", staging)
        with (staging / "padding").open("wb") as file:
            file.truncate(100 * 2**20)
        staging.rename(site.base() / "2")
        until(lambda: states(ask) == {2: END, 1: AVAILABLE})
        assert ask.model_status("m")[0].status.error_code == RESOURCE_EXHAUSTED
        assert array(ask.predict(ask_for(2)).outputs["y"]) == [3.0]
        site.link(3)
        until(lambda: states(ask) == {3: AVAILABLE, 2: END, 1: END})


def test_resource_preserving_unloads_first(tmp_path: Path, serve: Serve) -> None:
    runs = GatedRuns(tmp_path / "m")
    gate = runs.gate()
    policy = "--aspired_version_policy=resource_preserving"
    server = serve({"m": runs.path}, policy)
    with (
        client(server.address()) as ask,
        watching(server, "m", 1) as old,
        watching(server, "m", 2) as new,
    ):
        future = ask.predict_future(gated_run("m", gate.path))
        fast = predict_request("m", {"x": array(ask_for(1).inputs["x"])}, signature="fast")
        ask.predict(fast)
        staging = tmp_path / "staging"
        shutil.copytree(runs.path / "1", staging)
        staging.rename(runs.path / "2")
        old.until(UNLOADING)
        new.until(START)
        assert refusal(ask, fast)[0] == "NOT_FOUND"  # no version serves in between
        assert new.seen == [(START, OK)]
        gate.open()
        assert future.result().model_spec.version.value == 1
        new.until(AVAILABLE)
        old.until(END)
        assert ask.predict(fast).model_spec.version.value == 2
        assert in_order(new.seen, [(START, OK), (LOADING, OK), (AVAILABLE, OK)])


def test_resource_preserving_unloads_first_when_the_base_path_changes_too(
    site: Site, serve: Serve
) -> None:
    site.link(1)
    site.link(1, "elsewhere", files=2)
    policy = "--aspired_version_policy=resource_preserving"
    server = serve({"m": site.base()}, *MANAGED, policy)
    with client(server.address()) as ask, watching(server, "m") as watch:
        watch.until(AVAILABLE)
        Management(ask).set(model("m", site.base("elsewhere")))
        assert array(ask.predict(ask_for(2)).outputs["y"]) == [4.0]
        watch.until(AVAILABLE)
        assert in_order(
            watch.seen,
            [
                (AVAILABLE, OK),
                (UNLOADING, OK),
                (END, OK),
                (START, OK),
                (LOADING, OK),
                (AVAILABLE, OK),
            ],
        )


# --- second chances


def test_a_version_that_failed_is_tried_again_when_its_files_are_repaired(
    site: Site, serve: Serve
) -> None:
    for name in ("graph", "variables"):
        site.add(1, name)
        break_in_place(site.base(name) / "1", name)
    names = ("graph", "variables")
    paths = {name: site.base(name) for name in names}
    server = serve(paths, ready=False, errors_are_meant=True)
    with client(server.address()) as ask:
        for name in names:
            until(lambda name=name: states(ask, name) == {1: END} if ask.states(name) else False)  # type: ignore[misc]
        site.add(1, "whole")
        for name in names:
            repair(site.base("whole") / "1", site.base(name) / "1")
        for name in names:
            until(lambda name=name: states(ask, name) == {1: AVAILABLE})  # type: ignore[misc]
            (status,) = ask.model_status(name)
            assert status.status.error_code == OK
            assert array(ask.predict(ask_for(2, name)).outputs["y"]) == [3.0]


def break_in_place(folder: Path, how: str) -> None:
    if how == "graph":
        (folder / "saved_model.pb").write_bytes(b"\xff this is no graph")
    else:
        for file in (folder / "variables").iterdir():
            file.unlink()


def repair(whole: Path, broken: Path) -> None:
    for file in whole.rglob("*"):
        if file.is_file():
            target = broken / file.relative_to(whole)
            staging = target.with_name("staging")
            shutil.copy(file, staging)
            os.replace(staging, target)
