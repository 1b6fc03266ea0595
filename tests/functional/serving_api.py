"""tensorflow-serving-api as people use it, in a process of its own: it imports TensorFlow.

    with ServingApi() as api:
        (answer,) = api.predict(address, Question("m", {"x": numpy.float32([1])}))

Both sides speak pickles, each with its length before it.
"""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import TracebackType
from typing import IO, Any

import pytest

from tests.conftest import ROOT
from tests.functional.messages import Array

SECONDS = 100  # for TensorFlow's import and the call


@dataclass(frozen=True)
class Question:
    """A PredictRequest."""

    name: str
    inputs: dict[str, Array] = field(default_factory=dict)
    signature: str = ""
    version: int | None = None
    output_filter: tuple[str, ...] = ()
    timeout: float = 5.0


@dataclass(frozen=True)
class Answer:
    """What came back: outputs and (name, version, signature), or a code and a text."""

    outputs: dict[str, Array] = field(default_factory=dict)
    model_spec: tuple[str, int, str] = ("", 0, "")
    code: str = "OK"
    details: str = ""

    def values(self) -> dict[str, Any]:
        """The outputs as lists, if there was no error."""
        assert self.code == "OK", f"{self.code}: {self.details}"
        return {alias: values.tolist() for alias, values in self.outputs.items()}


@dataclass(frozen=True)
class Examples:
    """What Classify, Regress and MultiInference are asked: rows of float features.

    Of the tasks, pairs of a signature and a method name, Classify and Regress look at the first
    one's signature.
    """

    name: str
    rows: tuple[Mapping[str, float], ...]
    tasks: tuple[tuple[str, str], ...] = (("", ""),)
    context: Mapping[str, float] | None = None
    timeout: float = 5.0


@dataclass(frozen=True)
class Inferred:
    """For each task (name, version, signature) and classes or values; or a code and a text."""

    results: tuple[tuple[tuple[str, int, str], list[Any]], ...] = ()
    code: str = "OK"
    details: str = ""


class ServingApi:
    """The process with the clients."""

    def __init__(self) -> None:
        if find_spec("tensorflow_serving") is None:
            pytest.skip("needs tensorflow-serving-api")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.functional.serving_api_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> ServingApi:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def predict(self, address: str, *questions: Question) -> list[Answer]:
        """Ask one after the other with `stub.Predict(request, timeout)`."""
        return self._call("predict", address, questions)  # type: ignore[no-any-return]

    def predict_at_once(self, address: str, *questions: Question) -> list[Answer]:
        """Ask all without waiting, with `stub.Predict.future(request, timeout)` and callbacks."""
        return self._call("predict_at_once", address, questions)  # type: ignore[no-any-return]

    def classify(self, address: str, *asked: Examples) -> list[Inferred]:
        """`stub.Classify(request, timeout)`, one after the other."""
        return self._call("infer", address, "Classify", asked)  # type: ignore[no-any-return]

    def regress(self, address: str, *asked: Examples) -> list[Inferred]:
        """`stub.Regress(request, timeout)`, one after the other."""
        return self._call("infer", address, "Regress", asked)  # type: ignore[no-any-return]

    def multi_inference(self, address: str, *asked: Examples) -> list[Inferred]:
        """`stub.MultiInference(request, timeout)`, one after the other."""
        return self._call("infer", address, "MultiInference", asked)  # type: ignore[no-any-return]

    def run_saved_model(self, path: str, *asked: Examples) -> list[list[dict[str, Array]]]:
        """The outputs of each task of a SavedModel that `tf.saved_model.load` has loaded here."""
        return self._call("run_saved_model", path, asked)  # type: ignore[no-any-return]

    def model_status(self, address: str, name: str) -> list[tuple[int, str, int, str]]:
        """GetModelStatus: (version, state, error code, error message)."""
        return self._call("model_status", address, name)  # type: ignore[no-any-return]

    def model_metadata(self, address: str, name: str) -> tuple[int, dict[str, str]]:
        """GetModelMetadata: the version, and the SignatureDefs in text format by name."""
        return self._call("model_metadata", address, name)  # type: ignore[no-any-return]

    def session_run(
        self, address: str, name: str, feeds: dict[str, Array], fetches: list[str]
    ) -> list[tuple[str, Array]]:
        """SessionRun: what was fetched, in its order."""
        return self._call("session_run", address, name, feeds, fetches)  # type: ignore[no-any-return]

    def _call(self, what: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(SECONDS, self._process.kill)
        watchdog.start()
        try:
            send(self._process.stdin, (what, *arguments))
            result = receive(self._process.stdout)
        finally:
            watchdog.cancel()
        if isinstance(result, str):
            pytest.fail(result, pytrace=False)
        return result


def send(stream: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    stream.write(struct.pack("<q", len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The next message. EOFError when the other side has gone."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (size,) = struct.unpack("<q", head)
    return pickle.loads(stream.read(size))
