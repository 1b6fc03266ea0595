"""Models that are batched, each in its own way, and requests that wait for each other.

A batch of PATIENT parameters runs when it is full and not before, so that the tests decide what
runs together, on however slow a machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.functional.launching import SECONDS, Client
from tests.functional.messages import Array, array, floats, predict_request

PATIENT = "batch_timeout_micros { value: 3600000000 }"  # an hour
FLAGS = ("--enable_batching", "--enable_per_model_batching_parameters")

Future = Any


def batched_model(folder: Path, source: Path, parameters: str | None, *versions: int) -> Path:
    """A copy of a model with these BatchingParameters, if any, in each of its versions."""
    for version in versions or (1,):
        shutil.copytree(source / str(version), folder / str(version))
        if parameters is not None:
            (folder / str(version) / "batching_params.pbtxt").write_text(parameters)
    return folder


def patient(rows: int, more: str = "") -> str:
    """BatchingParameters with which a batch waits until it has so many rows."""
    return f"max_batch_size {{ value: {rows} }} {PATIENT} {more}"


def rows(name: str, *values: float, **asked: Any) -> Any:
    """A request for as many rows of the model `probe`."""
    return predict_request(name, {"x": floats(*values)}, **asked)


def send(ask: Client, *requests: Any) -> list[Future]:
    """Send requests that arrive in this order; they have arrived when this returns.

    Without deadlines, by which they would be put into order.
    """
    arrived(ask)  # what is sent before a connection is there keeps no order
    futures = [ask.predict_future(request, None) for request in requests]
    arrived(ask)
    return futures


def arrived(ask: Client) -> None:
    """What was sent before has arrived when this returns: on one connection all keeps its order."""
    ask.states("none of this name")


def answers(futures: list[Future]) -> list[Any]:
    return [future.result(SECONDS) for future in futures]


def values(response: Any) -> list[float]:
    """The values of y, one after the other."""
    return [float(value) for value in array(response.outputs["y"]).ravel()]


def together(response: Any) -> list[int]:
    """What ran together with a request for `probe`, all of whose rows ran together."""
    (text,) = set(array(response.outputs["together"]).tolist())
    return [int(value) for value in text.split(b",")] if text else []


def outputs(response: Any) -> Mapping[str, Array]:
    return {alias: array(proto) for alias, proto in response.outputs.items()}


def error(future: Future) -> tuple[str, str]:
    """The code and the text of the error that a request gets."""
    raised = future.exception(SECONDS)
    assert raised is not None, "there is no error"
    return raised.code().name, raised.details()
