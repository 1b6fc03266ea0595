"""gRPC on grpc.aio: serves the same method table where the native transport can't run.

It costs 20 times the CPU of the native one, and behaves the same: same codes, same texts.
Requests and responses pass as raw bytes; the handlers behind do not know the difference.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio

from tfsrv._python_method import PythonMethod
from tfsrv._streaming_method import StreamingMethod
from tfsrv.errors import Code, ServingError
from tfsrv.frontends._error_details import DETAILS_HEADER, error_details
from tfsrv.frontends.peers import is_local_peer
from tfsrv.frontends.portable_streaming import Context, PortableStreams, Requests
from tfsrv.frontends.settings import GrpcSettings
from tfsrv.frontends.transport import details, host_and_port

if TYPE_CHECKING:
    from tfsrv._call_loop import CallLoop
    from tfsrv._method import Method
    from tfsrv.config import ServerOptions
    from tfsrv.handlers.methods import MethodTable

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

# What grpc logs, with a traceback, when a client has left and it has not noticed yet.
_LEFT_TOO_SOON = "ExecuteBatchError raised in core by servicer method"

_LOW_PRIORITY = ("tfsrv-priority", "low")  # of a request's metadata

RpcMethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Answer = Callable[[bytes, Context], Awaitable[bytes]]
StreamAnswer = Callable[[Requests, Context], Awaitable[None]]


class PortableGrpcServer:
    """A GrpcServer. Belongs to the loop that starts it."""

    def __init__(self, methods: MethodTable, call_loop: CallLoop, options: ServerOptions) -> None:
        self._methods = methods
        self._call_loop = call_loop
        self._options = options
        self._server: grpc.aio.Server | None = None
        self._streams = PortableStreams()
        self.addresses: list[str] = []

    @property
    def open_connections(self) -> None:
        """Only gRPC's C core knows."""
        return None

    async def start(self) -> None:
        """Open the ports. OSError says why one could not be opened."""
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
        server = grpc.aio.server(options=_channel_options(self._options))
        server.add_generic_rpc_handlers((_Router(self._methods, self),))
        try:
            self._open_ports(server)
            await server.start()
        except BaseException:
            await server.stop(None)
            raise
        self._server = server

    async def stop(self, grace_seconds: float) -> None:
        """Send GOAWAY, answer what is in flight for so long, cancel the rest.

        Streaming calls, which might go on for ever, are ended early.
        """
        if self._server is None:
            return
        stream_grace = min(GrpcSettings.stream_grace_ms / 1000, grace_seconds / 2)
        ending = asyncio.ensure_future(self._streams.end_after(stream_grace))
        await self._server.stop(grace_seconds)
        ending.cancel()
        self._server = None

    def _open_ports(self, server: grpc.aio.Server) -> None:
        options = self._options
        if options.port is not None:
            host = options.bind_address
            if options.port != 0:
                _try_bind(host, options.port, options.grpc_channel_arguments.so_reuseport)
            address = host_and_port(host, options.port)
            port = _add_port(server, address)
            self.addresses.append(host_and_port(host, port))
        if options.grpc_socket_path:
            address = f"unix:{os.path.abspath(options.grpc_socket_path)}"
            _add_port(server, address)
            self.addresses.append(address)

    async def answer(self, method: Method, request: bytes, context: Context) -> bytes:
        """Handle one request; an error becomes the status of the call."""
        try:
            # grpc makes a text of the peer when it is asked for it: only where that matters.
            asks_whence = isinstance(method, PythonMethod) and method.local_only
            local = asks_whence and is_local_peer(context.peer())
            return await self._call_loop.invoke(
                method,
                request,
                context.time_remaining(),
                local=local,
                low_priority=_LOW_PRIORITY in (context.invocation_metadata() or ()),
            )
        except ServingError as error:
            return await _abort(context, error)

    async def answer_stream(
        self, method: StreamingMethod, requests: Requests, context: Context
    ) -> None:
        """Handle one streaming call; an error becomes its status."""
        error = await self._streams.answer(method, requests, context)
        if error is not None:
            await _abort(context, error)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record of grpc's log says more than that a client has left."""
    return not str(record.msg).startswith(_LEFT_TOO_SOON)


async def _abort(context: Context, error: ServingError) -> bytes:
    encoded = error_details(error)
    trailers = ((DETAILS_HEADER, encoded),) if encoded else ()
    await context.abort(_CODES[error.code], details(error.message), trailers)
    raise AssertionError("abort() raises")


class _Router(grpc.GenericRpcHandler):
    """Finds the method of a path. Answers for unknown paths too, to say which it was."""

    def __init__(self, methods: MethodTable, server: PortableGrpcServer) -> None:
        self._unknown: RpcMethodHandler = grpc.unary_unary_rpc_method_handler(_refuse)
        self._handlers: dict[str, RpcMethodHandler] = {
            path: _handler(server, method) for path, method in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> RpcMethodHandler:
        return self._handlers.get(handler_call_details.method, self._unknown)


def _handler(server: PortableGrpcServer, method: Method) -> RpcMethodHandler:
    if isinstance(method, StreamingMethod):
        return grpc.stream_stream_rpc_method_handler(_bound_streaming(server, method))
    return grpc.unary_unary_rpc_method_handler(_bound(server, method))


def _bound(server: PortableGrpcServer, method: Method) -> Answer:
    async def answer(request: bytes, context: Context) -> bytes:
        return await server.answer(method, request, context)

    return answer


def _bound_streaming(server: PortableGrpcServer, method: StreamingMethod) -> StreamAnswer:
    async def answer(requests: Requests, context: Context) -> None:
        await server.answer_stream(method, requests, context)

    return answer


async def _refuse(request: bytes, context: Context) -> bytes:
    return await _abort(context, ServingError(Code.UNIMPLEMENTED, ""))


def _channel_options(options: ServerOptions) -> list[tuple[str, Any]]:
    """grpc's settings. Names: include/grpc/impl/channel_arg_names.h."""
    arguments = options.grpc_channel_arguments
    wanted = {
        "grpc.max_receive_message_length": arguments.max_receive_message_length,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": int(arguments.so_reuseport),
        "grpc.max_connection_age_ms": arguments.max_connection_age_ms,
        "grpc.max_connection_age_grace_ms": arguments.max_connection_age_grace_ms,
        "grpc.keepalive_time_ms": arguments.keepalive_time_ms,
        "grpc.keepalive_timeout_ms": arguments.keepalive_timeout_ms,
        "grpc.keepalive_permit_without_calls": int(arguments.keepalive_permit_without_calls),
        "grpc.max_concurrent_streams": arguments.max_concurrent_streams,
    }
    return [(name, value) for name, value in wanted.items() if value is not None]


def _try_bind(host: str, port: int, reuse_port: bool) -> None:
    """Raise the OSError that says why `port` can't be had: grpc itself does not tell."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind((host, port))


def _add_port(server: grpc.aio.Server, address: str) -> int:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise OSError(f"cannot listen on {address}")
    return int(port)
