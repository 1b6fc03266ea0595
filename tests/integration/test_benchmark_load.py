"""The benchmarks' load against servers that are right, and against ones that only look so.

h2load takes HTTP status 200 for success, and a failed gRPC call has that status too.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from _load import Load, Loader, WrongAnswerError
from _servers import Server, ServerKind, ServerMissingError, server_kinds
from _workloads import Workload

pytestmark = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load")

WORKLOAD = Workload("w", "m", Path("m"), b"request", b"", "x:0", "y:0")
# Answers rightly at first, then every second time as it is told.
UNRELIABLE_SERVER = """
import asyncio, itertools, os, sys
import grpc, grpc.aio

how, port = sys.argv[1:]
calls = itertools.count(1)

async def answer(request, context):
    if next(calls) % 2 == 0:
        if how == "error":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many threads")
        if how == "crash":
            print("out of luck", flush=True)
            os._exit(3)
        return request[::-1]
    return request

class Handler(grpc.GenericRpcHandler):
    def service(self, handler_call_details):
        return grpc.unary_unary_rpc_method_handler(answer)

async def serve():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()

asyncio.run(serve())
"""


def unreliable(how: str) -> ServerKind:
    def command(_: Workload, port: int) -> list[str]:
        return [sys.executable, "-c", UNRELIABLE_SERVER, how, str(port)]

    return ServerKind("unreliable", command, echoes=True)


@pytest.fixture(params=["echo", "socket"])
def right_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(server_kinds()[request.param], WORKLOAD) as server:
        yield server


def test_measures_a_server_that_answers_rightly(right_server: Server, tmp_path: Path) -> None:
    loader = Loader(right_server.wait_until_ready(), Load(1, 1), 0.2, tmp_path)
    loader.warm_up()
    sample = loader.measure()
    assert sample.requests >= 4
    assert 0 < sample.p50_micros <= sample.p99_micros <= sample.max_micros
    assert 0 < sample.cpu_micros < 1e6
    assert right_server.memory_bytes()["VmRSS"] > 1e6


def test_leaves_no_process_behind(right_server: Server) -> None:
    right_server.wait_until_ready()
    right_server.stop()
    assert not right_server.is_running()


def test_notices_errors_behind_http_status_200(tmp_path: Path) -> None:
    with Server(unreliable("error"), WORKLOAD) as server:
        loader = Loader(server.wait_until_ready(), Load(4, 4), 1.0, tmp_path)
        with pytest.raises(WrongAnswerError):
            loader.run(64)


def test_counts_the_bytes_of_every_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("_load.Probe._run", lambda self: None)
    with Server(unreliable("error"), WORKLOAD) as server:
        loader = Loader(server.wait_until_ready(), Load(4, 4), 1.0, tmp_path)
        with pytest.raises(WrongAnswerError, match="384 bytes of data together, not 768"):
            loader.run(64)


def test_notices_wrong_answers_of_the_right_size(tmp_path: Path) -> None:
    with Server(unreliable("reversed"), WORKLOAD) as server:
        loader = Loader(server.wait_until_ready(), Load(1, 1), 1.0, tmp_path)
        with pytest.raises(WrongAnswerError, match=r"probes: 7 bytes: b'tseuqer'"):
            loader.run(2000)


def test_says_when_a_server_went_away_under_load(tmp_path: Path) -> None:
    with Server(unreliable("crash"), WORKLOAD) as server:
        loader = Loader(server.wait_until_ready(), Load(1, 1), 1.0, tmp_path)
        with pytest.raises(ServerMissingError, match=r"ended with status 3\n *out of luck"):
            loader.run(100)


def test_says_why_a_server_did_not_start() -> None:
    def command(_: Workload, port: int) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no such flag')"]

    with (
        Server(ServerKind("broken", command), WORKLOAD) as server,
        pytest.raises(ServerMissingError, match=r"broken: ended with status 1\n *no such flag"),
    ):
        server.wait_until_ready()
