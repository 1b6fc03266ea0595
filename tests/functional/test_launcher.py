"""The launcher from outside: a process, its log, its ports, its end."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from tests.functional.launching import SECONDS, Launched, client, launched, until

ASK_2 = """
model_spec { name: "half_plus_two" }
inputs { key: "x" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 2 } }
"""
VECTOR_OF_1 = "value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 1 }"


def start(models: Path, name: str, *flags: str) -> list[str]:
    return [str(models / name), "--port=0", *flags]


def caught_signals(server: Launched) -> int:
    """The process's mask of signals that it handles, as the kernel tells it."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("SigCgt:")[1].split()[0], 16)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_serves_a_directory_and_exits_with_0_on_sigterm(models: Path, transport: str) -> None:
    with launched(*start(models, "half_plus_two", f"--grpc_transport={transport}")) as server:
        with client(server.address()) as ask:
            response = ask.predict(ASK_2)
            assert list(response.outputs["y"].float_val) == [5.0]  # version 3: x / 2 + 1 + 3
            assert response.model_spec.version.value == 3
        assert server.stop() == 0
        assert server.line_with("half_plus_two version 3 is available")
        assert not [line for line in server.log if "Traceback" in line]


def test_a_first_request_waits_for_the_model(models: Path) -> None:
    with launched(*start(models, "half_plus_two")) as server:
        with client(server.address()) as ask:  # the port is open, the model on its way
            assert list(ask.predict(ASK_2).outputs["y"].float_val) == [5.0]
        assert server.stop(signal.SIGINT) == 0


def test_opens_its_port_when_the_models_are_ready_if_told_so(models: Path) -> None:
    with launched(*start(models, "half_plus_two", "--open_ports=when_ready")) as server:
        with client(server.address()) as ask:
            assert ask.states("half_plus_two") == [30]  # AVAILABLE
        assert server.stop() == 0
        log = "\n".join(server.log)
        assert log.index("is available") < log.index("Serving gRPC at")


def test_serves_a_saved_model_itself_as_version_1(models: Path) -> None:
    with launched(models / "half_plus_two" / "3", "--port=0") as server:
        with client(server.address()) as ask:
            assert ask.predict(ASK_2).model_spec.version.value == 1
        assert server.stop() == 0


def test_listens_on_a_unix_socket_alone_when_the_port_is_0(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with launched(*start(models, "half_plus_two", f"--grpc_socket_path={path}")) as server:
        assert server.address() == f"unix:{path}"
        with client(f"unix:{path}") as ask:
            assert list(ask.predict(ASK_2).outputs["y"].float_val) == [5.0]
        assert server.stop() == 0
        assert len([line for line in server.log if "Serving gRPC" in line]) == 1


@pytest.mark.parametrize("name", ["half_plus_two", "string_identity", "sum_and_product"])
def test_the_request_in_the_log_can_be_pasted(models: Path, name: str) -> None:
    with launched(*start(models, name)) as server:
        command = server.line_with(f"Ask {name} with: ").split(" with: ", 1)[1]
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=SECONDS, check=True
        )
        assert json.loads(done.stdout)
        assert done.stderr == ""
        assert server.stop() == 0


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_sigterm_finishes_what_is_in_flight_and_accepts_nothing_more(
    models: Path, transport: str
) -> None:
    flags = start(models, "sleeper", f"--grpc_transport={transport}")
    with launched(*flags) as server, client(server.address()) as ask:
        server.line_with("is available")
        future = ask.predict_future(
            'model_spec { name: "sleeper" } inputs { key: "seconds"'
            " value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 2 } }"
        )
        ask.states("sleeper")  # on the same connection, so the request before has arrived
        server.process.send_signal(signal.SIGTERM)
        server.line_with("SIGTERM: accepting nothing more")

        def refuses() -> bool:
            with client(server.address()) as other:
                error = other.predict_future(ASK_2, timeout=5).exception()
                return bool(error.code() == grpc.StatusCode.UNAVAILABLE)

        until(refuses)
        assert not future.done()
        assert list(future.result(SECONDS).outputs["y"].float_val) == [2.0]
        assert server.wait() == 0


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_runs_that_never_end_do_not_outlive_the_grace(models: Path, transport: str) -> None:
    flags = start(
        models, "blocker", f"--grpc_transport={transport}", "--shutdown_grace_seconds=0.5"
    )
    with launched(*flags) as server, client(server.address()) as ask:
        server.line_with("is available")
        future = ask.predict_future(
            f'model_spec {{ name: "blocker" }} inputs {{ key: "x" {VECTOR_OF_1} }}'
        )
        ask.states("blocker")  # see above
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        assert future.exception(SECONDS) is not None


def test_a_second_signal_ends_the_process_at_once(models: Path) -> None:
    with launched(*start(models, "blocker")) as server, client(server.address()) as ask:
        server.line_with("is available")
        future = ask.predict_future(
            f'model_spec {{ name: "blocker" }} inputs {{ key: "x" {VECTOR_OF_1} }}'
        )
        ask.states("blocker")  # see above
        server.process.send_signal(signal.SIGTERM)
        server.line_with("SIGTERM: accepting nothing more")
        time.sleep(0.2)  # two signals at once are one
        assert server.stop() == 128 + signal.SIGTERM
        assert future.exception(SECONDS) is not None


def test_a_signal_during_the_start_is_a_clean_end(models: Path) -> None:
    with launched(*start(models, "half_plus_two")) as server:
        until(lambda: bool(caught_signals(server) & 1 << signal.SIGTERM - 1))
        assert server.stop() == 0


def test_a_port_that_is_taken_fails_the_start_in_one_sentence(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for transport in ("native", "grpcio"):
            flags = [f"--port={port}", f"--grpc_transport={transport}"]
            with launched(models / "half_plus_two", *flags) as server:
                assert server.wait() == 1
                assert server.log == [
                    "Failed to start server. Error: UNAVAILABLE: Cannot listen at"
                    f" 127.0.0.1:{port} (Address already in use)"
                ]


def test_a_missing_tensorflow_fails_the_start_in_one_sentence(models: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").touch()
    environment = {"PYTHONPATH": str(tmp_path)}
    with launched(*start(models, "half_plus_two"), environment=environment) as server:
        assert server.wait() == 1
        (line,) = server.log
        assert line.startswith("Failed to start server. Error: FAILED_PRECONDITION: ")
        assert "pip install 'tfsrv[cpu]'" in line


def test_a_bad_session_config_file_fails_the_start_in_one_sentence(
    models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "session.pbtxt"
    file.write_text("nonsense")
    flags = start(models, "half_plus_two", f"--tensorflow_session_config_file={file}")
    with launched(*flags) as server:
        assert server.wait() == 1
        (line,) = server.log
        assert f"INVALID_ARGUMENT: Invalid protobuf file: '{file}'" in line


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_batch_size: 8", "INVALID_ARGUMENT: Invalid protobuf file: '{file}' ({file}:1:17: "),
        (
            "max_batch_size { value: 8 }\nallowed_batch_sizes: 4",
            "INVALID_ARGUMENT: Last entry in allowed_batch_sizes must match max_batch_size;"
            " last entry was 4; expected 8 ({file}:2)",
        ),
    ],
)
def test_a_bad_batching_parameters_file_fails_the_start_in_one_sentence(
    models: Path, tmp_path: Path, text: str, error: str
) -> None:
    file = tmp_path / "batching.config"
    file.write_text(text)
    flags = ("--enable_batching", f"--batching_parameters_file={file}")
    with launched(*start(models, "half_plus_two", *flags)) as server:
        assert server.wait() == 1
        (line,) = server.log
        assert line.startswith(f"Failed to start server. Error: {error.format(file=file)}")


def test_a_batching_parameters_file_without_batching_is_a_wrong_command_line(
    models: Path,
) -> None:
    with launched(*start(models, "half_plus_two", "--batching_parameters_file=f")) as server:
        assert server.wait() == 2
        assert server.log == [
            "tfsrv: server_options.batching_parameters_file is set without setting"
            " server_options.enable_batching to true."
        ]


def test_a_broken_model_leaves_the_server_up(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"\xff nonsense")
    with launched(tmp_path / "m", "--port=0") as server:
        with client(server.address()) as ask:
            until(lambda: ask.states("m") == [50])  # END
        assert server.stop() == 0
        assert len([line for line in server.log if "ERROR" in line]) == 1


def test_flags_reach_predict_and_the_loader(models: Path) -> None:
    flags = ["--enable_serialization_as_tensor_content", "--enable_signature_method_name_check"]
    with launched(*start(models, "half_plus_two", *flags)) as server:
        with client(server.address()) as ask:
            output = ask.predict(ASK_2).outputs["y"]
            assert output.tensor_content == struct.pack("<f", 5.0)
        assert server.stop() == 0
    ask_odd = ASK_2.replace("half_plus_two", "odd_method_names")
    with launched(*start(models, "odd_method_names", *flags)) as server:
        with client(server.address()) as ask:
            error = ask.predict_future(ask_odd).exception()
            assert error.code() == grpc.StatusCode.INTERNAL
            assert "Was: odd/method" in error.details()
        assert server.stop() == 0
    with launched(*start(models, "half_plus_two", "--saved_model_tags=nosuch")) as server:
        with client(server.address()) as ask:
            until(lambda: ask.states("half_plus_two") == [50])  # END
        assert server.stop() == 0


def test_names_flags_that_do_nothing_once_in_its_log(models: Path) -> None:
    flags = start(
        models,
        "half_plus_two",
        "--grpc_max_threads=4",
        "--grpc_channel_arguments=grpc.lb_policy_name=round_robin",
    )
    with launched(*flags) as server:
        server.address()
        assert server.stop() == 0
        assert len([line for line in server.log if "--grpc_max_threads" in line]) == 1
        assert len([line for line in server.log if "grpc.lb_policy_name" in line]) == 1


def test_version_prints_tensorflow_servings_two_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tfsrv", "--version"], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("TensorFlow ModelServer: ")
    assert second.startswith("TensorFlow Library: 2.")
