"""Example requests for a signature: what people start from, in the shell, on the page, in OpenAPI.

They are made as text. An image has 150,528 numbers, of which no objects need to exist.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

from tfsrv.frontends.signatures import (
    CLASSIFY,
    DEFAULT_SIGNATURE,
    REGRESS,
    Shape,
    Signature,
    TensorSpec,
)

MOST_DIMS = 16  # beyond what anybody writes, lists are no help
MOST_ELEMENTS = 200_000  # of all inputs; a megabyte of text

_FLOATS = frozenset({"float", "double", "half", "bfloat16"})
_INTS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
# The tensorflow.Example of example_examples, x: 1.0 (tensorflow/core/example/example.proto).
_EXAMPLE = '{"b64": "Cg8KDQoBeBIIEgYKBAAAgD8="}'
_ELEMENTS = {"string": '""', "bool": "false"}  # of other types 1


def can_be_json(dtype: str) -> bool:
    """Whether JSON has values of that type: complex and quantized numbers have none there."""
    return dtype in _FLOATS or dtype in _INTS or dtype in _ELEMENTS


def example_shape(shape: Shape | None) -> tuple[int, ...]:
    """Open dimensions are 1; without a rank it is one element, as a vector."""
    if shape is None or len(shape) > MOST_DIMS:
        return (1,)
    return tuple(1 if size is None else size for size in shape)


def example_tensor(dtype: str, shape: Iterable[int], *, of_examples: bool = False) -> str:
    """JSON of a tensor, all of its elements the same. `of_examples`: strings are tf.Examples."""
    text = _EXAMPLE if of_examples and dtype == "string" else _element(dtype)
    for size in reversed(tuple(shape)):
        text = f"[{', '.join([text] * size)}]"
    return text


def _takes_examples(signature: Signature) -> bool:
    """Whether its strings are tf.Examples, as those of signatures to classify or regress are."""
    return signature.method in (CLASSIFY, REGRESS)


def _element(dtype: str) -> str:
    return _ELEMENTS.get(dtype, "1.0" if dtype in _FLOATS else "1")


def batch_size(signature: Signature) -> int | None:
    """How many `instances` a request has, 1 if that is open; None if it can't have the row format.

    Rows are what all inputs, and all outputs, have one of in each place of their first dimension.
    """
    tensors = [*signature.inputs.values(), *signature.outputs.values()]
    if not signature.inputs or any(spec.shape == () for spec in tensors):
        return None
    firsts = {spec.shape[0] for spec in signature.inputs.values() if spec.shape}
    fixed = firsts - {None}
    if len(fixed) > 1 or 0 in fixed:
        return None
    return fixed.pop() if fixed else 1


def example_rows(name: str, signature: Signature, most_elements: int = MOST_ELEMENTS) -> str | None:
    """A request in the row format; None if there can be none, or it would be too long."""
    size = batch_size(signature)
    if size is None or not _can_be_written(signature.inputs, most_elements):
        return None
    of_examples = _takes_examples(signature)
    tensors = {
        alias: example_tensor(spec.dtype, example_shape(spec.shape)[1:], of_examples=of_examples)
        for alias, spec in signature.inputs.items()
    }
    row = next(iter(tensors.values())) if len(tensors) == 1 else _object(tensors)
    rows = ",\n".join([f"    {row}"] * size)
    return _request(name, f'"instances": [\n{rows}\n  ]')


def example_columns(
    name: str, signature: Signature, most_elements: int = MOST_ELEMENTS
) -> str | None:
    """A request in the columnar format; None if there can be none, or it would be too long."""
    if not signature.inputs or not _can_be_written(signature.inputs, most_elements):
        return None
    of_examples = _takes_examples(signature)
    tensors = {
        alias: example_tensor(spec.dtype, example_shape(spec.shape), of_examples=of_examples)
        for alias, spec in signature.inputs.items()
    }
    columns = ",\n".join(f"    {json.dumps(alias)}: {text}" for alias, text in tensors.items())
    return _request(name, f'"inputs": {{\n{columns}\n  }}')


def example_examples(name: str) -> str:
    """A request to classify or regress. Which features the examples have only the graph knows."""
    return _request(name, '"examples": [\n    {"x": 1.0}\n  ]')


def _can_be_written(inputs: Mapping[str, TensorSpec], most_elements: int) -> bool:
    elements = sum(math.prod(example_shape(spec.shape)) for spec in inputs.values())
    return elements <= most_elements and all(can_be_json(spec.dtype) for spec in inputs.values())


def _object(members: Mapping[str, str]) -> str:
    texts = [f"{json.dumps(key)}: {text}" for key, text in members.items()]
    return f"{{{', '.join(texts)}}}"


def _request(signature_name: str, member: str) -> str:
    """A body; the default signature needs no name."""
    if signature_name != DEFAULT_SIGNATURE:
        member = f'"signature_name": {json.dumps(signature_name)},\n  {member}'
    return f"{{\n  {member}\n}}"
