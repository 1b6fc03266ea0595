"""GET below /v1/models: what is told of versions, signatures and models."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rest import LONG, Rest, error_of, run
from tests.unit.test_metadata_handler import Declares, signature_def
from tests.unit.test_server_core import Site
from tests.unit.waiting import eventually
from tfsrv._servable import NativeServable
from tfsrv._serving_map import ServingMap
from tfsrv.config import AllVersions
from tfsrv.errors import Code
from tfsrv.server import SWITCH_INTERVAL_SECONDS

OK = {"error_code": "OK", "error_message": ""}
AVAILABLE = {"version": "1", "state": "AVAILABLE", "status": OK}
SIGNATURE_VALUE = {
    "inputs": {"x": {"name": "x:0", "dtype": "DT_FLOAT"}},
    "outputs": {},
    "method_name": "p",
    "defaults": {},
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    threads_before = set(threading.enumerate())
    site = Site(tmp_path)
    yield site
    site.adapter.gate.set()
    if site.core is not None:
        assert site.core.stop(LONG)
    eventually(lambda: not set(threading.enumerate()) - threads_before)


def serve(site: Site, *names: str, **options: Any) -> None:
    assert site.serve(*names, **options).wait_until_decided(LONG)


def rest(site: Site, serving_map: ServingMap | None = None) -> Rest:
    assert site.core is not None
    return Rest(site.core, serving_map or site.serving_map)


def get(site: Site, target: str, serving_map: ServingMap | None = None) -> tuple[int, Any]:
    """The answer of a server that serves what is there."""

    async def ask() -> tuple[int, Any]:
        return await rest(site, serving_map).get(target)

    return run(ask)


# --- status


def test_the_status_has_all_versions_highest_first(site: Site) -> None:
    site.add("m", 1)
    site.add("m", 2, "fails")
    serve(site, models=(site.model("m", version_policy=AllVersions()),))
    failed = {
        "version": "2",
        "state": "END",
        "status": {"error_code": "NOT_FOUND", "error_message": "broken model"},
    }
    eventually(
        lambda: get(site, "/v1/models/m") == (200, {"model_version_status": [failed, AVAILABLE]})
    )
    assert get(site, "/v1/models/m/versions/1") == (200, {"model_version_status": [AVAILABLE]})


def test_the_status_heeds_a_label(site: Site) -> None:
    site.add("m", 1)
    site.add("m", 2)
    policy = site.model("m", version_labels=(("stable", 1),))
    serve(site, models=(policy,), allow_version_labels_for_unavailable_models=True)
    status, told = get(site, "/v1/models/m/labels/stable")
    assert status == 404  # only the latest version is served
    assert told == {"error": "Could not find version 1 of model m"}
    assert get(site, "/v1/models/m/labels/none") == (
        400,
        {"error": "Unrecognized servable version label: none"},
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nosuch", "Could not find any versions of model nosuch"),
        ("nosuch/labels/x", "Could not find any versions of model nosuch"),
        ("m/versions/9", "Could not find version 9 of model m"),
        ("a%2Fb%3A%C3%A9", "Could not find any versions of model a/b:é"),
    ],
)
def test_what_is_not_there_is_not_found(site: Site, path: str, message: str) -> None:
    site.add("m", 1)
    serve(site, "m")
    assert get(site, f"/v1/models/{path}") == (404, {"error": message})


def test_an_answer_is_compact_unless_it_is_to_be_pretty(site: Site) -> None:
    site.add("m", 1)
    serve(site, "m")

    async def ask() -> tuple[bytes, bytes, bytes]:
        api = rest(site)
        return (
            (await api.ask("GET", "/v1/models/m")).body,
            (await api.ask("GET", "/v1/models/m?pretty")).body,
            (await api.ask("HEAD", "/v1/models/m?pretty&x=%zz")).body,
        )

    compact, pretty, of_head = run(ask)
    assert b" " not in compact
    assert b"\n" not in compact
    assert pretty.startswith(b'{\n "model_version_status": [\n  {\n   "version": "1",\n')
    assert pretty.endswith(b"\n  }\n ]\n}\n")
    assert of_head == pretty


# --- metadata


def published(**servables: object) -> ServingMap:
    serving_map = ServingMap()
    serving_map.publish(
        {name: {7: servable} for name, servable in servables.items()}, {"m": {"stable": 7}}
    )
    return serving_map


def test_the_metadata_has_the_signatures_and_the_version_that_has_them(site: Site) -> None:
    serve(site)
    expected = {
        "model_spec": {"name": "m", "version": "7", "signature_name": ""},
        "metadata": {
            "signature_def": {"signature_def": {"a": SIGNATURE_VALUE, "b": SIGNATURE_VALUE}}
        },
    }
    serving_map = published(m=Declares(b=signature_def(), a=signature_def()))
    for path in ("m", "m/versions/7", "m/labels/stable"):
        for query in ("", "?pretty"):
            target = f"/v1/models/{path}/metadata{query}"
            assert get(site, target, serving_map) == (200, expected)


def test_pretty_metadata_has_tensorflow_servings_layout(site: Site) -> None:
    serve(site)
    serving_map = published(m=Declares(a=signature_def("method_name: 'p'")))

    async def ask() -> bytes:
        return (await rest(site, serving_map).ask("GET", "/v1/models/m/metadata?pretty")).body

    assert run(ask).decode() == (
        '{\n"model_spec":{\n "name": "m",\n "version": "7",\n "signature_name": ""\n}\n,\n'
        '"metadata": {"signature_def": {\n "signature_def": {\n  "a": {\n   "inputs": {},\n'
        '   "outputs": {},\n   "method_name": "p",\n   "defaults": {}\n  }\n }\n}\n}\n}\n'
    )


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("nosuch", 404, "Servable not found for request: Latest(nosuch)"),
        ("m/versions/9", 404, "Servable not found for request: Specific(m, 9)"),
        ("m/labels/x", 400, "Unrecognized servable version label: x"),
        ("silent", 400, "The servable does not say which signatures it has."),
    ],
)
def test_metadata_that_is_not_there(site: Site, path: str, status: int, message: str) -> None:
    serve(site)
    serving_map = published(m=Declares(), silent=object())
    assert get(site, f"/v1/models/{path}/metadata", serving_map) == (status, {"error": message})


def test_metadata_of_a_session_is_made_once_for_each_layout(site: Site) -> None:
    class CountingSession(NativeServable):
        reads = 0

        @property
        def signature_defs(self) -> Any:
            self.reads += 1
            return {"s": signature_def()}

    session = CountingSession()
    serve(site)
    serving_map = published(m=session)

    async def ask() -> list[bytes]:
        api = rest(site, serving_map)
        targets = ["/v1/models/m/metadata", "/v1/models/m/metadata?pretty"] * 5
        answers = await asyncio.gather(*(api.ask("GET", target) for target in targets))
        return [answer.body for answer in answers]

    assert len(set(run(ask))) == 2
    assert session.reads == 2


def test_metadata_waits_for_the_first_version_of_a_model(site: Site) -> None:
    site.add("m", 1, "stuck")
    site.serve("m")

    async def ask() -> tuple[int, str]:
        return error_of(await rest(site).ask("GET", "/v1/models/m/metadata"))

    status, message = run(ask)  # it does not come in time
    assert status == 503
    assert "m" in message


@pytest.mark.parametrize("name", ["%00", "m%00", "m%0A", "%22%5C", "x" * 5000])
def test_odd_names_are_not_found(site: Site, name: str) -> None:
    site.add("m", 1)
    serve(site, "m")
    for path in (name, f"{name}/metadata", f"{name}/versions/1", f"{name}/versions/1/metadata"):
        status, told = get(site, f"/v1/models/{path}")
        assert (status, list(told)) == (404, ["error"])
    assert get(site, f"/v1/models/m/labels/{name}")[0] == 400
    assert get(site, f"/v1/models/m/labels/{name}/metadata")[0] == 400


# --- the list


def test_the_list_has_all_models_by_name(site: Site) -> None:
    for name in ("b", "a"):
        site.add(name, 1)
    site.add("c", 1, "stuck")
    site.serve("b", "a", "c")

    def model(name: str, state: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "platform": "tensorflow",
            "pending": False,
            "version_labels": {},
            "model_version_status": [{"version": "1", "state": state, "status": OK}],
            **more,
        }

    models = [model("a", "AVAILABLE"), model("b", "AVAILABLE"), model("c", "LOADING", pending=True)]
    eventually(lambda: get(site, "/v1/models") == (200, {"models": models}))
    assert get(site, "/V1/Models?pretty") == (200, {"models": models})


def test_the_list_tells_the_labels_that_work_and_no_paths(site: Site) -> None:
    site.add("m", 1)
    serve(site, models=(site.model("m", version_labels=(("stable", 1),)),))
    eventually(lambda: site.core and site.core.version_labels("m"))
    status, told = get(site, "/v1/models")
    assert status == 200
    assert told["models"][0]["version_labels"] == {"stable": "1"}
    assert str(site.folder) not in json.dumps(told)


def test_a_list_without_models_is_empty(site: Site) -> None:
    serve(site)
    assert get(site, "/v1/models") == (200, {"models": []})


def test_a_model_that_is_gone_is_not_listed_but_its_end_is_known(site: Site) -> None:
    site.add("m", 1)
    serve(site, "m")
    assert site.core is not None
    site.core.remove_model("m")
    eventually(lambda: get(site, "/v1/models") == (200, {"models": []}))
    status, told = get(site, "/v1/models/m")
    assert (status, told["model_version_status"][0]["state"]) == (200, "END")


@pytest.fixture
def switches_as_in_the_server() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switches_as_in_the_server")
def test_a_list_of_thousands_does_not_hold_up_the_loop(site: Site) -> None:
    serve(site, *(f"m{i}" for i in range(5000)), poll=-1)

    async def ask() -> tuple[int, int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.001)

        counting = asyncio.ensure_future(count())
        status, told = await rest(site).get("/v1/models")
        counting.cancel()
        assert status == 200
        return len(told["models"]), turns

    listed, turns = run(ask)
    assert listed == 5000
    assert turns >= 3


def test_a_request_is_counted_with_the_model_of_its_path(site: Site) -> None:
    site.add("m", 1)
    serve(site, "m")

    async def ask() -> list[tuple[str, Code]]:
        api = rest(site)
        for target in ("/v1/models/m", "/v1/models/nosuch", "/v1/models", "/v1/x", "/healthz"):
            await api.ask("GET", target)
        return api.counted

    assert run(ask) == [
        ("m", Code.OK),
        ("nosuch", Code.NOT_FOUND),
        ("", Code.OK),
        ("", Code.INVALID_ARGUMENT),
    ]
