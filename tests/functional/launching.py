"""Starts `python -m tfsrv` as a user does, and asks it with gRPC's client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from tests.conftest import ROOT
from tfsrv._proto import message_class, parse_text

SECONDS = 30  # for anything that should happen soon

# Method and response by the name of the request.
INFERENCE = {
    "ClassificationRequest": ("Classify", "ClassificationResponse"),
    "RegressionRequest": ("Regress", "RegressionResponse"),
    "MultiInferenceRequest": ("MultiInference", "MultiInferenceResponse"),
}


def until(condition: Callable[[], bool]) -> None:
    """Ask again and again until it is so."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


class Launched:
    """A server's process. What it logs is collected as it comes."""

    def __init__(
        self,
        *arguments: str | Path,
        environment: dict[str, str] | None = None,
        program: Sequence[str | Path] = ("-m", "tfsrv"),
    ) -> None:
        self.log: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [sys.executable, *map(str, program), *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.log.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def line_with(self, text: str) -> str:
        """The first line of the log that has `text` in it; waits for it."""

        def found() -> str | None:
            return next((line for line in self.log if text in line), None)

        with self._news:
            self._news.wait_for(lambda: found() or self._ended, SECONDS)
            line = found()
        assert line is not None, f"no '{text}' in the log:\n" + "\n".join(self.log)
        return line

    def address(self) -> str:
        """Where it serves, as soon as it does."""
        return self.line_with("Serving gRPC at ").rsplit(" ", 1)[1]

    def rest_address(self) -> str:
        """Where it serves REST, as soon as it does: host and port."""
        return self.line_with("Serving REST at ").rsplit(" ", 1)[1].removeprefix("http://")

    def children(self) -> list[int]:
        """The processes that this one has started."""
        found: list[int] = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(FileNotFoundError):  # a thread that has just ended
                found += map(int, (task / "children").read_text().split())
        return found

    def memory_bytes(self) -> int:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Processor time of all its threads, so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def peak_memory_bytes(self) -> int:
        """The most resident memory since it was last forgotten."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def forget_peak_memory(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def wait(self) -> int:
        """The exit status."""
        status = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return status

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def launched(
    *arguments: str | Path,
    environment: dict[str, str] | None = None,
    program: Sequence[str | Path] = ("-m", "tfsrv"),
) -> Iterator[Launched]:
    """A server, killed at the end if it still runs."""
    server = Launched(*arguments, environment=environment, program=program)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def client(address: str) -> Iterator[Client]:
    """A client of the server at `address`."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),  # gRPC shares connections of one process otherwise
        ("grpc.max_receive_message_length", -1),
    ]
    with grpc.insecure_channel(address, options) as channel:
        yield Client(channel)


class Client:
    """Asks in text format, in messages or in bytes, and gets messages."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def predict(self, request: str | bytes | Any, timeout: float = SECONDS) -> Any:
        return self.predict_future(request, timeout).result()

    def predict_future(self, request: str | bytes | Any, timeout: float | None = SECONDS) -> Any:
        if isinstance(request, str):
            request = parse_text("tensorflow.serving.PredictRequest", request, "")
        if not isinstance(request, bytes):
            request = request.SerializeToString()
        return self.call_future("Predict", "PredictResponse", request, timeout)

    def infer(self, request: Any, timeout: float = SECONDS) -> Any:
        return self.infer_future(request, timeout).result()

    def infer_future(self, request: Any, timeout: float | None = SECONDS) -> Any:
        """Classify, Regress or MultiInference, as the message's type says."""
        method, response = INFERENCE[type(request).__name__]
        return self.call_future(method, response, request.SerializeToString(), timeout)

    def call_future(
        self, method: str, response: str, request: bytes, timeout: float | None = SECONDS
    ) -> Any:
        """A method of the PredictionService, with whatever bytes."""
        response_class: Any = message_class(f"tensorflow.serving.{response}")
        return self.channel.unary_unary(
            f"/tensorflow.serving.PredictionService/{method}",
            response_deserializer=response_class.FromString,
        ).future(request, timeout=timeout)

    def model_status(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> list[Any]:
        """GetModelStatus's answer: the versions of a model, highest first."""
        request: Any = message_class("tensorflow.serving.GetModelStatusRequest")()
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        response_class: Any = message_class("tensorflow.serving.GetModelStatusResponse")
        get_model_status = self.channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus",
            response_deserializer=response_class.FromString,
        )
        response = get_model_status(request.SerializeToString(), timeout=SECONDS)
        return list(response.model_version_status)

    def states(self, name: str) -> list[int]:
        """The states of a model's versions, as GetModelStatus numbers them; [] if it has none."""
        try:
            return [version.state for version in self.model_status(name)]
        except grpc.RpcError as error:
            if "Could not find any versions" in str(error):
                return []
            raise
