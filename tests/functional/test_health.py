"""Health as gRPC's own clients ask for it: whether the server takes requests, and each model."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.functional.conftest import config_file, serving
from tests.functional.gated_model import GatedModel
from tests.functional.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, HealthClient, Watch
from tests.functional.launching import SECONDS, Client, Launched, client, launched, until
from tests.functional.managing import model, refused_reload, reload
from tests.functional.messages import floats, predict_request
from tests.functional.sites import Site, break_version
from tests.functional.test_other_clients import NODE, needs_node

SERVER = ("", "tensorflow.serving.PredictionService", "PredictionService")
PORT = ("tensorflow.serving.ModelService", "ModelService")
WHERE = ("--port=0", "--bind_address=127.0.0.1")
LONG_GRACE = "--shutdown_grace_seconds=60"  # longer than any test waits


class Asking:
    """A client that asks for health, too."""

    def __init__(self, ask: Client) -> None:
        self.ask = ask
        self.health = HealthClient(ask.channel)
        self.watches: list[Watch] = []

    def watch(self, name: str) -> Watch:
        self.watches.append(self.health.watch(name))
        return self.watches[-1]


@contextmanager
def asking(server: Launched) -> Iterator[Asking]:
    with client(server.address()) as ask:
        made = Asking(ask)
        yield made
        for watch in made.watches:
            watch.cancel()


def refusal_of(health: HealthClient, name: str) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        health.check(name)
    error: Any = caught.value
    return error.code(), error.details()


def test_tells_of_the_server_and_of_each_model(models: Path, transport: str) -> None:
    paths = {"m": models / "half_plus_two", "broken": models / "nothing"}
    flag = f"--grpc_transport={transport}"
    with (
        serving(paths, flag, ready=False, errors_are_meant=True) as server,
        asking(server) as a,
    ):
        until(lambda: a.health.check("") == SERVING)
        assert a.health.all() == {
            **dict.fromkeys((*SERVER, *PORT, "model/m"), SERVING),
            "model/broken": NOT_SERVING,
        }
        for name, status in a.health.all().items():
            assert a.health.check(name) == status
            assert a.watch(name).next() == status
        for name in ("m", "model/", "model/x", "grpc.health.v1.Health", "modelservice"):
            assert refusal_of(a.health, name) == (
                grpc.StatusCode.NOT_FOUND,
                f"There is no service {name}",
            )
            assert a.watch(name).next() == SERVICE_UNKNOWN


def test_the_server_does_not_serve_until_every_model_is_decided(
    tmp_path: Path, models: Path, transport: str
) -> None:
    gated = GatedModel(tmp_path / "gated")
    paths = {"m": models / "half_plus_two", "gated": gated.path}
    with (
        serving(paths, f"--grpc_transport={transport}", ready=False) as server,
        asking(server) as a,
    ):
        of_server, of_model = a.watch(""), a.watch("model/gated")
        assert (of_server.next(), of_model.next()) == (NOT_SERVING, NOT_SERVING)
        until(lambda: a.health.check("model/m") == SERVING)
        assert [a.health.check(name) for name in SERVER] == [NOT_SERVING] * 3
        assert [a.health.check(name) for name in PORT] == [SERVING] * 2
        gated.open()
        assert (of_server.next(), of_model.next()) == (SERVING, SERVING)


def test_a_server_none_of_whose_models_loads_does_not_serve(site: Site, transport: str) -> None:
    folder = site.base() / "1"
    folder.mkdir(parents=True)
    break_version(folder, "graph", site)
    flag = f"--grpc_transport={transport}"
    with (
        serving({"m": site.base()}, flag, ready=False, errors_are_meant=True) as server,
        asking(server) as a,
    ):
        server.line_with("Can't parse")
        watch = a.watch("")
        assert watch.next() == NOT_SERVING
        site.add(2)
        assert watch.next() == SERVING
        assert a.health.check("model/m") == SERVING


def test_a_server_without_models_serves_as_soon_as_tensorflow_is_open(transport: str) -> None:
    with serving({}, f"--grpc_transport={transport}") as server, asking(server) as a:
        until(lambda: a.health.check("") == SERVING)
        assert a.health.all() == dict.fromkeys((*SERVER, *PORT), SERVING)


def test_watchers_hear_of_models_that_come_and_go(models: Path, transport: str) -> None:
    with serving({}, f"--grpc_transport={transport}") as server, asking(server) as a:
        until(lambda: a.health.check("") == SERVING)
        of_model, of_server = a.watch("model/a"), a.watch("")
        assert (of_model.next(), of_server.next()) == (SERVICE_UNKNOWN, SERVING)
        reload(a.ask, model("a", models / "half_plus_two"))
        # It may be loaded before anybody looked.
        assert (told := of_model.next()) in (NOT_SERVING, SERVING)
        assert told == SERVING or of_model.next() == SERVING
        until(lambda: a.health.check("") == SERVING)
        reload(a.ask)
        while (told := of_model.next()) != SERVICE_UNKNOWN:
            assert told == NOT_SERVING
        assert refusal_of(a.health, "model/a")[0] == grpc.StatusCode.NOT_FOUND


def test_a_model_that_never_loaded_is_unknown_once_it_is_removed(
    models: Path, transport: str
) -> None:
    flag = f"--grpc_transport={transport}"
    paths = {"m": models / "half_plus_two"}
    with serving(paths, flag, errors_are_meant=True) as server, asking(server) as a:
        watch = a.watch("model/a")
        assert watch.next() == SERVICE_UNKNOWN
        kept = model("m", models / "half_plus_two")
        refused_reload(a.ask, kept, model("a", models / "nothing"))
        assert watch.next() == NOT_SERVING
        reload(a.ask, kept)
        assert watch.next() == SERVICE_UNKNOWN


def test_adding_a_model_that_takes_long_leaves_the_server_serving(
    tmp_path: Path, models: Path
) -> None:
    gated = GatedModel(tmp_path / "gated")
    paths = {"m": models / "half_plus_two"}
    with serving(paths, "--enable_model_management") as server, asking(server) as a:
        until(lambda: a.health.check("") == SERVING)
        watch = a.watch("")
        assert watch.next() == SERVING
        with ThreadPoolExecutor() as threads:
            adding = threads.submit(
                reload, a.ask, model("m", paths["m"]), model("gated", gated.path)
            )
            until(lambda: a.health.all().get("model/gated") == NOT_SERVING)
            assert a.health.check("") == SERVING
            gated.open()
            adding.result()
        until(lambda: a.health.check("model/gated") == SERVING)
        assert not watch.has_more()


def test_a_new_version_changes_nothing_for_watchers(site: Site, transport: str) -> None:
    site.add(1)
    with (
        serving({"m": site.base()}, f"--grpc_transport={transport}") as server,
        asking(server) as a,
    ):
        until(lambda: a.health.check("") == SERVING)
        watches = [a.watch("model/m"), a.watch("")]
        assert [watch.next() for watch in watches] == [SERVING] * 2
        site.add(2)
        until(lambda: 2 in {version.version for version in a.ask.model_status("m")})
        until(lambda: a.ask.states("m")[0] == 30)
        assert not any(watch.has_more() for watch in watches)


def test_a_drain_tells_watchers_and_ends_them_while_requests_finish(
    models: Path, transport: str
) -> None:
    paths = {name: models / name for name in ("half_plus_two", "sleeper")}
    flags = (f"--grpc_transport={transport}", LONG_GRACE)
    with (
        config_file(paths) as config,
        launched(config, *WHERE, *flags) as server,
        asking(server) as a,
    ):
        until(lambda: a.health.check("") == SERVING)
        names = ("", "model/sleeper", "ModelService", "nosuch")
        watches = [a.watch(name) for name in names]
        told = [watch.next() for watch in watches]
        assert told == [SERVING, SERVING, SERVING, SERVICE_UNKNOWN]
        future = a.ask.predict_future(predict_request("sleeper", {"seconds": floats(4)}))
        assert a.health.check("") == SERVING  # comes behind it
        server.process.terminate()
        assert [watch.next() for watch in watches[:3]] == [NOT_SERVING] * 3
        assert [watch.next() for watch in watches] == [grpc.StatusCode.UNAVAILABLE] * 4
        assert {watch.details() for watch in watches} == {"The server is stopping."}
        assert not future.done()
        assert future.result().outputs
        assert server.wait() == 0
        assert not [line for line in server.log if "Traceback" in line or "ERROR" in line]


def test_a_thousand_watchers_are_told_and_do_not_hold_up_the_end(
    models: Path, transport: str
) -> None:
    paths = {"m": models / "half_plus_two"}
    with (
        config_file(paths) as config,
        launched(config, *WHERE, f"--grpc_transport={transport}", LONG_GRACE) as server,
    ):
        asyncio.run(watch_by_thousands(server))
        assert server.wait() == 0


async def watch_by_thousands(server: Launched) -> None:
    """Open 1,000 Watches on a few connections, have the server stop, and read what they tell."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.address(), options))
            for _ in range(4)
        ]
        request = health_pb2.HealthCheckRequest(service="ModelService")
        stubs = [health_pb2_grpc.HealthStub(channel) for channel in channels]
        calls = [stubs[i % 4].Watch(request) for i in range(1000)]
        for call in calls:
            assert (await call.read()).status == SERVING
        server.process.terminate()
        for call in calls:
            assert (await call.read()).status == NOT_SERVING
        for call in calls:
            assert await call.code() == grpc.StatusCode.UNAVAILABLE


def test_a_name_may_not_be_long(models: Path, transport: str) -> None:
    paths = {"m": models / "half_plus_two"}
    with serving(paths, f"--grpc_transport={transport}") as server, asking(server) as a:
        code, text = refusal_of(a.health, "x" * 5000)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert text == "The HealthCheckRequest is larger than 4096 bytes."
        assert a.watch("x" * 5000).next() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal_of(a.health, "x" * 4000)[0] == grpc.StatusCode.NOT_FOUND
        garbage = a.ask.channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError, match="Failed to parse the HealthCheckRequest"):
            garbage(b"\xff", timeout=SECONDS)


def test_health_can_be_turned_off(models: Path, transport: str) -> None:
    flags = (f"--grpc_transport={transport}", "--enable_grpc_healthcheck_service=false")
    with serving({"m": models / "half_plus_two"}, *flags) as server, asking(server) as a:
        assert refusal_of(a.health, "")[0] == grpc.StatusCode.UNIMPLEMENTED
        assert a.watch("").next() == grpc.StatusCode.UNIMPLEMENTED


@needs_node
def test_javascript_watches(models: Path, transport: str) -> None:
    paths = {"m": models / "half_plus_two"}
    with (
        config_file(paths) as config,
        launched(config, *WHERE, f"--grpc_transport={transport}", LONG_GRACE) as server,
    ):
        watching = subprocess.Popen(
            ["node", NODE / "health.js", server.address(), "model/m"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert watching.stdout is not None
            lines = iter(watching.stdout.readline, "")
            while (told := json.loads(next(lines))) != {"status": "SERVING"}:
                assert told == {"status": "NOT_SERVING"}
            server.process.terminate()
            assert json.loads(next(lines)) == {"status": "NOT_SERVING"}
            assert json.loads(next(lines)) == {
                "code": grpc.StatusCode.UNAVAILABLE.value[0],
                "details": "The server is stopping.",
            }
            assert watching.wait(SECONDS) == 0
        finally:
            watching.kill()
            watching.communicate()
        assert server.wait() == 0
