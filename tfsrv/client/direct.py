"""Calls without gRPC's threads: over plain HTTP/2 connections of our own, see _http2.

Each call has a connection to itself while it lasts; those that are idle are kept for the next
ones. So a client has as many connections as calls were under way at once.
"""

from __future__ import annotations

import os
import re
import socket
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping

from tfsrv import __version__
from tfsrv.client._http2 import Connection, header_block, header_field
from tfsrv.client.errors import DETAILS_KEY, ClientError, error_of_status
from tfsrv.errors import Code

_IDLE = 32  # connections kept
_USER_AGENT = f"tfsrv-client/{__version__}".encode()
_TRIES = 3  # of a call with which a server that goes away has not begun, as in gRPC's channels
_NEVER = 1e12  # on the monotonic clock, in seconds
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # as gRPC's channels look for them
_TCP = re.compile(r"(?:dns:(?:///)?)?(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|\[::1\]")
_UNIX = re.compile(r"unix:(?://)?(/?[^/].*)")
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_METADATA_VALUE = re.compile(rb"[\x20-\x7e]*")
_LARGEST_REQUEST = 0x7FFF_FFFF  # bytes; protobuf's limit
_LARGEST_TIMEOUT = 99_999_999  # gRPC's time-outs have eight digits

Address = tuple[str, int] | str
"""A host and a port, or the path of a unix socket."""


def address_of(target: str, environment: Mapping[str, str] = os.environ) -> Address | None:
    """What a target of gRPC's stands for; None if only gRPC can tell, or would use a proxy."""
    if unix := _UNIX.fullmatch(target):
        return unix[1]
    tcp = _TCP.fullmatch(target)
    if tcp is None or not 0 < int(tcp[2]) < 65536:
        return None
    if not _LOOPBACK.fullmatch(tcp[1]) and any(map(environment.get, _PROXIES)):
        return None
    return tcp[1].strip("[]"), int(tcp[2])


class DirectTransport:
    """Sends calls to one address, from any number of threads."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._is_closed = False
        self._idle: list[Connection] = []  # append and pop are one step each
        self._process = os.getpid()
        self._headers: dict[str, bytes] = {}
        host = "localhost" if isinstance(address, str) else _authority(*address)
        self._authority = host.encode()

    def close(self) -> None:
        """Close what is idle; calls under way end as they will."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def call(
        self,
        path: str,
        request: bytes,
        timeout: float | None,
        metadata: Iterable[tuple[str, str | bytes]],
    ) -> bytes:
        """The response. ClientError, and ValueError for what gRPC cannot send."""
        if self._is_closed:
            raise ClientError(Code.CANCELLED, "The client is closed")
        if len(request) > _LARGEST_REQUEST:
            raise ValueError(f"a request of {len(request)} bytes is larger than a message can be")
        if timeout == 0:
            raise ClientError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        end = _NEVER if timeout is None else time.monotonic() + timeout
        headers = self._header_block(path) + _fields(timeout, metadata)
        for _ in range(_TRIES):
            connection = self._connection(end)
            try:
                answer = connection.call(headers, request, end)
            finally:
                self._put_back(connection)
            if not answer.unprocessed:
                break
        if answer.response is not None:
            return answer.response
        details = () if answer.details is None else ((DETAILS_KEY, answer.details),)
        raise error_of_status(answer.code, answer.message, details, path)

    def _header_block(self, path: str) -> bytes:
        found = self._headers.get(path)
        if found is None:
            block = header_block(path.encode(), self._authority, _USER_AGENT)
            found = self._headers[path] = block
        return found

    def _connection(self, end: float) -> Connection:
        if self._process != os.getpid():  # forked: those connections are the other process's
            self._idle = []
            self._process = os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return Connection(self._connected(end))
            if connection.is_fresh():
                return connection
            connection.close()

    def _put_back(self, connection: Connection) -> None:
        if connection.usable and not self._is_closed and len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _connected(self, end: float) -> socket.socket:
        left = None if end == _NEVER else end - time.monotonic()
        try:
            if left is not None and left <= 0:
                raise TimeoutError
            if isinstance(self._address, str):
                return _unix_socket(self._address, left)
            connected = socket.create_connection(self._address, left)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            if left is not None and time.monotonic() >= end:
                raise ClientError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
            raise ClientError(
                Code.UNAVAILABLE, f"cannot connect to {self._named()}: {error.strerror or error}"
            ) from None
        return connected

    def _named(self) -> str:
        return self._address if isinstance(self._address, str) else _authority(*self._address)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _unix_socket(path: str, timeout: float | None) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(timeout)
        made.connect(path)
    except BaseException:
        made.close()
        raise
    return made


def _fields(timeout: float | None, metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The header fields of one call."""
    fields = b"" if timeout is None else header_field(b"grpc-timeout", _timeout(timeout))
    for key, value in metadata:
        content = value.encode() if isinstance(value, str) else value
        if not _METADATA_KEY.fullmatch(key) or key.startswith("grpc-"):
            raise ValueError(f"{key!r} is no key of gRPC's metadata")
        if key.endswith("-bin"):
            content = b64encode(content).rstrip(b"=")
        elif not _METADATA_VALUE.fullmatch(content):
            raise ValueError(f"{value!r} is no value of gRPC's metadata, unless of a -bin key")
        fields += header_field(key.encode(), content)
    return fields


def _timeout(timeout: float) -> bytes:
    """A time-out as gRPC writes it, in the finest unit that has room for it."""
    for unit, in_seconds in ((b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0)):
        count = max(1, int(timeout / in_seconds))
        if count <= _LARGEST_TIMEOUT:
            return b"%d%b" % (count, unit)
    return b"%dS" % _LARGEST_TIMEOUT
