"""Calls that change the configuration of a server, and tell of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.functional.launching import SECONDS, Client
from tfsrv._proto import message_class

UNKNOWN, FLAGS, FILE, CALL = range(4)  # tfsrv.SetBy

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"

ModelConfig: Any = message_class("tensorflow.serving.ModelConfig")
ReloadConfigRequest: Any = message_class("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse: Any = message_class("tensorflow.serving.ReloadConfigResponse")


def model(
    name: str,
    path: Path | str,
    *,
    platform: str = "tensorflow",
    latest: int | None = None,
    all_versions: bool = False,
    specific: tuple[int, ...] = (),
    labels: Mapping[str, int] | None = None,
) -> Any:
    """A ModelConfig."""
    config = ModelConfig(name=name, base_path=str(path), model_platform=platform)
    if latest is not None:
        config.model_version_policy.latest.num_versions = latest
    if all_versions:
        config.model_version_policy.all.SetInParent()
    if specific:
        config.model_version_policy.specific.versions.extend(specific)
    config.version_labels.update(labels or {})
    return config


def reload_request(*models: Any) -> Any:
    request = ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    request.config.model_config_list.config.extend(models)
    return request


def reload_future(ask: Client, *models: Any, timeout: float = SECONDS) -> Any:
    """HandleReloadConfigRequest with a list of these models."""
    return call_future(
        ask, RELOAD, reload_request(*models).SerializeToString(), ReloadConfigResponse, timeout
    )


def reload(ask: Client, *models: Any) -> Any:
    """The same, answered well."""
    response = reload_future(ask, *models).result()
    assert response.HasField("status")
    assert response.status.error_code == 0
    return response


def refused_reload(ask: Client, *models: Any) -> tuple[str, str]:
    """Code and text of the error that a list is answered with."""
    return refusal_of(reload_future(ask, *models))


def refusal_of(future: Any) -> tuple[str, str]:
    """Code and text of the error that a call is answered with."""
    error = future.exception(SECONDS)
    assert error is not None, "there is no error"
    return error.code().name, error.details()


def call_future(
    ask: Client, path: str, request: bytes, response_class: Any, timeout: float = SECONDS
) -> Any:
    call = ask.channel.unary_unary(path, response_deserializer=response_class.FromString)
    return call.future(request, timeout=timeout)


class Management:
    """A client of tfsrv.ModelManagement."""

    def __init__(self, ask: Client) -> None:
        self._ask = ask

    def future(self, method: str, timeout: float = SECONDS, **fields: Any) -> Any:
        request: Any = message_class(f"tfsrv.{method}Request")(**fields)
        response_class = message_class(f"tfsrv.{method}Response")
        path = f"/tfsrv.ModelManagement/{method}"
        return call_future(self._ask, path, request.SerializeToString(), response_class, timeout)

    def models(self) -> dict[str, Any]:
        """ListModels: tfsrv.Model by name."""
        listed = list(self.future("ListModels").result().model)
        names = [model.config.name for model in listed]
        assert names == sorted(names)
        return dict(zip(names, listed, strict=True))

    def model(self, name: str) -> Any:
        return self.models()[name]

    def set(self, config: Any) -> Any:
        """SetModel: the tfsrv.Model that it answers with."""
        return self.future("SetModel", config=config).result().model

    def remove(self, name: str) -> None:
        self.future("RemoveModel", name=name).result()
