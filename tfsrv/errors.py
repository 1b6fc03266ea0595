"""One error type for the whole server, the one table of codes, and the one of reasons.

Codes are gRPC's (https://grpc.github.io/grpc/core/md_doc_statuscodes.html); the HTTP statuses
are those of TensorFlow Serving's util/net_http/server/public/response_code_enum.h mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Code(IntEnum):
    """Canonical status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP_STATUS: dict[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class Reason(IntEnum):
    """Why a request about a model failed, for programs: the `reason` of a google.rpc.ErrorInfo.

    Codes are too few to tell: NOT_FOUND may be a model, a version, or a file that a graph reads.
    Native code has the same numbers (_status.pxd).
    """

    MODEL_NOT_FOUND = 1  # nothing of that name is loaded or on its way
    VERSION_NOT_FOUND = 2  # the version, or the one that the label stands for, is not loaded
    LABEL_NOT_FOUND = 3
    SIGNATURE_NOT_FOUND = 4
    MODEL_LOADING = 5  # its first version is on its way: try again
    QUEUE_FULL = 6  # too much waits for the model: try again
    INVALID_INPUT = 7  # what is fed or asked for does not fit the signature
    RUN_FAILED = 8  # the model itself failed on it


@dataclass(frozen=True)
class ErrorDetails:
    """What a program may want to know of an error, as far as it is known."""

    reason: Reason
    model: str = ""
    version: int | None = None  # that was asked for, or that answered
    label: str = ""
    signature: str = ""


class ServingError(Exception):
    """A request, a load or a configuration that failed, with the code its caller will see.

    What plug-ins give as a message is often another exception: its text is taken. gRPC clients
    get `details` as a google.rpc.ErrorInfo.
    """

    def __init__(self, code: int, message: object, details: ErrorDetails | None = None) -> None:
        text = message if isinstance(message, str) else str(message)
        super().__init__(text)
        try:
            self.code = Code(code)
        except ValueError:  # TensorFlow's codes are open ended
            self.code = Code.UNKNOWN
        self.message = text
        self.details = details

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"
