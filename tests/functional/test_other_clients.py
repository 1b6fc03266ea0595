"""Clients that are not gRPC's C core: @grpc/grpc-js, h2load and curl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Launched, client
from tests.functional.messages import PredictResponse, array, floats, predict_request

NODE = ROOT / "tests" / "node"
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def curl_speaks_http_2() -> bool:
    if shutil.which("curl") is None:
        return False
    return b"HTTP2" in subprocess.run(["curl", "--version"], capture_output=True).stdout


needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").exists(),
    reason="needs node, and `npm ci --prefix tests/node`: scripts/run_tests sees to both",
)
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load")
needs_curl = pytest.mark.skipif(not curl_speaks_http_2(), reason="needs curl with HTTP/2")


@pytest.fixture(scope="module")
def server(models: Path, transport: str) -> Iterator[Launched]:
    flags = (f"--grpc_transport={transport}", "--shutdown_grace_seconds=0.1")
    paths = {name: models / name for name in ("half_plus_two", "blocker")}
    with serving(paths, *flags) as server:
        yield server


# --- @grpc/grpc-js


def javascript(server: Launched, model: str, *arguments: str) -> Any:
    """What tests/node/predict.js prints."""
    done = subprocess.run(
        ["node", NODE / "predict.js", server.address(), model, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert (done.returncode != 0) == ("code" in answer)
    return answer


@needs_node
def test_javascript_gets_right_answers(server: Launched) -> None:
    answer = javascript(server, "half_plus_two", "[1, 2, 5]")
    assert answer["outputs"]["y"]["float_val"] == [4.5, 5.0, 6.5]
    assert answer["model_spec"]["version"]["value"] == 3


@needs_node
def test_javascript_gets_large_answers(server: Launched) -> None:
    numbers = [*range(10_000)]
    answer = javascript(server, "half_plus_two", json.dumps(numbers))
    assert answer["outputs"]["y"]["float_val"] == [x / 2 + 4 for x in numbers]


@needs_node
def test_javascript_gets_errors(server: Launched) -> None:
    assert javascript(server, "nosuch ü", "[1]") == {
        "code": 5,
        "details": "Servable not found for request: Latest(nosuch ü)",
    }
    assert javascript(server, "blocker", "[1]", "500")["code"] == 4  # DEADLINE_EXCEEDED


# --- h2load


def h2load_counts(
    server: Launched, tmp_path: Path, body: bytes, requests: int, connections: int, streams: int
) -> tuple[int, int]:
    """How many answers h2load takes for good, and the bytes in their DATA frames.

    An HTTP status of 200 says nothing about gRPC's, so only the bytes tell.
    """
    file = tmp_path / "body"
    file.write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
    done = subprocess.run(
        [
            *("h2load", f"--requests={requests}", f"--clients={connections}"),
            *(f"--max-concurrent-streams={streams}", "--threads=1", f"--data={file}"),
            *("--header=content-type: application/grpc", "--header=te: trailers"),
            f"http://{server.address()}{PREDICT}",
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    succeeded = re.search(r"(\d+) succeeded, 0 failed, 0 errored, 0 timeout", done.stdout)
    data = re.search(r"\((\d+)\) data$", done.stdout, re.MULTILINE)
    assert succeeded, done.stdout
    assert data, done.stdout
    return int(succeeded[1]), int(data[1])


@needs_h2load
@pytest.mark.parametrize(("connections", "streams"), [(1, 1), (4, 16), (64, 1), (16, 4)])
def test_h2load_gets_every_answer_whole(
    server: Launched, tmp_path: Path, connections: int, streams: int
) -> None:
    body = predict_request("half_plus_two", {"x": floats(1, 2, 5)}).SerializeToString()
    with client(server.address()) as ask:
        size = len(ask.channel.unary_unary(PREDICT)(body, timeout=SECONDS))
    counts = h2load_counts(server, tmp_path, body, 1600, connections, streams)
    assert counts == (1600, 1600 * (5 + size))


@needs_h2load
def test_errors_under_load_have_no_data(server: Launched, tmp_path: Path) -> None:
    body = predict_request("nosuch", {"x": floats(1)}).SerializeToString()
    assert h2load_counts(server, tmp_path, body, 640, 4, 16) == (640, 0)


# --- curl


def curl(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["curl", "--silent", "--max-time", "20", *arguments],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


@needs_curl
def test_curl_gets_an_answer_with_its_trailers(server: Launched, tmp_path: Path) -> None:
    body = predict_request("half_plus_two", {"x": floats(3)}).SerializeToString()
    sent, headers = tmp_path / "sent", tmp_path / "headers"
    sent.write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
    done = curl(
        *("--http2-prior-knowledge", "--data-binary", f"@{sent}", "--dump-header", headers),
        *("--header", "content-type: application/grpc", "--header", "te: trailers"),
        f"http://{server.address()}{PREDICT}",
    )
    assert done.returncode == 0, done
    assert done.stdout[:5] == b"\0" + (len(done.stdout) - 5).to_bytes(4, "big")
    assert array(PredictResponse.FromString(done.stdout[5:]).outputs["y"]) == [5.5]
    lines = headers.read_text().lower().splitlines()
    assert "http/2 200 " in lines
    assert "content-type: application/grpc" in lines
    assert "grpc-status: 0" in lines


@needs_curl
def test_a_request_in_http_1_does_not_hang(server: Launched) -> None:
    done = curl("--http1.1", f"http://{server.address()}/")
    assert done.returncode != 28  # its time-out
