"""The server's life, with parts that only write down what happens to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from tfsrv._proto import message_class
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.errors import Code, ServingError
from tfsrv.server import Parts, Server


class FakeLibrary:
    """TensorFlow that is open at once, or fails at once."""

    def __init__(self) -> None:
        self.error: ServingError | None = None
        self.devices = ("CPU:0",)

    def wait(self) -> str:
        if self.error is not None:
            raise self.error
        return "2.21.0"


class FakeParts:
    """All parts in one; `events` tells in what order they were used."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.health: list[str] = []  # what it was told
        self.held_by_workers = 0
        self.pending = {"m"}
        self.addresses: list[str] = []
        self.decided: list[Callable[[str], object]] = []
        self.bind_error: OSError | None = None
        self.rest_bind_error: OSError | None = None
        self.signatures: Mapping[str, Any] | None = None
        self.models = (ModelConfig("m", "/m"),)
        self.unavailable: dict[str, ServingError] = {}
        self.changed: Callable[[Any], object] = lambda state: None
        self.stopped_core_with: float | None = None
        self.hurried_before: list[str] = []  # the last event then

    def make(self, options: ServerOptions, loop: asyncio.AbstractEventLoop) -> Parts:
        return Parts(
            core=_Core(self),
            workers=_Workers(self),
            call_loop=_Calls(self),
            grpc_server=_Grpc(self),
            rest_server=None if options.rest_api_port is None else _Rest(self),
            health=_Health(self),
        )

    def decide(self, name: str) -> None:
        self.pending -= {name}
        for callback in self.decided:
            callback(name)


class _Core:
    def __init__(self, parts: FakeParts) -> None:
        self._parts = parts

    def start(self) -> None:
        self._parts.events.append("core starts")

    def stop(self, timeout_seconds: float) -> object:
        self._parts.events.append("core stops")
        self._parts.stopped_core_with = timeout_seconds
        return True

    def is_any_pending(self) -> bool:
        return bool(self._parts.pending)

    def subscribe_decided(self, callback: Callable[[str], object]) -> Callable[[], None]:
        self._parts.decided.append(callback)

        def unsubscribe() -> None:
            self._parts.decided.remove(callback)
            if not self._parts.decided:
                self._parts.events.append("core is unsubscribed")

        return unsubscribe

    def subscribe_states(self, callback: Callable[[Any], object]) -> Callable[[], None]:
        self._parts.changed = callback
        return lambda: self._parts.events.append("states are unsubscribed")

    def models(self) -> Sequence[ModelConfig]:
        return self._parts.models

    def unavailable(self) -> Mapping[str, ServingError]:
        return self._parts.unavailable

    def signature_defs(self, name: str) -> Mapping[str, Any] | None:
        return self._parts.signatures


class _Health:
    def __init__(self, parts: FakeParts) -> None:
        self._parts = parts

    def opened(self) -> None:
        self._parts.health.append("TensorFlow is open")

    def drain(self) -> None:
        self._parts.health.append(f"drain after {self._parts.events[-1:]}")


class _Workers:
    def __init__(self, parts: FakeParts) -> None:
        self._parts = parts

    def start(self) -> None:
        self._parts.events.append("workers start")

    def hurry(self) -> None:
        self._parts.hurried_before = self._parts.events[-1:]

    def stop(self, timeout_seconds: float) -> bool:
        self._parts.events.append("workers stop")
        return True


class _Calls:
    def __init__(self, parts: FakeParts) -> None:
        self._parts = parts

    @property
    def held_by_workers(self) -> int:
        return self._parts.held_by_workers

    def close(self) -> None:
        self._parts.events.append("calls close")


class _Grpc:
    open_connections = 0

    def __init__(self, parts: FakeParts) -> None:
        self._parts = parts

    @property
    def addresses(self) -> list[str]:
        return self._parts.addresses

    async def start(self) -> None:
        if self._parts.bind_error is not None:
            raise self._parts.bind_error
        self._parts.events.append("grpc starts")
        self._parts.addresses = ["0.0.0.0:8500"]

    async def stop(self, grace_seconds: float) -> None:
        self._parts.events.append(f"grpc stops within {grace_seconds:g}")


class _Rest:
    open_connections = 0

    def __init__(self, parts: FakeParts) -> None:
        self._parts = parts
        self.addresses = ["0.0.0.0:8501"]

    async def start(self) -> None:
        if self._parts.rest_bind_error is not None:
            raise self._parts.rest_bind_error
        self._parts.events.append("rest starts")

    async def stop(self, grace_seconds: float) -> None:
        self._parts.events.append(f"rest stops within {grace_seconds:g}")


def options(**given: Any) -> ServerOptions:
    return ServerOptions(models=(ModelConfig("m", "/m"),), **given)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to be")


def run(coroutine: Awaitable[None]) -> None:
    async def main() -> None:
        await coroutine

    asyncio.run(main())


STOPS = [
    "grpc stops within 25",
    "core is unsubscribed",
    "core stops",
    "workers stop",
    "calls close",
]


def test_opens_ports_before_models_and_stops_in_order() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        server = Server(options(), parts.make, lambda: library)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: "core starts" in parts.events)
        server.stop()
        await serving
        assert parts.events == ["workers start", "grpc starts", "core starts", *STOPS]
        assert parts.hurried_before == ["core starts"]
        assert parts.stopped_core_with != 0

    run(test())


def test_health_is_told_when_tensorflow_is_open_and_before_clients_are_told_to_go() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        server = Server(options(), parts.make, lambda: library)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: parts.health == ["TensorFlow is open"])
        server.stop()
        await serving
        assert parts.health == ["TensorFlow is open", "drain after ['core starts']"]

    run(test())


def test_opens_ports_when_every_model_is_decided_if_told_so() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        parts.pending = {"m", "n"}
        server = Server(options(open_ports="when_ready"), parts.make, lambda: library)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: "core starts" in parts.events)
        parts.decide("n")
        await asyncio.sleep(0.05)
        assert "grpc starts" not in parts.events
        parts.decide("m")
        await until(lambda: "grpc starts" in parts.events)
        server.stop()
        await serving
        assert parts.events == ["workers start", "core starts", "grpc starts", *STOPS]

    run(test())


@pytest.mark.parametrize("open_ports", ["at_once", "when_ready"])
def test_start_fails_when_a_model_is_not_available_in_time(open_ports: str) -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        parts.unavailable = {"m": ServingError(Code.NOT_FOUND, "no such path")}
        waiting = options(open_ports=open_ports, wait_for_models=0.01)
        with pytest.raises(ServingError, match=r"m due to error: NOT_FOUND: no such path"):
            await Server(waiting, parts.make, lambda: library).serve()
        assert parts.events[-1] == "calls close"

    run(test())


def test_start_waits_for_a_model_that_failed_at_first() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        parts.unavailable = {"m": ServingError(Code.NOT_FOUND, "it may still come")}
        waiting = options(wait_for_models=60.0, open_ports="when_ready")
        server = Server(waiting, parts.make, lambda: library)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: "core starts" in parts.events)
        parts.decide("m")  # it failed
        await asyncio.sleep(0.05)
        assert "grpc starts" not in parts.events
        parts.unavailable = {}
        parts.changed("m is available")
        await until(lambda: "grpc starts" in parts.events)
        assert not serving.done()
        server.stop()
        await serving

    run(test())


def test_opens_its_port_at_once_when_there_is_no_model_to_wait_for() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        parts.pending = set()
        server = Server(options(open_ports="when_ready"), parts.make, lambda: library)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: "grpc starts" in parts.events)
        server.stop()
        await serving

    run(test())


def test_ends_hung_runs_at_once_when_the_grace_is_over() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        server = Server(options(), parts.make, lambda: library)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: "core starts" in parts.events)
        parts.held_by_workers = 1
        server.stop()
        await serving
        assert parts.stopped_core_with == 0

    run(test())


def test_a_library_that_is_missing_fails_the_start_before_ports_open() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        library.error = ServingError(Code.FAILED_PRECONDITION, "TensorFlow is not installed")
        with pytest.raises(ServingError, match="not installed"):
            await Server(options(), parts.make, lambda: library).serve()
        assert "grpc starts" not in parts.events
        assert "core starts" not in parts.events

    run(test())


def test_a_port_that_is_taken_fails_the_start_and_says_which() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        parts.bind_error = OSError(98, "Address already in use")
        with pytest.raises(ServingError) as caught:
            await Server(options(grpc_socket_path="/s"), parts.make, lambda: library).serve()
        assert caught.value.message == (
            "Cannot listen at 0.0.0.0:8500 and unix:/s (Address already in use)"
        )
        assert parts.events == ["workers start", "workers stop", "calls close"]

    run(test())


def test_opens_and_stops_rest_with_grpc(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        server = Server(options(rest_api_port=8501), parts.make, lambda: library)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: "core starts" in parts.events)
        server.stop()
        await serving
        assert parts.events[:3] == ["workers start", "grpc starts", "rest starts"]
        assert parts.events[-6:-4] == ["grpc stops within 25", "rest stops within 25"]

    with caplog.at_level(logging.INFO, "tfsrv"):
        run(test())
    assert "Serving REST at http://0.0.0.0:8501" in caplog.messages


def test_a_rest_port_that_is_taken_fails_the_start_and_closes_the_other() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        parts.rest_bind_error = OSError(98, "Address already in use")
        with pytest.raises(ServingError) as caught:
            await Server(options(rest_api_port=8501), parts.make, lambda: library).serve()
        assert caught.value.message == "Cannot listen at 0.0.0.0:8501 (Address already in use)"
        assert "grpc stops within 25" in parts.events

    run(test())


def test_a_stop_during_the_start_is_a_stop() -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        server = Server(options(open_ports="when_ready"), parts.make, lambda: library)
        server.stop()
        await server.serve()
        assert "grpc starts" not in parts.events
        assert parts.events[-1:] in ([], ["calls close"])

    run(test())


def test_logs_where_it_serves_and_a_request_to_paste_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        server = Server(options(), parts.make, lambda: library)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: "core starts" in parts.events)
        signature = message_class("tensorflow.SignatureDef")()
        parts.signatures = {"serving_default": signature}
        parts.decide("m")
        parts.decide("m")
        await until(lambda: "Ask m with" in caplog.text)
        server.stop()
        await serving

    with caplog.at_level(logging.INFO, "tfsrv"):
        run(test())
    assert "Serving gRPC at 0.0.0.0:8500" in caplog.text
    assert "without TLS" in caplog.text
    assert caplog.text.count("Ask m with") == 1
    assert "predict 127.0.0.1:8500 m" in caplog.text


def test_does_not_warn_of_an_address_of_this_machine_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        parts, library = FakeParts(), FakeLibrary()
        server = Server(options(bind_address="127.0.0.1"), parts.make, lambda: library)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: "core starts" in parts.events)
        server.stop()
        await serving

    with caplog.at_level(logging.INFO, "tfsrv"):
        run(test())
    assert "Serving gRPC" in caplog.text
    assert "TLS" not in caplog.text
