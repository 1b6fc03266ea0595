"""HandleReloadConfigRequest: the whole list of models is replaced while others ask."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.functional.conftest import Serve
from tests.functional.gated_model import GatedModel, GatedRuns
from tests.functional.launching import Client, Launched, client, until
from tests.functional.managing import (
    CALL,
    FILE,
    RELOAD,
    Management,
    ModelConfig,
    ReloadConfigRequest,
    ReloadConfigResponse,
    call_future,
    model,
    refusal_of,
    refused_reload,
    reload,
    reload_future,
    reload_request,
)
from tests.functional.messages import array, predict_request, scalar
from tests.functional.sites import (
    AVAILABLE,
    END,
    LOADING,
    UNLOADING,
    Site,
    ask_for,
    refusal,
    settle,
    states,
    under_load,
)


@pytest.fixture
def gated(tmp_path: Path) -> GatedModel:
    return GatedModel(tmp_path / "gated")


def answers(ask: Client, name: str, files: int, **asked: Any) -> bool:
    """Whether these files of half_plus_two answer."""
    return bool(array(ask.predict(ask_for(2, name, **asked)).outputs["y"]) == [2.0 + files])


def is_unknown(ask: Client, name: str) -> bool:
    expected = ("NOT_FOUND", f"Servable not found for request: Latest({name})")
    return refusal(ask, ask_for(1, name)) == expected


# --- what a list can change


def test_models_are_added_and_removed_while_another_one_serves(
    site: Site, managed: Client, managed_server: Launched
) -> None:
    for name in ("steady", "coming", "later"):
        site.link(1, name)
    steady, coming, later = (model(n, site.base(n)) for n in ("steady", "coming", "later"))
    reload(managed, steady)
    with under_load(managed_server, "steady"):
        reload(managed, steady, coming)
        assert answers(managed, "coming", 1)  # it is there when the call is answered
        reload(managed, later, steady)
        assert answers(managed, "later", 1)
        until(lambda: states(managed, "coming") == {1: END})
        assert is_unknown(managed, "coming")
        reload(managed, steady)
        reload(managed, coming, steady)  # once more
        assert answers(managed, "coming", 1)


def test_an_empty_list_unloads_everything(site: Site, managed: Client) -> None:
    names = ("all_gone", "gone_too")
    for name in names:
        site.link(1, name)
    reload(managed, *(model(name, site.base(name)) for name in names))
    reload(managed)
    for name in names:
        until(lambda name=name: states(managed, name) == {1: END})  # type: ignore[misc]
        assert is_unknown(managed, name)


def test_another_base_path_with_the_same_numbers_serves_the_new_files_without_a_gap(
    site: Site, managed: Client, managed_server: Launched
) -> None:
    site.link(1, "here")
    site.link(1, "there", files=2)
    reload(managed, model("moved", site.base("here")))
    with under_load(managed_server, "moved", as_numbered=False) as load:
        reload(managed, model("moved", site.base("there")))
        assert answers(managed, "moved", 2)
        assert states(managed, "moved") == {1: AVAILABLE}
    assert set(load.files) == {1, 2}
    assert load.files[-1] == 2
    assert set(load.versions) == {1}


def test_another_base_path_with_other_numbers_loads_the_new_and_then_unloads_the_old(
    site: Site, managed: Client, managed_server: Launched
) -> None:
    site.link(3, "before")
    site.link(2, "after")
    reload(managed, model("renumbered", site.base("before")))
    with under_load(managed_server, "renumbered") as load:
        reload(managed, model("renumbered", site.base("after")))
        assert answers(managed, "renumbered", 2, version=2)
        until(lambda: states(managed, "renumbered") == {2: AVAILABLE, 3: END})
    assert set(load.versions) == {2, 3}


def test_the_old_files_serve_while_the_new_ones_load(
    site: Site, gated: GatedModel, managed: Client
) -> None:
    site.link(1, "slowly")
    reload(managed, model("slowly", site.base("slowly")))
    moving = reload_future(managed, model("slowly", gated.path))
    assert answers(managed, "slowly", 1)
    assert not moving.done()
    gated.open()
    moving.result()
    assert array(managed.predict(ask_for(7, "slowly")).outputs["y"]) == [7]


def test_versions_follow_a_change_of_the_policy(site: Site, managed: Client) -> None:
    for version in (1, 2, 3):
        site.link(version, "policy")
    path = site.base("policy")
    steps: list[tuple[dict[str, Any], set[int]]] = [
        ({}, {3}),
        ({"latest": 2}, {2, 3}),
        ({"all_versions": True}, {1, 2, 3}),
        ({"specific": (1, 3)}, {1, 3}),
        ({"specific": (2,)}, {2}),
        ({"specific": (2, 9)}, {2}),  # 9 is not there yet
        ({"latest": 1}, {3}),
    ]
    for policy, versions in steps:
        reload(managed, model("policy", path, **policy))
        for version in versions:
            assert answers(managed, "policy", version, version=version)
        until(
            lambda versions=versions: (  # type: ignore[misc]
                versions
                == {version for version, state in states(managed, "policy").items() if state != END}
            )
        )


def test_model_type_stands_for_the_platform(site: Site, managed: Client) -> None:
    site.link(1, "old_style")
    path = str(site.base("old_style"))
    reload(managed, ModelConfig(name="old_style", base_path=path, model_type=1))
    reload(managed, model("old_style", path))  # the same platform
    assert answers(managed, "old_style", 1)


def test_requests_in_flight_end_on_the_model_that_is_removed(
    tmp_path: Path, managed: Client
) -> None:
    runs = GatedRuns(tmp_path / "in_flight")
    gate = runs.gate()
    reload(managed, model("in_flight", runs.path))
    future = managed.predict_future(
        predict_request("in_flight", {"path": scalar(str(gate.path).encode())})
    )
    until(lambda: bool(gate.path.exists()) and not future.done())
    # The request is in the server before the model goes: a later one on the same connection is.
    managed.predict(predict_request("in_flight", {"x": array_of(1)}, signature="fast"))
    reload(managed)
    until(lambda: states(managed, "in_flight") == {1: UNLOADING})
    assert is_unknown(managed, "in_flight")
    gate.open()
    assert future.result().model_spec.version.value == 1
    until(lambda: states(managed, "in_flight") == {1: END})


def array_of(value: float) -> Any:
    return array(ask_for(value).inputs["x"]).astype("float32")


LOADS = "/tensorflow/cc/saved_model/load_attempt_count"
NAMES = (
    LOADS,
    ":tensorflow:cc:saved_model:load_attempt_count",
    "/tensorflow/cc/saved_model/load_latency",
    "/tensorflow/serving/request_count",
    "/tensorflow/serving/nosuch",
    LOADS,
)


def increases(ask: Client, *models: Any) -> list[int]:
    """What a reload answers of NAMES, in their order."""
    request = reload_request(*models)
    request.metric_names.extend(NAMES)
    future = call_future(ask, RELOAD, request.SerializeToString(), ReloadConfigResponse)
    metrics = future.result().metric
    assert [metric.name for metric in metrics] == list(NAMES)
    return [metric.int64_value_increase for metric in metrics]


def test_a_reload_tells_by_how_much_counters_grew(site: Site, managed: Client) -> None:
    site.link(1, "counted")
    config = model("counted", site.base("counted"))
    one, same, micros, requests, nosuch, again = increases(managed, config)
    assert (one, same, again, requests, nosuch) == (1, 1, 1, 0, 0)
    assert 0 < micros < 30_000_000
    assert increases(managed, config) == [0, 0, 0, 0, 0, 0]


def test_requests_during_a_reload_are_told(
    site: Site, managed: Client, managed_server: Launched, tmp_path: Path
) -> None:
    site.link(1, "asked")
    asked = model("asked", site.base("asked"))
    reload(managed, asked)
    gated = GatedModel(tmp_path / "gated_meanwhile")
    request = reload_request(asked, model("gated_meanwhile", gated.path))
    request.metric_names.append("/tensorflow/serving/request_count")
    reloading = call_future(managed, RELOAD, request.SerializeToString(), ReloadConfigResponse)
    until(lambda: managed.states("gated_meanwhile") == [LOADING])
    for _ in range(3):
        managed.predict(ask_for(1, "asked"))
    refusal(managed, predict_request("asked", {}, signature="nosuch"))
    gated.open()
    (metric,) = reloading.result().metric
    assert metric.int64_value_increase == 4


# --- lists that are wrong change nothing

MODEL = ModelConfig(name="a", base_path="/m", model_platform="tensorflow")


def changed(**fields: Any) -> Any:
    config = ModelConfig()
    config.CopyFrom(MODEL)
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def with_policy(text_field: str, *versions: int) -> Any:
    config = changed()
    policy = getattr(config.model_version_policy, text_field)
    policy.SetInParent()
    policy.versions.extend(versions)
    return config


def with_labels(label: str, version: int, *specific: int) -> Any:
    config = with_policy("specific", *specific) if specific else changed()
    config.version_labels[label] = version
    return config


def logged() -> Any:
    config = changed()
    config.logging_config.SetInParent()
    return config


WRONG: list[tuple[list[Any], str]] = [
    ([MODEL, MODEL], "Illegal to list model a multiple times in config list"),
    (
        [changed(base_path="relative")],
        "Expected model a to have an absolute path or URI; got base_path()=relative",
    ),
    (
        [changed(base_path="")],
        "Expected model a to have an absolute path or URI; got base_path()=",
    ),
    (
        [changed(model_platform="nosuch")],
        "Model a requests unsupported platform nosuch",
    ),
    (
        [changed(model_platform="")],
        "Illegal setting neither ModelServerConfig::model_type (deprecated) nor"
        " ModelServerConfig::model_platform, model name is a",
    ),
    (
        [changed(model_type=1)],
        "Illegal setting both ModelServerConfig::model_type (deprecated) and"
        " ModelServerConfig::model_platform, model name is a",
    ),
    (
        [changed(name="")],
        "Expected a model to have a name; got none for base_path()=/m",
    ),
    (
        [with_policy("specific")],
        "Model a asks for specific versions and lists none: list them, or leave the model out",
    ),
    (
        [with_policy("specific", -1)],
        "Model a asks for version -1: versions are not negative",
    ),
    (
        [with_labels("stable", 2, 1)],
        "Label stable of model a points to version 2,"
        " which is not among the specific versions of the model",
    ),
    (
        [logged()],
        "No request-logger-creator provided. This server does not log requests:"
        " leave out the logging_config of model a",
    ),
]


@pytest.mark.parametrize(("configs", "text"), WRONG, ids=[text[:40] for _, text in WRONG])
def test_a_wrong_list_is_refused_and_changes_nothing(
    settled: tuple[Client, Any], configs: list[Any], text: str
) -> None:
    ask, before = settled
    assert refused_reload(ask, *configs) == ("INVALID_ARGUMENT", text)
    # Also when the first of the list is right, and all that is there would have to go.
    good = changed(name="good")
    assert refused_reload(ask, good, *configs) == ("INVALID_ARGUMENT", text)
    assert Management(ask).models() == before


@pytest.mark.parametrize("platform", ["lookup_table", "nosuch"])
def test_another_platform_is_refused_and_changes_nothing(
    settled: tuple[Client, Any], platform: str
) -> None:
    ask, before = settled
    there = before["stays"].config
    assert refused_reload(ask, model("stays", there.base_path, platform=platform)) == (
        "INVALID_ARGUMENT",
        "Illegal to change a model's platform. For model stays platform was tensorflow"
        f" and new platform requested is {platform}",
    )
    assert Management(ask).models() == before


@pytest.mark.parametrize("kind", ["none", "custom"])
def test_only_lists_are_taken(settled: tuple[Client, Any], kind: str) -> None:
    ask, before = settled
    request = ReloadConfigRequest()
    if kind == "custom":
        request.config.custom_model_config.type_url = "type.googleapis.com/a.B"
    future = call_future(ask, RELOAD, request.SerializeToString(), ReloadConfigResponse)
    assert refusal_of(future) == (
        "INVALID_ARGUMENT",
        "ServerModelConfig type not supported by HandleReloadConfigRequest."
        " Only ModelConfigList is currently supported",
    )
    assert Management(ask).models() == before


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"\xff\xff\xff", "INTERNAL"),
        (b"\x0a\x7f", "INTERNAL"),  # is cut off
        (reload_request(model("\x7f" * 300, "/m")).SerializeToString()[:-1], "INTERNAL"),
        (b"\0" * 100, "INTERNAL"),
        (bytes(17 * 2**20), "RESOURCE_EXHAUSTED"),
        (random.Random(7).randbytes(1000), "INTERNAL"),
    ],
    ids=["no field", "cut off", "cut at the end", "zeros", "gigantic", "random"],
)
def test_garbage_is_refused_and_changes_nothing(
    settled: tuple[Client, Any], request_bytes: bytes, code: str
) -> None:
    ask, before = settled
    future = call_future(ask, RELOAD, request_bytes, ReloadConfigResponse)
    assert refusal_of(future)[0] == code
    assert Management(ask).models() == before


@pytest.fixture
def settled(managed: Client, models: Path) -> tuple[Client, Any]:
    """A server with one model that serves, and what it tells of it."""
    reload(managed, model("stays", models / "half_plus_two", labels={"stable": 3}))
    before = Management(managed).models()
    assert before["stays"].set_by == CALL
    assert dict(before["stays"].version_labels) == {"stable": 3}
    return managed, before


# --- models that do not become available


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base path with one version, which does not load and has been there for long."""
    path = tmp_path_factory.mktemp("broken")
    (path / "1").mkdir()
    (path / "1" / "saved_model.pb").write_bytes(b"\xff this is no graph")
    settle(path)
    return path


@pytest.fixture
def three(site: Site, broken: Path) -> Callable[[str], list[Any]]:
    """One model that is broken, one that is missing, and a good one; with a prefix of names."""

    def make(prefix: str) -> list[Any]:
        site.base(f"{prefix}_broken").symlink_to(broken)
        site.link(1, f"{prefix}_good")
        names = ("broken", "missing", "good")
        return [model(f"{prefix}_{name}", site.base(f"{prefix}_{name}")) for name in names]

    return make


def test_the_answer_names_each_model_that_failed_and_the_good_one_serves(
    three: Callable[[str], list[Any]], managed: Client, management: Management
) -> None:
    models = three("told")
    code, text = refused_reload(managed, *models)
    assert code == "UNKNOWN"
    broken, missing = (config.base_path for config in models[:2])
    assert text == (
        "2 model(s) did not become available:"
        " {{told_broken due to error: DATA_LOSS: {name: told_broken version: 1}:"
        f" Can't parse {broken}/1/saved_model.pb as binary proto}},"
        f" {{told_missing due to error: NOT_FOUND: Could not find base path {missing}"
        " for servable told_missing with error NOT_FOUND:"
        f" No such file or directory: {missing}.}}}}"
    )
    assert answers(managed, "told_good", 1)
    # The list is kept all the same, as TensorFlow Serving does, and tells what is wrong.
    listed = management.models()
    assert [listed[config.name].config.base_path for config in models] == [
        config.base_path for config in models
    ]
    assert listed["told_broken"].version[0].status.error_message.startswith("Can't parse")
    assert listed["told_missing"].status.error_message.startswith("Could not find base path")


def test_the_same_list_again_is_answered_in_the_same_way(
    three: Callable[[str], list[Any]], managed: Client
) -> None:
    models = three("again")
    first = refused_reload(managed, *models)
    for _ in range(3):
        assert refused_reload(managed, *models) == first
    assert answers(managed, "again_good", 1)


def test_the_same_list_again_is_answered_well_when_the_models_have_come(
    site: Site, three: Callable[[str], list[Any]], managed: Client
) -> None:
    models = three("mended")
    refused_reload(managed, *models)
    site.link(1, "mended_missing")
    site.base("mended_broken").unlink()
    site.link(2, "mended_broken")
    reload(managed, *models)
    assert answers(managed, "mended_missing", 1)
    assert answers(managed, "mended_broken", 2)


def test_new_files_that_do_not_load_leave_the_old_ones_serving(
    three: Callable[[str], list[Any]], managed: Client, managed_server: Launched
) -> None:
    broken, missing, good = three("kept")
    reload(managed, model("kept", good.base_path))
    with under_load(managed_server, "kept"):
        for path, what in ((broken, "DATA_LOSS"), (missing, "NOT_FOUND")):
            code, text = refused_reload(managed, model("kept", path.base_path))
            assert code == "UNKNOWN"
            assert text.startswith(
                f"1 model(s) did not become available: {{{{kept due to error: {what}: "
            )
            assert states(managed, "kept") == {1: AVAILABLE}


# --- models that take their time


def test_a_reload_does_not_wait_for_the_one_before(
    site: Site, gated: GatedModel, managed: Client
) -> None:
    site.link(1, "quick")
    site.link(1, "other")
    stuck = model("stuck", gated.path)
    first = reload_future(managed, model("quick", site.base("quick")), stuck)
    until(lambda: managed.states("stuck") == [LOADING])
    assert answers(managed, "quick", 1)
    reload(
        managed,
        model("quick", site.base("quick"), latest=2),
        stuck,
        model("other", site.base("other")),
    )
    assert answers(managed, "other", 1)
    assert managed.states("stuck") == [LOADING]
    assert not first.done()
    gated.open()
    first.result()
    assert managed.states("stuck") == [AVAILABLE]


def test_who_waits_for_a_model_that_is_removed_hears_of_it(
    gated: GatedModel, managed: Client
) -> None:
    waiting = reload_future(managed, model("dropped", gated.path))
    until(lambda: managed.states("dropped") == [LOADING])
    request = managed.predict_future(ask_for(1, "dropped"))
    reload(managed)
    assert refusal_of(waiting) == (
        "UNKNOWN",
        "1 model(s) did not become available:"
        " {{dropped due to error: CANCELLED: it was removed from the configuration}}",
    )
    assert refusal_of(request) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(dropped)",
    )
    gated.open()
    until(lambda: managed.states("dropped") == [END])
    (version,) = managed.model_status("dropped")
    assert version.status.error_message == "Loading of servable cancelled"


@pytest.mark.parametrize("how", ["deadline", "cancellation"])
def test_a_client_that_does_not_wait_changes_the_list_all_the_same(
    tmp_path: Path, managed_server: Launched, managed: Client, how: str
) -> None:
    gated = GatedModel(tmp_path / "gated")
    with client(managed_server.address()) as leaving:
        seconds = 0.5 if how == "deadline" else 30
        future = reload_future(leaving, model(how, gated.path), timeout=seconds)
        until(lambda: managed.states(how) == [LOADING])
        if how == "deadline":
            assert future.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            future.cancel()
    assert managed.states(how) == [LOADING]
    gated.open()
    assert array(managed.predict(ask_for(3, how)).outputs["y"]) == [3]
    reload(managed)


def test_the_server_answers_after_its_own_time_too(
    site: Site, gated: GatedModel, serve: Serve
) -> None:
    site.link(1, "good")
    flags = ("--reload_timeout_seconds=0.5", "--num_load_threads=2")
    server = serve({"good": site.base("good")}, *flags, errors_are_meant=True)
    with client(server.address()) as ask:
        good, stuck = model("good", site.base("good")), model("stuck", gated.path)
        late = (
            "{stuck due to error: DEADLINE_EXCEEDED:"
            " not all of it is available yet: it is being worked on}"
        )
        assert refused_reload(ask, good, stuck) == (
            "DEADLINE_EXCEEDED",
            f"1 model(s) did not become available: {{{late}}}",
        )
        missing = site.base("missing")
        moved = model("stuck", gated.path, latest=2)  # waits for the same version
        code, text = refused_reload(ask, good, model("missing", missing), moved)
        assert code == "UNKNOWN"
        assert text.startswith("2 model(s) did not become available: {{missing due to error: NOT_")
        assert text.endswith(f", {late}}}")
        assert answers(ask, "good", 1)
        gated.open()
        until(lambda: ask.states("stuck") == [AVAILABLE])


def test_many_reloads_at_once_leave_the_list_of_one_of_them(
    site: Site, managed_server: Launched, managed: Client, management: Management
) -> None:
    for version in (1, 2, 3):
        site.link(version, "common")
    lists = [
        [
            model("common", site.base("common"), specific=(1 + i % 3,)),
            *(model(f"own_{i}_{j}", site.base("common")) for j in range(i % 3)),
        ]
        for i in range(12)
    ]

    def send(models: list[Any]) -> grpc.StatusCode:
        with client(managed_server.address()) as ask:
            error = reload_future(ask, *models).exception()
            return grpc.StatusCode.OK if error is None else error.code()

    with ThreadPoolExecutor(len(lists)) as threads:
        codes = list(threads.map(send, lists))
    # Whose own model was removed before it was there is told so.
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN}
    listed = management.models()
    last = next(
        each
        for each in lists
        if listed.keys() == {config.name for config in each}
        and listed["common"].config.model_version_policy == each[0].model_version_policy
    )
    (version,) = last[0].model_version_policy.specific.versions
    until(
        lambda: {v for v, state in states(managed, "common").items() if state != END} == {version}
    )
    for config in last:
        until(lambda config=config: AVAILABLE in managed.states(config.name))  # type: ignore[misc]
    for i in range(12):
        for j in range(i % 3):
            if f"own_{i}_{j}" not in listed:
                until(lambda i=i, j=j: AVAILABLE not in managed.states(f"own_{i}_{j}"))  # type: ignore[misc]


# --- flags


def test_enable_reload_rpc_false_refuses_it(site: Site, serve: Serve) -> None:
    site.link(1)
    server = serve({"m": site.base()}, "--enable_reload_rpc=false")
    with client(server.address()) as ask:
        assert refused_reload(ask) == (
            "PERMISSION_DENIED",
            "HandleReloadConfigRequest is turned off (--enable_reload_rpc=false).",
        )
        assert answers(ask, "m", 1)


def test_a_reload_looks_once_where_nobody_polls(site: Site, serve: Serve) -> None:
    site.link(1)
    flags = ("--file_system_poll_wait_seconds=0", "--enable_model_management")
    server = serve({"m": site.base()}, *flags, errors_are_meant=True)
    with client(server.address()) as ask:
        assert Management(ask).model("m").set_by == FILE
        site.link(2)
        site.link(3, "n")
        assert answers(ask, "m", 1)
        config = model("m", site.base())
        reload(ask, config, model("n", site.base("n")))
        assert answers(ask, "n", 3)
        assert states(ask) == {1: AVAILABLE}  # it has not changed: nobody looked
        reload(ask, model("m", site.base(), latest=2))
        assert states(ask) == {1: AVAILABLE, 2: AVAILABLE}
        code, text = refused_reload(ask, model("late", site.base("late")))
        assert (code, "NOT_FOUND" in text) == ("UNKNOWN", True)
        site.link(1, "late")
        reload(ask, model("late", site.base("late")))  # is not there: looks again
        assert answers(ask, "late", 1)


def test_a_reload_says_so_where_nobody_ever_looks(site: Site, serve: Serve) -> None:
    site.link(1)
    server = serve({}, "--file_system_poll_wait_seconds=-1")
    with client(server.address()) as ask:
        assert refused_reload(ask, model("m", site.base())) == (
            "UNKNOWN",
            "1 model(s) did not become available: {{m due to error: FAILED_PRECONDITION:"
            " --file_system_poll_wait_seconds is negative: versions are never looked for}}",
        )
        assert is_unknown(ask, "m")
        reload(ask)
