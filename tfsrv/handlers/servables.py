"""The servable that a ModelSpec asks for, for calls that Python answers.

The order of checks, codes and texts are TensorFlow Serving's (ServableRequestFromModelSpec in
model_servers/server_core.cc), as for Predict; and as there, a request for a model whose first
version is on its way waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from tfsrv.errors import Code, ServingError

if TYPE_CHECKING:
    from tfsrv._servable import ServableHandle

WAIT_SECONDS = 30.0  # as long as Predict waits: PARK_NS in _call_loop.pyx


class ServingMap(Protocol):
    """What is needed of `tfsrv._serving_map.ServingMap`."""

    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> ServableHandle:
        """A handle. UNAVAILABLE while the model's first version is on its way."""


class Servables:
    """Finds servables. Belongs to one loop."""

    def __init__(
        self,
        serving_map: ServingMap,
        subscribe_decided: Callable[[Callable[[str], object]], object],
        loop: asyncio.AbstractEventLoop,
        *,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        """`subscribe_decided` has a callback called, on any thread, with the name of each model
        that is not to be waited for any more, after the map shows it: ServerCore's."""
        self._serving_map = serving_map
        self._loop = loop
        self._wait_seconds = wait_seconds
        self._decisions: dict[str, asyncio.Event] = {}  # of models that somebody waits for
        subscribe_decided(self._hear)

    async def acquire(self, request: Any) -> ServableHandle:
        """A handle on what the `model_spec` of a request asks for; the caller releases it.

        Raises ServingError. Who is cancelled while he waits gets none.
        """
        if not request.HasField("model_spec"):
            raise ServingError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
        model_spec = request.model_spec
        return await self.find(
            model_spec.name,
            model_spec.version.value if model_spec.HasField("version") else None,
            model_spec.version_label if model_spec.HasField("version_label") else None,
        )

    async def find(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> ServableHandle:
        """The same, of what these say; without version and label the latest version."""
        if not name:
            raise ServingError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        until = self._loop.time() + self._wait_seconds
        while True:
            try:
                return self._serving_map.acquire(name, version, label)
            except ServingError as error:
                seconds = until - self._loop.time()
                if error.code is not Code.UNAVAILABLE or seconds <= 0:
                    raise
            # Nothing is missed meanwhile: a decision comes through the loop.
            decision = self._decisions.setdefault(name, asyncio.Event())
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(decision.wait(), seconds)

    def _hear(self, name: str) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._decided, name)

    def _decided(self, name: str) -> None:
        decision = self._decisions.pop(name, None)
        if decision is not None:
            decision.set()
