"""The clients and the commands that use them, against a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.functional.conftest import Serve, serving
from tests.functional.launching import SECONDS, Launched, launched
from tests.functional.messages import DTYPES
from tests.functional.serving_api import Question, ServingApi
from tests.functional.sites import Site
from tfsrv.client import AsyncClient, Client, ClientError, Code, Model
from tfsrv.client.dtypes import data_type

NUMBER = {"bool": "?", "string": "O", "half": "f2", "float": "f4", "double": "f8"}
SENT = [name for name in DTYPES if not name.startswith("q")]


@pytest.fixture(params=["auto", "grpc"])
def asked(server: Launched, request: pytest.FixtureRequest) -> Iterator[Client]:
    """tfsrv's client, connected to `server` in each way that there is."""
    with Client(server.address(), timeout=SECONDS, transport=request.param) as client:
        yield client


def some(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if name == "string":
        return np.array([[b"a", b"\0\xff"]], object)
    if name == "bfloat16":
        dtypes = pytest.importorskip("ml_dtypes")
        return np.array([[1.5, -2]], dtypes.bfloat16)
    return np.array([[1, 0], [1, 1]]).astype(NUMBER.get(name, name))


@pytest.mark.parametrize("name", SENT)
def test_arrays_of_every_type_come_back_as_they_went(asked: Client, name: str) -> None:
    values = some(name)
    answer = asked.predict("identity", {"x": values}, signature=name)
    assert answer["y"].dtype == values.dtype
    assert answer["y"].tolist() == values.tolist()
    assert (answer.model, answer.version, answer.signature) == ("identity", 1, name)


def test_quantized_types_are_read_as_integers(asked: Client) -> None:
    for name in ("qint8", "quint8", "qint16", "quint16", "qint32"):
        info = asked.metadata("identity").signatures[name].inputs["x"]
        assert info.dtype == name
        assert data_type(info.numpy_dtype()) != info.data_type


def test_tensorflow_makes_the_same_of_requests_and_answers(
    asked: Client, server: Launched, serving_api: ServingApi
) -> None:
    for name in ("float", "int64", "string", "bool", "half", "complex64", "uint32"):
        values = some(name)
        (theirs,) = serving_api.predict(
            server.address(), Question("identity", {"x": values}, signature=name)
        )
        ours = asked.predict("identity", {"x": values}, signature=name)
        assert theirs.outputs["y"].dtype == ours["y"].dtype
        assert theirs.outputs["y"].tolist() == ours["y"].tolist()
        assert theirs.model_spec == (ours.model, ours.version, ours.signature)


def test_outputs_are_chosen_and_versions_too(asked: Client) -> None:
    inputs = {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    both = asked.predict("sum_and_product", inputs)
    assert both["sum"].tolist() == [4, 6]
    assert both["product"].tolist() == [3, 8]
    assert list(asked.predict("sum_and_product", inputs, output_filter=["sum"])) == ["sum"]
    answer = asked.predict("half_plus_two", {"x": [2.0]}, version=3)
    assert (answer["y"].tolist(), answer.version) == ([5.0], 3)
    with pytest.raises(ClientError, match=r"Specific\(half_plus_two, 1\)"):
        asked.predict("half_plus_two", {"x": [2.0]}, version=1)


def test_errors_are_the_server_s(asked: Client) -> None:
    with pytest.raises(ClientError, match=r"Servable not found for request: Latest\(nosuch\)") as e:
        asked.predict("nosuch", {"x": 1.0})
    assert e.value.code is Code.NOT_FOUND
    with pytest.raises(ClientError, match="input size does not match signature") as e:
        asked.predict("half_plus_two", {})
    assert e.value.code is Code.INVALID_ARGUMENT


def test_status_and_metadata_are_told(asked: Client) -> None:
    newest = asked.status("half_plus_two")[0]
    assert (newest.version, newest.available) == (3, True)
    metadata = asked.metadata("half_plus_two")
    assert (metadata.model, metadata.version) == ("half_plus_two", 3)
    signature = metadata.signatures["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert {alias: (x.dtype, x.shape) for alias, x in signature.inputs.items()} == {
        "x": ("float", (-1,))
    }
    defaults = asked.metadata("default_inputs").signatures["serving_default"].defaults
    assert defaults == {"scale", "offset"}


def test_large_images_travel_both_ways(asked: Client) -> None:
    images = np.random.default_rng(1).random((32, 150_528), np.float32)  # 19 MB
    answer = asked.predict("identity_image", {"x": images})
    np.testing.assert_array_equal(answer["y"], images)


def test_threads_and_futures_share_a_client(asked: Client) -> None:
    def ask(number: int) -> float:
        return float(asked.predict("half_plus_two", {"x": [number * 2.0]})["y"][0])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(200))) == [number + 4 for number in range(200)]
    futures = [
        asked.predict_future("half_plus_two", {"x": [number * 2.0]}) for number in range(100)
    ]
    assert [float(future.result(SECONDS)["y"][0]) for future in futures] == [
        number + 4 for number in range(100)
    ]


def test_tasks_share_a_client(server: Launched) -> None:
    async def run() -> list[float]:
        async with AsyncClient(server.address()) as client:
            answers = await asyncio.gather(
                *(client.predict("half_plus_two", {"x": [number * 2.0]}) for number in range(100))
            )
            assert (await client.status("half_plus_two"))[0].available
            with pytest.raises(ClientError, match="Servable not found"):
                await client.metadata("nosuch")
        return [float(answer["y"][0]) for answer in answers]

    assert asyncio.run(run()) == [number + 4 for number in range(100)]


def test_a_slow_signature_is_left_at_the_time_out(asked: Client) -> None:
    with pytest.raises(ClientError) as caught:
        asked.predict("sleeper", {"seconds": 20.0}, timeout=0.3)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_models_are_reloaded_and_listed(serve: Serve, site: Site) -> None:
    for version in (1, 2):
        site.link(version)
    server = serve({}, "--enable_model_management", ready=False)
    with Client(server.address(), timeout=SECONDS) as client:
        base_path = str(site.base())
        client.reload([Model("m", base_path, versions="all", labels={"stable": 1})])
        assert client.predict("m", {"x": [2.0]}, label="stable")["y"].tolist() == [3.0]
        (listed,) = client.list_models()
        assert (listed.name, listed.base_path, listed.labels) == ("m", base_path, {"stable": 1})
        assert [each.version for each in listed.versions] == [2, 1]
        with pytest.raises(ClientError) as caught:
            client.reload([Model("m", "")])
        assert caught.value.code is Code.INVALID_ARGUMENT
        out, _ = tfsrv("show", server.address())
        assert out.startswith("m\n  version 2\n    serving_default  tensorflow/serving/predict\n")
        assert "  version 1 (stable)\n" in out


def test_a_server_at_a_unix_socket_is_asked(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    flags = ("--port=0", f"--grpc_socket_path={path}")
    with launched(models / "half_plus_two", *flags) as server:
        server.line_with("is available")
        with Client(f"unix:{path}", timeout=SECONDS, wait_for_ready=True) as client:
            assert client.predict("half_plus_two", {"x": [2.0]}, version=3)["y"].tolist() == [5.0]
        assert server.stop() == 0


def test_a_client_outlives_its_server(models: Path, tmp_path: Path) -> None:
    flags = ("--port=0", f"--grpc_socket_path={tmp_path / 'socket'}")
    with Client(f"unix:{tmp_path / 'socket'}", timeout=SECONDS, wait_for_ready=True) as client:
        for _ in range(2):
            with launched(models / "half_plus_two", *flags) as server:
                answer = client.predict("half_plus_two", {"x": [2.0]})
                assert answer["y"].tolist() == [5.0]
                assert server.stop() == 0


# ---- commands


def tfsrv(*arguments: str, status: int = 0, stdin: str = "") -> tuple[str, str]:
    """What `tfsrv` prints: output and errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tfsrv", *arguments],
        cwd=ROOT,
        input=stdin,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def small_server(models: Path) -> Iterator[Launched]:
    """A server of a few models."""
    names = ("half_plus_two", "string_identity", "sum_and_product", "default_inputs", "counter")
    with serving({name: models / name for name in names}) as server:
        yield server


def test_one_request_is_sent_from_a_shell(small_server: Launched) -> None:
    address = small_server.address()
    ask = ("predict", address)
    assert tfsrv(*ask, "half_plus_two", '{"x": [1, 2.5]}')[0] == '{"y": [4.5, 5.25]}\n'
    assert tfsrv(*ask, "half_plus_two", "-", "--version=3", stdin="[2]")[0] == '{"y": [5.0]}\n'
    told, _ = tfsrv(*ask, "string_identity", '{"x": ["é", {"b64": "/w=="}]}')
    assert told == '{"y": ["é", {"b64": "/w=="}]}\n'
    lengths, _ = tfsrv(*ask, "string_identity", '["ab"]', "--signature=lengths")
    assert lengths == '{"length": [2]}\n'
    both = '{"a": [2], "b": [3]}'
    assert tfsrv(*ask, "sum_and_product", both)[0] == '{"product": [6.0], "sum": [5.0]}\n'
    assert tfsrv(*ask, "sum_and_product", both, "--output=sum")[0] == '{"sum": [5.0]}\n'
    assert tfsrv(*ask, "default_inputs", '{"x": [2]}')[0] == '{"y": [5.0]}\n'


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("nosuch", "1"), 1, "NOT_FOUND: Servable not found for request: Latest(nosuch)"),
        (("half_plus_two", "1", "--version=9"), 1, "NOT_FOUND: "),
        (("half_plus_two", '{"z": 1}'), 2, "there is no input z: there are x"),
        (("half_plus_two", '{"x": ["a"]}'), 2, "input x: 'a' is no float"),
        (("half_plus_two", "1", "--signature=s"), 2, "has no signature s: it has serving_default"),
        (("sum_and_product", "1"), 2, "name the inputs, which are a, b"),
        (("counter", "1", "--signature=get_counter"), 2, "there are no inputs: give '{}'"),
        (("sum_and_product", '{"a": [1]}'), 1, "INVALID_ARGUMENT: input size does not match"),
    ],
)
def test_a_request_that_fails_is_told_in_one_line(
    small_server: Launched, arguments: tuple[str, ...], status: int, told: str
) -> None:
    out, err = tfsrv("predict", small_server.address(), *arguments, status=status)
    assert out == ""
    assert err.startswith("tfsrv: ")
    assert told in err
    assert err.count("\n") == 1


def test_a_server_s_models_are_shown(small_server: Launched) -> None:
    out, _ = tfsrv(
        "show", small_server.address(), "--model=default_inputs", "--model=half_plus_two"
    )
    assert out.startswith(
        "default_inputs\n"
        "  version 1\n"
        "    serving_default  tensorflow/serving/predict\n"
        "      in   offset  float []  optional\n"
        "      in   scale   float []  optional\n"
        "      in   x       float [?]\n"
        "      out  y       float [?]\n"
        "half_plus_two\n"
        "  version 3\n"
    )
    listed, _ = tfsrv("show", small_server.address())
    assert out in listed
    _, err = tfsrv("show", small_server.address(), "--model=nosuch", status=1)
    assert err == "tfsrv: NOT_FOUND: Could not find any versions of model nosuch\n"


def test_a_model_without_versions_hides_no_other(models: Path, tmp_path: Path) -> None:
    paths = {"away": tmp_path / "nowhere", "half_plus_two": models / "half_plus_two"}
    with serving(paths, ready=False, errors_are_meant=True) as server:
        server.line_with("half_plus_two version 3 is available")
        out, _ = tfsrv("show", server.address(), status=1)
    assert out.startswith("away\n  no versions\nhalf_plus_two\n  version 3\n")


def test_a_server_that_lists_nothing_has_to_be_asked_for_names(models: Path) -> None:
    flag = "--enable_grpc_healthcheck_service=false"
    with serving({"half_plus_two": models / "half_plus_two"}, flag) as server:
        _, err = tfsrv("show", server.address(), status=1)
        assert err == "tfsrv: give --model=NAME: this server does not list its models\n"
        out, _ = tfsrv("show", server.address(), "--model=half_plus_two")
        assert out.startswith("half_plus_two\n")


# ---- import


def test_importing_the_client_imports_no_server_and_no_tensorflow() -> None:
    program = """
import sys
import tfsrv.client
unwanted = {"tensorflow", "uvloop", "google.protobuf", "tfsrv.server", "tfsrv.core", "tfsrv._tf"}
assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True)
