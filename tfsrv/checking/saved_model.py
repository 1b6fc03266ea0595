"""Whether one version's directory holds a SavedModel that can be loaded, as far as files tell.

What TensorFlow's cc/saved_model/loader.cc looks for, in its order: the graph, a MetaGraph with
the tags, the checkpoint of the variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from google.protobuf.message import DecodeError

from tfsrv._meta_graph import restores_variables
from tfsrv._proto import message_class
from tfsrv.servables.saved_model import FILE_NAMES

_SHARD = re.compile(r"variables\.data-([0-9]{5})-of-([0-9]{5})")


def problems_of_saved_model(directory: str, tags: Collection[str]) -> Iterator[str]:
    """What would keep the SavedModel in `directory` from being loaded. Raises OSError."""
    paths = [os.path.join(directory, name) for name in FILE_NAMES]
    graph = next(filter(os.path.isfile, paths), None)
    if graph is None:
        yield f"{directory} has no {' or '.join(FILE_NAMES)}"
        return
    if os.path.getsize(graph) == 0:
        yield f"{graph} is empty"
        return
    if not graph.endswith(".pb"):  # a text may have fields that only its own TensorFlow knows
        return
    meta_graphs = _meta_graphs(graph)
    if meta_graphs is None:
        yield f"{graph} is not a SavedModel, or was cut short"
        return
    meta_graph = next((each for each in meta_graphs if _tags(each) == set(tags)), None)
    if meta_graph is None:
        found = ", ".join(map(_in_braces, map(_tags, meta_graphs))) or "none at all"
        yield f"{graph} has no MetaGraph with the tags {_in_braces(tags)}, but {found}"
        return
    # TensorFlow writes an empty folder for the variables of a model that has none.
    if restores_variables(meta_graph.SerializeToString()):
        yield from _problems_of_checkpoint(os.path.join(directory, "variables"))


def _meta_graphs(path: str) -> list[Any] | None:
    """The MetaGraphDefs of a SavedModel; None if the file is none."""
    saved_model: Any = message_class("tensorflow.SavedModel")()
    with open(path, "rb") as file:
        content = file.read()
    try:
        saved_model.MergeFromString(content)
    except DecodeError:
        return None
    return list(saved_model.meta_graphs)


def _tags(meta_graph: Any) -> set[str]:
    return set(meta_graph.meta_info_def.tags)


def _in_braces(tags: Iterable[str]) -> str:
    return "{" + ", ".join(sorted(tags)) + "}"


def _problems_of_checkpoint(directory: str) -> Iterator[str]:
    index = os.path.join(directory, "variables.index")
    if not os.path.isfile(index):
        yield f"the model has variables, but there is no checkpoint for them: {index}"
        return
    if os.path.getsize(index) == 0:
        yield f"{index} is empty"
    shards = [_SHARD.fullmatch(name) for name in os.listdir(directory)]
    found = {(int(shard[1]), int(shard[2])) for shard in shards if shard}
    count = max((of for _, of in found), default=1)
    for number in range(count):
        if (number, count) not in found:
            yield f"{directory} has no variables.data-{number:05}-of-{count:05}"
