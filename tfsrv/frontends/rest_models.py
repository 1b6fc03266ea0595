"""GET below /v1/models: the state of a model's versions, its signatures, and all models.

Status and metadata are TensorFlow Serving's, from the same handlers as the gRPC calls. Other than
there, the status heeds a label, and GET /v1/models lists the models:

    {"models": [{"name": "m", "platform": "tensorflow", "pending": false,
                 "version_labels": {"stable": "3"},
                 "model_version_status": [{"version": "3", "state": "AVAILABLE", ...}]}]}

Servables that a source has brought are listed while there is anything left of them; they have no
`platform`. Base paths are not told: whoever can ask is not whoever runs the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from tfsrv.core.servable import ManagerState, ServableState
from tfsrv.errors import Code
from tfsrv.frontends.http_messages import HttpResponse
from tfsrv.frontends.rest_json import protobuf_response, text_of, value_of
from tfsrv.frontends.rest_paths import ModelPath
from tfsrv.handlers.call_threads import CallThreads
from tfsrv.handlers.metadata import declared_by
from tfsrv.handlers.once_per_session import OncePerSession
from tfsrv.handlers.requests import as_unicode
from tfsrv.handlers.servables import Servables
from tfsrv.handlers.status import GetModelStatus
from tfsrv.model_listing import ModelListing

# What stands around the two parts of a metadata answer, by `pretty`. TensorFlow Serving joins by
# hand what protobuf prints, and so the levels of its layout do not add up.
_AROUND = {
    False: ((b'{"model_spec":', b',"metadata":{"signature_def":'), b"}}"),
    True: ((b'{\n"model_spec":', b'\n,\n"metadata": {"signature_def": '), b"\n}\n}\n"),
}


class StateMonitor(Protocol):
    """The part of ServableStateMonitor that is used here."""

    def all_states(self) -> dict[str, dict[int, ServableState]]: ...


class ListedCore(Protocol):
    """The part of ServerCore that is used here."""

    @property
    def monitor(self) -> StateMonitor: ...

    def list_models(self) -> list[ModelListing]: ...


class RestModels:
    """Answers GET of what a path names. For one loop."""

    def __init__(self, core: ListedCore, status: GetModelStatus, servables: Servables) -> None:
        self._core = core
        self._status = status
        self._servables = servables
        self._threads = CallThreads()
        self._listing = asyncio.Lock()  # lists of thousands of models are made one by one
        self._signatures = {
            pretty: OncePerSession(_Signatures(pretty=pretty), self._threads)
            for pretty in (False, True)
        }

    def status(self, path: ModelPath, *, pretty: bool) -> HttpResponse:
        """The state of one version, or of all. Raises ServingError."""
        states = self._status.states(path.name, path.version, path.label)
        return protobuf_response(_version_status(states), pretty=pretty)

    async def metadata(self, path: ModelPath, *, pretty: bool) -> HttpResponse:
        """The signatures of a version. Raises ServingError."""
        with await self._servables.find(path.name, path.version, path.label) as handle:
            spec = {"name": handle.name, "version": str(handle.version), "signature_name": ""}
            signatures = await self._signatures[pretty].of(handle.servable)
        before, after = _AROUND[pretty]
        model_spec = text_of(spec, pretty=pretty).encode()
        return HttpResponse(body=b"".join((before[0], model_spec, before[1], signatures, after)))

    async def list_all(self, *, pretty: bool) -> HttpResponse:
        """All models. Raises ServingError."""
        async with self._listing:
            return await self._threads.run(lambda: self._list(pretty=pretty))

    def _list(self, *, pretty: bool) -> HttpResponse:
        listings = self._core.list_models()
        configured = {listing.config.name for listing in listings}
        models = [listing_value(listing) for listing in listings]
        for name, versions in self._core.monitor.all_states().items():
            if name not in configured and _is_there(versions):
                models.append({"name": as_unicode(name), **_version_status(versions.values())})
        models.sort(key=lambda model: str(model["name"]))
        return protobuf_response({"models": models}, pretty=pretty, long=True)


class _Signatures:
    """Makes the JSON of a servable's SignatureDefMap, in many small steps: see rest_json.py."""

    def __init__(self, *, pretty: bool) -> None:
        self._pretty = pretty

    def __call__(self, servable: object) -> bytes:
        declared = declared_by(servable)
        values = {name: value_of(declared[name]) for name in sorted(declared)}
        return text_of({"signature_def": values}, pretty=self._pretty, long=True).encode()


def listing_value(listing: ModelListing) -> dict[str, object]:
    """What JSON tells of a configured model."""
    return {
        "name": as_unicode(listing.config.name),
        "platform": listing.config.platform,
        "pending": listing.is_pending,
        "version_labels": {
            as_unicode(label): str(version) for label, version in sorted(listing.labels.items())
        },
        **_version_status(listing.states),
    }


def _version_status(states: Iterable[ServableState]) -> dict[str, object]:
    """A GetModelStatusResponse."""
    return {
        "model_version_status": [
            {
                "version": str(state.id.version),
                "state": state.manager_state.name,
                "status": {
                    "error_code": (Code.OK if state.error is None else state.error.code).name,
                    "error_message": "" if state.error is None else as_unicode(state.error.message),
                },
            }
            for state in states
        ]
    }


def _is_there(versions: Mapping[int, ServableState]) -> bool:
    return any(state.manager_state is not ManagerState.END for state in versions.values())
