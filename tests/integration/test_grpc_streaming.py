"""Streaming calls on both gRPC transports, with gRPC's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.addresses import needs_own_address, own_address
from tests.integration.test_grpc_transports import TRANSPORTS, options, run, status, transport
from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._python_method import PythonMethod
from tfsrv._streaming_method import StreamingMethod, of_one_request
from tfsrv.config import GrpcChannelArguments, ServerOptions
from tfsrv.errors import Code, ServingError

__all__ = ["transport"]  # a fixture

SECONDS = 30
MAX_WAITS = 3  # calls of /s/Wait at a time


class Fixture:
    """A server with some streaming methods, and a client's channel to it."""

    def __init__(self, options: ServerOptions) -> None:
        self.channel: Any = None
        self.call_loop = CallLoop(asyncio.get_running_loop())
        self.release = asyncio.Event()
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.error: Exception = ServingError(Code.FAILED_PRECONDITION, "no such signature")
        methods = {
            "/s/Echo": StreamingMethod("Echo", self.echo),
            "/s/Local": StreamingMethod("Local", self.echo, local_only=True),
            "/s/Count": StreamingMethod("Count", of_one_request(self.count)),
            "/s/Wait": StreamingMethod("Wait", of_one_request(self.wait), max_calls=MAX_WAITS),
            "/s/Flood": StreamingMethod("Flood", of_one_request(self.flood)),
            "/s/Fail": StreamingMethod("Fail", self.fail),
            "/t/Unary": PythonMethod("Unary", self.unary),
        }
        self.server = TRANSPORTS[options.grpc_transport](methods, self.call_loop, options)

    async def echo(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        async for request in requests:
            yield b"echo " + request

    async def count(self, request: bytes) -> AsyncGenerator[bytes]:
        for i in range(int(request)):
            yield b"%d" % i

    async def wait(self, request: bytes) -> AsyncGenerator[bytes]:
        try:
            yield request
            self.waiting.set()
            await self.release.wait()
            yield request
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def flood(self, request: bytes) -> AsyncGenerator[bytes]:
        while True:
            yield request

    async def fail(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        async for request in requests:
            yield request
        raise self.error

    async def unary(self, request: bytes) -> bytes:
        self.waiting.set()
        await self.release.wait()
        return request

    def bidirectional(self, path: str, **given: Any) -> Any:
        return self.channel.stream_stream(path)(timeout=SECONDS, **given)

    def server_streaming(self, path: str, request: bytes, timeout: float = SECONDS) -> Any:
        return self.channel.unary_stream(path)(request, timeout=timeout)


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


async def read_all(call: Any) -> list[bytes]:
    return [response async for response in call]


def test_answers_each_message_before_the_next_one_comes(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            call = fixture.bidirectional("/s/Echo")
            for i in range(20):
                await call.write(b"%d" % i)
                assert await call.read() == b"echo %d" % i
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK

    run(test)


def test_answers_one_request_with_many_messages(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            call = fixture.server_streaming("/s/Count", b"1000")
            assert await read_all(call) == [b"%d" % i for i in range(1000)]
            assert await read_all(fixture.server_streaming("/s/Count", b"0")) == []

    run(test)


def test_passes_large_and_empty_messages(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
                call = fixture.bidirectional("/s/Echo", compression=compression)
                for body in (b"", b"x" * 6_000_000, b"y"):
                    await call.write(body)
                    assert await call.read() == b"echo " + body
                await call.done_writing()
                assert await call.code() == grpc.StatusCode.OK

    run(test)


def test_an_error_becomes_the_status_behind_the_messages(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            call = fixture.bidirectional("/s/Fail")
            await call.write(b"a")
            assert await call.read() == b"a"
            await call.done_writing()
            expected = grpc.StatusCode.FAILED_PRECONDITION, "no such signature"
            assert await status(call.read()) == expected
            call = fixture.bidirectional("/s/Fail")
            await call.done_writing()
            assert await status(call.read()) == expected
            fixture.error = ServingError(Code.NOT_FOUND, "ü%\n" * 1000)
            call = fixture.bidirectional("/s/Fail")
            await call.done_writing()
            code, text = await status(call.read())
            assert code == grpc.StatusCode.NOT_FOUND
            assert text == ("ü%\n" * 1000).encode()[:1024].decode() + "...TRUNCATED"

    run(test)


def test_a_handler_that_crashes_is_an_internal_error(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            fixture.error = KeyError("x")
            call = fixture.bidirectional("/s/Fail")
            await call.done_writing()
            assert await status(call.read()) == (grpc.StatusCode.INTERNAL, "KeyError: 'x'")

    run(test)
    (record,) = caplog.records
    assert record.message == "Fail failed"
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("requests", "text"), [(0, "No message came"), (2, "Several messages came")]
)
def test_a_method_of_one_request_takes_just_one(transport: str, requests: int, text: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            call = fixture.bidirectional("/s/Count")
            for _ in range(requests):
                await call.write(b"3")
            await call.done_writing()
            code, message = await status(call.read())
            assert code == grpc.StatusCode.UNIMPLEMENTED
            assert text in (message or "")

    run(test)


def test_a_client_that_cancels_cancels_the_handler(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            call = fixture.server_streaming("/s/Wait", b"a")
            assert await call.read() == b"a"
            call.cancel()
            await asyncio.wait_for(fixture.cancelled.wait(), SECONDS)

    run(test)


def test_clients_that_leave_in_the_middle_are_no_news(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            for i in range(200):
                call = fixture.server_streaming("/s/Flood", b"x" * (i % 20) * 1000)
                for _ in range(i % 7):
                    await call.read()
                call.cancel()

    run(test)
    assert not caplog.records


def test_there_may_be_so_many_calls_and_no_more(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            silent = fixture.bidirectional("/s/Wait")  # counts before it has said anything
            await silent.wait_for_connection()
            calls = [fixture.server_streaming("/s/Wait", b"a") for _ in range(MAX_WAITS - 1)]
            for call in calls:
                assert await call.read() == b"a"
            code, text = await status(fixture.server_streaming("/s/Wait", b"a").read())
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert text == f"There are {MAX_WAITS} calls of Wait already"
            calls.pop().cancel()
            await asyncio.wait_for(fixture.cancelled.wait(), SECONDS)
            assert await fixture.server_streaming("/s/Wait", b"b").read() == b"b"
            await silent.done_writing()
            assert (await status(silent.read()))[0] == grpc.StatusCode.UNIMPLEMENTED

    run(test)


def test_a_deadline_ends_the_call_and_cancels_the_handler(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            call = fixture.server_streaming("/s/Wait", b"a", timeout=0.5)
            assert await call.read() == b"a"
            code, _ = await status(call.read())
            assert code == grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.wait_for(fixture.cancelled.wait(), SECONDS)

    run(test)


def test_a_stop_ends_streams_early_and_waits_for_other_calls(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            call = fixture.server_streaming("/s/Wait", b"a")
            assert await call.read() == b"a"
            await fixture.waiting.wait()
            fixture.waiting.clear()
            unary = fixture.channel.unary_unary("/t/Unary")(b"u", timeout=SECONDS)
            await fixture.waiting.wait()
            stopping = asyncio.ensure_future(fixture.server.stop(SECONDS))
            code, text = await status(call.read())
            assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "The server is stopping.")
            await asyncio.wait_for(fixture.cancelled.wait(), SECONDS)
            assert not stopping.done()
            fixture.release.set()
            assert await unary == b"u"
            await stopping

    run(test)


def test_a_request_longer_than_allowed_ends_the_call(transport: str) -> None:
    async def test() -> None:
        arguments = GrpcChannelArguments(max_receive_message_length=1000)
        async with serving(options(transport, grpc_channel_arguments=arguments)) as fixture:
            call = fixture.bidirectional("/s/Echo")
            await call.write(b"x" * 1001)
            code, _ = await status(call.read())
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED

    run(test)


def test_requests_count_against_the_budget(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport, max_in_flight_bytes=1_000_000)) as fixture:
            set_max_in_flight_bytes(1_000_000)
            call = fixture.bidirectional("/s/Echo")
            await call.write(b"x" * 1_500_000)
            code, text = await status(call.read())
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "in flight" in (text or "")
            call = fixture.server_streaming("/s/Wait", b"x" * 100_000)
            await call.read()
            assert in_flight_bytes() >= 100_000
            fixture.release.set()
            assert await call.read() == b"x" * 100_000
            assert await call.read() is grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK
        assert in_flight_bytes() == 0

    try:
        run(test)
    finally:
        set_max_in_flight_bytes(2**62)


@needs_own_address
def test_a_local_only_method_refuses_who_comes_by_another_address(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport, bind_address="0.0.0.0")) as fixture:
            port = fixture.server.addresses[0].rpartition(":")[2]
            fixture.channel = grpc.aio.insecure_channel(f"{own_address()}:{port}")
            call = fixture.bidirectional("/s/Local")
            assert await status(call.read()) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "Local is only answered on loopback and unix sockets",
            )
            fixture.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            call = fixture.bidirectional("/s/Local")
            await call.write(b"a")
            assert await call.read() == b"echo a"

    run(test)


def test_a_unary_call_of_a_streaming_method_gets_its_one_answer(transport: str) -> None:
    async def test() -> None:
        async with serving(options(transport)) as fixture:
            call = fixture.channel.unary_unary("/s/Count")
            assert await call(b"1", timeout=SECONDS) == b"0"

    run(test)


def test_no_transport_but_these_can_ask_a_streaming_method() -> None:
    async def test() -> None:
        call_loop = CallLoop(asyncio.get_running_loop())

        async def handler(requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
            yield b""

        with pytest.raises(ServingError, match="UNIMPLEMENTED: This method is streaming"):
            await call_loop.invoke(StreamingMethod("M", handler), b"")
        call_loop.close()

    run(test)
