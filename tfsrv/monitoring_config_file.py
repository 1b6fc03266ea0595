"""A --monitoring_config_file: a MonitoringConfig in protobuf's text format.

As in TensorFlow Serving's model_servers/server.cc, but that a path which no request could ask for
is an error there and then.
"""

from __future__ import annotations

import re
from typing import Any

from tfsrv import _proto
from tfsrv.config import MonitoringConfig, unreadable
from tfsrv.errors import Code, ServingError

MAX_TEXT_BYTES = 2**20  # more is a mistake, such as /dev/zero

# Of a URI, as RFC 3986 has it: what needs no escaping, or is escaped.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")


def parse_monitoring_config(text: str | bytes, place: str) -> MonitoringConfig:
    """What a text says; `place` is the file's name, for errors: ServingError (INVALID_ARGUMENT).

    parse_monitoring_config('prometheus_config { enable: true path: "/metrics" }', "m.config")
    """
    try:
        message: Any = _proto.parse_text("tensorflow.serving.MonitoringConfig", text, place)
    except ValueError as error:
        raise _invalid_file(place, str(error)) from None
    prometheus = message.prometheus_config
    path = prometheus.path or MonitoringConfig.prometheus_path
    if not _PATH.fullmatch(path):
        raise _invalid_file(
            place, f"{path!r} is no path of a URL: it begins with / and has no query"
        )
    return MonitoringConfig(prometheus.enable, path)


def read_monitoring_config(path: str) -> MonitoringConfig:
    """What a file says. Raises ServingError if it can't be read, or for what is wrong in it."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from None
    if len(text) > MAX_TEXT_BYTES:
        raise _invalid_file(path, f"it is larger than {MAX_TEXT_BYTES >> 20} MiB")
    return parse_monitoring_config(text, path)


def _invalid_file(place: str, reason: str) -> ServingError:
    """TensorFlow Serving's text (util/proto_util.h), and what is wrong."""
    return ServingError(Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{place}' ({reason})")
