"""What /tfsrv/overview tells of models that are made up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import pytest

from tests.known_models import HALF_PLUS_TWO, VECTOR, Batched, Declares, KnownModels, signature_def
from tfsrv import _counters
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import HttpHandler, HttpRequest, HttpResponse
from tfsrv.frontends.openapi import OpenApi
from tfsrv.frontends.overview import BatchedSession, Overview
from tfsrv.frontends.signatures import CLASSIFY, ServedSignatures

BAD = ServingError(Code.NOT_FOUND, "no saved_model.pb in </script><img src=x>")


def overview(
    models: KnownModels, sessions: Iterable[BatchedSession] = (), **options: Any
) -> Overview:
    return Overview(models, ServedSignatures(models.map), lambda: sessions, **options)


def ask(handler: Overview, **asked: object) -> Any:
    query = "&".join(f"{key}={quote(str(value), '')}" for key, value in asked.items())
    response = asyncio.run(handler(HttpRequest("GET", "/tfsrv/overview", query)))
    assert (response.status, response.content_type) == (200, "application/json")
    return json.loads(response.body)


def refused(handler: Overview, **asked: object) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        ask(handler, **asked)
    return caught.value.code, caught.value.message


def listed(models: KnownModels) -> dict[str, tuple[str, bool, list[str]]]:
    found = ask(overview(models))["models"]
    return {each["name"]: (each["state"], each["failed"], each["versions"]) for each in found}


def test_lists_models_by_name_with_what_state_they_are_in() -> None:
    models = KnownModels()
    models.add("partly", {1: Declares(), 2: BAD})
    models.add("good", {1: Declares(), 2: Declares()})
    models.add("missing", error=BAD)
    models.add("coming", is_pending=True)
    models.add("broken", {3: BAD})
    models.add("removed")
    assert listed(models) == {
        "broken": ("FAILED", True, []),
        "coming": ("LOADING", False, []),
        "good": ("AVAILABLE", False, ["2", "1"]),
        "missing": ("FAILED", True, []),
        "partly": ("AVAILABLE", True, ["1"]),
        "removed": ("UNAVAILABLE", False, []),
    }
    assert list(listed(models)) == sorted(listed(models))


def test_lists_what_a_source_brings_while_there_is_anything_to_tell() -> None:
    models = KnownModels()
    models.add("brought", {1: Declares()}, is_configured=False)
    models.add("gone", {}, is_configured=False)
    assert listed(models) == {"brought": ("AVAILABLE", False, ["1"])}
    assert ask(overview(models), model="brought")["platform"] == ""
    assert refused(overview(models), model="gone") == (Code.NOT_FOUND, "There is no model gone")


def test_tells_what_the_server_is_doing() -> None:
    models = KnownModels()
    assert ask(overview(models))["server"]["state"] == "serving"
    models.add("coming", is_pending=True)
    assert ask(overview(models))["server"]["state"] == "loading"
    assert ask(overview(models, is_draining=lambda: True))["server"]["state"] == "draining"


def test_a_list_serves_all_who_ask_while_it_is_fresh() -> None:
    seconds = [100.0]
    models = KnownModels()
    handler = overview(models, clock=lambda: seconds[0])
    first = ask(handler)
    models.add("new", {1: Declares()})
    assert ask(handler) == first
    seconds[0] += 0.6
    later = ask(handler)
    assert [each["name"] for each in later["models"]] == ["new"]
    assert later["seconds"] == 100.6


def test_many_who_ask_at_once_get_one_list() -> None:
    models = KnownModels()
    lists = []

    class Counting(KnownModels):
        def list_models(self) -> Any:
            lists.append(threading.current_thread())
            return models.list_models()

    async def test() -> None:
        handler = overview(Counting())
        await asyncio.gather(*(handler(HttpRequest("GET", "/")) for _ in range(20)))

    asyncio.run(test())
    assert len(lists) == 1
    assert lists != [threading.main_thread()]  # the loop goes on meanwhile


def test_tells_of_versions_their_labels_and_errors() -> None:
    models = KnownModels()
    models.add("m", {2**62: BAD, 5: Declares()}, labels={"stable": 5}, error=BAD)
    told = ask(overview(models), model="m")
    assert told["versions"] == [
        {"version": str(2**62), "state": "END", "code": "NOT_FOUND", "error": BAD.message},
        {"version": "5", "state": "AVAILABLE"},
    ]
    assert (told["labels"], told["error"]) == ({"stable": "5"}, BAD.message)
    assert (told["name"], told["state"], told["platform"]) == ("m", "AVAILABLE", "tensorflow")


def test_counts_requests_by_version_signature_and_method() -> None:
    models = KnownModels()
    models.add("counted", {1: Declares(), 2: Declares()})
    for version, code, micros in ((1, 0, 15), (2, 0, 15), (2, 0, 20), (2, 3, 0), (2, 14, 0)):
        _counters.add_request("counted", version, "s", "Predict", code, micros * 1000, 1000, 2000)
    listed = {each["name"]: each for each in ask(overview(models))["models"]}
    assert (listed["counted"]["requests"], listed["counted"]["errors"]) == (5, 2)
    told = ask(overview(models), model="counted")
    latest, old = told["traffic"]
    assert (latest["version"], latest["signature"], latest["method"]) == ("2", "s", "Predict")
    assert latest["codes"] == {"OK": 2, "INVALID_ARGUMENT": 1, "UNAVAILABLE": 1}
    assert latest["total"] == {"sum_micros": 35, "counts": [[1, 1], [2, 1]]}
    assert latest["run"]["counts"] == [[0, 4]]
    assert old["codes"] == {"OK": 1}
    assert told["bounds_micros"][:3] == pytest.approx([10, 18, 32.4])


def test_counts_requests_by_grpc_and_by_rest() -> None:
    models = KnownModels()
    models.add("both", {1: Declares()})
    _counters.add_request("both", 1, "s", "Predict", 0, 15000, 1000, 2000)
    for code in (0, 3):
        _counters.add_request("both", 1, "s", "Predict", code, 20000, 1000, 2000, rest=True)
    _counters.add_request("both", -1, "", "", 0, 15000, rest=True)  # somebody asked its state
    listed = {each["name"]: each for each in ask(overview(models))["models"]}
    assert (listed["both"]["requests"], listed["both"]["errors"]) == (3, 1)
    by_grpc, by_rest = ask(overview(models), model="both")["traffic"]
    assert (by_grpc["entrypoint"], by_grpc["codes"]) == ("gRPC", {"OK": 1})
    assert (by_rest["entrypoint"], by_rest["codes"]) == ("REST", {"OK": 1, "INVALID_ARGUMENT": 1})


def test_what_was_not_asked_is_not_told() -> None:
    models = KnownModels()
    models.add("idle", {1: Declares()})
    assert ask(overview(models), model="idle")["traffic"] == []


def test_tells_of_batches() -> None:
    models = KnownModels()
    models.add("batched", {7: Declares()})
    models.add("other", {7: Declares()})
    handler = overview(models, [Batched()])
    (batching,) = ask(handler, model="batched")["batching"]
    assert (batching["version"], batching["signature"]) == ("7", "serving_default")
    assert batching["sizes"] == [[1, 1], [4, 2]]
    assert (batching["batches"], batching["rows"]) == (3, 12)
    assert batching["sentence"].startswith("batches of up to 32 rows")
    assert ask(handler, model="other")["batching"] == []


def test_tells_the_signatures_of_a_version_the_default_one_first() -> None:
    models = KnownModels()
    odd = signature_def({"x": ("string", None)}, {"y": ("half", [None, 0, 3])}, "odd/method")
    servable = Declares(a=odd, serving_default=HALF_PLUS_TWO, __saved_model_init_op=odd)
    models.add("m", {1: servable})
    told = ask(overview(models), model="m", version=1)["signatures"]
    assert list(told) == ["serving_default", "a"]
    assert told["a"] == {
        "method": "odd/method",
        "inputs": [{"name": "x", "dtype": "string", "shape": None}],
        "outputs": [{"name": "y", "dtype": "half", "shape": [None, 0, 3]}],
    }


def test_a_model_need_not_say_which_signatures_it_has() -> None:
    models = KnownModels()
    models.add("m", {1: object()})
    assert ask(overview(models), model="m", version=1) == {"signatures": None}


def test_gives_example_requests_for_a_signature() -> None:
    models = KnownModels()
    classify = signature_def({"inputs": ("string", [None])}, {"scores": VECTOR}, CLASSIFY)
    models.add("m", {1: Declares(serving_default=HALF_PLUS_TWO, c=classify)})
    handler = overview(models)
    default = ask(handler, model="m", version=1, signature="serving_default")
    assert {form: json.loads(text) for form, text in default["predict"].items()} == {
        "instances": {"instances": [1.0]},
        "inputs": {"inputs": {"x": [1.0]}},
    }
    assert list(default) == ["predict"]
    assert list(ask(handler, model="m", version=1, signature="c")) == ["predict", "classify"]


def test_refuses_what_there_is_not() -> None:
    models = KnownModels()
    models.add("m", {1: Declares(serving_default=HALF_PLUS_TWO), 2: BAD})
    handler = overview(models)
    assert refused(handler, model="") == (Code.NOT_FOUND, "There is no model ")
    assert refused(handler, model="x")[0] is Code.NOT_FOUND
    for version in ("2", "3", 2**63 - 1):
        assert refused(handler, model="m", version=version)[0] is Code.NOT_FOUND
    for version in ("", "x", "-1", "1e3", "٣", "1" * 5000):
        assert refused(handler, model="m", version=version)[0] is Code.INVALID_ARGUMENT
    assert refused(handler, model="m", version=1, signature="x")[0] is Code.NOT_FOUND


def test_any_name_of_a_model_can_be_asked_for() -> None:
    models = KnownModels()
    for name in ("<img src=x onerror=alert(1)>", "a&b=c", "%41", "ü/☃", "a+b"):
        models.add(name, {1: Declares()})
        assert name in listed(models)
        assert ask(overview(models), model=name)["name"] == name


def test_what_is_no_unicode_is_told_all_the_same() -> None:
    models = KnownModels()
    models.add("\udcff", {1: ServingError(Code.NOT_FOUND, "/models/\udcff")})
    assert listed(models) == {"?": ("FAILED", True, [])}


async def awaited(handler: HttpHandler) -> HttpResponse:
    return await handler(HttpRequest("GET", "/"))


def test_no_part_of_a_long_list_is_made_in_one_breath(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def dumps(value: object, **options: Any) -> str:
        text = real_dumps(value, **options)
        made.append(len(text))
        return text

    real_dumps = json.dumps
    models = KnownModels()
    for number in range(500):
        models.add(f"model_{number}", {1: Declares(serving_default=HALF_PLUS_TWO)})
    handlers: list[HttpHandler] = [overview(models), OpenApi(models, ServedSignatures(models.map))]
    monkeypatch.setattr(json, "dumps", dumps)
    for handler in handlers:
        response = asyncio.run(awaited(handler))
        assert len(response.body) > 30 * max(made)
