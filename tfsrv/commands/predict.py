"""`tfsrv predict`: one request from the command line, and its answer as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from tfsrv.client import Client, Signature
from tfsrv.commands.command_line import (
    UsageError,
    add_connection_options,
    connect,
    is_address,
    parser,
    visible,
)
from tfsrv.commands.json_values import array_of, json_of

_DEFAULT_SIGNATURE = "serving_default"


def predict(arguments: Sequence[str]) -> int:
    """Print the outputs of one request."""
    options = parser("predict", "Send one Predict request to a server, and print its outputs.")
    options.add_argument("target", metavar="HOST:PORT", help="the server; unix:PATH is one too")
    options.add_argument("model", help="its name")
    options.add_argument(
        "inputs",
        metavar="JSON",
        help="""the inputs by name, such as '{"x": [1.0]}', or what stands for the only one;
        bytes are {"b64": "..."}; - reads it from standard input""",
    )
    options.add_argument("--signature", default="", help=f"by default {_DEFAULT_SIGNATURE}")
    which = options.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, metavar="N", help="by default the highest")
    which.add_argument("--label", help="of the version")
    options.add_argument(
        "--output", action="append", default=[], metavar="NAME", help="wanted; may be repeated"
    )
    add_connection_options(options)
    given = options.parse_args(arguments)
    if not is_address(given.target):
        raise UsageError(f"{given.target} is no address such as localhost:8500")
    values = _parsed(given.inputs)
    with connect(given.target, given.timeout) as client:
        signature = _signature(client, given.model, given.signature, given.version, given.label)
        answer = client.predict(
            given.model,
            _arrays(values, signature),
            signature=given.signature,
            version=given.version,
            label=given.label,
            output_filter=given.output,
        )
    outputs = {alias: json_of(array) for alias, array in sorted(answer.items())}
    print(json.dumps(outputs, ensure_ascii=False))
    return 0


def _parsed(text: str) -> Any:
    try:
        return json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the inputs are no JSON: {error}") from None


def _signature(
    client: Client, model: str, name: str, version: int | None, label: str | None
) -> Signature:
    signatures = visible(client.metadata(model, version=version, label=label).signatures)
    name = name or _DEFAULT_SIGNATURE
    if name not in signatures:
        raise UsageError(f"{model} has no signature {name}: it has {_listed(signatures)}")
    return signatures[name]


def _arrays(values: Any, signature: Signature) -> dict[str, NDArray[Any]]:
    inputs = signature.inputs
    if not isinstance(values, dict):
        if not inputs:
            raise UsageError("there are no inputs: give '{}'")
        if len(inputs) != 1:
            raise UsageError(f"name the inputs, which are {_listed(inputs)}: '{{\"x\": ...}}'")
        values = dict.fromkeys(inputs, values)
    arrays = {}
    for alias, value in values.items():
        if alias not in inputs:
            raise UsageError(f"there is no input {alias}: there are {_listed(inputs)}")
        try:
            arrays[alias] = array_of(value, inputs[alias])
        except ValueError as error:
            raise UsageError(f"input {alias}: {error}") from None
        except RecursionError:
            raise UsageError(f"input {alias}: lists are nested too deeply") from None
    return arrays


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
