"""Health: which names are SERVING, and what their watchers hear."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from tfsrv._proto import message_class
from tfsrv.core.servable import ManagerState, ServableId, ServableState
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.health import PORT_NAMES, SERVER_NAMES, Health, HealthStatus

SERVING, NOT_SERVING, SERVICE_UNKNOWN = HealthStatus


class FakeCore:
    """The models "a" and "b", both pending; everything happens when a test says so."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.pending = set(names)
        self.callbacks: dict[str, Callable[[Any], object]] = {}

    def model_names(self) -> tuple[str, ...]:
        return self.names

    def is_any_pending(self) -> bool:
        return bool(self.pending)

    def _subscribe(self, kind: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        self.callbacks[kind] = callback
        return lambda: self.callbacks.update({kind: lambda _: None})

    def subscribe_decided(self, callback: Callable[[str], object]) -> Callable[[], None]:
        return self._subscribe("decided", callback)

    def subscribe_states(self, callback: Callable[[ServableState], object]) -> Callable[[], None]:
        return self._subscribe("states", callback)

    def subscribe_models(self, callback: Callable[[tuple[str, ...]], object]) -> Callable[[], None]:
        return self._subscribe("models", callback)

    async def decide(self, name: str) -> None:
        self.pending.discard(name)
        await self._tell("decided", name)

    async def set(self, name: str, version: int, state: ManagerState) -> None:
        """A version gets into a state; as in ServerCore, its model is pending no more then."""
        await self._tell("states", ServableState(ServableId(name, version), state))
        if state is ManagerState.AVAILABLE:
            await self.decide(name)

    async def configure(self, *names: str) -> None:
        self.pending = (self.pending & set(names)) | (set(names) - set(self.names))
        self.names = names
        await self._tell("models", names)

    async def _tell(self, kind: str, event: object) -> None:
        """Publish on another thread, and let the loop hear of it."""
        teller = threading.Thread(target=self.callbacks[kind], args=(event,))
        teller.start()
        teller.join()
        await asyncio.sleep(0)


AVAILABLE, UNLOADING, END = ManagerState.AVAILABLE, ManagerState.UNLOADING, ManagerState.END


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(main())


def made(core: FakeCore, *, is_open: bool = True) -> Health:
    health = Health(core, asyncio.get_running_loop())
    if is_open:
        health.opened()
    return health


def request(name: str) -> bytes:
    message: Any = message_class("grpc.health.v1.HealthCheckRequest")(service=name)
    serialized: bytes = message.SerializeToString()
    return serialized


def status_in(response: bytes) -> HealthStatus:
    message: Any = message_class("grpc.health.v1.HealthCheckResponse").FromString(response)
    return HealthStatus(message.status)


async def status(health: Health, name: str = "") -> HealthStatus:
    return status_in(await health.check(request(name)))


async def next_status(watch: AsyncGenerator[bytes]) -> HealthStatus:
    return status_in(await anext(watch))


def test_serves_once_every_model_is_decided_and_one_is_available() -> None:
    async def test() -> None:
        core = FakeCore("a", "b")
        health = made(core)
        assert await status(health) is NOT_SERVING
        await core.set("a", 1, AVAILABLE)
        assert await status(health, "model/a") is SERVING
        for name in SERVER_NAMES:
            assert await status(health, name) is NOT_SERVING
        await core.decide("b")  # nothing was found
        for name in SERVER_NAMES:
            assert await status(health, name) is SERVING
        assert await status(health, "model/b") is NOT_SERVING

    run(test)


def test_does_not_serve_when_no_model_is_available() -> None:
    async def test() -> None:
        core = FakeCore("a")
        health = made(core)
        await core.decide("a")
        assert await status(health) is NOT_SERVING
        await core.set("a", 1, AVAILABLE)
        assert await status(health) is SERVING
        await core.set("a", 1, UNLOADING)
        assert await status(health) is NOT_SERVING

    run(test)


def test_serves_without_models_when_none_is_configured_and_tensorflow_is_open() -> None:
    async def test() -> None:
        health = made(FakeCore(), is_open=False)
        assert await status(health) is NOT_SERVING
        assert [await status(health, name) for name in PORT_NAMES] == [SERVING] * 2
        health.opened()
        assert await status(health) is SERVING

    run(test)


def test_a_model_that_is_added_later_leaves_the_server_serving() -> None:
    async def test() -> None:
        core = FakeCore("a")
        health = made(core)
        await core.set("a", 1, AVAILABLE)
        await core.configure("a", "b")
        assert core.is_any_pending()
        assert await status(health) is SERVING
        assert await status(health, "model/b") is NOT_SERVING

    run(test)


def test_a_model_serves_as_long_as_any_version_is_available() -> None:
    async def test() -> None:
        core = FakeCore("a")
        health = made(core)
        await core.set("a", 1, AVAILABLE)
        await core.set("a", 2, AVAILABLE)
        await core.set("a", 1, END)
        assert await status(health, "model/a") is SERVING
        await core.set("a", 2, END)
        assert await status(health, "model/a") is NOT_SERVING

    run(test)


@pytest.mark.parametrize("name", ["a", "model/b", "model/", "models/a", "Predictionservice"])
def test_a_name_that_is_not_known_is_not_found(name: str) -> None:
    async def test() -> None:
        health = made(FakeCore("a"))
        with pytest.raises(ServingError, match=f"There is no service {name}") as caught:
            await health.check(request(name))
        assert caught.value.code is Code.NOT_FOUND

    run(test)


def test_a_servable_of_a_source_is_known_while_it_is_available() -> None:
    async def test() -> None:
        core = FakeCore()
        health = made(core)
        await core.set("further", 1, AVAILABLE)
        assert await status(health, "model/further") is SERVING
        listed: Any = message_class("grpc.health.v1.HealthListResponse").FromString(
            await health.list_all(b"")
        )
        assert "model/further" in listed.statuses
        await core.set("further", 1, END)
        with pytest.raises(ServingError):
            await health.check(request("model/further"))

    run(test)


def test_a_list_of_many_models_lets_others_have_their_turn() -> None:
    async def test() -> None:
        names = [f"m{i}" for i in range(1000)]
        health = made(FakeCore(*names))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        response: Any = message_class("grpc.health.v1.HealthListResponse").FromString(
            await health.list_all(b"")
        )
        counting.cancel()
        assert len(response.statuses) == 1000 + 5
        assert turns >= 5

    run(test)


def test_a_watcher_hears_each_change_and_nothing_twice() -> None:
    async def test() -> None:
        core = FakeCore("a", "b")
        health = made(core)
        async with aclosing(health.watch(request("model/a"))) as watch:
            assert await next_status(watch) is NOT_SERVING
            following = asyncio.ensure_future(next_status(watch))
            await core.decide("b")
            await core.set("a", 1, ManagerState.LOADING)
            assert not following.done()
            await core.set("a", 1, AVAILABLE)
            assert await following is SERVING
            following = asyncio.ensure_future(next_status(watch))
            await core.set("a", 2, AVAILABLE)
            await core.set("a", 1, END)
            await asyncio.sleep(0)
            assert not following.done()
            await core.configure("b")
            await core.set("a", 2, END)
            assert await following is SERVICE_UNKNOWN

    run(test)


def test_a_watcher_that_is_slow_hears_only_the_latest() -> None:
    async def test() -> None:
        core = FakeCore("a")
        health = made(core)
        async with aclosing(health.watch(request("model/a"))) as watch:
            assert await next_status(watch) is NOT_SERVING
            await core.set("a", 1, AVAILABLE)
            await core.set("a", 1, END)
            following = asyncio.ensure_future(next_status(watch))
            await asyncio.sleep(0)
            assert not following.done()
            await core.set("a", 2, AVAILABLE)
            assert await following is SERVING

    run(test)


def test_a_watched_name_may_become_known() -> None:
    async def test() -> None:
        core = FakeCore()
        health = made(core)
        async with aclosing(health.watch(request("model/a"))) as watch:
            assert await next_status(watch) is SERVICE_UNKNOWN
            following = asyncio.ensure_future(next_status(watch))
            await core.configure("a")
            assert await following is NOT_SERVING

    run(test)


def test_a_drain_is_told_to_everybody_and_is_the_end_of_news() -> None:
    async def test() -> None:
        core = FakeCore("a")
        health = made(core)
        await core.set("a", 1, AVAILABLE)
        names = (*SERVER_NAMES, *PORT_NAMES, "model/a")
        watches = [health.watch(request(name)) for name in names]
        assert [await next_status(watch) for watch in watches] == [SERVING] * len(names)
        health.drain()
        assert [await next_status(watch) for watch in watches] == [NOT_SERVING] * len(names)
        await core.set("a", 2, AVAILABLE)
        assert [await status(health, name) for name in names] == [NOT_SERVING] * len(names)
        for watch in watches:
            await watch.aclose()

    run(test)
