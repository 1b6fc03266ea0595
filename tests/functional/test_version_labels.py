"""Labels: part of the wanted state, and true as soon as their version is available."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.functional.conftest import Serve, config_text, ends_well, serving
from tests.functional.gated_model import GatedModel
from tests.functional.launching import Client, Launched, client, launched, until
from tests.functional.managing import Management, model, refused_reload, reload, reload_future
from tests.functional.sites import (
    AVAILABLE,
    END,
    LOADING,
    Site,
    ask_for,
    refusal,
    settle,
    states,
    under_load,
)


def answering(ask: Client, name: str, label: str) -> int:
    """The version that a label leads to."""
    response = ask.predict(ask_for(2, name, label=label))
    version: int = response.model_spec.version.value
    assert response.model_spec.version_label == ""  # is not echoed
    return version


def is_unrecognized(ask: Client, name: str, label: str) -> bool:
    text = f"Unrecognized servable version label: {label}"
    return refusal(ask, ask_for(2, name, label=label)) == ("INVALID_ARGUMENT", text)


def nowhere(name: str, version: int) -> tuple[str, str]:
    return (
        "FAILED_PRECONDITION",
        f"Request to assign label to version {version} of model {name},"
        " which is not currently available for inference",
    )


# --- at the start


def test_labels_of_the_file_work_as_soon_as_their_versions(site: Site, tmp_path: Path) -> None:
    for version in (1, 2):
        site.link(version)
    file = tmp_path / "models.config"
    more = (
        "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
        " version_labels { key: 'canary' value: 2 }"
    )
    file.write_text(config_text({"m": site.base()}, m=more))
    with launched(f"--model_config_file={file}", "--port=0", "--bind_address=127.0.0.1") as server:
        with client(server.address()) as ask:
            # The first request does not wait for a label: it may come before its version.
            until(lambda: states_of(ask) == {1: AVAILABLE, 2: AVAILABLE})
            assert answering(ask, "m", "stable") == 1
            assert answering(ask, "m", "canary") == 2
            assert ask.predict(ask_for(2)).model_spec.version.value == 2
        ends_well(server)


def states_of(ask: Client) -> dict[int, int]:
    return states(ask) if ask.states("m") else {}


def test_the_status_of_a_label_is_that_of_its_version(site: Site, transport: str) -> None:
    for version in (1, 2):
        site.link(version)
    more = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
    with (
        serving({"m": site.base()}, f"--grpc_transport={transport}", texts={"m": more}) as server,
        client(server.address()) as ask,
    ):
        until(lambda: states(ask) == {1: AVAILABLE, 2: AVAILABLE})
        (status,) = ask.model_status("m", label="stable")
        assert (status.version, status.state, status.status.error_code) == (1, AVAILABLE, 0)
        with pytest.raises(grpc.RpcError) as caught:
            ask.model_status("m", label="canary")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "Unrecognized servable version label: canary"
        with pytest.raises(grpc.RpcError) as caught:
            ask.model_status("no_such_model", label="canary")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "Could not find any versions of model no_such_model"


# --- labels that move


def test_a_label_flips_under_load_without_a_failed_request(
    site: Site, managed: Client, managed_server: Launched
) -> None:
    for version in (1, 2):
        site.link(version, "flipped")
    configs = [
        model("flipped", site.base("flipped"), all_versions=True, labels={"stable": version})
        for version in (1, 2)
    ]
    reload(managed, configs[0])
    with under_load(managed_server, "flipped", label="stable") as load:
        for i in range(1, 21):
            reload(managed, configs[i % 2])
            assert answering(managed, "flipped", "stable") == 1 + i % 2
        reload(managed, configs[1])
    assert set(load.versions) == {1, 2}
    assert load.versions[-1] == 2


def test_a_label_moves_with_the_version_that_comes_and_the_one_that_goes(
    site: Site, managed: Client, managed_server: Launched
) -> None:
    """The one reload that TensorFlow Serving cannot do: version 1 goes as soon as 2 is there."""
    for version in (1, 2, 3):
        site.link(version, "onwards")
    path = site.base("onwards")
    reload(managed, model("onwards", path, specific=(1,), labels={"stable": 1}))
    with under_load(managed_server, "onwards", label="stable") as load:
        for version in (2, 3, 1, 3):
            labels = {"stable": version}
            reload(managed, model("onwards", path, specific=(version,), labels=labels))
            assert answering(managed, "onwards", "stable") == version
    assert load.versions[-1] == 3


def test_the_old_target_serves_until_the_new_one_is_available(
    site: Site, tmp_path: Path, managed: Client, management: Management
) -> None:
    site.link(1, "waiting")
    gated = GatedModel(tmp_path / "gated")
    (site.base("waiting") / "2").symlink_to(gated.path / "1")
    settle(gated.path)
    path = site.base("waiting")
    reload(managed, model("waiting", path, specific=(1,), labels={"stable": 1}))
    labels = {"stable": 2, "canary": 2}
    moving = reload_future(managed, model("waiting", path, specific=(1, 2), labels=labels))
    until(lambda: states(managed, "waiting") == {2: LOADING, 1: AVAILABLE})
    assert answering(managed, "waiting", "stable") == 1
    assert is_unrecognized(managed, "waiting", "canary")
    assert dict(management.model("waiting").version_labels) == {"stable": 1}
    assert dict(management.model("waiting").config.version_labels) == labels
    assert not moving.done()
    gated.open()
    moving.result()
    assert answering(managed, "waiting", "stable") == 2
    assert answering(managed, "waiting", "canary") == 2
    assert dict(management.model("waiting").version_labels) == labels


def test_labels_may_be_swapped(site: Site, managed: Client) -> None:
    for version in (1, 2):
        site.link(version, "swapped")
    for a, b in ((1, 2), (2, 1), (1, 1)):
        labels = {"a": a, "b": b}
        path = site.base("swapped")
        reload(managed, model("swapped", path, all_versions=True, labels=labels))
        assert (answering(managed, "swapped", "a"), answering(managed, "swapped", "b")) == (a, b)


# --- labels that lead nowhere


def test_a_label_to_nowhere_is_an_error_of_the_reload_and_the_old_target_serves(
    site: Site, managed: Client, management: Management
) -> None:
    for version in (1, 2):
        site.link(version, "nowhere")
    path = site.base("nowhere")
    reload(managed, model("nowhere", path, all_versions=True, labels={"stable": 2}))
    labels = {"stable": 7, "canary": 1}
    config = model("nowhere", path, all_versions=True, labels=labels)
    assert refused_reload(managed, config) == nowhere("nowhere", 7)
    assert answering(managed, "nowhere", "stable") == 2
    assert answering(managed, "nowhere", "canary") == 1  # the others of the list are true
    assert dict(management.model("nowhere").version_labels) == {"stable": 2, "canary": 1}
    # It is still wished for: when version 7 comes, the label moves.
    site.link(7, "nowhere", files=3)
    until(lambda: answering(managed, "nowhere", "stable") == 7)
    assert dict(management.model("nowhere").version_labels) == labels


def test_a_label_to_a_version_that_does_not_load_is_an_error(site: Site, managed: Client) -> None:
    site.link(1, "unlucky")
    (site.base("unlucky") / "2").mkdir()
    (site.base("unlucky") / "2" / "saved_model.pb").write_bytes(b"\xff")
    settle(site.base("unlucky"))
    config = model("unlucky", site.base("unlucky"), all_versions=True, labels={"new": 2})
    assert refused_reload(managed, config) == nowhere("unlucky", 2)
    assert is_unrecognized(managed, "unlucky", "new")
    assert states(managed, "unlucky") == {2: END, 1: AVAILABLE}


def test_a_label_whose_version_has_gone_says_so(site: Site, managed: Client) -> None:
    for version in (1, 2):
        site.link(version, "left")
    path = site.base("left")
    reload(managed, model("left", path, all_versions=True, labels={"old": 1}))
    config = model("left", path, labels={"old": 1})
    assert refused_reload(managed, config) == nowhere("left", 1)
    until(lambda: states(managed, "left") == {2: AVAILABLE, 1: END})
    assert refusal(managed, ask_for(2, "left", label="old")) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(left, 1)",
    )


@pytest.mark.parametrize("label", ["nosuch", "2", "STABLE", "stable ", "\u00e9"])
def test_an_unknown_label_is_told_by_name(site: Site, managed: Client, label: str) -> None:
    name = f"known_{label.strip()}"
    site.link(2, "known")
    reload(managed, model(name, site.base("known"), labels={"stable": 2}))
    assert answering(managed, name, "stable") == 2
    assert is_unrecognized(managed, name, label)
    assert is_unrecognized(managed, "no_such_model", "stable")


def test_labels_that_are_not_listed_any_more_are_unknown_at_once(
    site: Site, managed: Client
) -> None:
    site.link(2, "unlabelled")
    path = site.base("unlabelled")
    reload(managed, model("unlabelled", path, labels={"a": 2, "b": 2}))
    reload(managed, model("unlabelled", path, labels={"b": 2}))
    assert is_unrecognized(managed, "unlabelled", "a")
    assert answering(managed, "unlabelled", "b") == 2
    reload(managed, model("unlabelled", path))
    assert is_unrecognized(managed, "unlabelled", "b")
    assert states(managed, "unlabelled") == {2: AVAILABLE}


def test_labels_go_with_their_model_and_do_not_come_back_without_need(
    site: Site, managed: Client
) -> None:
    site.link(2, "reborn")
    path = site.base("reborn")
    reload(managed, model("reborn", path, labels={"stable": 2}))
    reload(managed)
    assert is_unrecognized(managed, "reborn", "stable")
    reload(managed, model("reborn", path))
    assert is_unrecognized(managed, "reborn", "stable")
    reload(managed, model("reborn", path, labels={"stable": 2}))
    assert answering(managed, "reborn", "stable") == 2


# --- --allow_version_labels_for_unavailable_models


@pytest.fixture
def permissive(site: Site, serve: Serve) -> Any:
    """A server that lets new labels point to what is not available."""
    site.link(1)
    flags = ("--allow_version_labels_for_unavailable_models", "--enable_model_management")
    return serve({"m": site.base()}, *flags, errors_are_meant=True)


def test_new_labels_may_point_to_what_is_not_available_yet(
    site: Site, permissive: Launched
) -> None:
    with client(permissive.address()) as ask:
        path = site.base()
        reload(ask, model("m", path, all_versions=True, labels={"new": 2, "stable": 1}))
        assert refusal(ask, ask_for(2, label="new")) == (
            "NOT_FOUND",
            "Servable not found for request: Specific(m, 2)",
        )
        # One that points somewhere stays there until its new version is available.
        labels = {"new": 2, "stable": 2}
        config = model("m", path, all_versions=True, labels=labels)
        assert refused_reload(ask, config) == nowhere("m", 2)
        assert answering(ask, "m", "stable") == 1
        site.link(2)
        until(lambda: answering(ask, "m", "stable") == 2)
        assert answering(ask, "m", "new") == 2
