"""Errors that HTTP has a status of its own for, beside those of the table in errors.py."""

from __future__ import annotations

import dataclasses

from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import HttpResponse, error_response


class HttpError(ServingError):
    """A refusal with an HTTP status, and headers to go with it."""

    def __init__(
        self,
        status: int,
        code: Code,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(code, message)
        self.status = status
        self.headers = headers


def method_not_allowed(method: str, path: str, allowed: str) -> HttpError:
    """405. `allowed` is a list such as "GET, HEAD"."""
    return HttpError(
        405,
        Code.UNIMPLEMENTED,
        f"Method not allowed: {method} {path}. It takes {allowed}.",
        (("Allow", allowed),),
    )


def answer_error(error: ServingError, *, pretty: bool = False) -> HttpResponse:
    """The answer to a request that failed."""
    response = error_response(error, pretty=pretty)
    if isinstance(error, HttpError):
        return dataclasses.replace(response, status=error.status, headers=error.headers)
    return response
