"""SessionService.SessionRun, from a server's process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.conftest import tensorflow_version
from tests.functional.batched import FLAGS, batched_model, patient, rows, send, values
from tests.functional.conftest import serving
from tests.functional.gated_model import GatedRuns
from tests.functional.launching import SECONDS, Client, Launched, client, until
from tests.functional.managing import call_future, refusal_of, reload
from tests.functional.messages import array, floats, scalar, strings, tensor
from tests.functional.serving_api import ServingApi
from tests.functional.sites import END, UNLOADING
from tests.functional.test_metadata import metadata, signatures_of
from tests.graphs import FLOAT, RESOURCE, STRING, Graph
from tfsrv._proto import message_class
from tfsrv.handlers.session_run import MAX_RUNS, MAX_SETS

METHOD = "/tensorflow.serving.SessionService/SessionRun"
Request: Any = message_class("tensorflow.serving.SessionRunRequest")
Response: Any = message_class("tensorflow.serving.SessionRunResponse")

Feeds = Mapping[str, Any] | Sequence[tuple[str, Any]]


def request_of(
    name: str,
    feeds: Feeds = (),
    fetches: Sequence[str] = (),
    targets: Sequence[str] = (),
    *,
    label: str | None = None,
    signature: str = "",
    options: Mapping[str, Any] | None = None,
    aliases: bool = False,
) -> Any:
    request = Request(fetch=fetches, target=targets, tensor_name_is_alias=aliases)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if label is not None:
        request.model_spec.version_label = label
    for key, value in feeds.items() if isinstance(feeds, Mapping) else feeds:
        proto = value if hasattr(value, "dtype") and not hasattr(value, "shape") else tensor(value)
        request.feed.add(name=key, tensor=proto)
    if options is not None:
        request.options.SetInParent()
        for option, setting in options.items():
            setattr(request.options, option, setting)
    return request


def session_run(ask: Client, *arguments: Any, timeout: float = SECONDS, **more: Any) -> Any:
    """The call of a request that `request_of` makes."""
    request = request_of(*arguments, **more)
    return call_future(ask, METHOD, request.SerializeToString(), Response, timeout)


def fetched(response: Any) -> list[tuple[str, list[Any]]]:
    return [(named.name, array(named.tensor).tolist()) for named in response.tensor]


def parts_graph() -> Graph:
    """x [n] → a = x + 1 → y = 2 a; a signature for x → y, one for x → a; and odds and ends."""
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    a = graph.add("a", "AddV2", x, graph.constant("one", 1.0), T=FLOAT)
    y = graph.add("y", "Mul", a, graph.constant("two", 2.0), T=FLOAT)
    graph.sign("serving_default", {"x": x}, {"y": y})
    graph.sign("both", {"x": x}, {"a": a, "y": y})
    graph.add("unfed", "Placeholder", dtype=FLOAT)
    graph.add("write", "WriteFile", graph.add("path", "Placeholder", dtype=STRING), "word")
    graph.constant("word", "ran")
    graph.add("many", "Unpack", x, num={"i": 2}, T=FLOAT)
    graph.add("resource", "VarHandleOp", dtype=FLOAT, shape={"shape": _no_shape()})
    graph.add("handle", "Placeholder", dtype=RESOURCE)
    graph.add("passed", "Identity", "handle", T=RESOURCE)
    for i in range(MAX_SETS + 1):
        graph.constant(f"c{i}", float(i))
    return graph


def _no_shape() -> Any:
    return message_class("tensorflow.TensorShapeProto")()


@pytest.fixture(scope="module")
def parts(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    if tensorflow_version() is None:
        pytest.skip("needs TensorFlow")
    folder = tmp_path_factory.mktemp("parts")
    parts_graph().save(folder / "3")
    flags = ("--enable_session_service", f"--grpc_transport={transport}")
    labels = "version_labels { key: 'stable' value: 3 }"
    with serving({"parts": folder}, *flags, texts={"parts": labels}) as server:
        yield server


@pytest.fixture
def ask(parts: Launched) -> Iterator[Client]:
    with client(parts.address()) as ask:
        yield ask


X = {"x": floats(1, 2)}


# --- what is fetched


@pytest.mark.parametrize(
    ("feeds", "fetches", "expected"),
    [
        (X, ["y"], [("y", [4.0, 6.0])]),
        ({"x:0": floats(1, 2)}, ["y:0"], [("y:0", [4.0, 6.0])]),
        (X, ["a"], [("a", [2.0, 3.0])]),
        (X, ["y", "a:0"], [("y", [4.0, 6.0]), ("a:0", [2.0, 3.0])]),
        (X, ["a", "y"], [("a", [2.0, 3.0]), ("y", [4.0, 6.0])]),
        (X, ["y", "y"], [("y", [4.0, 6.0]), ("y", [4.0, 6.0])]),
        ({}, ["two", "two"], [("two", 2.0), ("two", 2.0)]),
        ({"a": floats(5)}, ["y"], [("y", [10.0])]),
        (X, ["many:1", "many", "many:0"], [("many:1", 2.0), ("many", 1.0), ("many:0", 1.0)]),
        ({}, ["two", "word"], [("two", 2.0), ("word", b"ran")]),
        ({"unfed": floats(), **X}, ["a"], [("a", [2.0, 3.0])]),
    ],
)
def test_answers_with_what_is_fetched_in_its_order(
    ask: Client, feeds: Feeds, fetches: list[str], expected: Any
) -> None:
    response = session_run(ask, "parts", feeds, fetches).result()
    assert fetched(response) == expected
    assert (response.model_spec.name, response.model_spec.version.value) == ("parts", 3)
    assert not response.HasField("metadata")


def test_a_label_leads_to_its_version(ask: Client) -> None:
    response = session_run(ask, "parts", X, ["a"], label="stable").result()
    assert response.model_spec.version.value == 3
    assert response.model_spec.version_label == ""


@pytest.mark.parametrize("targets", [(), ("two",)], ids=["as_predict", "alone"])
def test_names_may_be_aliases_of_a_signature(ask: Client, targets: tuple[str, ...]) -> None:
    more: Any = {"aliases": True, "targets": targets}
    response = session_run(ask, "parts", X, ["y"], **more).result()
    assert fetched(response) == [("y", [4.0, 6.0])]
    response = session_run(ask, "parts", X, ["y", "a"], signature="both", **more).result()
    assert fetched(response) == [("y", [4.0, 6.0]), ("a", [2.0, 3.0])]


@pytest.mark.parametrize("targets", [(), ("two",)], ids=["as_predict", "alone"])
def test_large_tensors_arrive_whole(ask: Client, targets: tuple[str, ...]) -> None:
    x = numpy.arange(1 << 20, dtype="float32")
    response = session_run(ask, "parts", {"x": x}, ["y"], targets).result()
    assert numpy.array_equal(array(response.tensor[0].tensor), (x + 1) * 2)


# --- how it runs


def test_targets_run(ask: Client, tmp_path: Path) -> None:
    path = tmp_path / "written"
    feeds = {"path": scalar(str(path).encode())}
    response = session_run(ask, "parts", feeds, [], ["write"]).result()
    assert not response.tensor
    assert path.read_text() == "ran"
    again = session_run(ask, "parts", {**feeds, **X}, ["y"], ["write", "two", "write"]).result()
    assert fetched(again) == [("y", [4.0, 6.0])]


def test_options_bring_metadata(ask: Client) -> None:
    response = session_run(ask, "parts", X, ["y"], options={"trace_level": 1}).result()
    assert fetched(response) == [("y", [4.0, 6.0])]
    nodes = [
        stats.node_name
        for device in response.metadata.step_stats.dev_stats
        for stats in device.node_stats
    ]
    assert any("y" in name for name in nodes), nodes
    plain = session_run(ask, "parts", X, ["y"], options={"inter_op_thread_pool": 77}).result()
    assert fetched(plain) == [("y", [4.0, 6.0])]
    assert not plain.HasField("metadata")
    partitions = session_run(ask, "parts", X, ["y"], options={"output_partition_graphs": True})
    assert partitions.result().metadata.partition_graphs


def test_what_a_signature_runs_is_batched_with_predict(
    models: Path, tmp_path: Path, transport: str
) -> None:
    batched = batched_model(tmp_path / "probe", models / "probe", patient(2))
    flags = ("--enable_session_service", f"--grpc_transport={transport}", *FLAGS)
    with (
        serving({"probe": batched}, *flags) as server,
        client(server.address()) as ask,
    ):
        signature = signatures_of(metadata(ask, "probe").result())["serving_default"]
        x, y, together = (
            signature.inputs["x"].name,
            signature.outputs["y"].name,
            signature.outputs["together"].name,
        )
        # It waits until there are two that ask for the same outputs.
        (predicted,) = send(ask, rows("probe", 7, output_filter=["y", "together"]))
        response = session_run(ask, "probe", {x: floats(8)}, [together, y]).result()
        # The one with a deadline stands before the other.
        assert fetched(response) == [(together, [b"8,7"]), (y, [8.0])]
        assert values(predicted.result(SECONDS)) == [7.0]
        # With a target it is no signature's, and waits for nobody.
        alone = session_run(ask, "probe", {x: floats(9)}, [y], [y.partition(":")[0]]).result()
        assert fetched(alone) == [(y, [9.0])]


def test_a_deadline_ends_a_run_and_leaves_its_place(models: Path, transport: str) -> None:
    flags = ("--enable_session_service", f"--grpc_transport={transport}")
    with (
        serving({"sleeper": models / "sleeper"}, *flags) as server,
        client(server.address()) as ask,
    ):
        signature = signatures_of(metadata(ask, "sleeper").result())["serving_default"]
        seconds, y = signature.inputs["seconds"].name, next(iter(signature.outputs.values())).name

        def run(duration: float, timeout: float = SECONDS, **options: Any) -> Any:
            target = y.partition(":")[0]
            arguments = {seconds: floats(duration)}, [y], [target]
            return session_run(ask, "sleeper", *arguments, timeout=timeout, options=options or None)

        run(0.0).result()
        # As many as may run at a time, for longer than the test may take.
        hanging = [run(3600.0, timeout=0.5) for _ in range(MAX_RUNS + 2)]
        assert {refusal_of(future)[0] for future in hanging} == {"DEADLINE_EXCEEDED"}
        run(0.0).result()
        code, text = refusal_of(run(3600.0, timeout_in_ms=100))
        assert (code, text) == ("DEADLINE_EXCEEDED", "Timed out waiting for notification")


def test_a_run_keeps_its_version_until_it_ends(tmp_path: Path, transport: str) -> None:
    runs = GatedRuns(tmp_path / "gated")
    flags = ("--enable_session_service", f"--grpc_transport={transport}")
    with serving({"gated": runs.path}, *flags) as server, client(server.address()) as ask:
        gates = [runs.gate() for _ in range(3)]
        staying, leaving, expiring = (
            session_run(
                ask,
                "gated",
                {"path": scalar(str(gate.path).encode())},
                ["word"],
                ["write"],
                timeout=timeout,
            )
            for gate, timeout in zip(gates, (SECONDS, SECONDS, 0.5), strict=True)
        )
        assert refusal_of(expiring) == ("DEADLINE_EXCEEDED", "Deadline Exceeded")
        leaving.cancel()
        reload(ask)
        until(lambda: ask.states("gated") == [UNLOADING])
        for gate in gates[1:]:  # those are still running: nobody can stop such an op
            gate.open()
        assert not staying.done()
        gates[0].open()
        assert staying.result().model_spec.version.value == 1
        until(lambda: ask.states("gated") == [END])


def test_sets_of_names_are_limited_and_one_set_has_many_forms(
    parts: Launched, transport: str, tmp_path: Path
) -> None:
    parts_graph().save(tmp_path / "parts" / "1")
    flags = ("--enable_session_service", f"--grpc_transport={transport}")
    with (
        serving({"parts": tmp_path / "parts"}, *flags) as server,
        client(server.address()) as ask,
    ):

        def fetch(*names: str) -> list[Any]:
            return [value for _, value in fetched(session_run(ask, "parts", {}, names).result())]

        for i in range(MAX_SETS - 1):
            assert fetch(f"c{i}") == [float(i)]
        assert refusal_of(session_run(ask, "parts", {}, ["nosuch"]))[0] == "NOT_FOUND"
        assert fetch("c1", "c2") == [1.0, 2.0]
        assert fetch("c2:0", "c1", "c2") == [2.0, 1.0, 2.0]
        code, text = refusal_of(session_run(ask, "parts", {}, [f"c{MAX_SETS}"]))
        assert code == "RESOURCE_EXHAUSTED"
        assert text.startswith(f"This version was asked for {MAX_SETS} different sets")
        assert fetch("c1") == [1.0]
        assert fetched(session_run(ask, "parts", X, ["y"]).result()) == [("y", [4.0, 6.0])]


# --- what is refused


def bad_tensor() -> Any:
    proto = tensor(floats(1, 2))
    proto.tensor_shape.dim[0].size = -1
    return proto


def resource() -> Any:
    proto: Any = message_class("tensorflow.TensorProto")(dtype=RESOURCE)
    proto.resource_handle_val.add(name="secret")
    return proto


@pytest.mark.parametrize(
    ("feeds", "fetches", "targets", "code", "text"),
    [
        (
            {},
            [],
            [],
            "INVALID_ARGUMENT",
            "Must specify at least one target to fetch or execute.",
        ),
        (X, [], [], "INVALID_ARGUMENT", "Must specify at least one target to fetch or execute."),
        (
            {"nosuch": floats(1)},
            ["a"],
            [],
            "NOT_FOUND",
            "FeedInputs: unable to find feed output nosuch",
        ),
        (
            {"x:1": floats(1)},
            ["a"],
            [],
            "INVALID_ARGUMENT",
            "FeedInputs: x:1 should have output index < 1",
        ),
        (X, ["nosuch:0"], [], "NOT_FOUND", "FetchOutputs node nosuch:0: not found"),
        (X, ["x:y"], [], "NOT_FOUND", "FetchOutputs node x:y: not found"),
        (X, [""], [], "NOT_FOUND", "FetchOutputs node : not found"),
        (X, ["a\0"], [], "NOT_FOUND", "FetchOutputs node a\0: not found"),
        (X, ["^a"], [], "NOT_FOUND", "FetchOutputs node ^a: not found"),
        (
            X,
            ["many:2"],
            [],
            "INVALID_ARGUMENT",
            "FetchOutputs many:2: output index too large, must be < 2",
        ),
        (
            X,
            ["write"],
            [],
            "INVALID_ARGUMENT",
            "Tried to fetch data for 'write', which has no output. To run to a node but not fetch "
            "any data, pass 'write' as an argument to the 'target_node_names' argument of the "
            "Session::Run API.",
        ),
        (
            X,
            ["a"],
            ["nosuch", "a:0"],
            "NOT_FOUND",
            "PruneForTargets: Some target nodes not found: a:0 nosuch",
        ),
        (
            X,
            ["resource"],
            [],
            "INVALID_ARGUMENT",
            "resource has a type that a TensorProto cannot carry",
        ),
        (
            {"handle": resource()},
            ["two"],
            [],
            "INVALID_ARGUMENT",
            "A feed is a resource or a variant, which no client can send.",
        ),
        (
            [("x", floats(1)), ("x", floats(2))],
            ["a"],
            [],
            "INVALID_ARGUMENT",
            'Endpoint "x" fed more than once.',
        ),
        (
            [("x", floats(1)), ("x:0", floats(2))],
            ["a"],
            [],
            "INVALID_ARGUMENT",
            'Endpoint "x:0" fed more than once.',
        ),
        (X, ["x"], [], "INVALID_ARGUMENT", "x:0 is both fed and fetched."),
        ({"a": bad_tensor()}, ["y"], [], "INVALID_ARGUMENT", "tensor parsing error: a"),
        ({"x": bad_tensor()}, ["y"], [], "INVALID_ARGUMENT", "tensor parsing error: x"),
    ],
)
def test_wrong_names_and_tensors_are_refused_as_tensorflow_does(
    ask: Client, feeds: Feeds, fetches: list[str], targets: list[str], code: str, text: str
) -> None:
    assert refusal_of(session_run(ask, "parts", feeds, fetches, targets)) == (code, text)


@pytest.mark.parametrize("targets", [(), ("two",)], ids=["as_predict", "alone"])
def test_what_the_run_itself_says_comes_through(ask: Client, targets: tuple[str, ...]) -> None:
    code, text = refusal_of(session_run(ask, "parts", {"x": strings("a")}, ["y"], targets))
    assert code == "INVALID_ARGUMENT"
    assert "to be float but string is provided" in text
    code, text = refusal_of(session_run(ask, "parts", {"unfed": floats(1)}, ["y"], targets))
    assert code == "INVALID_ARGUMENT"
    assert "You must feed a value for placeholder tensor 'x'" in text


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (
            {"signature": "nosuch"},
            "FAILED_PRECONDITION",
            'Serving signature key "nosuch" not found.',
        ),
        ({"fetches": ["z"]}, "INVALID_ARGUMENT", "output tensor alias not found in signature: z"),
        (
            {"feeds": {"z": floats(1)}},
            "INVALID_ARGUMENT",
            "input tensor alias not found in signature: z",
        ),
    ],
)
def test_wrong_aliases_are_refused(ask: Client, more: dict[str, Any], code: str, text: str) -> None:
    arguments: dict[str, Any] = {"feeds": X, "fetches": ["y"], "targets": ["two"], **more}
    assert refusal_of(session_run(ask, "parts", aliases=True, **arguments)) == (code, text)


@pytest.mark.parametrize("option", ["debug_options", "experimental"])
def test_options_that_do_harm_are_refused(ask: Client, option: str) -> None:
    request = request_of("parts", X, ["y"])
    getattr(request.options, option).SetInParent()
    future = call_future(ask, METHOD, request.SerializeToString(), Response)
    assert refusal_of(future) == ("INVALID_ARGUMENT", f"RunOptions.{option} is not supported")


@pytest.mark.parametrize(
    ("request_bytes", "code", "text"),
    [
        (b"", "INVALID_ARGUMENT", "Missing ModelSpec"),
        (b"\x0a\x00", "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (b"\xff", "INTERNAL", "Failed to parse the SessionRunRequest."),
        (b"\x1a\x01\xff", "INTERNAL", "Failed to parse the SessionRunRequest."),
        (b"\x12\x03\x0a\x01\xff", "INTERNAL", "Failed to parse the SessionRunRequest."),
        (b"\x1a\x00" * 20_000, "INTERNAL", "Failed to parse the SessionRunRequest."),
        (
            b"\x1a\x90\x4e" + b"a" * 10_000 + b"\x22\x80\x80\x40" + b"a" * 2**20,
            "RESOURCE_EXHAUSTED",
            "The SessionRunRequest has more than 1048576 bytes besides its feeds.",
        ),
    ],
)
def test_bytes_that_are_no_request_are_refused(
    ask: Client, request_bytes: bytes, code: str, text: str
) -> None:
    assert refusal_of(call_future(ask, METHOD, request_bytes, Response)) == (code, text)


def test_models_that_are_not_there_are_told_as_predict_does(ask: Client) -> None:
    assert refusal_of(session_run(ask, "nosuch", X, ["y"])) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(nosuch)",
    )
    assert refusal_of(session_run(ask, "parts", X, ["y"], label="nosuch")) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: nosuch",
    )


def test_a_servable_that_is_no_saved_model_has_no_session(tmp_path: Path, transport: str) -> None:
    folder = tmp_path / "table" / "1"
    folder.mkdir(parents=True)
    (folder / "table.tsv").write_text("key:string\tvalue:float\ncat\t4\n")
    flags = ("--enable_session_service", f"--grpc_transport={transport}")
    with (
        serving({"t@lookup_table": tmp_path / "table"}, *flags) as server,
        client(server.address()) as ask,
    ):
        assert refusal_of(session_run(ask, "t", X, ["y"])) == (
            "FAILED_PRECONDITION",
            "The servable is no SavedModel: it has no session.",
        )


def test_the_service_is_off_by_default(tmp_path: Path, transport: str) -> None:
    parts_graph().save(tmp_path / "parts" / "1")
    with (
        serving({"parts": tmp_path / "parts"}, f"--grpc_transport={transport}") as server,
        client(server.address()) as ask,
    ):
        code, text = refusal_of(session_run(ask, "parts", X, ["y"]))
        unknown = call_future(ask, "/tensorflow.serving.SessionService/Nosuch", b"", Response)
        assert (code, text) == refusal_of(unknown)
        assert code == "UNIMPLEMENTED"


def test_tensorflow_serving_api_asks_it(parts: Launched, serving_api: ServingApi) -> None:
    answer = serving_api.session_run(parts.address(), "parts", {"x": floats(1, 2)}, ["y", "a:0"])
    assert {name: values.tolist() for name, values in answer} == {
        "y": [4.0, 6.0],
        "a:0": [2.0, 3.0],
    }
