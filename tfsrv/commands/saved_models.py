"""The signatures of SavedModels in directories, read without TensorFlow."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any

from tfsrv.client.calls import signatures_of
from tfsrv.client.results import Signature

_FILES = ("saved_model.pb", "saved_model.pbtxt")  # of which TensorFlow takes the first
_VERSION = re.compile(r"[0-9]+", re.ASCII)


class SavedModelError(Exception):
    """A directory holds no SavedModel that can be read; the message says why."""


def graph_file(directory: str) -> str | None:
    """The file of the SavedModel in a directory, if there is one."""
    paths = (os.path.join(directory, name) for name in _FILES)
    return next(filter(os.path.isfile, paths), None)


def version_directories(base_path: str) -> dict[int, str]:
    """The directories under a base path that are named by numbers, highest first. OSError."""
    names = filter(_VERSION.fullmatch, os.listdir(base_path))
    paths = {int(name): os.path.join(base_path, name) for name in sorted(names)}
    return {number: paths[number] for number in sorted(paths, reverse=True)}


def read_signatures(directory: str, tags: Collection[str]) -> dict[str, Signature]:
    """The signatures of the MetaGraph with exactly these tags. SavedModelError."""
    path = graph_file(directory)
    if path is None:
        raise SavedModelError(f"{directory} has no {' or '.join(_FILES)}")
    meta_graphs = _saved_model(path).meta_graphs
    for meta_graph in meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return signatures_of(meta_graph.signature_def)
    found = ", ".join(_braced(each.meta_info_def.tags) for each in meta_graphs) or "none at all"
    raise SavedModelError(f"{path} has no MetaGraph with the tags {_braced(tags)}, but {found}")


def _braced(tags: Collection[str]) -> str:
    return "{" + ", ".join(sorted(tags)) + "}"


def _saved_model(path: str) -> Any:
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError

    from tfsrv._proto import message_class, pool

    saved_model: Any = message_class("tensorflow.SavedModel")()
    try:
        with open(path, "rb") as file:
            content = file.read()
        if path.endswith(".pb"):
            saved_model.ParseFromString(content)
        else:  # may have fields that only its own TensorFlow knows
            text_format.Parse(
                content.decode(), saved_model, allow_unknown_field=True, descriptor_pool=pool()
            )
    except OSError as error:
        raise SavedModelError(f"{path}: {error.strerror}") from None
    except (DecodeError, text_format.ParseError, UnicodeDecodeError):
        raise SavedModelError(f"{path} is not a SavedModel, or was cut short") from None
    return saved_model
