"""Which gRPC transport a server gets, and how many threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from tfsrv._call_loop import CallLoop
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.errors import ServingError
from tfsrv.frontends import _http2
from tfsrv.frontends.grpc_native import NativeGrpcServer
from tfsrv.frontends.grpc_portable import PortableGrpcServer
from tfsrv.frontends.transport import GrpcServer
from tfsrv.parts import make_grpc_server, worker_pool


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = uvloop.new_event_loop()
    yield made
    made.close()


def transport(loop: asyncio.AbstractEventLoop, name: str) -> GrpcServer:
    options = ServerOptions(models=(ModelConfig("m", "/m"),), grpc_transport=name)
    return make_grpc_server({}, CallLoop(loop), options)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("auto", NativeGrpcServer),
        ("native", NativeGrpcServer),
        ("grpcio", PortableGrpcServer),
    ],
)
def test_takes_the_transport_that_is_asked_for(
    loop: asyncio.AbstractEventLoop,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    made: type[GrpcServer],
) -> None:
    monkeypatch.setattr(_http2, "available", lambda: True)
    assert type(transport(loop, name)) is made


def test_serves_through_grpcio_without_libnghttp2_and_says_what_that_costs(
    loop: asyncio.AbstractEventLoop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(_http2, "available", lambda: False)
    assert type(transport(loop, "auto")) is PortableGrpcServer
    (record,) = caplog.records
    assert "libnghttp2" in record.message
    assert "apt-get install libnghttp2-14" in record.message
    assert "20 times" in record.message


def test_refuses_the_native_transport_without_libnghttp2(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http2, "available", lambda: False)
    with pytest.raises(ServingError, match="apt-get install libnghttp2-14"):
        transport(loop, "native")


def threads_with(batching: BatchingParameters | None) -> int:
    workers = worker_pool(ServerOptions(models=(ModelConfig("m", "/m"),), batching=batching))
    workers.start()
    try:
        return workers.threads
    finally:
        assert workers.stop()


def test_has_as_many_threads_as_the_batching_parameters_say_and_one_to_spare() -> None:
    assert threads_with(BatchingParameters(num_batch_threads=5)) == 6
    assert threads_with(BatchingParameters()) == threads_with(None)
