"""tfsrv.ModelManagement: models are added, changed, removed and listed one by one."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.addresses import needs_own_address, own_address
from tests.functional.conftest import Serve, ends_well
from tests.functional.gated_model import GatedModel
from tests.functional.launching import Client, Launched, client, launched, until
from tests.functional.managing import (
    CALL,
    FILE,
    FLAGS,
    Management,
    ModelConfig,
    model,
    refusal_of,
    refused_reload,
    reload,
)
from tests.functional.messages import array
from tests.functional.sites import (
    AVAILABLE,
    END,
    LOADING,
    UNLOADING,
    Site,
    ask_for,
    break_version,
    refusal,
    states,
    under_load,
)

METHODS = ("ListModels", "SetModel", "RemoveModel")


def answers(ask: Client, name: str, files: int, **asked: Any) -> bool:
    return bool(array(ask.predict(ask_for(2, name, **asked)).outputs["y"]) == [2.0 + files])


# --- one by one


def test_a_model_is_added_changed_and_removed_and_the_others_stay(
    site: Site, managed: Client, management: Management, managed_server: Launched
) -> None:
    for version in (1, 2):
        site.link(version, "one")
    site.link(1, "steady")
    reload(managed, model("steady", site.base("steady"), labels={"a": 1}))
    with under_load(managed_server, "steady", label="a"):
        added = management.set(model("one", site.base("one")))
        assert answers(managed, "one", 2)
        assert (added.config.name, added.set_by, added.pending) == ("one", CALL, False)
        assert [(v.version, v.state) for v in added.version] == [(2, AVAILABLE)]

        config = model("one", site.base("one"), specific=(1,), labels={"old": 1})
        changed = management.set(config)
        assert changed.config == config
        assert dict(changed.version_labels) == {"old": 1}
        assert answers(managed, "one", 1, label="old")
        assert management.models().keys() == {"one", "steady"}

        management.remove("one")
        assert management.models().keys() == {"steady"}
        until(lambda: states(managed, "one") == {2: END, 1: END})
        assert refusal(managed, ask_for(1, "one"))[0] == "NOT_FOUND"


def test_another_base_path_brings_other_files(site: Site, managed: Client) -> None:
    management = Management(managed)
    site.link(1, "here")
    site.link(1, "there", files=3)
    management.set(model("moves", site.base("here")))
    management.set(model("moves", site.base("there")))
    assert answers(managed, "moves", 3)


def test_the_list_tells_of_paths_versions_labels_and_errors(
    site: Site, managed: Client, management: Management
) -> None:
    for version in (1, 2):
        site.link(version, "full")
    (site.base("full") / "3").mkdir()
    break_version(site.base("full") / "3", "graph", site)
    config = model("full", site.base("full"), all_versions=True, labels={"old": 1})
    management.set(config)
    until(lambda: states(managed, "full") == {3: END, 2: AVAILABLE, 1: AVAILABLE})
    missing = model("absent", site.base("absent"))
    assert refusal_of(management.future("SetModel", config=missing))[0] == "NOT_FOUND"

    listed = management.models()
    assert listed.keys() == {"absent", "full"}
    full, absent = listed["full"], listed["absent"]
    assert full.config == config
    assert [v.version for v in full.version] == [3, 2, 1]
    assert full.version[0].status.error_message.startswith("Can't parse")
    assert [v.status.error_code for v in full.version[1:]] == [0, 0]
    assert dict(full.version_labels) == {"old": 1}
    assert full.status.error_code == 0
    assert not absent.version
    assert absent.status.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert str(site.base("absent")) in absent.status.error_message
    assert (absent.set_by, absent.pending) == (CALL, False)


def test_a_model_is_pending_until_its_first_version_is_there(
    tmp_path: Path, managed: Client, management: Management
) -> None:
    gated = GatedModel(tmp_path / "gated")
    setting = management.future("SetModel", config=model("slow", gated.path))
    until(lambda: managed.states("slow") == [LOADING])
    listed = management.model("slow")
    assert listed.pending
    assert [version.state for version in listed.version] == [LOADING]
    request = managed.predict_future(ask_for(4, "slow"))
    assert not setting.done()
    gated.open()
    assert not setting.result().model.pending
    assert array(request.result().outputs["y"]) == [4]


def test_removing_a_model_that_loads_ends_who_waits_for_it(
    tmp_path: Path, managed: Client, management: Management
) -> None:
    gated = GatedModel(tmp_path / "gated")
    setting = management.future("SetModel", config=model("given_up", gated.path))
    until(lambda: managed.states("given_up") == [LOADING])
    request = managed.predict_future(ask_for(4, "given_up"))
    management.remove("given_up")
    assert refusal_of(setting) == (
        "CANCELLED",
        "Model given_up: it was removed from the configuration",
    )
    assert refusal_of(request)[0] == "NOT_FOUND"
    gated.open()
    until(lambda: managed.states("given_up") == [END])


def test_a_model_may_come_back_while_its_last_request_still_runs(
    site: Site, managed: Client, management: Management, managed_server: Launched
) -> None:
    site.add(1, "back", model="sleeper")
    management.set(model("back", site.base("back")))
    request = ask_for(1, "back")
    request.inputs["seconds"].CopyFrom(request.inputs.pop("x"))
    with client(managed_server.address()) as other:
        running = other.predict_future(request)
        until(lambda: not running.done() and started(other, running))
        management.remove("back")
        until(lambda: states(managed, "back") == {1: UNLOADING})
        management.set(model("back", site.base("back")))
        assert running.done()  # the version comes back when it has gone
        assert running.result().model_spec.version.value == 1
    assert states(managed, "back") == {1: AVAILABLE}


def started(ask: Client, future: Any) -> bool:
    """Whether the server has a request that was sent before on the same connection."""
    ask.states("back")
    return not future.done()


def test_calls_for_different_models_do_not_wait_for_each_other(
    site: Site, tmp_path: Path, managed: Client, management: Management
) -> None:
    site.link(1, "quick")
    gated = GatedModel(tmp_path / "gated")
    setting = management.future("SetModel", config=model("waits", gated.path))
    until(lambda: managed.states("waits") == [LOADING])
    management.set(model("quick", site.base("quick")))
    assert answers(managed, "quick", 1)
    assert not setting.done()
    gated.open()
    setting.result()


def test_many_calls_at_once_lose_none(
    site: Site, managed_server: Launched, management: Management
) -> None:
    site.link(1, "many")

    def work(i: int) -> None:
        with client(managed_server.address()) as ask:
            mine = Management(ask)
            for name in (f"many_{i}_a", f"many_{i}_b", f"many_{i}_c"):
                mine.set(model(name, site.base("many")))
                assert answers(ask, name, 1)
            mine.remove(f"many_{i}_b")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert management.models().keys() == {f"many_{i}_{x}" for i in range(6) for x in "ac"}


# --- what is wrong


@pytest.mark.parametrize(
    ("method", "fields", "code", "text"),
    [
        ("SetModel", {}, "INVALID_ARGUMENT", "The SetModelRequest has no config"),
        (
            "SetModel",
            {"config": ModelConfig(name="a", base_path="m", model_platform="tensorflow")},
            "INVALID_ARGUMENT",
            "Expected model a to have an absolute path or URI; got base_path()=m",
        ),
        (
            "SetModel",
            {"config": ModelConfig(name="a", base_path="/m", model_platform="nosuch")},
            "INVALID_ARGUMENT",
            "Model a requests unsupported platform nosuch",
        ),
        (
            "SetModel",
            {"config": ModelConfig(name="stays", base_path="/m", model_platform="lookup_table")},
            "INVALID_ARGUMENT",
            "Illegal to change a model's platform. For model stays platform was tensorflow"
            " and new platform requested is lookup_table",
        ),
        ("RemoveModel", {"name": "nosuch"}, "NOT_FOUND", "Model nosuch is not configured"),
        ("RemoveModel", {}, "NOT_FOUND", "Model  is not configured"),
    ],
)
def test_a_wrong_call_changes_nothing(
    models: Path,
    management: Management,
    method: str,
    fields: dict[str, Any],
    code: str,
    text: str,
) -> None:
    management.set(model("stays", models / "half_plus_two"))
    before = management.models()
    assert refusal_of(management.future(method, **fields)) == (code, text)
    assert management.models() == before


@pytest.mark.parametrize("method", METHODS)
def test_garbage_is_refused(managed: Client, method: str) -> None:
    def send(request: bytes) -> str:
        call = managed.channel.unary_unary(f"/tfsrv.ModelManagement/{method}")
        return refusal_of(call.future(request, timeout=30))[0]

    assert send(b"\xff\xff") == "INTERNAL"
    assert send(bytes(2 * 2**20)) == "RESOURCE_EXHAUSTED"


# --- where a model came from


@pytest.mark.parametrize("by", ["flags", "file"])
def test_the_list_tells_who_has_set_a_model(site: Site, serve: Serve, by: str) -> None:
    site.link(1)
    site.link(1, "n")
    if by == "file":
        server = serve({"m": site.base()}, "--enable_model_management")
        check_set_by(server, site, FILE)
        return
    flags = ("--model_name=m", f"--model_base_path={site.base()}", "--enable_model_management")
    with launched(*flags, "--port=0", "--bind_address=127.0.0.1") as server:
        check_set_by(server, site, FLAGS)
        ends_well(server)


def check_set_by(server: Launched, site: Site, first: int) -> None:
    with client(server.address()) as ask:
        until(lambda: ask.states("m") == [AVAILABLE])
        management = Management(ask)

        def set_by() -> dict[str, int]:
            return {name: each.set_by for name, each in management.models().items()}

        assert set_by() == {"m": first}
        management.set(model("n", site.base("n")))
        assert set_by() == {"m": first, "n": CALL}
        management.remove("n")
        assert set_by() == {"m": first}
        management.set(model("m", site.base(), latest=2))
        assert set_by() == {"m": CALL}
        reload(ask, model("n", site.base("n")))
        assert set_by() == {"n": CALL}


# --- who may call


def test_it_is_off_by_default(site: Site, serve: Serve, transport: str) -> None:
    site.link(1)
    server = serve({"m": site.base()}, f"--grpc_transport={transport}")
    with client(server.address()) as ask:
        for method in METHODS:
            assert refusal_of(Management(ask).future(method))[0] == "UNIMPLEMENTED"


@needs_own_address
def test_only_this_machine_may_call_whatever_the_port_is_bound_to(
    site: Site, tmp_path: Path, transport: str
) -> None:
    site.link(1)
    path = tmp_path / "socket"
    with socket.socket() as reserved:  # 0 would mean no port; nobody else gets this one now
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("0.0.0.0", 0))
        port = reserved.getsockname()[1]
        flags = (f"--port={port}", "--bind_address=0.0.0.0", f"--grpc_socket_path={path}")
        model_flags = ("--model_name=m", f"--model_base_path={site.base()}")
        more = ("--enable_model_management", f"--grpc_transport={transport}")
        with launched(*model_flags, *flags, *more) as server:
            server.line_with(f"Serving gRPC at 0.0.0.0:{port}")
            server.line_with(f"Serving gRPC at unix:{path}")
            refuses_to_be_managed(f"{own_address()}:{port}", site)
            for address in (f"127.0.0.1:{port}", f"unix:{path}"):
                with client(address) as ask:
                    management = Management(ask)
                    management.set(model("n", site.base()))
                    assert management.models().keys() == {"m", "n"}
                    management.remove("n")
            ends_well(server)


def refuses_to_be_managed(address: str, site: Site) -> None:
    with client(address) as ask:
        assert answers(ask, "m", 1)
        for method in METHODS:
            assert refusal_of(Management(ask).future(method)) == (
                "PERMISSION_DENIED",
                f"{method} is only answered on loopback and unix sockets",
            )
        reload(ask, model("m", site.base()))  # as TensorFlow Serving, unless it is closed


def test_it_answers_though_reloads_are_closed(site: Site, serve: Serve) -> None:
    site.link(1)
    server = serve({}, "--enable_model_management", "--enable_reload_rpc=false")
    with client(server.address()) as ask:
        assert refused_reload(ask)[0] == "PERMISSION_DENIED"
        Management(ask).set(model("m", site.base()))
        assert answers(ask, "m", 1)
