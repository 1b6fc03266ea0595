"""grpc.reflection: what the server's services and messages look like, for generic tools.

Both names of the protocol, v1 and v1alpha, have the same messages. What is told of comes from our
own descriptor pool (`_proto`), as it was compiled; listed are the services of the method table.

https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from tfsrv._proto import message_class, pool
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.requests import read_request

MAX_REQUEST_BYTES = 4096  # a name; requests are echoed in their answers


class ServerReflection:
    """The handler of `ServerReflectionInfo` in `package`, "grpc.reflection.v1" or its "v1alpha"."""

    def __init__(self, package: str, services: Iterable[str]) -> None:
        """`services` are the full names of all services that the server has."""
        self._package = package
        self._services = sorted(services)

    async def __call__(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """Answer each request in its turn. Raises ServingError for what is no request."""
        async for request in requests:
            yield self._answer(request)

    def _answer(self, serialized: bytes) -> bytes:
        request = read_request(
            f"{self._package}.ServerReflectionRequest", serialized, MAX_REQUEST_BYTES
        )
        response: Any = message_class(f"{self._package}.ServerReflectionResponse")()
        response.valid_host = request.host
        response.original_request.CopyFrom(request)
        try:
            self._fill(response, request)
        except ServingError as error:
            response.error_response.error_code = int(error.code)
            response.error_response.error_message = error.message
        answer: bytes = response.SerializeToString()
        return answer

    def _fill(self, response: Any, request: Any) -> None:
        asked = request.WhichOneof("message_request")
        if asked == "list_services":
            for name in self._services:
                response.list_services_response.service.add(name=name)
        elif asked == "file_by_filename":
            _set_files(response, _file_named(request.file_by_filename))
        elif asked == "file_containing_symbol":
            _set_files(response, _file_of_symbol(request.file_containing_symbol))
        elif asked == "file_containing_extension":
            extension = request.file_containing_extension
            _set_files(
                response, _file_of_extension(extension.containing_type, extension.extension_number)
            )
        elif asked == "all_extension_numbers_of_type":
            numbers = response.all_extension_numbers_response
            numbers.base_type_name = request.all_extension_numbers_of_type
            numbers.extension_number.extend(_extension_numbers(numbers.base_type_name))
        else:
            raise ServingError(Code.INVALID_ARGUMENT, "The request asks for nothing")


def _set_files(response: Any, file: Any) -> None:
    """Give a file and all that it needs, each after those that need it."""
    seen: dict[str, bytes] = {}
    files = [file]
    while files:
        file = files.pop()
        if file.name not in seen:
            seen[file.name] = file.serialized_pb
            files += file.dependencies
    response.file_descriptor_response.file_descriptor_proto.extend(seen.values())


def _file_named(name: str) -> Any:
    try:
        return pool().FindFileByName(name)
    except KeyError:
        raise ServingError(Code.NOT_FOUND, f"There is no file {name}") from None


def _file_of_symbol(name: str) -> Any:
    """The file of a message, an enum, a service, or of a part of one."""
    try:
        return pool().FindFileContainingSymbol(name)
    except KeyError:
        pass
    service, _, method = name.rpartition(".")
    try:
        found = pool().FindServiceByName(service)
    except KeyError:
        found = None
    if found is None or method not in found.methods_by_name:
        raise ServingError(Code.NOT_FOUND, f"There is no symbol {name}")
    return found.file


def _message_named(name: str) -> Any:
    try:
        return pool().FindMessageTypeByName(name)
    except KeyError:
        raise ServingError(Code.NOT_FOUND, f"There is no message {name}") from None


def _file_of_extension(name: str, number: int) -> Any:
    message = _message_named(name)
    try:
        extension: Any = pool().FindExtensionByNumber(message, number)
    except KeyError:
        raise ServingError(
            Code.NOT_FOUND, f"There is no extension {number} of message {name}"
        ) from None
    return extension.file


def _extension_numbers(name: str) -> list[int]:
    return sorted(each.number for each in pool().FindAllExtensions(_message_named(name)))
