"""`GET /tfsrv/overview`: what the page for people shows, for any program that would like it too.

    /tfsrv/overview                                 the server, and a line for each model
    /tfsrv/overview?model=M                         the versions of one, and what was counted of it
    /tfsrv/overview?model=M&version=V               the signatures of a version
    /tfsrv/overview?model=M&version=V&signature=S   example requests for one of them

Counts are of the whole life of the process: who wants rates asks twice, and divides by the
difference of `seconds`. Versions are strings, as in TensorFlow Serving's JSON: JavaScript has no
int64. Everything is made in threads, model by model, so that no loop and no GIL is held up;
the list of all models is made once for all who look at it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

import tfsrv
from tfsrv._counters import BOUNDS_MICROS, keys, read_codes, read_histograms
from tfsrv.batching_log import sentence
from tfsrv.core.servable import ManagerState, ServableState
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.example_requests import example_columns, example_examples, example_rows
from tfsrv.frontends.http_messages import HttpRequest, HttpResponse
from tfsrv.frontends.json_pieces import json_array, json_bytes, json_object, json_string
from tfsrv.frontends.known_models import KnownModel, ListedCore, known_model, known_models
from tfsrv.frontends.signatures import (
    CLASSIFY,
    REGRESS,
    ServedSignatures,
    Signature,
    TensorSpec,
)
from tfsrv.handlers.call_threads import CallThreads
from tfsrv.metrics import Key

ENTRYPOINTS = {"gRPC": False, "REST": True}  # as people write them; whether counted as REST
FRESH_SECONDS = 0.5  # that a list of all models serves others, too


class OverviewCore(ListedCore, Protocol):
    """The part of ServerCore that is used here."""

    def is_any_pending(self) -> bool: ...


class BatchedSession(Protocol):
    """The part of SavedModelSession that is used here."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    def describe_batching(self) -> Mapping[str, Mapping[str, Any]]: ...


class Overview:
    """The handler. Belongs to one loop."""

    def __init__(
        self,
        core: OverviewCore,
        signatures: ServedSignatures,
        batched_sessions: Callable[[], Iterable[BatchedSession]],
        *,
        is_draining: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core = core
        self._signatures = signatures
        self._batched_sessions = batched_sessions
        self._is_draining = is_draining
        self._clock = clock
        self._threads = CallThreads()
        self._listing = asyncio.Lock()
        self._list = b""
        self._list_seconds = float("-inf")  # when it was made

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer one GET. Raises ServingError."""
        asked = dict(parse_qsl(request.query, keep_blank_values=True))
        if "model" not in asked:
            return _answer(await self._models())
        return _answer(await self._threads.run(lambda: self._about(asked)))

    async def _models(self) -> bytes:
        """The list of all models, made anew if it is not fresh."""
        async with self._listing:
            if self._clock() - self._list_seconds >= FRESH_SECONDS or self._is_draining():
                self._list = await self._threads.run(self._make_list)
                self._list_seconds = self._clock()
            return self._list

    # -- in threads

    def _make_list(self) -> bytes:
        seconds = self._clock()
        requests, errors = _totals()
        server = {
            "version": tfsrv.__version__,
            "state": self._server_state(),
            "refused": errors.pop("", 0),  # before a model was known
        }
        models = [
            json_bytes(
                {
                    "name": model.name,
                    **_summary(model),
                    "versions": [str(version) for version in model.available],
                    "requests": requests[model.name],
                    "errors": errors[model.name],
                }
            )
            for model in known_models(self._core)
        ]
        return json_object(
            [
                ("server", json_bytes(server)),
                ("seconds", json_bytes(seconds)),
                ("models", json_array(models)),
            ]
        )

    def _server_state(self) -> str:
        if self._is_draining():
            return "draining"
        return "loading" if self._core.is_any_pending() else "serving"

    def _about(self, asked: Mapping[str, str]) -> bytes:
        name = asked["model"]
        if "version" not in asked:
            return self._about_model(name)
        signatures = self._signatures_of(name, asked["version"])
        if "signature" not in asked:
            pieces = signatures.items() if signatures is not None else ()
            listed = json_object((key, json_bytes(_described(value))) for key, value in pieces)
            return json_object([("signatures", listed if signatures is not None else b"null")])
        signature = (signatures or {}).get(asked["signature"])
        if signature is None:
            raise ServingError(Code.NOT_FOUND, f"There is no signature {asked['signature']}")
        verbs = _examples(asked["signature"], signature)
        return json_object(
            (verb, json_object((form, json_string(text)) for form, text in forms.items()))
            for verb, forms in verbs.items()
        )

    def _signatures_of(self, name: str, version: str) -> Mapping[str, Signature] | None:
        """None if the version does not say which it has."""
        if not (version.isascii() and version.isdigit() and len(version) <= 19):
            raise ServingError(Code.INVALID_ARGUMENT, f"{version} is no version")
        if int(version) not in self._model(name).available:
            raise ServingError(Code.NOT_FOUND, f"Version {version} of {name} is not available")
        return self._signatures.of(name, int(version))

    def _model(self, name: str) -> KnownModel:
        model = known_model(self._core, name)
        if model is None:
            raise ServingError(Code.NOT_FOUND, f"There is no model {name}")
        return model

    def _about_model(self, name: str) -> bytes:
        seconds = self._clock()
        model = self._model(name)
        error = model.listing.error if model.listing else None
        facts = {
            "seconds": seconds,
            "name": name,
            "state": _summary(model)["state"],
            "platform": model.listing.config.platform if model.listing else "",
            "error": error.message if error else "",
            "labels": {label: str(model.labels[label]) for label in sorted(model.labels)},
            "bounds_micros": BOUNDS_MICROS,
        }
        lists: dict[str, Iterable[object]] = {
            "versions": map(_version, model.states),
            "traffic": _traffic(name),
            "batching": self._batching(name),
        }
        return json_object(
            [
                *((key, json_bytes(fact)) for key, fact in facts.items()),
                *((key, json_array(map(json_bytes, values))) for key, values in lists.items()),
            ]
        )

    def _batching(self, name: str) -> Iterator[dict[str, object]]:
        """What has happened at the batch queues of a model."""
        for session in self._batched_sessions():
            if session.name == name:
                for signature, facts in session.describe_batching().items():
                    yield {
                        "version": str(session.version),
                        "signature": signature,
                        "sentence": sentence(facts),
                        **{key: facts[key] for key in _BATCH_COUNTS},
                        "sizes": sorted(facts["sizes"].items()),
                    }


_MOVING = frozenset({ManagerState.START, ManagerState.LOADING})
_BATCH_COUNTS = ("batches", "requests", "rows", "padding_rows", "waiting_rows", "running")


def _answer(body: bytes) -> HttpResponse:
    return HttpResponse(body=body, headers=(("Cache-Control", "no-store"),))


def _summary(model: KnownModel) -> dict[str, object]:
    """A model in a few words. `failed`: a version could not be loaded, or none was found."""
    listing, states = model.listing, model.states
    has_failed = any(state.error is not None for state in states)
    has_failed = has_failed or (listing is not None and listing.error is not None)
    is_moving = any(state.manager_state in _MOVING for state in states)
    if model.available:
        word = "AVAILABLE"
    elif is_moving or (listing is not None and listing.is_pending):
        word = "LOADING"
    else:
        word = "FAILED" if has_failed else "UNAVAILABLE"
    return {"state": word, "failed": has_failed}


def _version(state: ServableState) -> dict[str, object]:
    version: dict[str, object] = {
        "version": str(state.id.version),
        "state": state.manager_state.name,
    }
    if state.error is not None:
        version["code"] = state.error.code.name
        version["error"] = state.error.message
    return version


def _totals() -> tuple[Counter[str], Counter[str]]:
    """All requests, and those that were refused or failed, by model."""
    requests: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for key in keys():
        if key[0] and not _runs_model(key):
            continue
        for by_rest in ENTRYPOINTS.values():
            codes = read_codes(key, by_rest)
            count = sum(codes)
            if count:
                requests[key[0]] += count
                errors[key[0]] += count - codes[Code.OK]
    return requests, errors


def _runs_model(key: Key) -> bool:
    """Whether requests that ran a model are counted there, or would have."""
    return key[3] != ""


def _traffic(name: str) -> Iterator[dict[str, object]]:
    """What was counted of a model, by version, signature, method and entrypoint; the latest version
    first."""
    of_model = [key for key in keys() if key[0] == name and _runs_model(key)]
    for key in sorted(of_model, key=lambda key: (-key[1], key[2], key[3])):
        for entrypoint, by_rest in ENTRYPOINTS.items():
            codes = read_codes(key, by_rest)
            if any(codes):
                yield {"entrypoint": entrypoint, **_counted(key, codes, by_rest)}


def _counted(key: Key, codes: tuple[int, ...], by_rest: bool) -> dict[str, object]:
    _, version, signature, method = key
    total, queue, run = read_histograms(key, by_rest)
    return {
        "version": str(version),
        "signature": signature,
        "method": method,
        "codes": {Code(code).name: count for code, count in enumerate(codes) if count},
        "total": _histogram(total),
        "queue": _histogram(queue),
        "run": _histogram(run),
    }


def _histogram(read: tuple[tuple[int, ...], int]) -> dict[str, object]:
    """Counts by the indices of their buckets, without the empty ones."""
    counts, sum_nanoseconds = read
    return {
        "sum_micros": sum_nanoseconds // 1000,
        "counts": [[bucket, count] for bucket, count in enumerate(counts) if count],
    }


def _described(signature: Signature) -> dict[str, object]:
    return {
        "method": signature.method,
        "inputs": _tensors(signature.inputs),
        "outputs": _tensors(signature.outputs),
    }


def _tensors(specs: Mapping[str, TensorSpec]) -> list[dict[str, object]]:
    """`shape` has null for a dimension that is open, and is null if the rank is."""
    return [
        {"name": alias, "dtype": spec.dtype, "shape": spec.shape} for alias, spec in specs.items()
    ]


def _examples(name: str, signature: Signature) -> dict[str, dict[str, str]]:
    """The bodies of example requests, by what follows ":" in the URL and by their form."""
    forms = {
        "instances": example_rows(name, signature),
        "inputs": example_columns(name, signature),
    }
    verbs = {"predict": {form: text for form, text in forms.items() if text is not None}}
    for verb, method in (("classify", CLASSIFY), ("regress", REGRESS)):
        if signature.method == method:
            verbs[verb] = {"examples": example_examples(name)}
    return verbs
