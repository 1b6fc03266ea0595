"""Where the server listens: IPv4, IPv6, one interface or all, a Unix socket or both."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import grpc

from tests.addresses import needs_ipv6, own_address
from tests.functional.launching import Launched, client, launched
from tests.functional.messages import array, floats, predict_request

OPEN_TO_ALL = "Everybody who reaches this machine can ask its models, without TLS"


def answers(address: str) -> bool:
    with client(address) as ask:
        response = ask.predict(predict_request("half_plus_two", {"x": floats(2)}))
        return bool(array(response.outputs["y"]) == [5.0])


def refuses(address: str) -> bool:
    with client(address) as ask:
        error = ask.predict_future(predict_request("half_plus_two", {"x": floats(2)}), 5)
        return error.exception().code() is grpc.StatusCode.UNAVAILABLE


def start(models: Path, *flags: str) -> list[str]:
    return [
        "--model_name=half_plus_two",
        f"--model_base_path={models / 'half_plus_two'}",
        *flags,
    ]


def port(server: Launched) -> str:
    return server.address().rsplit(":", 1)[1]


def test_listens_on_all_of_ipv4_by_default_and_says_so(models: Path, transport: str) -> None:
    with launched(*start(models, "--port=0", f"--grpc_transport={transport}")) as server:
        assert server.address().startswith("0.0.0.0:")
        assert answers(f"127.0.0.1:{port(server)}")
        if own_address():
            assert answers(f"{own_address()}:{port(server)}")
        server.line_with(OPEN_TO_ALL)
        assert server.stop() == 0


def test_listens_on_the_loopback_alone(models: Path, transport: str) -> None:
    flags = ("--port=0", "--bind_address=127.0.0.1", f"--grpc_transport={transport}")
    with launched(*start(models, *flags)) as server:
        assert answers(server.address())
        if own_address():
            assert refuses(f"{own_address()}:{port(server)}")
        assert server.stop() == 0
        assert not [line for line in server.log if OPEN_TO_ALL in line]


@needs_ipv6
def test_listens_on_ipv6_and_ipv4_at_once(models: Path, transport: str) -> None:
    flags = ("--port=0", "--bind_address=::", f"--grpc_transport={transport}")
    with launched(*start(models, *flags)) as server:
        assert server.address().startswith("[::]:")
        assert answers(f"[::1]:{port(server)}")
        assert answers(f"127.0.0.1:{port(server)}")
        server.line_with(OPEN_TO_ALL)
        assert server.stop() == 0


@needs_ipv6
def test_listens_on_ipv6s_loopback_alone(models: Path, transport: str) -> None:
    flags = ("--port=0", "--bind_address=::1", f"--grpc_transport={transport}")
    with launched(*start(models, *flags)) as server:
        assert server.address().startswith("[::1]:")
        assert answers(server.address())
        assert refuses(f"127.0.0.1:{port(server)}")
        assert server.stop() == 0


def test_listens_on_a_port_and_a_socket_at_once(
    models: Path, tmp_path: Path, transport: str
) -> None:
    path = tmp_path / "socket"
    with socket.socket() as reserved:  # 0 would mean no port; nobody else gets this one now
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        number = reserved.getsockname()[1]
        flags = (
            f"--port={number}",
            "--bind_address=127.0.0.1",
            f"--grpc_socket_path={path}",
            f"--grpc_transport={transport}",
        )
        with launched(*start(models, *flags)) as server:
            server.line_with(f"Serving gRPC at unix:{path}")
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert answers(f"unix:{path}")
            assert answers(f"127.0.0.1:{number}")
            assert server.stop() == 0
    assert not path.exists()


def test_a_socket_that_a_dead_server_left_behind_is_taken_over(
    models: Path, tmp_path: Path, transport: str
) -> None:
    path = tmp_path / "socket"
    flags = ("--port=0", f"--grpc_socket_path={path}", f"--grpc_transport={transport}")
    with launched(*start(models, *flags)) as first:
        first.address()
        first.process.kill()
        first.wait()
    assert path.exists()
    with launched(*start(models, *flags)) as second:
        assert second.address() == f"unix:{path}"
        assert answers(f"unix:{path}")
        assert second.stop() == 0
