"""What a REST path names: TensorFlow Serving's grammar, and ours beside it.

    GET     /v1/models[/NAME][/versions/V|/labels/L][/metadata]
    POST    /v1/models/NAME[/versions/V|/labels/L]:(predict|classify|regress)
    PUT     /v1/models/NAME
    DELETE  /v1/models/NAME

GET and POST are model_servers/http_rest_api_util.cc with its oddities: the words are matched in
any case, but `:PREDICT` is no verb, and `/METADATA` asks for the status. A name and a label may
hold anything, percent-encoded, and are decoded after the match; a percent sign without two
digits behind it stands for itself. What differs: a query does not
break the match, HEAD is GET, GET /v1/models is a list, and what does not decode to UTF-8
is refused where TensorFlow Serving takes it as it stands.

    parse("GET", "/v1/models/a%2Fb/versions/3")   # ModelPath(Verb.STATUS, "a/b", version=3)
    parse("POST", "/v1/models/m:predict")         # ModelPath(Verb.PREDICT, "m")

A query is `KEY[=VALUE]` joined by `&`. Keys are taken as they are sent, unknown ones are ignored,
and of two with the same key the last counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

from tfsrv.errors import Code, ServingError

ROOT = "/v1/"  # in any case; all below it is answered as TensorFlow Serving answers it

_MAX_VERSION = 2**63 - 1
_NUMBER_DIGITS = len(str(_MAX_VERSION))
_MODEL = r"([^/:]+)"
_VERSION = r"(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?"
_FLAGS = re.IGNORECASE | re.ASCII
_GET = re.compile(f"/v1/models(?:/{_MODEL})?{_VERSION}(?:/(metadata))?", _FLAGS)
_POST = re.compile(f"/v1/models/{_MODEL}{_VERSION}:(classify|regress|predict)", _FLAGS)
_CHANGE = re.compile(f"/v1/models/{_MODEL}()()()", _FLAGS)


class Verb(Enum):
    """What is to be done with a model."""

    LIST = "list"
    STATUS = "status"
    METADATA = "metadata"
    PREDICT = "predict"
    CLASSIFY = "classify"
    REGRESS = "regress"
    SET = "set"
    REMOVE = "remove"


_RUNS = {verb.value: verb for verb in (Verb.PREDICT, Verb.CLASSIFY, Verb.REGRESS)}
_CHANGES = {"PUT": Verb.SET, "DELETE": Verb.REMOVE}


@dataclass(frozen=True)
class ModelPath:
    """A path below /v1/, decoded. At most one of `version` and `label` is given."""

    verb: Verb
    name: str = ""  # only LIST has none
    version: int | None = None
    label: str | None = None


def is_below_root(path: str) -> bool:
    """Whether TensorFlow Serving's REST API is asked, whatever else the path says."""
    return path[: len(ROOT)].lower() == ROOT


def methods_of(path: str, has_management: bool) -> tuple[str, ...]:
    """The methods that a path takes. Outside of the API every path is only to be read."""
    reads = ("GET", "HEAD")
    if not is_below_root(path):
        return reads
    found: tuple[str, ...] = reads if _GET.fullmatch(path) else ()
    if _POST.fullmatch(path):
        found += ("POST",)
    if has_management and _CHANGE.fullmatch(path):
        found += tuple(_CHANGES)
    return found


def parse(method: str, path: str, query: str = "") -> ModelPath:
    """What a request names. `query` is only for the text of the error.

    Raises ServingError (INVALID_ARGUMENT), in the order of TensorFlow Serving's checks.
    """
    match = _match(method, path)
    if match is None:
        raise malformed(method, path, query)
    name, version, label, word = match.groups("")
    found = ModelPath(
        _verb(method, name, word),
        decoded(name, "model name"),
        _version(version),
        decoded(label, "model version label") if label else None,
    )
    if found.verb is Verb.LIST and (version or label or word):
        raise ServingError(Code.INVALID_ARGUMENT, "Missing model name in request.")
    if found.verb.value != word and method == "POST":
        raise malformed(method, path, query)
    return found


def malformed(method: str, path: str, query: str = "") -> ServingError:
    """The error for what no rule knows."""
    target = f"{path}?{query}" if query else path
    return ServingError(Code.INVALID_ARGUMENT, f"Malformed request: {method} {target}")


def _match(method: str, path: str) -> re.Match[str] | None:
    if method in ("GET", "HEAD"):
        return _GET.fullmatch(path)
    if method == "POST":
        return _POST.fullmatch(path)
    return _CHANGE.fullmatch(path) if method in _CHANGES else None


def _verb(method: str, name: str, word: str) -> Verb:
    if method == "POST":
        return _RUNS[word.lower()]
    if method in _CHANGES:
        return _CHANGES[method]
    if not name:
        return Verb.LIST
    return Verb.METADATA if word == Verb.METADATA.value else Verb.STATUS


def _version(digits: str) -> int | None:
    if not digits:
        return None
    # int() takes long for thousands of digits, and refuses more.
    if len(digits.lstrip("0")) <= _NUMBER_DIGITS and int(digits[-_NUMBER_DIGITS:]) <= _MAX_VERSION:
        return int(digits[-_NUMBER_DIGITS:])
    raise ServingError(Code.INVALID_ARGUMENT, f"Failed to convert version: {digits} to numeric.")


def decoded(text: str, what: str) -> str:
    """`text` without percent-encoding. Raises ServingError that says `what` it should have been."""
    if not text or (text.isascii() and "%" not in text):
        return text
    try:
        return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError:
        raise ServingError(Code.INVALID_ARGUMENT, f"Failed to decode {what}:{text}") from None


# -- queries


def query_value(query: str, key: str) -> str | None:
    """The value of a key, still encoded; "" for a key alone, None if it is not there."""
    if not query:
        return None
    for parameter in reversed(query.split("&")):
        name, _, value = parameter.partition("=")
        if name == key:
            return value
    return None


def query_flag(query: str, key: str) -> bool:
    """Whether `?key` is set: it is there, and neither `key=0` nor `key=false`."""
    value = query_value(query, key)
    return value is not None and value.lower() not in ("0", "false")


def query_text(query: str, key: str) -> str | None:
    """The value of a key, decoded as forms are: a plus is a space. Raises ServingError."""
    value = query_value(query, key)
    return None if value is None else decoded(value.replace("+", " "), key)
