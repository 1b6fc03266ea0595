"""What a server should serve, for Client.reload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Model:
    """One model of a ModelServerConfig.

    `versions` are "latest" (the highest), a number of highest versions, "all", or a list of
    versions. `labels` names some of them.
    """

    name: str
    base_path: str
    versions: Literal["latest", "all"] | int | Sequence[int] = "latest"
    labels: Mapping[str, int] = field(default_factory=dict)
    platform: str = "tensorflow"


def server_config(models: Iterable[Model] | str) -> Any:
    """The ModelServerConfig with these models; a str is one in text format already.

    ValueError for text that is none, TypeError for what is no model.
    """
    from tfsrv._proto import message_class, parse_text

    if isinstance(models, str):
        return parse_text("tensorflow.serving.ModelServerConfig", models, "models")
    config: Any = message_class("tensorflow.serving.ModelServerConfig")()
    config.model_config_list.SetInParent()
    for model in models:
        added = config.model_config_list.config.add(
            name=model.name, base_path=model.base_path, model_platform=model.platform
        )
        _set_versions(added.model_version_policy, model.versions)
        added.version_labels.update(model.labels)
    return config


def _set_versions(policy: Any, versions: str | int | Sequence[int]) -> None:
    if versions == "latest":
        return
    if versions == "all":
        policy.all.SetInParent()
    elif isinstance(versions, int):
        policy.latest.num_versions = versions
    elif isinstance(versions, str):
        raise ValueError(f"versions are 'latest', 'all', a number or a list, not {versions!r}")
    else:
        policy.specific.versions.extend(versions)
