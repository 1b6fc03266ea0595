"""An HTTP/1.1 server on uvloop: REST's transport.

uvloop reads into one buffer that all connections share, or, of a long body, straight into its
Call; a head is read where it lies. Requests that the routes know run without a Python object
being made; all others go to the HttpHandler, in a task. Answers are written with one system
call, long ones from where they lie.

Bounded memory: requests and what waits behind them count against the in-flight budget; a
connection may hold half of it; and connections that have stalled are let go when it runs out.
Of what is announced 16 MiB are reserved, but no page is touched before its bytes come.

Here is what connections share: settings, memory, the clock that ticks for them, and the end. A
request is followed in `_http1_connection`.

https://www.rfc-editor.org/rfc/rfc9112
"""

import asyncio

from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

from tfsrv._budget cimport budget_ran_out
from tfsrv._clock cimport NS_PER_MS, now_ns
from tfsrv.frontends._http1_connection cimport HttpConnection, flush_dirty

from tfsrv.frontends.http_answering import HttpAnswering, cors_fields
from tfsrv.frontends.http_messages import HttpHandler
from tfsrv.frontends.settings import HttpSettings

cdef extern from "Python.h":
    int PyBUF_WRITE

cdef int64_t TURN_NS = 300_000               # of the loop, for all together that have much to send or to read
cdef int64_t RELIEVE_NS = 100 * NS_PER_MS    # how often memory is looked for; it takes a walk over all


cdef class Http1Server:
    """What the connections of one HTTP server share.

    Use `connection` as the protocol factory of any listening socket of the loop.
    """

    def __cinit__(
        self,
        calls: CallLoop,
        loop: asyncio.AbstractEventLoop,
        routes: HttpRoutes,
        handler: HttpHandler,
        settings: HttpSettings,
    ) -> None:
        self.calls = calls
        self.loop = loop
        self.routes = routes
        self.settings = settings
        self.answering = HttpAnswering(handler, settings)
        self.max_body_bytes = settings.max_body_bytes
        self.max_handled_bytes = settings.max_handled_bytes
        self.connection_share = max(settings.max_in_flight_bytes // 2, 1)
        self.timeout_ns = max(settings.request_timeout_ms, 0) * NS_PER_MS
        self.head_ns = settings.head_timeout_ms * NS_PER_MS
        self.idle_ns = settings.idle_timeout_ms * NS_PER_MS
        self.upload_ns = settings.upload_timeout_ms * NS_PER_MS
        self.unread_ns = settings.unread_timeout_ms * NS_PER_MS
        self.stall_ns = settings.stall_timeout_ms * NS_PER_MS
        self.linger_ns = settings.linger_timeout_ms * NS_PER_MS
        self.hangup_seconds = settings.hangup_look_ms / 1000
        self.tick_seconds = settings.tick_ms / 1000
        self.clock.second = -1
        self.extra_text = cors_fields() if settings.enable_cors else b""
        self.extra = Bytes(<const char*>self.extra_text, <size_t>len(self.extra_text))
        self.dirty = []
        self.sending = []
        self.idle = asyncio.Event()
        self.idle.set()
        self.input = <char*>malloc(INPUT_BYTES)
        self.output = <char*>malloc(OUTPUT_BYTES)
        if self.input == NULL or self.output == NULL:
            raise MemoryError
        self.input_view = PyMemoryView_FromMemory(self.input, INPUT_BYTES, PyBUF_WRITE)
        calls.add_flusher(flush_dirty, <void*>self)
        self.ticker = loop.call_later(self.tick_seconds, self._tick)

    def connection(self) -> HttpConnection:
        """A protocol for a new connection."""
        return HttpConnection(self)

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return self.connections_size

    async def drain(self, grace_seconds: float) -> bool:
        """Close idle connections, and all others behind their next answer; then drop who is still there.

        False if connections had to be dropped.
        """
        self.draining = True
        if self.ticker is not None:  # it goes faster from here on
            self.ticker.cancel()
            self._tick()
        for connection in self._all():
            (<HttpConnection>connection).leave_if_idle()
        try:
            await asyncio.wait_for(self.idle.wait(), grace_seconds)
        except asyncio.TimeoutError:
            self.dropping = True
            for connection in self._all():
                (<HttpConnection>connection).abort()
            await self.idle.wait()
        return not self.dropping

    def close(self) -> None:
        """Stop the ticker; after drain()."""
        if self.ticker is not None:
            self.ticker.cancel()
            self.ticker = None
            self.calls.remove_flusher(<void*>self)

    def _all(self) -> list[HttpConnection]:
        cdef void* at = self.connections
        found = []
        while at != NULL:
            found.append(<HttpConnection>at)
            at = (<HttpConnection>at).following
        return found

    def _tick(self) -> None:
        cdef HttpConnection connection
        cdef void* at = self.connections
        cdef int64_t now = now_ns()
        self.ticker = self.loop.call_later(
            self.tick_seconds if not self.draining else self.tick_seconds / 10, self._tick)
        while at != NULL:  # none leaves the list before connection_lost, which comes from the loop
            connection = <HttpConnection>at
            at = connection.following
            connection.tick(now)
        if budget_ran_out():  # for an answer, say: those who want room for requests ask themselves
            self.relieve(None)
        flush_dirty(<void*>self)
        if self.sending:
            self.flush_soon()

    cdef bint relieve(self, object asking) noexcept:
        """Memory has run out: let go of connections that hold some and do not move.

        `asking` is in the middle of a read, and left alone; None: nobody is.
        """
        cdef HttpConnection connection
        cdef void* at = self.connections
        cdef int64_t now = now_ns()
        cdef bint relieved = False
        if now - self.relieved_ns < RELIEVE_NS:
            return False
        self.relieved_ns = now
        while at != NULL:
            connection = <HttpConnection>at
            at = connection.following
            if connection is not asking and connection.relieve(now):
                relieved = True
        return relieved

    cdef void flush_soon(self) noexcept:
        """Go on with who has had its share of this turn, once, after what is there to do now."""
        if self.flushing:
            return
        try:
            self.loop.call_soon(self._flush)
            self.flushing = True
        except BaseException:  # without memory: the next tick comes to it
            pass

    def _flush(self) -> None:
        """Let those go on who have had their share before, as many as there is time for."""
        cdef HttpConnection connection
        cdef list sending = self.sending
        cdef int64_t until = now_ns() + TURN_NS
        cdef Py_ssize_t i
        self.flushing = False
        self.sending = []
        for i in range(len(sending)):
            if i > 0 and now_ns() > until:
                self.sending = sending[i:] + self.sending
                self.flush_soon()
                break
            connection = sending[i]
            connection.resting = False
            connection.advance(Bytes(NULL, 0))

    def __dealloc__(self):
        free(self.input)
        free(self.output)
