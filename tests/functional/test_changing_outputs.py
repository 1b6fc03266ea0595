"""Outputs that change while a response is made of them hurt nobody.

TensorFlow 1's variables are written in place, and an output may be their very memory. What was
measured may not be what is written then.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from tests.functional.conftest import serving
from tests.functional.launching import Client, client, until
from tests.functional.messages import predict_request, strings
from tests.graphs import FLOAT, INT32, STRING, Graph
from tests.inference import classification_request
from tfsrv._proto import message_class

CHANGED = ("INTERNAL", "An output changed while the response was written.")
WIDTH = 2_000_000


def variable_model(folder: Path, dtype: int) -> Path:
    """`assign`: value [] → done [], fills a variable. `read`: inputs [n] → scores, the variable."""
    graph = Graph()
    shape: Any = message_class("tensorflow.TensorShapeProto")()
    for size in (1, WIDTH):
        shape.dim.add(size=size)
    variable = graph.add("variable", "VariableV2", shape={"shape": shape}, dtype=dtype)
    examples = graph.add("examples", "Placeholder", dtype=STRING)
    scores = graph.add("scores", "Identity", variable, "^examples", T=dtype)
    read = graph.sign("read", {"inputs": examples}, {"scores": scores})
    read.inputs["inputs"].dtype = STRING
    read.outputs["scores"].dtype = dtype
    value = graph.add("value", "Placeholder", dtype=dtype)
    sizes = graph.add("sizes", "Cast", graph.constant("dims", 1, WIDTH), SrcT=FLOAT, DstT=INT32)
    filled = graph.add("filled", "Fill", sizes, value, T=dtype)
    graph.add("assigned", "Assign", variable, filled, T=dtype)
    done = graph.add("done", "Identity", value, "^assigned", T=dtype)
    assign = graph.sign("assign", {"value": value}, {"done": done})
    assign.inputs["value"].dtype = assign.outputs["done"].dtype = dtype
    graph.save(folder / "1")
    return folder


def read_until_it_changes(
    ask: Client, read: Callable[[], Any], check: Callable[[Any], bool], *values: Any
) -> None:
    """Read while the variable is assigned to, until a response was caught at it."""

    def assign(value: Any) -> Any:
        return ask.predict_future(predict_request("m", {"value": value}, signature="assign"))

    def was_caught() -> bool:
        future = read()
        others = [assign(values[i % 2]) for i in range(6)]
        error = future.exception()
        for other in others:
            other.result()
        if error is None:
            assert check(future.result())
            return False
        assert (error.code().name, error.details()) == CHANGED
        return True

    assign(values[0]).result()
    until(was_caught)


def test_integers_of_predict(tmp_path: Path, transport: str) -> None:
    """0 takes one byte, -1 takes ten."""
    path = variable_model(tmp_path / "m", INT32)
    request = predict_request("m", {"inputs": strings("")}, signature="read")
    flag = f"--grpc_transport={transport}"
    with serving({"m": path}, flag) as server, client(server.address()) as ask:
        read_until_it_changes(
            ask,
            lambda: ask.predict_future(request),
            lambda response: len(response.outputs["scores"].int_val) == WIDTH,
            numpy.int32(0),
            numpy.int32(-1),
        )


def test_scores_of_classify(tmp_path: Path, transport: str) -> None:
    """0.0 takes no byte, 1.0 takes five."""
    path = variable_model(tmp_path / "m", FLOAT)
    request = classification_request("m", [{}], signature="read")
    flag = f"--grpc_transport={transport}"
    with serving({"m": path}, flag) as server, client(server.address()) as ask:
        read_until_it_changes(
            ask,
            lambda: ask.infer_future(request),
            lambda response: len(response.result.classifications[0].classes) == WIDTH,
            numpy.float32(0),
            numpy.float32(1),
        )
