"""The clients against gRPC servers that do what each test says; and both in the same way."""

from __future__ import annotations

import asyncio
import pickle
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.integration.grpc_servers import Answer, answering, self_signed
from tfsrv._proto import message_class
from tfsrv.client import (
    AsyncClient,
    Class,
    Client,
    ClientError,
    Code,
    Model,
    Tls,
    VersionStatus,
    calls,
)

SECONDS = 30


class Blocking:
    """A client of asyncio with the face of the other: each call in a loop that runs for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: AsyncClient) -> None:
        self._loop = loop
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            coroutine: Coroutine[Any, Any, Any] = getattr(self._client, name)(*arguments, **options)
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

        return call


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


Connect = Callable[..., Any]


@pytest.fixture(params=["direct", "channel", "asyncio"])
def connect(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Iterator[Connect]:
    """Makes a client of each kind: `connect(address, timeout=3)`."""
    made: list[Any] = []

    def connect(*arguments: Any, **options: Any) -> Any:
        if request.param == "direct":
            made.append(Client(*arguments, **options))
        elif request.param == "channel":
            made.append(Client(*arguments, **options, transport="grpc"))
        else:
            made.append(Blocking(loop, AsyncClient(*arguments, **options)))
        return made[-1]

    yield connect
    for client in made:
        client.close()


def message(full_name: str, **fields: Any) -> Any:
    return message_class(full_name)(**fields)


def echo(request: bytes, context: Any) -> bytes:
    """Answers Predict with its inputs as outputs."""
    asked: Any = message("tensorflow.serving.PredictRequest")
    asked.ParseFromString(request)
    response: Any = message("tensorflow.serving.PredictResponse")
    for alias, tensor in asked.inputs.items():
        response.outputs[alias].CopyFrom(tensor)
    response.model_spec.name = asked.model_spec.name
    response.model_spec.signature_name = asked.model_spec.signature_name or "serving_default"
    response.model_spec.version.value = asked.model_spec.version.value or 7
    answer: bytes = response.SerializeToString()
    return answer


class Refusing:
    """Refuses the first `times` calls."""

    def __init__(self, times: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.calls = 0
        self._times = times
        self._code = code

    def __call__(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        if self.calls <= self._times:
            context.abort(self._code, f"refused {self.calls}")
        return echo(request, context)


class Held:
    """Answers when it is let go, or when the client has left."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.left = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, request: bytes, context: Any) -> bytes:
        context.add_callback(self._ended)
        self.arrived.release()
        self.go_on.wait(SECONDS)
        return echo(request, context)

    def _ended(self) -> None:
        self.left.set()
        self.go_on.set()


def test_a_prediction_is_a_dict_that_knows_who_gave_it(connect: Connect) -> None:
    with answering({calls.PREDICT: echo}) as address:
        answer = connect(address).predict("m", {"x": [1.5], "y": ["a"]}, version=3)
    assert {alias: values.tolist() for alias, values in answer.items()} == {
        "x": [1.5],
        "y": [b"a"],
    }
    assert (answer.model, answer.version, answer.signature) == ("m", 3, "serving_default")
    again = pickle.loads(pickle.dumps(answer))
    assert (again["x"].tolist(), again.version) == ([1.5], 3)


def test_a_call_that_finds_nobody_for_a_moment_is_repeated(connect: Connect) -> None:
    refusing = Refusing(2)
    with answering({calls.PREDICT: refusing}) as address:
        assert connect(address).predict("m", {"x": 1})["x"] == 1
    assert refusing.calls == 3


@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (1, 2)])
def test_repetitions_end(connect: Connect, retries: int, asked: int) -> None:
    refusing = Refusing(100)
    with answering({calls.PREDICT: refusing}) as address, pytest.raises(ClientError) as caught:
        connect(address, retries=retries).predict("m", {"x": 1})
    assert (caught.value.code, caught.value.message) == (Code.UNAVAILABLE, f"refused {asked}")
    assert refusing.calls == asked


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "INTERNAL", "DEADLINE_EXCEEDED"])
def test_other_errors_are_final(connect: Connect, code: str) -> None:
    refusing = Refusing(1, grpc.StatusCode[code])
    with answering({calls.PREDICT: refusing}) as address, pytest.raises(ClientError) as caught:
        connect(address).predict("m", {"x": 1})
    assert caught.value.code is Code[code]
    assert refusing.calls == 1


def test_a_server_that_is_not_there_is_unavailable_within_the_time_out(connect: Connect) -> None:
    with answering({}) as address:
        pass
    with pytest.raises(ClientError) as caught:
        connect(address, timeout=SECONDS, retries=1).predict("m", {"x": 1})
    assert caught.value.code is Code.UNAVAILABLE


def test_a_server_that_comes_late_can_be_waited_for(connect: Connect, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    client = connect(address, wait_for_ready=True, timeout=SECONDS)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.predict, "m", {"x": 1})
        with pytest.raises(ClientError):
            connect(address, retries=0).predict("m", {"x": 1})
        with answering({calls.PREDICT: echo}, address=address):
            assert answer.result(SECONDS)["x"] == 1


@pytest.mark.parametrize("where", ["client", "call"])
def test_a_call_ends_with_its_time_out(connect: Connect, where: str) -> None:
    held = Held()
    with answering({calls.PREDICT: held}) as address:
        client = connect(address, **({"timeout": 0.2} if where == "client" else {}))
        with pytest.raises(ClientError) as caught:
            client.predict("m", {"x": 1}, **({"timeout": 0.2} if where == "call" else {}))
        assert held.left.wait(SECONDS)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_a_time_out_may_be_as_long_as_one_likes(connect: Connect) -> None:
    seen: list[float | None] = []

    def answer(request: bytes, context: Any) -> bytes:
        seen.append(context.time_remaining())
        return echo(request, context)

    with answering({calls.PREDICT: answer}) as address:
        client = connect(address, timeout=1000.0)
        client.predict("m", {})
        client.predict("m", {}, timeout=float("inf"))
        with pytest.raises(ValueError, match="a time-out of -1"):
            client.predict("m", {}, timeout=-1)
    assert seen[0] is not None
    assert 900 < seen[0] < 1100  # gRPC rounds it
    assert seen[1] is None or seen[1] > 1e6


def test_metadata_of_the_client_and_of_the_call_go_along(connect: Connect) -> None:
    seen: list[dict[str, Any]] = []

    def answer(request: bytes, context: Any) -> bytes:
        seen.append(dict(context.invocation_metadata()))
        return echo(request, context)

    with answering({calls.PREDICT: answer}) as address:
        client = connect(address, metadata=[("tenant", "a"), ("key-bin", b"\0\xff")])
        client.predict("m", {}, metadata=[("trace", "t")])
    assert (seen[0]["tenant"], seen[0]["key-bin"], seen[0]["trace"]) == ("a", b"\0\xff", "t")


def test_answers_and_requests_may_be_large(connect: Connect) -> None:
    values = np.arange(3_000_000, dtype=np.float32)  # 12 MB; gRPC takes 4 MiB otherwise
    with answering({calls.PREDICT: echo}) as address:
        answer = connect(address).predict("m", {"x": values})
    np.testing.assert_array_equal(answer["x"], values)


def test_a_unix_socket_is_an_address_too(connect: Connect, tmp_path: Path) -> None:
    with answering({calls.PREDICT: echo}, address=f"unix:{tmp_path}/socket") as address:
        assert connect(address).predict("m", {"x": 1})["x"] == 1


def test_errors_tell_what_the_server_knows(connect: Connect) -> None:
    info = message(
        "google.rpc.ErrorInfo",
        domain="tfsrv",
        reason="MODEL_NOT_FOUND",
        metadata={"model": "m", "version": "3", "signature": "s"},
    )
    status = message("google.rpc.Status", code=5)
    status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff")
    status.details.add(
        type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString()
    )

    def refuse(request: bytes, context: Any) -> bytes:
        content = status.SerializeToString()
        context.set_trailing_metadata([("grpc-status-details-bin", content)])
        context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        raise AssertionError

    with answering({calls.PREDICT: refuse}) as address, pytest.raises(ClientError) as caught:
        connect(address).predict("m", {})
    error = caught.value
    assert str(error) == "NOT_FOUND: not here"
    assert (error.model, error.version, error.signature) == ("m", 3, "s")
    assert error.reason == "MODEL_NOT_FOUND"
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.message, again.info) == (error.code, error.message, error.info)


@pytest.mark.parametrize("details", [b"", b"\xff", b"\x1a\x02\x0a\x00"])
def test_details_that_say_nothing_are_no_trouble(connect: Connect, details: bytes) -> None:
    def refuse(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata([("grpc-status-details-bin", details)])
        context.abort(grpc.StatusCode.NOT_FOUND, "é")
        raise AssertionError

    with answering({calls.PREDICT: refuse}) as address, pytest.raises(ClientError) as caught:
        connect(address).predict("m", {})
    assert (caught.value.message, caught.value.info) == ("é", {})
    assert (caught.value.model, caught.value.version, caught.value.reason) == (None, None, "")


def test_an_answer_that_is_none_is_an_internal_error(connect: Connect) -> None:
    def garbage(request: bytes, context: Any) -> bytes:
        return b"\xff\xff"

    answers: dict[str, Answer] = {calls.PREDICT: garbage, calls.GET_MODEL_STATUS: garbage}
    with answering(answers) as address:
        client = connect(address)
        for call, arguments in ((client.predict, ("m", {})), (client.status, ("m",))):
            with pytest.raises(ClientError, match="cannot be decoded") as caught:
                call(*arguments)
            assert caught.value.code is Code.INTERNAL


def test_a_method_that_the_server_lacks_is_named(connect: Connect) -> None:
    lacking = pytest.raises(ClientError, match=r"ListModels|[Mm]ethod")
    with answering({}) as address, lacking as caught:
        connect(address).list_models()
    assert caught.value.code is Code.UNIMPLEMENTED


def test_what_a_server_lacks_is_named_where_it_says_nothing(connect: Connect) -> None:
    def refuse(request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        raise AssertionError

    with answering({calls.LIST_MODELS: refuse}) as address, pytest.raises(ClientError) as caught:
        connect(address).list_models()
    assert caught.value.message == "The server does not have /tfsrv.ModelManagement/ListModels"


def test_an_own_channel_is_used_and_stays_open(loop: asyncio.AbstractEventLoop) -> None:
    with answering({calls.PREDICT: echo}) as address, grpc.insecure_channel(address) as channel:
        for _ in range(2):
            with Client(channel=channel) as client:
                assert client.predict("m", {"x": 1})["x"] == 1

        async def both() -> None:
            async with grpc.aio.insecure_channel(address) as channel:
                for _ in range(2):
                    async with AsyncClient(channel=channel) as client:
                        assert (await client.predict("m", {"x": 1}))["x"] == 1

        asyncio.run_coroutine_threadsafe(both(), loop).result(SECONDS)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_either_a_target_or_a_channel_is_wanted(kind: Any) -> None:
    with pytest.raises(ValueError, match="either a target or a channel"):
        kind()


def test_a_transport_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match='transport is "auto" or "grpc", not \'pigeon\''):
        Client("localhost:1", transport="pigeon")  # type: ignore[arg-type]


def test_a_closed_client_says_so(connect: Connect) -> None:
    with answering({calls.PREDICT: echo}) as address:
        client = connect(address)
        client.predict("m", {})
        client.close()
        with pytest.raises(ClientError, match="closed") as caught:
            client.predict("m", {})
    assert caught.value.code is Code.CANCELLED


# ---- TLS


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_server_and_client_know_each_other_by_certificates(
    connect: Connect, tmp_path: Path
) -> None:
    server, other, own = (self_signed(tmp_path, name) for name in ("server", "other", "own"))
    credentials = grpc.ssl_server_credentials(
        [server.pem()], own.certificate.read_bytes(), require_client_auth=True
    )
    with answering({calls.PREDICT: echo}, credentials=credentials) as address:

        def ask(**options: Any) -> Any:
            tls = Tls(server_name="server", **options)
            return connect(address, tls=tls, retries=0).predict("m", {"x": 1})["x"]

        mine = {"private_key": own.key, "certificate_chain": str(own.certificate)}
        assert ask(root_certificates=server.certificate, **mine) == 1
        assert ask(root_certificates=server.certificate.read_bytes(), **mine) == 1
        for wrong in (
            {"root_certificates": other.certificate, **mine},
            {"root_certificates": server.certificate},
            {**mine},
        ):
            with pytest.raises(ClientError) as caught:
                ask(**wrong)
            assert caught.value.code is Code.UNAVAILABLE


def test_a_certificate_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        Client("localhost:1", tls=Tls(root_certificates=tmp_path / "none"))


# ---- threads, futures, tasks


def test_one_client_serves_many_threads() -> None:
    with answering({calls.PREDICT: echo}) as address, Client(address) as client:

        def ask(thread: int) -> None:
            for number in range(50):
                values = np.full(thread + 1, number)
                answer = client.predict(f"m{thread}", {"x": values})
                np.testing.assert_array_equal(answer["x"], values)
                assert answer.model == f"m{thread}"

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(16)))


def test_futures_answer_in_callbacks() -> None:
    done: dict[int, Any] = {}

    def keep(number: int, future: Any) -> None:
        done[number] = future.result()

    with answering({calls.PREDICT: echo}) as address, Client(address) as client:
        futures = {
            number: client.predict_future("m", {"x": number}, version=number + 1)
            for number in range(40)
        }
        for number, future in futures.items():
            future.add_done_callback(partial(keep, number))
        assert not wait_for(futures.values(), SECONDS).not_done
    assert {number: answer["x"].item() for number, answer in done.items()} == {
        number: number for number in range(40)
    }
    assert done[3].version == 4


def test_a_future_fails_with_the_error_of_its_call() -> None:
    refusing = Refusing(1)
    with answering({calls.PREDICT: refusing}) as address, Client(address) as client:
        error = client.predict_future("m", {}).exception(SECONDS)
    assert isinstance(error, ClientError)
    assert (error.code, refusing.calls) == (Code.UNAVAILABLE, 1)


def test_a_future_that_is_cancelled_ends_its_call() -> None:
    held = Held()
    with answering({calls.PREDICT: held}) as address, Client(address) as client:
        future = client.predict_future("m", {})
        assert held.arrived.acquire(timeout=SECONDS)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(SECONDS)
        assert held.left.wait(SECONDS)
        late = client.predict_future("m", {})
        assert late.result(SECONDS) == {}
        assert not late.cancel()


def test_a_task_that_is_cancelled_ends_its_call() -> None:
    held = Held()

    async def run(address: str) -> None:
        async with AsyncClient(address) as client:
            task = asyncio.ensure_future(client.predict("m", {}))
            await asyncio.to_thread(held.arrived.acquire, timeout=SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(held.left.wait, SECONDS)
            assert await client.predict("m", {}) == {}

    with answering({calls.PREDICT: held}) as address:
        asyncio.run(run(address))


def test_many_tasks_share_a_client() -> None:
    async def run(address: str) -> None:
        async with AsyncClient(address) as client:
            answers = await asyncio.gather(*(client.predict("m", {"x": n}) for n in range(100)))
        assert [answer["x"].item() for answer in answers] == list(range(100))

    with answering({calls.PREDICT: echo}) as address:
        asyncio.run(run(address))


# ---- the other calls


class Recorded:
    """Keeps the request as a message, and answers with another one."""

    def __init__(self, request: str, answer: Any) -> None:
        self.request: Any = message(request)
        self._answer = answer

    def __call__(self, request: bytes, context: Any) -> bytes:
        self.request.ParseFromString(request)
        answer: bytes = self._answer.SerializeToString()
        return answer


SPEC = {"name": "m", "version": {"value": 3}, "signature_name": "s"}


def features(example: Any) -> dict[str, tuple[str | None, list[Any]]]:
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = (kind, list(getattr(feature, kind).value) if kind else [])
    return found


def test_examples_are_classified(connect: Connect) -> None:
    answer = message("tensorflow.serving.ClassificationResponse", model_spec=SPEC)
    for label in ("a", "b"):
        answer.result.classifications.add().classes.add(label=label, score=0.5)
    recorded = Recorded("tensorflow.serving.ClassificationRequest", answer)
    example = {
        "ints": [1, True],
        "float": 0.5,
        "floats": np.array([[1.0], [2.0]]),
        "text": "é",
        "raw": [b"\0", "b"],
        "none": [],
    }
    with answering({calls.CLASSIFY: recorded}) as address:
        classes = connect(address).classify("m", [example, b""], signature="s", label="stable")
    assert classes == [[Class("a", 0.5)], [Class("b", 0.5)]]
    assert (classes.model, classes.version, classes.signature) == ("m", 3, "s")
    sent = recorded.request
    assert (sent.model_spec.signature_name, sent.model_spec.version_label) == ("s", "stable")
    first, second = sent.input.example_list.examples
    assert features(first) == {
        "ints": ("int64_list", [1, 1]),
        "float": ("float_list", [0.5]),
        "floats": ("float_list", [1, 2]),
        "text": ("bytes_list", ["é".encode()]),
        "raw": ("bytes_list", [b"\0", b"b"]),
        "none": (None, []),
    }
    assert features(second) == {}


def test_examples_with_a_context_are_regressed(connect: Connect) -> None:
    answer = message("tensorflow.serving.RegressionResponse", model_spec=SPEC)
    answer.result.regressions.add(value=1.5)
    recorded = Recorded("tensorflow.serving.RegressionRequest", answer)
    example = message("tensorflow.Example")
    example.features.feature["x"].float_list.value.append(2)
    with answering({calls.REGRESS: recorded}) as address:
        values = connect(address).regress("m", [example], context={"y": 1}, version=3)
    assert values == [1.5]
    assert (values.model, values.version, values.signature) == ("m", 3, "s")
    sent = recorded.request.input.example_list_with_context
    assert features(sent.examples[0]) == {"x": ("float_list", [2])}
    assert features(sent.context) == {"y": ("int64_list", [1])}
    assert recorded.request.model_spec.version.value == 3


@pytest.mark.parametrize(
    ("example", "text"),
    [
        ({"x": 1j}, "feature 'x': an example has no values of complex128"),
        ({"x": [2**70]}, "feature 'x'"),
        (3, "an example is a mapping or bytes, not a int"),
    ],
)
def test_what_no_example_can_be_is_told(connect: Connect, example: Any, text: str) -> None:
    with answering({}) as address, pytest.raises(TypeError, match=text):
        connect(address).classify("m", [example])


@pytest.mark.parametrize("examples", [{"x": 1.0}, b"", "x", message("tensorflow.Example")])
def test_one_example_is_not_taken_for_several(connect: Connect, examples: Any) -> None:
    with answering({}) as address, pytest.raises(TypeError, match="give a list"):
        connect(address).classify("m", examples)


def test_signatures_are_run_together(connect: Connect) -> None:
    answer = message("tensorflow.serving.MultiInferenceResponse")
    answer.results.add(model_spec=SPEC).regression_result.regressions.add(value=1.5)
    other = answer.results.add(model_spec={**SPEC, "signature_name": "c"})
    other.classification_result.classifications.add().classes.add(label="a")
    recorded = Recorded("tensorflow.serving.MultiInferenceRequest", answer)
    with answering({calls.MULTI_INFERENCE: recorded}) as address:
        results = connect(address).multi_inference(
            "m", [b""], classify=["c"], regress=["s"], version=3
        )
    assert results == {"s": [1.5], "c": [[Class("a", 0.0)]]}
    tasks = [(task.model_spec.signature_name, task.method_name) for task in recorded.request.tasks]
    assert tasks == [("c", "tensorflow/serving/classify"), ("s", "tensorflow/serving/regress")]
    assert len(recorded.request.input.example_list.examples) == 1


def test_no_signature_at_all_is_not_sent(connect: Connect) -> None:
    with answering({}) as address, pytest.raises(ValueError, match="name the signatures"):
        connect(address).multi_inference("m", [b""])


@pytest.mark.parametrize(
    ("method", "arguments", "option"),
    [
        ("predict", ("m", {"x": 1.0}), "output_filter"),
        ("multi_inference", ("m", [b""]), "classify"),
        ("multi_inference", ("m", [b""]), "regress"),
        ("reload", ([],), "metrics"),
    ],
)
def test_one_name_is_not_taken_for_its_letters(
    connect: Connect, method: str, arguments: tuple[Any, ...], option: str
) -> None:
    with answering({}) as address, pytest.raises(TypeError, match=rf"{option} .* \['scores'\]"):
        getattr(connect(address), method)(*arguments, **{option: "scores"})


@pytest.mark.parametrize("inputs", [[1.0], "x", 1.0, None])
def test_inputs_without_names_are_refused(connect: Connect, inputs: Any) -> None:
    with answering({}) as address, pytest.raises(TypeError, match="inputs map the names"):
        connect(address).predict("m", inputs)


def test_status_tells_each_version_and_why_it_failed(connect: Connect) -> None:
    answer = message("tensorflow.serving.GetModelStatusResponse")
    answer.model_version_status.add(version=2, state=30)
    failed = answer.model_version_status.add(version=1, state=50)
    failed.status.error_code, failed.status.error_message = 5, "no file"
    recorded = Recorded("tensorflow.serving.GetModelStatusRequest", answer)
    with answering({calls.GET_MODEL_STATUS: recorded}) as address:
        new, old = connect(address).status("m", label="stable")
    assert new == VersionStatus(2, "AVAILABLE")
    assert new.available
    assert old == VersionStatus(1, "END", Code.NOT_FOUND, "no file")
    assert not old.available
    assert recorded.request.model_spec.version_label == "stable"


def test_metadata_tells_the_signatures(connect: Connect) -> None:
    signatures = message("tensorflow.serving.SignatureDefMap")
    signature = signatures.signature_def["s"]
    signature.method_name = "tensorflow/serving/predict"
    signature.inputs["x"].dtype = 1
    signature.inputs["x"].name = "x:0"
    for size in (-1, 3):
        signature.inputs["x"].tensor_shape.dim.add(size=size)
    signature.inputs["w"].dtype = 14
    signature.inputs["w"].tensor_shape.unknown_rank = True
    signature.outputs["y"].dtype = 7
    signature.defaults["w"].dtype = 14
    answer = message("tensorflow.serving.GetModelMetadataResponse", model_spec=SPEC)
    answer.metadata["signature_def"].value = signatures.SerializeToString()
    recorded = Recorded("tensorflow.serving.GetModelMetadataRequest", answer)
    with answering({calls.GET_MODEL_METADATA: recorded}) as address:
        metadata = connect(address).metadata("m", version=3)
    assert list(recorded.request.metadata_field) == ["signature_def"]
    assert (metadata.model, metadata.version, list(metadata.signatures)) == ("m", 3, ["s"])
    told = metadata.signatures["s"]
    assert told.method_name == "tensorflow/serving/predict"
    assert told.defaults == {"w"}
    x, w, y = told.inputs["x"], told.inputs["w"], told.outputs["y"]
    assert (x.dtype, x.shape, x.name, x.numpy_dtype()) == ("float", (-1, 3), "x:0", np.float32)
    assert (w.dtype, w.shape) == ("bfloat16", None)
    assert (y.dtype, y.shape, y.numpy_dtype()) == ("string", (), object)


def test_models_are_reloaded(connect: Connect) -> None:
    answer = message("tensorflow.serving.ReloadConfigResponse")
    answer.metric.add(name=":a", int64_value_increase=2)
    recorded = Recorded("tensorflow.serving.ReloadConfigRequest", answer)
    models = [
        Model("a", "/a"),
        Model("b", "/b", versions=[1, 2], labels={"stable": 1}),
        Model("c", "/c", versions="all", platform="p"),
        Model("d", "/d", versions=2),
    ]
    with answering({calls.RELOAD: recorded}) as address:
        grown = connect(address).reload(models, metrics=[":a"])
    assert grown == {":a": 2}
    a, b, c, d = recorded.request.config.model_config_list.config
    assert (a.name, a.base_path, a.model_platform) == ("a", "/a", "tensorflow")
    assert not a.HasField("model_version_policy")
    assert list(b.model_version_policy.specific.versions) == [1, 2]
    assert dict(b.version_labels) == {"stable": 1}
    assert (c.model_platform, c.model_version_policy.WhichOneof("policy_choice")) == ("p", "all")
    assert d.model_version_policy.latest.num_versions == 2
    assert list(recorded.request.metric_names) == [":a"]


def test_a_reload_that_failed_is_an_error_wherever_it_is_told(connect: Connect) -> None:
    answer = message("tensorflow.serving.ReloadConfigResponse")
    answer.status.error_code, answer.status.error_message = 3, "wrong"
    recorded = Recorded("tensorflow.serving.ReloadConfigRequest", answer)
    with answering({calls.RELOAD: recorded}) as address:
        client = connect(address)
        with pytest.raises(ClientError, match="INVALID_ARGUMENT: wrong"):
            client.reload("model_config_list {}")
        with pytest.raises(ValueError, match="models:1:1"):
            client.reload("nonsense")
        with pytest.raises(ValueError, match="versions are"):
            client.reload([Model("a", "/a", versions="some")])  # type: ignore[arg-type]


def test_health_is_told_by_name(connect: Connect) -> None:
    answer = message("grpc.health.v1.HealthCheckResponse", status=2)
    recorded = Recorded("grpc.health.v1.HealthCheckRequest", answer)
    with answering({calls.HEALTH_CHECK: recorded}) as address:
        assert connect(address).health("model/m") == "NOT_SERVING"
    assert recorded.request.service == "model/m"
