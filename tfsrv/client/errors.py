"""The one exception of the client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tfsrv.errors import Code, ServingError

DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "tfsrv"


class ClientError(ServingError):
    """A call that failed.

    `code` and `message` are what the server answered, or what gRPC made of there being no answer.
    `info` is what tfsrv tells of it besides, in a google.rpc.ErrorInfo: the reason, and the
    model, version, label and signature that it is about; empty with a server that tells nothing.
    """

    def __init__(self, code: int, message: object, info: Mapping[str, str] | None = None):
        super().__init__(code, message)
        self.info = dict(info or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (int(self.code), self.message, self.info)

    @property
    def reason(self) -> str:
        """Why, for programs, such as MODEL_NOT_FOUND; "" if the server does not tell."""
        return self.info.get("reason", "")

    @property
    def model(self) -> str | None:
        """The model that the call was for."""
        return self.info.get("model")

    @property
    def version(self) -> int | None:
        """Its version."""
        version = self.info.get("version", "")
        return int(version) if version.lstrip("-").isdecimal() else None

    @property
    def signature(self) -> str | None:
        """Its signature."""
        return self.info.get("signature")


def error_of_call(call: Any, path: str) -> ClientError:
    """The error of a failed call of that path: a grpc.RpcError, or a grpc.Call that has ended."""
    code: int = call.code().value[0]
    return error_of_status(code, call.details(), call.trailing_metadata(), path)


def error_of_status(
    code: int,
    message: str | None,
    trailers: Iterable[tuple[str, str | bytes]] | None,
    path: str,
) -> ClientError:
    """The error of a call of that path, from a gRPC status and its trailing metadata."""
    if code == Code.UNIMPLEMENTED and not message:  # all that some servers say
        message = f"The server does not have {path}"
    for key, value in trailers or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return ClientError(code, message or "", _details(value))
    return ClientError(code, message or "")


def _details(status: bytes) -> dict[str, str]:
    """The metadata of a google.rpc.ErrorInfo of ours in a serialized google.rpc.Status.

    Whatever else is there, or is not valid, says nothing.
    """
    from google.protobuf.message import DecodeError

    from tfsrv._proto import message_class

    parsed: Any = message_class("google.rpc.Status")()
    info: Any = message_class("google.rpc.ErrorInfo")()
    try:
        parsed.ParseFromString(status)
        for detail in parsed.details:
            if detail.type_url.endswith("/google.rpc.ErrorInfo"):
                info.ParseFromString(detail.value)
                if info.domain == _DOMAIN:
                    return {**info.metadata, **({"reason": info.reason} if info.reason else {})}
    except DecodeError:
        pass
    return {}
