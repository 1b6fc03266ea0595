"""Which models to serve: ModelServerConfig as text, as message and as `ModelConfig`s.

A file, a reload request and a request to add one model all lead through the same checks
(model_config_checks), so that a server never holds a list that it could not have started with.
Where the models came from a file, an error ends with `(FILE:LINE)`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from tfsrv import _proto
from tfsrv.config import (
    AllVersions,
    LatestVersions,
    ModelConfig,
    SpecificVersions,
    VersionPolicy,
)
from tfsrv.errors import Code, ServingError
from tfsrv.model_config_checks import is_absolute, problems_of
from tfsrv.text_places import model_lines

if TYPE_CHECKING:
    from google.protobuf.message import Message

MODEL_SERVER_CONFIG = "tensorflow.serving.ModelServerConfig"
CANNOT_PARSE = f"Error parsing text-format {MODEL_SERVER_CONFIG}: "
MAX_TEXT_BYTES = 64 * 2**20  # a million models; more is a mistake, such as /dev/zero

CUSTOM_MODEL_CONFIG = (
    "Missing custom_model_config_loader in ServerCore Options: this server reads model_config_list"
)


# -- text


def parse_model_server_config(text: bytes, file_name: str) -> Message:
    """The ModelServerConfig that a text describes. Raises ServingError (INVALID_ARGUMENT).

    The error says `FILE:LINE:COLUMN: what is wrong`.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"{file_name} is larger than the {MAX_TEXT_BYTES >> 20} MiB that a ModelServerConfig"
            " may have",
        )
    try:
        return _proto.parse_text(MODEL_SERVER_CONFIG, text, file_name)
    except ValueError as error:
        raise ServingError(Code.INVALID_ARGUMENT, f"{CANNOT_PARSE}{error}") from None


# -- from messages


def models_of(
    message: Message,
    *,
    root_dir: str | None,
    platforms: Collection[str] | None = None,
    file_name: str = "",
    text: bytes | None = None,
) -> tuple[ModelConfig, ...] | None:
    """The models of a ModelServerConfig; None if it says nothing of models.

    Relative base paths are joined to `root_dir`, and refused without one. `platforms` are those
    that can be served; None leaves that to the caller. `text` is what the message was read from,
    to tell lines of. Raises ServingError (INVALID_ARGUMENT) for the first thing that is wrong.
    """
    config: Any = message
    kind = config.WhichOneof("config")
    if kind is None:
        return None
    if kind != "model_config_list":
        where = f" ({file_name})" if file_name else ""
        raise ServingError(Code.INVALID_ARGUMENT, f"{CUSTOM_MODEL_CONFIG}{where}")
    models = config.model_config_list.config
    places = _places(len(models), file_name, text)
    for position, sentence in problems_of(models, root_dir=root_dir, platforms=platforms):
        raise _refusal(sentence, places[position])
    return tuple(
        _model(model, root_dir, place) for model, place in zip(models, places, strict=True)
    )


def check_model(
    message: Message,
    *,
    root_dir: str | None,
    platforms: Collection[str] | None = None,
    place: str = "",
) -> ModelConfig:
    """The model that one tensorflow.serving.ModelConfig describes; otherwise as `models_of`.

    `place` says where the message came from.
    """
    for _, sentence in problems_of([message], root_dir=root_dir, platforms=platforms):
        raise _refusal(sentence, place)
    return _model(message, root_dir, place)


def _places(count: int, file_name: str, text: bytes | None) -> list[str]:
    lines = model_lines(text.decode(errors="replace")) if text is not None else []
    if len(lines) != count:
        return [file_name] * count
    return [f"{file_name}:{line}" for line in lines]


def _refusal(sentence: str, place: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, f"{sentence} ({place})" if place else sentence)


def _model(model: Any, root_dir: str | None, place: str) -> ModelConfig:
    return ModelConfig(
        name=model.name,
        base_path=_base_path(model, root_dir),
        platform=model.model_platform or "tensorflow",
        version_policy=_version_policy(model),
        version_labels=tuple(sorted(model.version_labels.items())),
        place=place,
    )


def _base_path(model: Any, root_dir: str | None) -> str:
    path: str = model.base_path
    if is_absolute(path) or root_dir is None:
        return path
    return str(PurePosixPath(root_dir, path))


def _version_policy(model: Any) -> VersionPolicy:
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "specific":
        return SpecificVersions(frozenset(policy.specific.versions))
    if choice == "all":
        return AllVersions()
    return LatestVersions(policy.latest.num_versions or 1)


# -- to messages


def to_message(models: Iterable[ModelConfig]) -> Message:
    """The ModelServerConfig that lists these models; `models_of` makes the same models of it.

    It has no field for `only_version`, which is left out.
    """
    message: Any = _proto.message_class(MODEL_SERVER_CONFIG)()
    message.model_config_list.SetInParent()  # an empty list is a list
    for model in models:
        _fill(message.model_config_list.config.add(), model)
    filled: Message = message
    return filled


def _fill(message: Any, model: ModelConfig) -> None:
    message.name = model.name
    message.base_path = model.base_path
    message.model_platform = model.platform
    message.version_labels.update(dict(model.version_labels))
    match model.version_policy:
        case LatestVersions(num_versions):
            message.model_version_policy.latest.num_versions = num_versions
        case AllVersions():
            message.model_version_policy.all.SetInParent()
        case SpecificVersions(versions):
            message.model_version_policy.specific.versions.extend(sorted(versions))
