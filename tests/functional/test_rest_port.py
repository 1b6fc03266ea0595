"""REST's port of a whole server: when it is open, and how it closes."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import pytest

from tests.functional.launching import Launched, launched


def flags(rest_api_port: int) -> list[str]:
    return ["--port=0", "--bind_address=127.0.0.1", f"--rest_api_port={rest_api_port}"]


def rest_address(server: Launched) -> str:
    return server.line_with("Serving REST at http://").rpartition("/")[2]


@pytest.fixture
def no_models(tmp_path: Path) -> list[str]:
    (tmp_path / "models").write_text("model_config_list {}")
    return [f"--model_config_file={tmp_path / 'models'}"]


def test_answers_in_json_and_drains_on_sigterm(no_models: list[str]) -> None:
    with launched(*flags(-1), *no_models) as server:
        client = http.client.HTTPConnection(rest_address(server), timeout=30)
        client.request("GET", "/nothing/here")
        response = client.getresponse()
        assert response.status == 404
        assert response.headers["Content-Type"] == "application/json"
        assert "/nothing/here" in json.load(response)["error"]
        assert response.headers["Access-Control-Allow-Origin"] is None
        assert server.stop() == 0
        client.close()


def test_sends_cors_headers_when_told_to(no_models: list[str]) -> None:
    with launched(*flags(-1), *no_models, "--rest_api_enable_cors_support") as server:
        client = http.client.HTTPConnection(rest_address(server), timeout=30)
        client.request("OPTIONS", "/v1/models/m:predict", headers={"Origin": "https://page"})
        response = client.getresponse()
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        client.close()


def test_opens_none_at_port_zero(no_models: list[str]) -> None:
    with launched(*flags(0), *no_models) as server:
        server.line_with("Serving gRPC at ")
        assert server.stop() == 0
        assert not [line for line in server.log if "REST" in line]


def test_says_which_port_is_taken(no_models: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with launched(*flags(port), *no_models) as server:
            server.line_with(f"Cannot listen at 127.0.0.1:{port}")
            assert server.wait() == 1
