"""Both gRPC transports with gRPC's own client, over methods that do as they are told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import uvloop

from tests.addresses import needs_ipv6, needs_own_address, own_address
from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._python_method import PythonMethod
from tfsrv.config import GrpcChannelArguments, ModelConfig, ServerOptions
from tfsrv.errors import Code, ServingError
from tfsrv.frontends._http2 import available
from tfsrv.frontends.grpc_native import NativeGrpcServer
from tfsrv.frontends.grpc_portable import PortableGrpcServer

TRANSPORTS: dict[str, type[NativeGrpcServer] | type[PortableGrpcServer]] = {
    "native": NativeGrpcServer,
    "grpcio": PortableGrpcServer,
}


@pytest.fixture(params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "native" and not available():
        pytest.skip("needs libnghttp2")
    return name


class Fixture:
    """A server with /t/Echo, /t/Slow, /t/Fail and /t/Local, and a client's channel to it."""

    def __init__(self, options: ServerOptions) -> None:
        self.channel: Any = None
        self.call_loop = CallLoop(asyncio.get_running_loop())
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.error: Exception = ServingError(Code.FAILED_PRECONDITION, "no such signature")
        methods = {
            "/t/Echo": PythonMethod("Echo", self.echo),
            "/t/Slow": PythonMethod("Slow", self.slow),
            "/t/Fail": PythonMethod("Fail", self.fail),
            "/t/Local": PythonMethod("Local", self.echo, local_only=True),
        }
        self.server = TRANSPORTS[options.grpc_transport](methods, self.call_loop, options)

    async def echo(self, request: bytes) -> bytes:
        return b"echo " + request

    async def slow(self, request: bytes) -> bytes:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"late"

    async def fail(self, request: bytes) -> bytes:
        raise self.error

    def call(self, path: str) -> Callable[..., Any]:
        multicallable: Callable[..., Any] = self.channel.unary_unary(path)
        return multicallable


def options(transport: str, **given: Any) -> ServerOptions:
    given = {"port": 0, "bind_address": "127.0.0.1", "grpc_transport": transport, **given}
    return ServerOptions(models=(ModelConfig("m", "/m"),), **given)


@asynccontextmanager
async def serving(server_options: ServerOptions) -> AsyncIterator[Fixture]:
    fixture = Fixture(server_options)
    await fixture.server.start()
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    fixture.channel = grpc.aio.insecure_channel(fixture.server.addresses[0], options=unlimited)
    try:
        yield fixture
    finally:
        await fixture.channel.close()
        await fixture.server.stop(0)


async def status(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


def run(test: Callable[[], Awaitable[None]]) -> None:
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(test(), 60))
    finally:
        loop.close()


def test_passes_bytes(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            assert await fixture.call("/t/Echo")(b"a\x00b") == b"echo a\x00b"
            assert await fixture.call("/t/Echo")(b"") == b"echo "

    run(test)


def test_listens_on_a_unix_socket_beside_or_without_tcp(transport: str, tmp_path: Path) -> None:
    async def test() -> None:
        path = str(tmp_path / "socket")
        async with serving(options(transport, grpc_socket_path=path, port=None)) as fixture:
            assert fixture.server.addresses == [f"unix:{path}"]
            assert await fixture.call("/t/Echo")(b"") == b"echo "
        async with serving(options(transport, grpc_socket_path=path)) as fixture:
            assert len(fixture.server.addresses) == 2

    run(test)


async def ask(address: str, path: str) -> bytes:
    """One request on a connection of its own."""
    unshared = [("grpc.use_local_subchannel_pool", 1)]
    channel: Any = grpc.aio.insecure_channel(address, options=unshared)
    async with channel:
        answer: bytes = await channel.unary_unary(path)(b"", timeout=30)
        return answer


def test_a_local_only_method_answers_on_loopback_and_unix_sockets(
    transport: str, tmp_path: Path
) -> None:
    async def test() -> None:
        path = str(tmp_path / "socket")
        everywhere = {"bind_address": "0.0.0.0", "grpc_socket_path": path}
        async with serving(options(transport, **everywhere)) as fixture:
            port = fixture.server.addresses[0].rpartition(":")[2]
            for address in (f"127.0.0.1:{port}", f"127.1.2.3:{port}", f"unix:{path}"):
                assert await ask(address, "/t/Local") == b"echo "

    run(test)


@needs_ipv6
def test_a_local_only_method_answers_on_ipv6s_loopback_and_on_ipv4s_through_ipv6(
    transport: str,
) -> None:
    async def test() -> None:
        async with serving(options(transport, bind_address="::")) as fixture:
            port = fixture.server.addresses[0].rpartition(":")[2]
            assert await ask(f"[::1]:{port}", "/t/Local") == b"echo "
            assert await ask(f"127.0.0.1:{port}", "/t/Local") == b"echo "

    run(test)


@needs_own_address
@pytest.mark.parametrize("bind_address", ["0.0.0.0", pytest.param("::", marks=needs_ipv6)])
def test_a_local_only_method_refuses_who_comes_by_another_address(
    transport: str, bind_address: str
) -> None:
    async def test() -> None:
        async with serving(options(transport, bind_address=bind_address)) as fixture:
            port = fixture.server.addresses[0].rpartition(":")[2]
            address = f"{own_address()}:{port}"
            assert await ask(address, "/t/Echo") == b"echo "
            assert await status(ask(address, "/t/Local")) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "Local is only answered on loopback and unix sockets",
            )
            assert await ask(f"127.0.0.1:{port}", "/t/Local") == b"echo "  # and nobody else

    run(test)


def test_an_error_becomes_the_status_of_the_call(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            assert await status(fixture.call("/t/Fail")(b"")) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "no such signature",
            )
            fixture.error = ServingError(Code.NOT_FOUND, "ü%\n" * 1000)
            code, text = await status(fixture.call("/t/Fail")(b""))
            assert code == grpc.StatusCode.NOT_FOUND
            assert text == ("ü%\n" * 1000).encode()[:1024].decode() + "...TRUNCATED"

    run(test)


def test_an_unforeseen_failure_is_internal(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            fixture.error = KeyError("oops")
            assert await status(fixture.call("/t/Fail")(b"")) == (
                grpc.StatusCode.INTERNAL,
                "KeyError: 'oops'",
            )

    run(test)


def test_an_unknown_path_is_unimplemented(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            code, _ = await status(fixture.call("/t/Nosuch")(b""))
            assert code == grpc.StatusCode.UNIMPLEMENTED

    run(test)


def test_ends_a_python_method_at_the_deadline(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            code, _ = await status(fixture.call("/t/Slow")(b"", timeout=0.2))
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.wait_for(fixture.cancelled.wait(), 10)

    run(test)


def test_hands_a_cancellation_on(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            call = fixture.call("/t/Slow")(b"")
            await asyncio.wait_for(fixture.started.wait(), 10)
            call.cancel()
            await asyncio.wait_for(fixture.cancelled.wait(), 10)

    run(test)


def test_limits_what_it_receives_and_not_what_it_sends(transport: str) -> None:
    async def test() -> None:
        arguments = GrpcChannelArguments(max_receive_message_length=100_000)
        async with serving(options(transport, grpc_channel_arguments=arguments)) as fixture:
            fits = bytes(99_000)
            assert await fixture.call("/t/Echo")(fits) == b"echo " + fits
            code, _ = await status(fixture.call("/t/Echo")(bytes(100_001)))
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        async with serving(options(transport)) as fixture:
            large = bytes(5_000_000)  # over gRPC's default of 4 MiB, both ways
            assert await fixture.call("/t/Echo")(large) == b"echo " + large

    run(test)


def test_refuses_what_is_over_the_bytes_that_may_be_in_flight(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            before = in_flight_bytes()
            set_max_in_flight_bytes(before + 100_000)
            waiting = fixture.call("/t/Slow")(bytes(60_000))
            await asyncio.wait_for(fixture.started.wait(), 10)
            code, _ = await status(fixture.call("/t/Echo")(bytes(60_000)))
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            fixture.release.set()
            assert await waiting == b"late"
            # Request and answer count together: a small one has room again.
            assert await fixture.call("/t/Echo")(bytes(40_000)) == b"echo " + bytes(40_000)

    try:
        run(test)
    finally:
        set_max_in_flight_bytes(2**62)


def test_stopping_finishes_what_is_in_flight_and_accepts_nothing_more(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            waiting = fixture.call("/t/Slow")(b"")
            await asyncio.wait_for(fixture.started.wait(), 10)
            stopping = asyncio.ensure_future(fixture.server.stop(30))
            await asyncio.sleep(0)
            other: Any = grpc.aio.insecure_channel(fixture.server.addresses[0])
            async with other:
                code, _ = await status(other.unary_unary("/t/Echo")(b""))
                assert code == grpc.StatusCode.UNAVAILABLE
            fixture.release.set()
            assert await waiting == b"late"
            await asyncio.wait_for(stopping, 10)

    run(test)


def test_stopping_cancels_what_outlives_the_grace(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            waiting = asyncio.ensure_future(status(fixture.call("/t/Slow")(b"")))
            await asyncio.wait_for(fixture.started.wait(), 10)
            await asyncio.wait_for(fixture.server.stop(0.1), 10)
            await waiting
            await asyncio.wait_for(fixture.cancelled.wait(), 10)

    run(test)


def test_says_why_a_port_cannot_be_opened(transport: str, tmp_path: Path) -> None:
    async def test() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(OSError, match="in use"):
                await Fixture(options(transport, port=taken.getsockname()[1])).server.start()
        with pytest.raises(OSError, match=r"No such file|cannot listen"):
            await Fixture(
                options(transport, port=None, grpc_socket_path="/nosuch/s")
            ).server.start()

    run(test)
