"""`tfsrv show`: the models, versions and signatures of a directory or of a server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from tfsrv.client import (
    Client,
    ClientError,
    Code,
    ListedModel,
    Signature,
    TensorInfo,
    VersionStatus,
)
from tfsrv.commands.command_line import (
    CommandError,
    UsageError,
    add_connection_options,
    connect,
    is_address,
    parser,
    visible,
)
from tfsrv.commands.saved_models import (
    SavedModelError,
    graph_file,
    read_signatures,
    version_directories,
)

_MODEL = "model/"  # names of models in grpc.health.v1, as tfsrv gives them


def show(arguments: Sequence[str]) -> int:
    """Print what there is; the exit status is 1 if some of it cannot be read."""
    options = parser(
        "show", "Print the versions and signatures of a SavedModel, or of a server's models."
    )
    options.add_argument(
        "target",
        metavar="DIR|HOST:PORT",
        help="a SavedModel, the directory above its versions, or a server (unix:PATH is one too)",
    )
    options.add_argument(
        "--model", action="append", default=[], metavar="NAME", help="of a server; may be repeated"
    )
    options.add_argument(
        "--tags", default="serve", help="of the graph in a SavedModel: %(default)s"
    )
    add_connection_options(options)
    given = options.parse_args(arguments)
    if is_address(given.target):
        with connect(given.target, given.timeout) as client:
            return _show_server(client, given.model)
    if given.model:
        raise UsageError("--model is for a server's address, such as localhost:8500")
    return _show_directory(given.target, given.tags.split(","))


# ---- directories


def _show_directory(path: str, tags: Sequence[str]) -> int:
    if not os.path.isdir(path):
        raise UsageError(
            f"{path} is neither a directory nor an address such as localhost:8500"
            if not os.path.exists(path)
            else f"{path} is a file: give the directory of the SavedModel, or the one above"
        )
    if graph_file(path):
        return _print_version(path, path, tags)
    try:
        versions = version_directories(path)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    if not versions:
        raise CommandError(f"{path} is no SavedModel, and no directory in it is named by a number")
    print(path)
    return max(
        _print_version(f"version {number}", directory, tags, "  ")
        for number, directory in versions.items()
    )


def _print_version(title: str, directory: str, tags: Sequence[str], indent: str = "") -> int:
    try:
        signatures = read_signatures(directory, tags)
    except SavedModelError as error:
        print(f"{indent}{title}: cannot be read: {error}")
        return 1
    print(f"{indent}{title}")
    _print_signatures(signatures, indent + "  ")
    return 0


# ---- servers


def _show_server(client: Client, names: Sequence[str]) -> int:
    labels: dict[str, Mapping[str, int]] = {}
    statuses: dict[str, list[VersionStatus]] = {}
    listed = [] if names else _listed(client)
    for model in listed:
        labels[model.name] = model.labels
        statuses[model.name] = model.versions
    for name in names or ([] if listed else _names(client)):
        statuses[name] = client.status(name) if names else _versions(client, name)
    return max(
        (
            _print_model(client, name, versions, labels.get(name, {}))
            for name, versions in statuses.items()
        ),
        default=0,
    )


def _listed(client: Client) -> list[ListedModel]:
    """The models with all that is known of them, if the server tells us."""
    try:
        return client.list_models()
    except ClientError as error:
        if error.code not in (Code.UNIMPLEMENTED, Code.PERMISSION_DENIED):
            raise
        return []


def _names(client: Client) -> list[str]:
    """The names of the models, of whose health a tfsrv tells."""
    try:
        services = client.health_list()
    except ClientError as error:
        if error.code is not Code.UNIMPLEMENTED:
            raise
        raise CommandError("give --model=NAME: this server does not list its models") from None
    return [name.removeprefix(_MODEL) for name in services if name.startswith(_MODEL)]


def _versions(client: Client, name: str) -> list[VersionStatus]:
    """The versions of a model that the server has named, of which it may have seen none yet."""
    try:
        return client.status(name)
    except ClientError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return []


def _print_model(
    client: Client, name: str, versions: Sequence[VersionStatus], labels: Mapping[str, int]
) -> int:
    print(name)
    status = 0
    if not versions:
        print("  no versions")
        status = 1
    for version in versions:
        print("  " + _title(version, labels))
        if not version.available:
            continue
        try:
            signatures = client.metadata(name, version=version.version).signatures
        except ClientError as error:
            if error.code is not Code.NOT_FOUND:  # that one was unloaded meanwhile
                raise
            print(f"    cannot be read: {error.message}")
            status = 1
        else:
            _print_signatures(signatures, "    ")
    return status


def _title(version: VersionStatus, labels: Mapping[str, int]) -> str:
    named = sorted(label for label, number in labels.items() if number == version.version)
    title = f"version {version.version}"
    if named:
        title += f" ({', '.join(named)})"
    if not version.available:
        title += f": {version.state}"
    if version.code is not Code.OK:
        title += f": {version.code.name}: {version.message}"
    return title


# ---- signatures


def _print_signatures(signatures: Mapping[str, Signature], indent: str) -> None:
    shown = visible(signatures)
    if not shown:
        print(f"{indent}no signatures")
    for name, signature in shown.items():
        print(f"{indent}{name}  {signature.method_name}".rstrip())
        rows = [("in", alias, info) for alias, info in signature.inputs.items()]
        rows += [("out", alias, info) for alias, info in signature.outputs.items()]
        widest = max((len(alias) for _, alias, _ in rows), default=0)
        for direction, alias, info in rows:
            optional = direction == "in" and alias in signature.defaults
            tail = "  optional" if optional else ""
            print(f"{indent}  {direction:<3}  {alias:<{widest}}  {_type(info)}{tail}")


def _type(info: TensorInfo) -> str:
    """Dtype and shape: `float [?, 3]`, `string [...]` for any shape."""
    if info.shape is None:
        return f"{info.dtype} [...]"
    return f"{info.dtype} [{', '.join('?' if size < 0 else str(size) for size in info.shape)}]"
