"""Starts `python -m tfsrv` as a user does, and asks it with gRPC's client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from tests.conftest import ROOT
from tfsrv._proto import message_class, parse_text

SECONDS = 30  # for anything that should happen soon


def until(condition: Callable[[], bool]) -> None:
    """Ask again and again until it is so."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


class Launched:
    """A server's process. What it logs is collected as it comes."""

    def __init__(self, *arguments: str | Path, environment: dict[str, str] | None = None) -> None:
        self.log: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tfsrv", *map(str, arguments)],
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
    *arguments: str | Path, environment: dict[str, str] | None = None
) -> Iterator[Launched]:
    """A server, killed at the end if it still runs."""
    server = Launched(*arguments, environment=environment)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def client(address: str) -> Iterator[Client]:
    """A client of the server at `address`."""
    # A connection of its own: gRPC shares those of one process otherwise.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        yield Client(channel)


class Client:
    """Asks in text format, and gets messages."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def predict(self, request: str, timeout: float = SECONDS) -> Any:
        return self.predict_future(request, timeout).result()

    def predict_future(self, request: str, timeout: float = SECONDS) -> Any:
        response_class: Any = message_class("tensorflow.serving.PredictResponse")
        return self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            response_deserializer=response_class.FromString,
        ).future(
            parse_text("tensorflow.serving.PredictRequest", request, "").SerializeToString(),
            timeout=timeout,
        )

    def states(self, name: str) -> list[int]:
        """The states of a model's versions, as GetModelStatus numbers them; [] if it has none."""
        response_class: Any = message_class("tensorflow.serving.GetModelStatusResponse")
        request: Any = message_class("tensorflow.serving.GetModelStatusRequest")()
        request.model_spec.name = name
        get_model_status = self._channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus",
            response_deserializer=response_class.FromString,
        )
        try:
            response = get_model_status(request.SerializeToString(), timeout=SECONDS)
        except grpc.RpcError as error:
            if "Could not find any versions" in str(error):
                return []
            raise
        return [version.state for version in response.model_version_status]
