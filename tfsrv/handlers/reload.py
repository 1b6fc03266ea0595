"""HandleReloadConfigRequest: replace the list of models while serving.

Texts and codes are those of TensorFlow Serving's model_servers/model_service_impl.cc and
server_core.cc. Other than there, a wrong list changes nothing, models that do not become
available hold up nobody but the caller, and he waits for a bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from tfsrv._proto import message_class
from tfsrv.config import ModelConfig
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.call_threads import CallThreads
from tfsrv.handlers.requests import read_request
from tfsrv.metrics import counter
from tfsrv.model_config import models_of
from tfsrv.model_listing import SetBy
from tfsrv.reloading import Reloading, Results, summary

MAX_REQUEST_BYTES = 4 * 2**20  # tens of thousands of models; protobuf holds the GIL meanwhile
MAX_METRIC_NAMES = 1000  # each is answered, in the loop's thread

_REQUEST = "tensorflow.serving.ReloadConfigRequest"
_ONLY_LISTS = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. "
    "Only ModelConfigList is currently supported"
)


class ReloadableCore(Protocol):
    """The part of ServerCore that is used here."""

    def reload(self, models: Iterable[ModelConfig], set_by: SetBy) -> Reloading: ...


class HandleReloadConfigRequest:
    """The handler of `tensorflow.serving.ModelService/HandleReloadConfigRequest`."""

    def __init__(
        self, core: ReloadableCore, *, timeout_seconds: float, enabled: bool = True
    ) -> None:
        """`timeout_seconds` is how long a caller waits at most for the models of his list."""
        self._core = core
        self._timeout_seconds = timeout_seconds
        self._enabled = enabled
        self._threads = CallThreads()

    async def __call__(self, request: bytes) -> bytes:
        """Answer one request. Raises ServingError."""
        if not self._enabled:
            raise ServingError(
                Code.PERMISSION_DENIED,
                "HandleReloadConfigRequest is turned off (--enable_reload_rpc=false).",
            )
        # In a thread: a long list takes a while to check, and its platforms may be imported.
        names, before, reloading = await self._threads.run(lambda: self._begin(request))
        error = summary(await results_of(reloading, self._timeout_seconds))
        if error is not None:
            raise error
        after = await self._threads.run(lambda: totals(names)) if before else {}
        response: Any = message_class("tensorflow.serving.ReloadConfigResponse")()
        response.status.SetInParent()
        for name in names:
            # TensorFlow Serving says 0 of counters that it does not have.
            increase = after.get(name, 0) - before.get(name, 0)
            response.metric.add(name=name, int64_value_increase=increase)
        serialized: bytes = response.SerializeToString()
        return serialized

    def _begin(self, request: bytes) -> tuple[Sequence[str], Mapping[str, int], Reloading]:
        """Start to reload; the counters that are asked for, and what they show before that."""
        message = read_request(_REQUEST, request, MAX_REQUEST_BYTES)
        if not message.config.HasField("model_config_list"):
            raise ServingError(Code.INVALID_ARGUMENT, _ONLY_LISTS)
        if len(message.metric_names) > MAX_METRIC_NAMES:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"There may be {MAX_METRIC_NAMES} metric_names at the most"
            )
        models = models_of(message.config, root_dir=None)
        assert models is not None  # there is a list
        names = list(message.metric_names)
        return names, totals(names), self._core.reload(models, SetBy.CALL)


def totals(names: Iterable[str]) -> dict[str, int]:
    """What those counters show that there are, by the names that were given.

    The sum of a counter's cells: TensorFlow Serving takes the first cell that it comes across.
    """
    found = {name: metric for name in names if (metric := counter(name)) is not None}
    shown = {metric: metric.total() for metric in set(found.values())}  # each is looked at once
    return {name: shown[metric] for name, metric in found.items()}


async def results_of(reloading: Reloading, timeout_seconds: float) -> Results:
    """What became of the models, as far as it is known in time."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(done.set)

    reloading.add_done_callback(wake)
    try:
        await asyncio.wait_for(done.wait(), timeout_seconds)
    except asyncio.TimeoutError:
        pass
    finally:
        reloading.remove_done_callback(wake)
    return reloading.results()
