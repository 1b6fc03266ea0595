"""Requests of the rare calls, from bytes to messages and back."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from tfsrv._proto import message_class
from tfsrv.errors import Code, ServingError


def read_request(full_name: str, request: bytes, max_bytes: int) -> Any:
    """The message that `request` is. Raises ServingError.

    `max_bytes` bounds the time that parsing takes, in the loop's thread or with the GIL held.
    """
    kind = full_name.rpartition(".")[2]
    if len(request) > max_bytes:
        raise ServingError(Code.RESOURCE_EXHAUSTED, f"The {kind} is larger than {max_bytes} bytes.")
    message = message_class(full_name)()
    try:
        message.ParseFromString(request)
    except DecodeError:
        raise ServingError(Code.INTERNAL, f"Failed to parse the {kind}.") from None
    return message


def set_status(status: Any, error: ServingError | None) -> None:
    """Fill in a StatusProto; it is there even if all is well."""
    status.SetInParent()
    if error is not None:
        status.error_code = int(error.code)
        status.error_message = as_unicode(error.message)


def as_unicode(text: str) -> str:
    """`text` without what no protobuf string may hold: file names need not be Unicode."""
    return text.encode("utf-8", "replace").decode()
