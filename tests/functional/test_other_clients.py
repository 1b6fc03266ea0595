"""Clients that are neither ours nor Python's: JavaScript's gRPC, h2load, curl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.functional.launching import SECONDS, Launched
from tfsrv._proto import message_class, parse_text

NODE = ROOT / "tests" / "node"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")
ASK_2 = """
model_spec { name: "half_plus_two" }
inputs { key: "x" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 2 } }
"""


def run(*command: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)


def ask_with_node(server: Launched, model: str, *arguments: str) -> tuple[int, Any]:
    if shutil.which("node") is None or not (NODE / "node_modules").exists():
        pytest.skip("needs Node.js and `npm ci --prefix tests/node`")
    done = run("node", NODE / "predict.js", server.address(), model, *arguments)
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout)


def body(folder: Path) -> Path:
    """A file with a request for half of 2 plus two, behind gRPC's prefix."""
    request = parse_text("tensorflow.serving.PredictRequest", ASK_2, "").SerializeToString()
    file = folder / "request"
    file.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
    return file


def test_the_javascript_client_gets_answers(server: Launched) -> None:
    status, answer = ask_with_node(server, "half_plus_two", "[1, 2, 5]")
    assert status == 0
    assert answer["outputs"]["y"]["float_val"] == [4.5, 5.0, 6.5]  # version 3: x / 2 + 1 + 3
    assert answer["model_spec"]["version"] == {"value": 3}


def test_the_javascript_client_gets_codes_and_texts(server: Launched) -> None:
    status, answer = ask_with_node(server, "nosuch", "[1]")
    assert status == 1
    assert answer == {"code": 5, "details": "Servable not found for request: Latest(nosuch)"}


def test_the_javascript_client_gets_its_deadline_kept(server: Launched) -> None:
    status, answer = ask_with_node(server, "blocker", "[1]", "300")
    assert status == 1
    assert answer["code"] == 4


def test_every_answer_to_h2load_is_whole(server: Launched, tmp_path: Path) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("needs h2load")
    headers = [f"--header={header}" for header in GRPC_HEADERS]
    url = f"http://{server.address()}{PREDICT}"
    load = ("-n2000", "-c4", "-m16", "-t1", f"--data={body(tmp_path)}")
    done = run("h2load", *load, *headers, url)
    text = done.stdout.decode()
    assert "2000 succeeded, 0 failed, 0 errored" in text
    data = re.search(r"\((\d+)\) data", text)
    assert data is not None
    # HTTP status 200 proves nothing with gRPC: the bytes do.
    response: Any = message_class("tensorflow.serving.PredictResponse")()
    response.outputs["y"].dtype = 1
    response.outputs["y"].tensor_shape.dim.add(size=1)
    response.outputs["y"].float_val.append(5.0)
    response.model_spec.name = "half_plus_two"
    response.model_spec.version.value = 3
    response.model_spec.signature_name = "serving_default"
    assert int(data[1]) == 2000 * (5 + len(response.SerializeToString()))


def test_curl_gets_an_answer_over_http_2(server: Launched, tmp_path: Path) -> None:
    if shutil.which("curl") is None or b"HTTP2" not in run("curl", "--version").stdout:
        pytest.skip("needs curl with HTTP/2")
    headers = [part for header in GRPC_HEADERS for part in ("--header", header)]
    data = ("--data-binary", f"@{body(tmp_path)}")
    url = f"http://{server.address()}{PREDICT}"
    done = run("curl", "--silent", "--http2-prior-knowledge", *headers, *data, url)
    assert done.returncode == 0
    assert done.stdout[:1] == b"\0"
    response: Any = message_class("tensorflow.serving.PredictResponse").FromString(done.stdout[5:])
    assert list(response.outputs["y"].float_val) == [5.0]
