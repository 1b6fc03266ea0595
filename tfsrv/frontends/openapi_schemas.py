"""JSON Schemas (2020-12, as OpenAPI 3.1 has them) of what a model takes and answers.

The rules are those of TensorFlow Serving's util/json_tensor.cc. What they say and a schema can't:
that lists beside each other are equally long where a dimension is open.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from tfsrv.frontends.example_requests import batch_size, can_be_json
from tfsrv.frontends.signatures import (
    DEFAULT_SIGNATURE,
    Shape,
    Signature,
    Signatures,
    TensorSpec,
)

Schema = dict[str, object]

BYTES_SUFFIX = "_bytes"  # of outputs whose strings are written as base64

_BITS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}
_UNSIGNED_BITS = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}
_CUT_OFF = frozenset({"int8", "uint8", "int16"})  # read as int32, of which the lowest bits count
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

BYTES: Schema = {
    "type": "object",
    "properties": {"b64": {"type": "string", "contentEncoding": "base64", "pattern": _BASE64}},
    "required": ["b64"],
    "additionalProperties": False,
}
_BYTES_REF: Schema = {"$ref": "#/components/schemas/Bytes"}
# Of answers. Validators see infinities as null, or as what has no type at all.
FLOAT: Schema = {
    "anyOf": [
        {"type": "number"},
        {
            "description": "NaN, Infinity or -Infinity: words that JSON Schema has no type for.",
            "not": {"type": ["string", "boolean", "object", "array"]},
        },
    ]
}
_FLOAT_REF: Schema = {"$ref": "#/components/schemas/Float"}
_MODEL_SPEC: Schema = {"$ref": "#/components/schemas/ModelSpec"}


def predict_request(signatures: Signatures) -> Schema | None:
    """The body of a predict request; None if no signature can be asked in JSON."""
    forms = [form for name, each in signatures.items() for form in _requests(name, each)]
    return _any_of(forms) if forms else None


def predict_answer(signatures: Signatures) -> Schema:
    """What a predict request is answered."""
    return _any_of([form for each in signatures.values() for form in _answers(each)])


def can_be_asked(signature: Signature) -> bool:
    """Whether its requests can be written in JSON."""
    inputs = signature.inputs.values()
    return bool(inputs) and all(can_be_json(spec.dtype) for spec in inputs)


def examples_request(names: Iterable[str]) -> Schema:
    """The body of a request to classify or regress."""
    example: Schema = {"$ref": "#/components/schemas/Example"}
    members: Schema = {
        "examples": {"type": "array", "minItems": 1, "items": example},
        "context": example,
    }
    return _any_of([_named(name, "examples", members) for name in names])


def _requests(name: str, signature: Signature) -> list[Schema]:
    """The row format and the columnar format, as far as a signature has them."""
    if not can_be_asked(signature):
        return []
    columns = {alias: tensor_schema(spec) for alias, spec in signature.inputs.items()}
    inputs = _alone_or_named(columns)
    forms = [_named(name, "inputs", {"inputs": inputs, "instances": False})]
    size = batch_size(signature)
    if size is not None:
        forms.insert(0, _named(name, "instances", {"instances": _rows(signature), "inputs": False}))
    return forms


def _rows(signature: Signature) -> Schema:
    """`instances`: rows are values, or objects, but not now this and now that."""
    first = [spec.shape[0] for spec in signature.inputs.values() if spec.shape]
    fixed = next((size for size in first if size is not None), None)
    rows = {alias: _row(spec) for alias, spec in signature.inputs.items()}
    lists: list[Schema] = [_list(_exactly(rows), fixed)]
    if len(rows) == 1:
        lists.insert(0, _list(next(iter(rows.values())), fixed))
    return _any_of(lists)


def _list(items: Schema, size: int | None) -> Schema:
    bounds = {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
    return {"type": "array", "items": items, **bounds}


def _answers(signature: Signature) -> list[Schema]:
    if not can_be_asked(signature):
        return []
    columns = {alias: tensor_schema(spec, alias) for alias, spec in signature.outputs.items()}
    forms = [
        _answer("outputs", next(iter(columns.values())) if len(columns) == 1 else _exactly(columns))
    ]
    if batch_size(signature) is not None:
        rows = {alias: _row(spec, alias) for alias, spec in signature.outputs.items()}
        forms.insert(0, _answer("predictions", {"type": "array", "items": _unnamed(rows)}))
    return forms


def _answer(member: str, schema: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {member: schema, "model_spec": _MODEL_SPEC},
        "required": [member],
        "additionalProperties": False,
    }


def _named(name: str, member: str, members: Schema) -> Schema:
    """An object with the name of a signature, which may only be left out for the default one."""
    required = [member] if name == DEFAULT_SIGNATURE else ["signature_name", member]
    return {
        "type": "object",
        "properties": {"signature_name": {"const": name}, **members},
        "required": required,
    }


def _unnamed(schemas: Mapping[str, Schema]) -> Schema:
    """One output stands without its name, several are an object."""
    return next(iter(schemas.values())) if len(schemas) == 1 else _exactly(schemas)


def _alone_or_named(schemas: Mapping[str, Schema]) -> Schema:
    """An object with all inputs, and whatever else; one input may stand without its name."""
    named = _exactly(schemas)
    del named["additionalProperties"]
    return _any_of([*schemas.values(), named]) if len(schemas) == 1 else named


def _exactly(schemas: Mapping[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": dict(schemas),
        "required": list(schemas),
        "additionalProperties": False,
    }


def tensor_schema(spec: TensorSpec, output: str | None = None) -> Schema:
    """A tensor: an input, or the output of that name."""
    return _nested(spec.shape, element_schema(spec.dtype, output), is_input=output is None)


def _row(spec: TensorSpec, output: str | None = None) -> Schema:
    """What a tensor has in one place of its first dimension."""
    shape = None if spec.shape is None else spec.shape[1:]
    return _nested(shape, element_schema(spec.dtype, output), is_input=output is None)


def _nested(shape: Shape | None, element: Schema, *, is_input: bool) -> Schema:
    """Lists of lists. In a request a list of no lists has lost its further dimensions."""
    if shape is None:
        lists: Schema = {"type": "array", "description": "Lists of any depth, all equally deep."}
        return _any_of([element, lists])
    for depth, size in reversed(list(enumerate(shape, 1))):
        open_bounds = {"minItems": 1} if is_input and depth < len(shape) else {}
        bounds = open_bounds if size is None else {"minItems": size, "maxItems": size}
        element = {"type": "array", "items": element, **bounds}
    return element


def element_schema(dtype: str, output: str | None = None) -> Schema:
    """One value of a tensor."""
    if dtype == "string":
        if output is not None:
            return _BYTES_REF if output.endswith(BYTES_SUFFIX) else {"type": "string"}
        return {"anyOf": [{"type": "string"}, _BYTES_REF]}
    if dtype == "bool":
        return {"type": "boolean"}
    if dtype in _CUT_OFF and output is None:
        text = f"{dtype}: of larger numbers the lowest bits count, as in TensorFlow Serving."
        return {**element_schema("int32"), "description": text}
    if dtype in _BITS:
        limit = 2 ** _BITS[dtype]
        return {"type": "integer", "minimum": -limit, "maximum": limit - 1}
    if dtype in _UNSIGNED_BITS:
        return {"type": "integer", "minimum": 0, "maximum": 2 ** _UNSIGNED_BITS[dtype] - 1}
    if not can_be_json(dtype):
        return {}
    return {"type": "number"} if output is None else _FLOAT_REF


def _any_of(schemas: list[Schema]) -> Schema:
    """One of these; those that are alike are one."""
    different = list({json.dumps(schema): schema for schema in schemas}.values())
    return different[0] if len(different) == 1 else {"anyOf": different}
