"""What the OpenAPI document says whatever models there are: paths, answers and their schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tfsrv.core.servable import ManagerState
from tfsrv.errors import Code
from tfsrv.frontends.openapi_schemas import BYTES, FLOAT, Schema

DESCRIPTION = """\
TensorFlow Serving's REST API, with the models that are loaded now.

**Numbers.** Answers may hold `NaN`, `Infinity` and `-Infinity` where a number stands, as TensorFlow
Serving's do; requests may, too. JSON itself has no such words: parse with a reader that takes them.
int64 values are written in full; readers that turn all numbers into doubles lose digits beyond 2⁵³.

**Rows and columns.** `instances` is a list with one element for each row; the answer has
`predictions`. `inputs` has whole tensors; the answer has `outputs`. A signature with one input
needs no name for it, and one output has none. Lists beside each other must be equally long, and
equally deep.

**What a schema can't tell.** A graph may refuse what its signature lets through: strings that are
no tf.Example, examples without a feature that it needs, shapes that do not go together. That is
400, too, and the text says what was wrong. Which features there are only the graph knows.

**Bytes** are written as `{"b64": "…"}`; outputs are if their name ends in `_bytes`.

**Binary.** The same addresses take `application/x-protobuf` (PredictRequest in, PredictResponse
out), `application/x-npy` and `application/x-npz`, and answer in the form that Accept names, or else
in that of the request. `?signature_name=` names the signature of arrays.

**Errors** are `{"error": "…"}`, with the HTTP status of their gRPC code.
"""

_ERROR_TEXTS = {
    400: "The request is not one that the API, or the model, takes.",
    403: "Not allowed to whoever asks.",
    404: "There is no such model or version, or it is not loaded.",
    405: "The address does not take this method.",
    413: "The body is too large.",
    415: "The body is of a type that is not taken here.",
    429: "Too many requests are under way.",
    500: "Something went wrong in the server or the model.",
    501: "That can't be done.",
    503: "Not now: the model is loading, its queue is full, or the server drains. Try again.",
    504: "It took too long.",
}
_JSON = "application/json"
_TEXT = "text/plain"
_READ = (400, 404, 503)
_RUN = (400, 404, 413, 429, 500, 501, 503, 504)


def info(version: str) -> Schema:
    return {"title": "tfsrv", "version": version, "description": DESCRIPTION}


def operation(
    verb: str, model: str, request: Schema, answer: Schema, examples: Mapping[str, str]
) -> Schema:
    """Running a model. The texts in `examples` are requests."""
    content: Schema = {"schema": request}
    if examples:
        content["examples"] = {name: {"value": json.loads(text)} for name, text in examples.items()}
    return {
        "tags": [model],
        "summary": f"{verb.title()} with {model}",
        "parameters": [_parameter_ref("pretty"), _parameter_ref("model_spec")],
        "requestBody": {"required": True, "content": {_JSON: content}},
        "responses": {"200": _answer("What the model says.", answer), **_errors(_RUN)},
    }


def paths(
    models: Sequence[str], has_management: bool, metrics_paths: Sequence[str]
) -> dict[str, Schema]:
    """Everything but the running of models, and what is asked by label."""
    model = _path_parameter("model", _names([] if has_management else models))
    version = _path_parameter("version", {"type": "integer", "minimum": 0, "maximum": 2**63 - 1})
    found: dict[str, Schema] = {"/v1/models": {"get": _read("listModels", "All models", "Models")}}
    found |= _reads("/v1/models/{model}", "", [model])
    found |= _reads("/v1/models/{model}/versions/{version}", "OfVersion", [model, version])
    if has_management:
        found["/v1/models/{model}"] |= _management()
    return found | _server_paths(metrics_paths)


def label_paths(address: str) -> dict[str, Schema]:
    """What tells of the version that a label stands for. `address` is MODEL/labels/LABEL.

    No template, as for versions: an unknown label is no 404 but a request that makes no sense.
    """
    return _reads(f"/v1/models/{address}", f"/{address}", [])


def _reads(path: str, suffix: str, path_parameters: Sequence[Schema]) -> dict[str, Schema]:
    status = _read(f"status{suffix}", "The state of versions", "Status")
    metadata = _read(f"metadata{suffix}", "The signatures of a version", "Metadata")
    return {
        path: {"parameters": path_parameters, "get": status},
        f"{path}/metadata": {"parameters": path_parameters, "get": metadata},
    }


def _server_paths(metrics_paths: Sequence[str]) -> dict[str, Schema]:
    model: Schema = {"name": "model", "in": "query", "schema": {"type": "string"}}
    not_ready = _answer("Not yet, or not any more.", _ref("NotReady"))
    ok = {"200": _text("It does."), "404": _error_ref(404)}
    texts = {
        "/healthz": _get("healthz", "Whether the server answers", {"200": _text("It does.")}),
        "/readyz": _get(
            "readyz",
            "Whether requests can be answered, all or those for one model",
            {**ok, "400": _error_ref(400), "503": not_ready},
            [model],
        ),
        "/openapi.json": _get(
            "openapi", "This document", {"200": _answer("It.", {"type": "object"})}
        ),
        "/tfsrv/overview": _get(
            "overview",
            "What the page shows: all models, or one",
            {"200": _answer("The facts.", {"type": "object"}), **_errors((400, 404, 429))},
            [model],
        ),
        "/": _get("page", "The page for people", {"200": _text("HTML.", "text/html")}),
    }
    for number, path in enumerate(metrics_paths):
        name = f"metrics{number or ''}"
        texts[path] = _get(name, "Metrics in Prometheus' format", {"200": _text("Metrics.")})
    return {path: {"get": get} for path, get in texts.items()}


def _management() -> dict[str, Schema]:
    config: Schema = {"schema": _ref("ModelConfig")}
    listed = _answer("The model is available.", _ref("Model"))
    codes = (400, 403, 404, 409, 413, 415, 500, 503, 504)
    return {
        "put": {
            "operationId": "setModel",
            "summary": "Add or change a model",
            "description": "Answers when it is available or can't be. Only from this machine.",
            "parameters": [_parameter_ref("pretty")],
            "requestBody": {"required": True, "content": {_JSON: config}},
            "responses": {"200": listed, **_errors(codes)},
        },
        "delete": {
            "operationId": "removeModel",
            "summary": "Serve a model no more",
            "parameters": [_parameter_ref("pretty")],
            "responses": {"200": _answer("Done.", {"type": "object"}), **_errors(codes)},
        },
    }


def parameters() -> dict[str, Schema]:
    """Components. A switch is on if it is there, unless it is 0 or false."""
    texts = {
        "pretty": "Answer in lines, as TensorFlow Serving does.",
        "model_spec": "Tell in the answer which model, version and signature it is from.",
    }
    return {
        name: {
            "name": name,
            "in": "query",
            "description": text,
            "allowEmptyValue": True,
            "schema": {"type": "string"},
        }
        for name, text in texts.items()
    }


def responses() -> dict[str, Schema]:
    """Components: the errors."""
    error = _ref("Error")
    found = {f"Error{status}": _answer(text, error) for status, text in _ERROR_TEXTS.items()}
    return {**found, "Error": _answer("Another error.", error)}


def schemas(has_management: bool) -> dict[str, Schema]:
    """Components that do not depend on models. Of the classes, see the files in protos/."""
    text: Schema = {"type": "string"}
    number: Schema = {"type": "string", "pattern": "^-?[0-9]+$"}  # int64 in protobuf's JSON
    status = _object(
        {
            "version": number,
            "state": {"enum": [state.name for state in ManagerState]},
            "status": _object(
                {"error_code": {"enum": [code.name for code in Code]}, "error_message": text}
            ),
        }
    )
    statuses: Schema = {"type": "array", "items": status}
    model = _object(
        {
            "name": text,
            "platform": text,
            "pending": {"type": "boolean"},
            "version_labels": {"type": "object", "additionalProperties": number},
            "model_version_status": statuses,
        },
        required=["name", "model_version_status"],
    )
    found: dict[str, Schema] = {
        "Bytes": BYTES,
        "Float": FLOAT,
        "Error": _object({"error": text}),
        "Model": model,
        "Models": _object({"models": {"type": "array", "items": _ref("Model")}}),
        "Status": _object({"model_version_status": statuses}),
        "ModelSpec": _object(
            {"name": text, "version": number, "signature_name": text}, required=["name", "version"]
        ),
        "Metadata": _object({"model_spec": _ref("ModelSpec"), "metadata": {"type": "object"}}),
        "NotReady": _object(
            {
                "error": text,
                "models_not_ready": {"type": "array", "items": text},
                "num_models_not_ready": {"type": "integer"},
            },
            required=["error"],
        ),
        "Example": {"type": "object", "additionalProperties": _feature()},
        "ClassifyAnswer": _results({"type": "array", "items": _class()}),
        "RegressAnswer": _results(_ref("Float")),
    }
    return {**found, "ModelConfig": _model_config()} if has_management else found


def _feature() -> Schema:
    """A value, or a list of values of one kind."""
    kinds: list[Schema] = [
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "number"},
        {"type": "boolean"},
        {"anyOf": [{"type": "string"}, _ref("Bytes")]},
    ]
    return {"anyOf": [*kinds, *({"type": "array", "items": kind} for kind in kinds)]}


def _class() -> Schema:
    """A label and its score."""
    return {
        "type": "array",
        "prefixItems": [{"type": "string"}, _ref("Float")],
        "minItems": 2,
        "maxItems": 2,
    }


def _results(items: Schema) -> Schema:
    members: Schema = {
        "results": {"type": "array", "items": items},
        "model_spec": _ref("ModelSpec"),
    }
    return _object(members, required=["results"])


def _model_config() -> Schema:
    """tensorflow.serving.ModelConfig, what most need of it."""
    version: Schema = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    versions: Schema = {"type": "array", "items": version, "minItems": 1}
    policy: Schema = {
        "type": "object",
        "properties": {
            "latest": _object({"num_versions": {**version, "maximum": 2**32 - 1}}, []),
            "all": _object({}),
            "specific": _object({"versions": versions}),
        },
        "maxProperties": 1,
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "The one of the address; may be left out."},
            "base_path": {
                "type": "string",
                "pattern": "^/",
                "description": "The folder with the versions, as an absolute path.",
            },
            "model_platform": {"type": "string", "default": "tensorflow"},
            "model_version_policy": policy,
            "logging_config": {"type": "object", "description": "LoggingConfig, in JSON."},
            "version_labels": {"type": "object", "additionalProperties": version},
        },
        "required": ["base_path"],
        "additionalProperties": False,
    }


# -- pieces


def _ref(schema: str) -> Schema:
    return {"$ref": f"#/components/schemas/{schema}"}


def _parameter_ref(name: str) -> Schema:
    return {"$ref": f"#/components/parameters/{name}"}


def _error_ref(status: int) -> Schema:
    return {"$ref": f"#/components/responses/Error{status if status in _ERROR_TEXTS else ''}"}


def _errors(statuses: Sequence[int]) -> dict[str, Schema]:
    """The errors that are to be expected, and all others."""
    return {**{str(status): _error_ref(status) for status in statuses}, "default": _error_ref(0)}


def _object(properties: Schema, required: Sequence[str] | None = None) -> Schema:
    """All members are there, but for those that `required` leaves out."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
    }


def _answer(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {_JSON: {"schema": schema}}}


def _text(text: str, content_type: str = _TEXT) -> Schema:
    return {"description": text, "content": {content_type: {"schema": {"type": "string"}}}}


def _path_parameter(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _names(names: Sequence[str]) -> Schema:
    """One of these; another is not found. Without any, there may come any."""
    return {"type": "string", "minLength": 1, **({"enum": list(names)} if names else {})}


def _read(operation_id: str, summary: str, schema: str) -> Schema:
    responses: Schema = {"200": _answer(summary + ".", _ref(schema)), **_errors(_READ)}
    return _get(operation_id, summary, responses, [_parameter_ref("pretty")])


def _get(
    operation_id: str, summary: str, responses: Schema, parameters: Sequence[Schema] = ()
) -> Schema:
    found: Schema = {"operationId": operation_id, "summary": summary, "responses": responses}
    return {**found, "parameters": list(parameters)} if parameters else found
