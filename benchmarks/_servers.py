"""Server processes: start, wait for a right answer, look at, stop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from _workloads import PREDICT, ROOT, Workload

READY_SECONDS = 90.0  # importing TensorFlow from a cold disk takes long
POLL_SECONDS = 0.001
STOP_SECONDS = 20.0
LOG_LINES = 8  # of a server that failed, shown to the user
HERE = Path(__file__).resolve().parent
UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # each channel has a connection of its own
]
# A model that is still loading, and a port that is not open yet.
NOT_YET = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND)


class BenchmarkError(Exception):
    """Nothing can be said about a server; the text says why."""


class ServerMissingError(BenchmarkError):
    """A server did not start, ended too early, or gave a wrong first answer."""


@dataclass(frozen=True)
class ServerKind:
    """How a server is started. `echoes`: the right answer is the request itself."""

    name: str
    command: Callable[[Workload, int], list[str]]
    echoes: bool = False
    speaks_grpc: bool = True


def tfsrv_command(
    transport: str, extra: Sequence[str] = ()
) -> Callable[[Workload, int], list[str]]:
    """tfsrv with the workload's model."""

    def command(workload: Workload, port: int) -> list[str]:
        return [
            *tfsrv_arguments(transport, port),
            f"--model_name={workload.model}",
            f"--model_base_path={workload.model_base_path}",
            *extra,
        ]

    return command


def config_file_command(
    transport: str, config_file: Path, extra: Sequence[str] = ()
) -> Callable[[Workload, int], list[str]]:
    """tfsrv with the models that a file lists."""

    def command(_: Workload, port: int) -> list[str]:
        return [
            *tfsrv_arguments(transport, port),
            f"--model_config_file={config_file}",
            *extra,
        ]

    return command


def tfsrv_arguments(transport: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "tfsrv", f"--port={port}", "--bind_address=127.0.0.1"),
        f"--grpc_transport={transport}",
    ]


def config_text(models: Mapping[str, Path]) -> str:
    """A ModelServerConfig of base paths by name."""
    configs = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}\n'
        for name, path in models.items()
    )
    return f"model_config_list {{\n{configs}}}\n"


def plain_command(workload: Workload, port: int) -> list[str]:
    return [
        *(sys.executable, str(HERE / "plain_server.py"), f"--port={port}"),
        f"--model_name={workload.model}",
        f"--model_base_path={workload.model_base_path}",
    ]


def echo_command(script: str) -> Callable[[Workload, int], list[str]]:
    def command(workload: Workload, port: int) -> list[str]:
        return [sys.executable, str(HERE / script), f"--port={port}"]

    return command


def server_kinds(tfsrv_flags: Sequence[str] = ()) -> dict[str, ServerKind]:
    """Every server there is, by the name that the command line uses."""
    return {
        "native": ServerKind("tfsrv, native", tfsrv_command("native", tfsrv_flags)),
        "batching": ServerKind(
            "tfsrv, native, batching", tfsrv_command("native", [*tfsrv_flags, "--enable_batching"])
        ),
        "grpcio": ServerKind("tfsrv, grpcio", tfsrv_command("grpcio", tfsrv_flags)),
        "echo": ServerKind("grpc.aio echo", echo_command("echo_server.py"), echoes=True),
        "plain": ServerKind("grpc.aio + saved_model.load", plain_command),
        "socket": ServerKind(
            "socket echo", echo_command("socket_echo.py"), echoes=True, speaks_grpc=False
        ),
    }


def require_tools(*names: str) -> None:
    """End with one sentence if a program that the benchmark runs is not installed."""
    for name in names:
        if shutil.which(name) is None:
            raise SystemExit(f"{name} is missing: apt-get install nghttp2-client")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class Target:
    """A request to a running server, which it has answered rightly once."""

    server: Server
    workload: Workload
    answer_size: int  # bytes of the message in that answer

    def is_right(self, answer: bytes) -> bool:
        return self.server.is_right(self.workload, answer)


class Server:
    """One server process on a free port of 127.0.0.1; a context manager that ends it."""

    def __init__(self, kind: ServerKind, workload: Workload) -> None:
        self.kind = kind
        self.workload = workload
        self.port = free_port()
        self.started_at = 0.0  # time.perf_counter() just before the process was made
        self.port_open_seconds = 0.0  # after that; known once ready
        self.ready_seconds = 0.0  # until the first right answer; known once ready
        self._stack = ExitStack()  # owns the log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self._log = self._stack.enter_context(tempfile.TemporaryFile())
        command = self.kind.command(self.workload, self.port)
        self.started_at = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "used outside of `with`"
        return self._process.pid

    def is_right(self, workload: Workload, answer: bytes) -> bool:
        if self.kind.echoes:
            return answer == workload.request
        return workload.is_right(answer)

    def wait_until_ready(self) -> Target:
        """Wait for the first right answer, and note when it came."""
        deadline = self.started_at + READY_SECONDS
        while not self._accepts():
            self._raise_if_gone()
            if time.perf_counter() > deadline:
                raise self._missing(f"opened no port within {READY_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        self.port_open_seconds = time.perf_counter() - self.started_at
        if self.kind.speaks_grpc:
            target = self.target(self.workload, deadline)
        else:
            target = Target(self, self.workload, len(self.workload.request))
        self.ready_seconds = time.perf_counter() - self.started_at
        return target

    def target(self, workload: Workload, deadline: float = 0.0) -> Target:
        """Send a request; until `deadline` (of time.perf_counter()), try again if too early."""
        while True:
            try:
                with self.channel() as channel:
                    answer = unary(channel, workload.path)(workload.request, timeout=READY_SECONDS)
                break
            except grpc.RpcError as error:
                self._raise_if_gone()
                if error.code() not in NOT_YET or time.perf_counter() > deadline:
                    raise self._missing(f"{error.code().name}: {error.details()}") from None
            time.sleep(POLL_SECONDS)
        if not self.is_right(workload, answer):
            start = f"{len(answer)} bytes, {answer[:80]!r}"
            raise self._missing(f"gave a wrong answer to {workload.name}: {start}")
        return Target(self, workload, len(answer))

    def channel(self) -> Any:
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=UNLIMITED)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def cpu_seconds(self) -> float:
        """User and system time of all threads, living and ended.

        The kernel's CPU clock of the process: the same sum as utime + stime in /proc/PID/stat,
        which counts in ticks of 10 ms (clock_getcpuclockid(3) makes the id like this).
        """
        self._raise_if_gone()
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory_bytes(self) -> dict[str, int]:
        """VmRSS and what it is made of, from /proc/PID/status."""
        self._raise_if_gone()
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        pairs = (line.split(":", 1) for line in lines)
        wanted = ("VmRSS", "RssAnon", "RssFile", "RssShmem")
        return {key: int(value.split()[0]) * 1024 for key, value in pairs if key in wanted}

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for a server that does not go."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"{self.kind.name}: did not stop on SIGTERM, killed", file=sys.stderr)
                process.kill()
                process.wait()
        self._stack.close()
        self._process = None

    def _accepts(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def _raise_if_gone(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise self._missing(f"ended with status {self._process.returncode}")

    def _missing(self, why: str) -> ServerMissingError:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        return ServerMissingError("\n    ".join([f"{self.kind.name}: {why}", *lines]))


def unary(channel: Any, path: str = PREDICT) -> Any:
    """A call on raw bytes."""
    return channel.unary_unary(path)
