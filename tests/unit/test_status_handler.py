"""GetModelStatus, answered from a monitor that was told what to say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tfsrv._proto import message_class, parse_text
from tfsrv.core.servable import ManagerState, ServableId, ServableState
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.status import GetModelStatus

GOOD = ServableState(ServableId("m", 5), ManagerState.AVAILABLE)
BAD = ServableState(
    ServableId("m", 3), ManagerState.END, ServingError(Code.NOT_FOUND, "no saved_model.pb")
)


class FakeMonitor:
    def state(self, id: ServableId) -> ServableState | None:
        return {GOOD.id: GOOD, BAD.id: BAD}.get(id)

    def versions(self, name: str) -> dict[int, ServableState]:
        return {5: GOOD, 3: BAD} if name == "m" else {}


def version_labels(name: str) -> dict[str, int]:
    return {"stable": 5, "broken": 3, "early": 9} if name == "m" else {}


def handler(monitor: FakeMonitor | None = None) -> GetModelStatus:
    return GetModelStatus(monitor or FakeMonitor(), version_labels)


def ask(text: str) -> Any:
    request = parse_text("tensorflow.serving.GetModelStatusRequest", text, "request")
    response = asyncio.run(handler()(request.SerializeToString()))
    return message_class("tensorflow.serving.GetModelStatusResponse").FromString(response)


def refused(text: str) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        ask(text)
    return caught.value.code, caught.value.message


def test_lists_all_versions_highest_first() -> None:
    assert [(v.version, v.state) for v in ask("model_spec { name: 'm' }").model_version_status] == [
        (5, 30),
        (3, 50),
    ]


def test_says_why_a_version_ended() -> None:
    (status,) = ask("model_spec { name: 'm' version { value: 3 } }").model_version_status
    assert (status.status.error_code, status.status.error_message) == (5, "no saved_model.pb")


def test_a_version_without_error_has_a_status_all_the_same() -> None:
    (status,) = ask("model_spec { name: 'm' version { value: 5 } }").model_version_status
    assert status.HasField("status")
    assert (status.status.error_code, status.status.error_message) == (0, "")


@pytest.mark.parametrize(("label", "version"), [("stable", 5), ("broken", 3)])
def test_tells_of_the_version_that_a_label_stands_for(label: str, version: int) -> None:
    response = ask(f"model_spec {{ name: 'm' version_label: '{label}' }}")
    assert [status.version for status in response.model_version_status] == [version]


@pytest.mark.parametrize("label", ["x", "", "5", "STABLE"])
def test_a_label_that_works_for_no_request_is_refused_as_predict_does(label: str) -> None:
    assert refused(f"model_spec {{ name: 'm' version_label: '{label}' }}") == (
        Code.INVALID_ARGUMENT,
        f"Unrecognized servable version label: {label}",
    )


@pytest.mark.parametrize("name", ["other", ""])
def test_a_label_of_an_unknown_model_changes_nothing(name: str) -> None:
    assert refused(f"model_spec {{ name: '{name}' version_label: 'stable' }}") == (
        Code.NOT_FOUND,
        f"Could not find any versions of model {name}",
    )


def test_a_label_may_point_to_a_version_of_which_nothing_is_known_yet() -> None:
    assert refused("model_spec { name: 'm' version_label: 'early' }") == (
        Code.NOT_FOUND,
        "Could not find version 9 of model m",
    )


def test_refuses_with_tensorflow_servings_codes_and_texts() -> None:
    assert refused("") == (Code.INVALID_ARGUMENT, "Missing ModelSpec")
    assert refused("model_spec { name: 'm' version { value: 9 } }") == (
        Code.NOT_FOUND,
        "Could not find version 9 of model m",
    )
    assert refused("model_spec { name: 'm' version { } }") == (
        Code.NOT_FOUND,
        "Could not find version 0 of model m",
    )
    assert refused("model_spec { name: 'other' }") == (
        Code.NOT_FOUND,
        "Could not find any versions of model other",
    )
    assert refused("model_spec { }") == (
        Code.NOT_FOUND,
        "Could not find any versions of model ",
    )


def test_refuses_bytes_that_are_no_request() -> None:
    with pytest.raises(ServingError) as caught:
        asyncio.run(handler()(b"\xff"))
    assert caught.value.code == Code.INTERNAL


def test_refuses_to_parse_megabytes() -> None:
    with pytest.raises(ServingError) as caught:
        asyncio.run(handler()(b"\x98\x06\x01" * 30_000))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_tells_of_files_whose_names_are_not_unicode() -> None:
    class Monitor(FakeMonitor):
        def versions(self, name: str) -> dict[int, ServableState]:
            error = ServingError(Code.NOT_FOUND, "nothing in /m\udcff")
            return {1: ServableState(ServableId("m", 1), ManagerState.END, error)}

    request = parse_text(
        "tensorflow.serving.GetModelStatusRequest", "model_spec { name: 'm' }", "request"
    )
    response: Any = message_class("tensorflow.serving.GetModelStatusResponse").FromString(
        asyncio.run(handler(Monitor())(request.SerializeToString()))
    )
    (version,) = response.model_version_status
    assert version.status.error_message == "nothing in /m?"
