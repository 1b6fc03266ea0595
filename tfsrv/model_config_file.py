"""A --model_config_file: read at the start, and again while the server runs."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from tfsrv.config import ModelConfig, unreadable
from tfsrv.model_config import MAX_TEXT_BYTES, models_of, parse_model_server_config


@dataclass(frozen=True)
class ModelConfigFile:
    """A file as it was when it was read.

    `models` is None if it says nothing of models at all, as an empty file does. At the start
    that means none, later that nothing changes; an empty model_config_list is ().
    """

    path: str
    content: bytes
    models: tuple[ModelConfig, ...] | None


def read_model_config_file(
    path: str, *, platforms: Collection[str] | None = None
) -> ModelConfigFile:
    """Read a file. Raises ServingError if that can't be done, or for what is wrong in it."""
    return model_config_file(path, read_content(path), platforms=platforms)


def read_content(path: str) -> bytes:
    """What is in a file, enough of it to tell whether it has changed. Raises ServingError."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TEXT_BYTES + 1)  # one more than can be parsed
    except OSError as error:
        raise unreadable(path, error) from None


def model_config_file(
    path: str, content: bytes, *, platforms: Collection[str] | None = None
) -> ModelConfigFile:
    """What the content of a file says; `platforms` as for `models_of`.

    Relative base paths start where the file is. Raises ServingError (INVALID_ARGUMENT).
    """
    message = parse_model_server_config(content, path)
    models = models_of(
        message, root_dir=folder_of(path), platforms=platforms, file_name=path, text=content
    )
    return ModelConfigFile(path, content, models)


def folder_of(path: str) -> str:
    """Where the relative base paths of a file start: its folder, links to it not followed.

    Kubernetes shows a ConfigMap as links into a folder that changes its name with each update.
    """
    return os.path.dirname(os.path.abspath(path))
