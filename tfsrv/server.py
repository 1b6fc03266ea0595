"""The server's life: start, serve, drain, stop.

    start   ports open at once (or when the models are ready), TensorFlow and models behind them
    serve   until SIGTERM or SIGINT
    drain   accept nothing, finish what is in flight, end what does not finish in time
    stop    in the order opposite to the start, and exit without TensorFlow's destructors

What the server is made of comes from outside (`parts.make_parts`), so that tests may put in
parts of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import uvloop

from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.errors import Code, ServingError
from tfsrv.frontends import first_request
from tfsrv.frontends.transport import GrpcServer, NetworkServer, host_and_port
from tfsrv.reloading import not_available

SWITCH_INTERVAL_SECONDS = 0.0001  # the default of 5 ms lets any busy thread hold up the loop
SAME_SIGNAL_SECONDS = 0.1  # timeout(1) sends its signal to the process and to its group
CALM_SECONDS = 0.02  # of a thousand models, many become available in that time
STOP_SECONDS = 5.0  # for each part that has to end after the grace

logger = logging.getLogger("tfsrv")


class Core(Protocol):
    """The part of ServerCore that is used here."""

    def start(self) -> None: ...

    def stop(self, timeout_seconds: float) -> object:
        """Unload everything; what still runs after `timeout_seconds` is cancelled."""

    def is_any_pending(self) -> bool:
        """Whether there is a model of which nobody knows yet whether it becomes available."""

    def subscribe_decided(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback`, on any thread, for each model that ceases to be pending."""

    def subscribe_states(self, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call `callback`, on any thread, with each change of the state of a version."""

    def unavailable(self) -> Mapping[str, ServingError]:
        """The configured models without any version that is available, and why."""

    def models(self) -> Sequence[ModelConfig]:
        """The configured models."""

    def signature_defs(self, name: str) -> Mapping[str, Any] | None:
        """The signatures of a model's latest version; None if none is available."""


class Health(Protocol):
    """What tells clients how the server is; see `handlers.health.Health`."""

    def opened(self) -> None:
        """TensorFlow is open."""

    def drain(self) -> None:
        """The server is going away."""


class Workers(Protocol):
    """The part of WorkerPool that is used here, and more."""

    def start(self) -> None: ...

    def hurry(self) -> None:
        """Let no request wait for others any more."""

    def stop(self, timeout_seconds: float) -> bool: ...


class Calls(Protocol):
    """The part of CallLoop that is used here."""

    @property
    def held_by_workers(self) -> int: ...

    def close(self) -> None: ...


class Library(Protocol):
    """TensorFlow, being opened; see `_opening.Opening`."""

    @property
    def error(self) -> ServingError | None:
        """Why it could not be opened, as soon as that is known."""

    @property
    def devices(self) -> Sequence[str]:
        """What sessions run on, such as "CPU:0"; known once it is open."""

    def wait(self) -> str:
        """Wait until it is open; its version. Raises `error`."""


@dataclass(frozen=True)
class Parts:
    """What a server is made of, not started."""

    core: Core
    workers: Workers
    call_loop: Calls
    grpc_server: GrpcServer
    rest_server: NetworkServer | None = None
    health: Health | None = None


MakeParts = Callable[[ServerOptions, asyncio.AbstractEventLoop], Parts]
OpenLibrary = Callable[[], Library]


class Server:
    """One server in one loop. `serve` is its whole life, and may be called once."""

    def __init__(
        self, options: ServerOptions, make_parts: MakeParts, open_library: OpenLibrary
    ) -> None:
        self._options = options
        self._make_parts = make_parts
        self._open_library = open_library
        self._parts: Parts | None = None
        self._library: Library | None = None
        self._listening = False
        self._unsubscribe: Callable[[], None] | None = None  # set when the core is started
        self._stop_requested = asyncio.Event()
        self._all_decided = asyncio.Event()
        self._request_shown = False

    async def serve(self) -> None:
        """Start, and serve until `stop`. Raises ServingError when the start fails."""
        starting = asyncio.ensure_future(self._start())
        stopping = asyncio.ensure_future(self._stop_requested.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopping
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
            await self._drain()

    def stop(self) -> None:
        """Begin to stop; `serve` returns when it is done."""
        self._stop_requested.set()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        parts = self._parts = self._make_parts(self._options, loop)
        library = self._library = self._open_library()
        if library.error is not None:  # known before anybody could connect
            raise library.error
        parts.workers.start()
        if self._options.open_ports == "at_once":
            await self._listen(parts)

        def decided(name: str) -> None:
            loop.call_soon_threadsafe(self._decided, parts, name)

        self._unsubscribe = parts.core.subscribe_decided(decided)
        parts.core.start()
        if not parts.core.is_any_pending():  # there are no models, or nobody looks for them
            self._all_decided.set()
        version = await asyncio.to_thread(library.wait)
        logger.info("TensorFlow %s runs on %s", version, ", ".join(library.devices))
        if parts.health is not None:
            parts.health.opened()
        if self._options.wait_for_models:
            await self._wait_for_models(parts.core)
        if self._options.open_ports == "when_ready":
            await self._all_decided.wait()
            await self._listen(parts)
            self._show_request(parts, [model.name for model in parts.core.models()])

    async def _wait_for_models(self, core: Core) -> None:
        """Raise ServingError unless every model becomes available in time.

        One that has failed or was not found may still come: its files may.
        """
        loop, seconds = asyncio.get_running_loop(), self._options.wait_for_models
        deadline = loop.time() + seconds
        news = asyncio.Event()

        def hear(_: object) -> None:
            loop.call_soon_threadsafe(news.set)

        # Also when one is removed from the configuration.
        unsubscribe = [core.subscribe_states(hear), core.subscribe_decided(hear)]
        try:
            while True:
                news.clear()
                missing = await asyncio.to_thread(core.unavailable)
                if not missing:
                    return
                if loop.time() >= deadline:
                    break
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(news.wait(), deadline - loop.time())
                    await asyncio.sleep(CALM_SECONDS)
        finally:
            for end in unsubscribe:
                end()
        raise not_available(Code.UNKNOWN, missing, f" within {seconds:g} s (--wait_for_models)")

    async def _listen(self, parts: Parts) -> None:
        options = self._options
        await self._open(parts.grpc_server, self._where())
        self._listening = True  # and so to be stopped, whatever happens to the other port
        if parts.rest_server is not None:
            where = host_and_port(options.bind_address, options.rest_api_port or 0)
            await self._open(parts.rest_server, where)
        for address in parts.grpc_server.addresses:
            logger.info("Serving gRPC at %s", address)
        if parts.rest_server is not None:
            for address in parts.rest_server.addresses:
                logger.info("Serving REST at http://%s", address)
        has_tcp = options.port is not None or parts.rest_server is not None
        if has_tcp and options.bind_address in ("0.0.0.0", "::"):
            logger.warning(
                "Everybody who reaches this machine can ask its models, without TLS:"
                " --bind_address=127.0.0.1 keeps the port to the machine."
            )

    @staticmethod
    async def _open(server: NetworkServer, where: str) -> None:
        try:
            await server.start()
        except OSError as error:
            text = f"Cannot listen at {where} ({error.strerror or error})"
            raise ServingError(Code.UNAVAILABLE, text) from None

    def _where(self) -> str:
        """The addresses that were asked for, for gRPC."""
        options = self._options
        tcp = "" if options.port is None else host_and_port(options.bind_address, options.port)
        unix = f"unix:{options.grpc_socket_path}" if options.grpc_socket_path else ""
        return " and ".join(filter(None, (tcp, unix)))

    def _decided(self, parts: Parts, name: str) -> None:
        """One more model is available, has failed or was not found."""
        if not parts.core.is_any_pending():
            self._all_decided.set()
        self._show_request(parts, [name])

    def _show_request(self, parts: Parts, names: Iterable[str]) -> None:
        """Log a request to paste, once, for the first of these models that can answer one."""
        if self._request_shown or not self._listening:
            return
        address = _local(parts.grpc_server.addresses[0])
        for name in names:
            signature_defs = parts.core.signature_defs(name)
            if not signature_defs:
                continue
            command = first_request.command(address, name, signature_defs)
            if command is not None:
                logger.info("Ask %s with: %s", name, command)
                self._request_shown = True
                return

    async def _drain(self) -> None:
        """Stop everything that was started, in a bounded time."""
        parts = self._parts
        if parts is None:
            return
        if parts.health is not None:
            parts.health.drain()  # its clients hear of it before all others are told to go
        await asyncio.to_thread(parts.workers.hurry)
        if self._listening:
            grace_seconds = self._options.shutdown_grace_seconds
            servers = (parts.grpc_server, parts.rest_server)
            await asyncio.gather(*(server.stop(grace_seconds) for server in servers if server))
        held = parts.call_loop.held_by_workers
        if held:
            logger.warning("Ending runs that did not finish in time: %d", held)
        if self._unsubscribe is not None:
            self._unsubscribe()
            try:
                await asyncio.to_thread(parts.core.stop, 0.0 if held else STOP_SECONDS)
            except Exception:  # what comes after has to be stopped all the same
                logger.exception("the models did not stop")
        await asyncio.to_thread(parts.workers.stop, STOP_SECONDS)
        parts.call_loop.close()
        if self._library is not None:
            # While it is being opened, stderr is a pipe, and what is in it is lost at exit.
            with contextlib.suppress(ServingError):
                await asyncio.to_thread(self._library.wait)


def run(
    options: ServerOptions,
    make_parts: MakeParts,
    open_library: OpenLibrary,
    notes: Iterable[str] = (),
) -> int:
    """Serve in this thread until a signal says stop; the exit status.

    `notes` are sentences on the options, for the log.
    """
    configure_logging()
    for note in notes:
        logger.warning("%s", note)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_serve(Server(options, make_parts, open_library), options))
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr)
        return 1
    except BaseException:
        logger.exception("The server failed.")
        return 1
    logger.info("Stopped.")
    return 0


async def _serve(server: Server, options: ServerOptions) -> None:
    stopper = _Stopper(server, options.shutdown_grace_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopper.hear, number)
    await server.serve()


class _Stopper:
    """What signals do: the first one stops the server, the second one ends the process."""

    def __init__(self, server: Server, grace_seconds: float) -> None:
        self._server = server
        self._grace_seconds = grace_seconds
        self._heard_at: float | None = None

    def hear(self, number: signal.Signals) -> None:
        """A signal came."""
        now = time.monotonic()
        if self._heard_at is not None:
            if now - self._heard_at < SAME_SIGNAL_SECONDS:
                return
            logger.warning("%s again: exiting at once.", number.name)
            leave(128 + number)
        self._heard_at = now
        logger.info(
            "%s: accepting nothing more; requests in flight have %g seconds.",
            number.name,
            self._grace_seconds,
        )
        # Whatever hangs, and wherever: the process ends.
        watchdog = threading.Timer(self._grace_seconds + 3 * STOP_SECONDS, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        self._server.stop()

    @staticmethod
    def _give_up() -> None:
        logger.error("The server does not stop: exiting all the same.")
        leave(1)


def leave(status: int) -> NoReturn:
    """Exit at once, without the destructors of libraries, which may wait for threads of theirs."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


_UNPRINTABLE = re.compile(r"[^\w\s!-~]|[\r\n\t\v\f\x1c-\x1f\x85\u2028\u2029]")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else ascii(character)[1:-1]


class _OneLine(logging.Formatter):
    """A line for each record, whatever is in its message; tracebacks follow in lines of theirs.

    Names come from clients, too: nothing of them may end a line or move a cursor.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = super().formatMessage(record)
        return message if message.isprintable() else _UNPRINTABLE.sub(_escape, message)


def configure_logging() -> None:
    """Let the log go to stderr, if nobody wants it elsewhere."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _OneLine("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _local(address: str) -> str:
    """Where a client on this machine finds a server that listens at `address`."""
    if address.startswith("0.0.0.0:"):
        return "127.0.0.1" + address.removeprefix("0.0.0.0")
    return address.replace("[::]", "[::1]") if address.startswith("[::]:") else address
