"""Small SavedModels written by hand, where tests/models.py has none: no TensorFlow is needed.

    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    graph.sign("serving_default", {"x": x}, {"y": graph.add("y", "Identity", x, T=FLOAT)})
    graph.save(folder)

A tensor is written as TensorFlow names it: "x" or "x:0", "^x" for "after x".
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from tfsrv._proto import message_class

FLOAT, INT32, STRING, INT64, RESOURCE = 1, 3, 7, 9, 20

PredictRequest: Any = message_class("tensorflow.serving.PredictRequest")
PredictResponse: Any = message_class("tensorflow.serving.PredictResponse")


class Graph:
    """A MetaGraphDef in the making."""

    def __init__(self) -> None:
        meta: Any = message_class("tensorflow.MetaGraphDef")()
        self.meta = meta
        self.meta.meta_info_def.tags.append("serve")
        self.meta.graph_def.versions.producer = 1882

    def add(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; attributes are types (int), or dicts of AttrValue's fields."""
        fill_node(self.meta.graph_def.node.add(), name, op, inputs, attributes)
        return f"{name}:0"

    def constant(self, name: str, *values: float | str) -> str:
        """A scalar from one value, a vector from several."""
        tensor: Any = message_class("tensorflow.TensorProto")()
        if len(values) > 1:
            tensor.tensor_shape.dim.add().size = len(values)
        for value in values:
            if isinstance(value, str):
                tensor.string_val.append(value.encode())
            else:
                tensor.float_val.append(value)
        tensor.dtype = STRING if tensor.string_val else FLOAT
        return self.add(name, "Const", dtype=tensor.dtype, value={"tensor": tensor})

    def sign(self, name: str, inputs: dict[str, str], outputs: dict[str, str]) -> Any:
        """Add a signature of floats, and give its SignatureDef for changes."""
        signature = self.meta.signature_def[name]
        signature.method_name = "tensorflow/serving/predict"
        for infos, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for alias, tensor in tensors.items():
                infos[alias].name = tensor
                infos[alias].dtype = FLOAT
        return signature

    def save(self, folder: Path) -> str:
        saved: Any = message_class("tensorflow.SavedModel")()
        saved.saved_model_schema_version = 1
        saved.meta_graphs.append(self.meta)
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
        return str(folder)


def gated_graph(fifo: Path, *, fails: bool = False) -> Graph:
    """x [n] → y = x. Its init op opens a FIFO, and so waits for the other end.

    The op wants to write into the FIFO, which works; with `fails` to read it as a file, which
    does not.
    """
    graph = Graph()
    x = graph.add("x", "Placeholder", dtype=FLOAT)
    graph.sign("serving_default", {"x": x}, {"y": graph.add("y", "Identity", x, T=FLOAT)})
    name = graph.constant("fifo", str(fifo))
    if fails:
        graph.add("wait", "ReadFile", name)
    else:
        graph.add("wait", "WriteFile", name, graph.constant("word", "loading"))
    init = graph.meta.signature_def["__saved_model_init_op"]
    init.outputs["__saved_model_init_op"].name = "wait"
    return graph


def fill_node(
    node: Any, name: str, op: str, inputs: tuple[str, ...], attributes: dict[str, Any]
) -> None:
    node.name = name
    node.op = op
    node.input.extend(tensor.removesuffix(":0") for tensor in inputs)
    for key, value in attributes.items():
        fields = {"type": value} if isinstance(value, int) else value
        for field, content in fields.items():
            if hasattr(content, "CopyFrom"):
                getattr(node.attr[key], field).CopyFrom(content)
            else:
                setattr(node.attr[key], field, content)


def floats(*values: float) -> Any:
    """A vector as a TensorProto."""
    tensor: Any = message_class("tensorflow.TensorProto")()
    tensor.dtype = FLOAT
    tensor.tensor_shape.dim.add().size = len(values)
    tensor.tensor_content = struct.pack(f"<{len(values)}f", *values)
    return tensor


def request(
    signature: str = "",
    outputs: tuple[str, ...] = (),
    feed: dict[str, Any] | None = None,
    **inputs: Any,
) -> bytes:
    """A serialized PredictRequest; inputs are TensorProtos or sequences of floats."""
    message = PredictRequest()
    message.model_spec.name = "model"
    message.model_spec.signature_name = signature
    message.output_filter.extend(outputs)
    for alias, value in {**(feed or {}), **inputs}.items():
        tensor = value if hasattr(value, "dtype") else floats(*value)
        message.inputs[alias].CopyFrom(tensor)
    serialized: bytes = message.SerializeToString()
    return serialized


def answers(response: bytes) -> dict[str, list[Any]]:
    """The values of a serialized PredictResponse by alias: floats, int32s, int64s or strings."""
    message = PredictResponse.FromString(response)
    fields = {FLOAT: "float_val", INT32: "int_val", INT64: "int64_val", STRING: "string_val"}
    return {
        alias: list(getattr(tensor, fields[tensor.dtype]))
        for alias, tensor in message.outputs.items()
    }
