"""`GET /openapi.json`: the HTTP API with the models that are loaded, as OpenAPI 3.1.

https://spec.openapis.org/oas/v3.1.1

The document is made when it is asked for, and kept until versions or labels are others. It has
megabytes with a thousand models, so that it is made in a thread, model by model.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import tfsrv
from tfsrv.frontends import openapi_fixed as fixed
from tfsrv.frontends.example_requests import example_columns, example_examples, example_rows
from tfsrv.frontends.http_messages import HttpRequest, HttpResponse
from tfsrv.frontends.json_pieces import json_bytes, object_pieces
from tfsrv.frontends.known_models import KnownModel, ListedCore, known_models
from tfsrv.frontends.openapi_schemas import (
    Schema,
    can_be_asked,
    examples_request,
    predict_answer,
    predict_request,
)
from tfsrv.frontends.signatures import (
    CLASSIFY,
    REGRESS,
    ServedSignatures,
    Signatures,
)
from tfsrv.handlers.call_threads import CallThreads

MOST_ELEMENTS = 200  # of all inputs of an example; an image helps nobody
MOST_EXAMPLES = 20  # of one model

_NO_COMPONENT = re.compile(r"[^A-Za-z0-9._-]")  # what the names of components may not have


@dataclass(frozen=True)
class ServedModel:
    """A model: its available versions, the latest first, and labels of those."""

    name: str
    versions: tuple[int, ...]
    labels: tuple[tuple[str, int], ...]


class OpenApi:
    """The handler. Belongs to one loop."""

    def __init__(
        self,
        core: ListedCore,
        signatures: ServedSignatures,
        *,
        has_management: bool = False,
        metrics_paths: Sequence[str] = (),
    ) -> None:
        """`has_management`: models can be changed over REST. `metrics_paths` print metrics."""
        self._core = core
        self._signatures = signatures
        self._has_management = has_management
        self._metrics_paths = tuple(metrics_paths)
        self._threads = CallThreads()
        self._making = asyncio.Lock()  # what many ask for at once is made once
        self._made_for: tuple[ServedModel, ...] | None = None
        self._document = b""

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer one GET. Raises ServingError."""
        async with self._making:
            await self._threads.run(self._look)
            return HttpResponse(body=self._document, headers=(("Cache-Control", "no-cache"),))

    # -- in a thread

    def _look(self) -> None:
        served = tuple(map(served_model, known_models(self._core)))
        if served != self._made_for:
            self._document = self._make(served)
            self._made_for = served

    def _make(self, models: Sequence[ServedModel]) -> bytes:
        names = [model.name for model in models]
        described = fixed.paths(names, self._has_management, self._metrics_paths)
        paths = [(path, json_bytes(item)) for path, item in described.items()]
        always = fixed.schemas(self._has_management)
        schemas = [(name, json_bytes(schema)) for name, schema in always.items()]
        taken = set(always)
        for model in models:
            of_model = _Schemas(taken)
            paths += self._model_paths(model, of_model)
            schemas += of_model.made
        components: list[tuple[str, Iterable[bytes]]] = [
            ("schemas", _pieces(schemas)),
            ("responses", [json_bytes(fixed.responses())]),
            ("parameters", [json_bytes(fixed.parameters())]),
        ]
        members: list[tuple[str, Iterable[bytes]]] = [
            ("openapi", [b'"3.1.0"']),
            ("info", [json_bytes(fixed.info(tfsrv.__version__))]),
            ("servers", [b'[{"url":"/"}]']),
            ("paths", _pieces(paths)),
            ("components", object_pieces(components)),
        ]
        return b"".join(object_pieces(members))

    def _model_paths(self, model: ServedModel, schemas: _Schemas) -> Iterator[tuple[str, bytes]]:
        """What can be asked of each version, and by which addresses."""
        operations = {
            version: list(self._operations(model.name, version, schemas))
            for version in model.versions
        }
        for label, _ in model.labels:
            of_label = fixed.label_paths(f"{quote(model.name, '')}/labels/{quote(label, '')}")
            yield from ((path, json_bytes(item)) for path, item in of_label.items())
        places = [("", version) for version in model.versions[:1]]
        places += [(f"/versions/{version}", version) for version in model.versions]
        places += [(f"/labels/{quote(label, '')}", version) for label, version in model.labels]
        for place, version in places:
            for verb, operation in operations[version]:
                address = f"{quote(model.name, '')}{place}"
                identified = {"operationId": f"{verb}/{address}", **operation}
                yield f"/v1/models/{address}:{verb}", json_bytes({"post": identified})

    def _operations(
        self, name: str, version: int, schemas: _Schemas
    ) -> Iterator[tuple[str, Schema]]:
        """What follows ":" in an address, and its operation."""
        signatures = self._signatures.of(name, version)
        place = f"{_NO_COMPONENT.sub('_', name)}.{version}"
        if signatures is None:
            anything: Schema = {"type": "object"}
            yield "predict", fixed.operation("predict", name, anything, anything, {})
            return
        request = predict_request(signatures)
        if request is not None:
            yield (
                "predict",
                fixed.operation(
                    "predict",
                    name,
                    schemas.add(f"{place}.PredictRequest", request),
                    schemas.add(f"{place}.PredictAnswer", predict_answer(signatures)),
                    _predict_examples(signatures),
                ),
            )
        for verb, method in (("classify", CLASSIFY), ("regress", REGRESS)):
            names = [key for key, signature in signatures.items() if signature.method == method]
            if names:
                yield (
                    verb,
                    fixed.operation(
                        verb,
                        name,
                        schemas.add(f"{place}.{verb.title()}Request", examples_request(names)),
                        {"$ref": f"#/components/schemas/{verb.title()}Answer"},
                        {key: example_examples(key) for key in names[:MOST_EXAMPLES]},
                    ),
                )


class _Schemas:
    """The components of one model; those that are alike, of its versions, are one."""

    def __init__(self, taken: set[str]) -> None:
        """`taken` has the names of all components there are, and gets those of new ones."""
        self._taken = taken
        self._names: dict[bytes, str] = {}

    @property
    def made(self) -> list[tuple[str, bytes]]:
        """The names, and what they stand for."""
        return [(name, content) for content, name in self._names.items()]

    def add(self, name: str, schema: Schema) -> Schema:
        """A reference to the schema, under that name or a similar one."""
        content = json_bytes(schema)
        if content not in self._names:
            free, number = name, 2
            while free in self._taken:
                free, number = f"{name}.{number}", number + 1
            self._taken.add(free)
            self._names[content] = free
        return {"$ref": f"#/components/schemas/{self._names[content]}"}


def served_model(model: KnownModel) -> ServedModel:
    """What can be asked of a model."""
    labels = sorted(item for item in model.labels.items() if item[1] in model.available)
    return ServedModel(model.name, model.available, tuple(labels))


def _pieces(members: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    return object_pieces((key, (value,)) for key, value in members)


def _predict_examples(signatures: Signatures) -> dict[str, str]:
    """Short requests, by the name of the signature and the format."""
    found: dict[str, str] = {}
    for name, signature in signatures.items():
        if len(found) >= MOST_EXAMPLES:
            break
        if can_be_asked(signature):
            forms = {"rows": example_rows, "columns": example_columns}
            texts = {form: make(name, signature, MOST_ELEMENTS) for form, make in forms.items()}
            for form, text in texts.items():
                if text is not None:
                    found[f"{name}, {form}"] = text
    return found
