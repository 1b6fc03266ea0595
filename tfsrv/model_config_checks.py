"""What can be wrong with the models of a ModelServerConfig, told of the messages.

Texts and their order are those of TensorFlow Serving's model_servers/server_core.cc. What it
takes and then can't serve is refused too: specific versions without versions, a label to a version
that is not listed, negative versions, no name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_SCHEME = re.compile(r"[a-zA-Z][0-9a-zA-Z.]*://")  # as in TensorFlow's io::ParseURI
MAX_MODELS = 50_000  # more is a mistake, or meant to harm
MAX_SPECIFIC_VERSIONS = 10_000
_TENSORFLOW = 1  # ModelType.TENSORFLOW


class Problem(NamedTuple):
    """What is wrong with one of several models, and which one, from 0."""

    position: int
    sentence: str


@dataclass(frozen=True)
class _Limits:
    """What models are checked against."""

    root_dir: str | None
    platforms: Collection[str] | None


def problems_of(
    models: Sequence[Any], *, root_dir: str | None, platforms: Collection[str] | None
) -> Iterator[Problem]:
    """Everything that is wrong with a list of tensorflow.serving.ModelConfig.

    All models go through one check before the next check, as in TensorFlow Serving. Without a
    `root_dir` relative base paths are wrong; without `platforms` all platforms are right.
    """
    if len(models) > MAX_MODELS:
        yield Problem(MAX_MODELS, f"There are {len(models)} models, over {MAX_MODELS}")
        return
    limits = _Limits(root_dir, platforms)
    yield from _listed_twice(models)
    for check in (
        _check_name,
        _check_base_path,
        _check_platform,
        _check_version_policy,
        _check_version_labels,
        _check_logging,
    ):
        for position, model in enumerate(models):
            yield from (Problem(position, sentence) for sentence in check(model, limits))


def is_absolute(path: str) -> bool:
    """Whether a base path says all by itself where it is: an absolute path or a URI."""
    return path.startswith("/") or scheme_of(path) != ""


def scheme_of(path: str) -> str:
    """The scheme of a URI with its colon and slashes, such as "gs://"; "" of a path."""
    match = _SCHEME.match(path)
    return match[0] if match else ""


def _listed_twice(models: Sequence[Any]) -> Iterator[Problem]:
    seen: set[str] = set()
    for position, model in enumerate(models):
        if model.name in seen:
            text = f"Illegal to list model {model.name} multiple times in config list"
            yield Problem(position, text)
        seen.add(model.name)


def _check_name(model: Any, limits: _Limits) -> Iterator[str]:
    if not model.name:
        yield f"Expected a model to have a name; got none for base_path()={model.base_path}"


def _check_base_path(model: Any, limits: _Limits) -> Iterator[str]:
    path = model.base_path
    if not path or (limits.root_dir is None and not is_absolute(path)):
        yield f"Expected model {model.name} to have an absolute path or URI; got base_path()={path}"
    if "\0" in path:
        yield f"The base_path of model {model.name} has a NUL in it, which no path can have"


def _check_platform(model: Any, limits: _Limits) -> Iterator[str]:
    if model.model_type and model.model_platform:
        yield (
            "Illegal setting both ModelServerConfig::model_type (deprecated) and"
            f" ModelServerConfig::model_platform, model name is {model.name}"
        )
    elif model.model_type not in (0, _TENSORFLOW):
        yield (
            f"ModelServerConfig::model_type choice {model.model_type} not supported,"
            f" model name is {model.name}"
        )
    elif not model.model_type and not model.model_platform:
        yield (
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor"
            f" ModelServerConfig::model_platform, model name is {model.name}"
        )
    else:
        platform = model.model_platform or "tensorflow"
        if limits.platforms is not None and platform not in limits.platforms:
            yield f"Model {model.name} requests unsupported platform {platform}"


def _check_version_policy(model: Any, limits: _Limits) -> Iterator[str]:
    versions = _specific_versions(model)
    if versions is None:
        return
    if not versions:
        yield (
            f"Model {model.name} asks for specific versions and lists none: list them,"
            " or leave the model out"
        )
    if len(versions) > MAX_SPECIFIC_VERSIONS:
        yield (
            f"Model {model.name} asks for {len(versions)} specific versions, over"
            f" {MAX_SPECIFIC_VERSIONS}: say `all` instead"
        )
    for version in sorted(versions)[:1]:
        if version < 0:
            yield f"Model {model.name} asks for version {version}: versions are not negative"


def _check_version_labels(model: Any, limits: _Limits) -> Iterator[str]:
    versions = _specific_versions(model)
    for label, version in sorted(model.version_labels.items()):
        if not label:
            yield f"Model {model.name} has a label without a name, for version {version}"
        elif version < 0:
            yield (
                f"Label {label} of model {model.name} points to version {version}:"
                " versions are not negative"
            )
        elif versions is not None and version not in versions:
            yield (
                f"Label {label} of model {model.name} points to version {version},"
                " which is not among the specific versions of the model"
            )


def _specific_versions(model: Any) -> frozenset[int] | None:
    """The versions that a specific policy lists; None if the policy is another one."""
    policy = model.model_version_policy
    if policy.WhichOneof("policy_choice") != "specific":
        return None
    return frozenset(policy.specific.versions)


def _check_logging(model: Any, limits: _Limits) -> Iterator[str]:
    if model.HasField("logging_config"):
        yield (
            "No request-logger-creator provided. This server does not log requests:"
            f" leave out the logging_config of model {model.name}"
        )
