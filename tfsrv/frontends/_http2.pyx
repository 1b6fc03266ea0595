"""A gRPC server on libnghttp2 and uvloop.

uvloop reads into one buffer that all connections share; nghttp2 parses; a request's DATA collects
in its Call, which is dispatched when the message is whole. Answers are written once for many:
after each read, and after each batch of completions. No Python object is made per request, but
for those of streaming methods (`_http2_streaming`).

Bounded memory: requests, answers and what gzip unpacks count against the in-flight budget; a
connection may hold half of it; and connections that have stalled are let go when it runs out.
What is announced is never allocated, only what was received.

Here is what connections share: settings, memory, the clock that ticks for them, and the end. A
request is followed in `_http2_connection`, which `_http2_callbacks` ties to nghttp2.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
from collections.abc import Mapping

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from tfsrv._budget cimport budget_ran_out
from tfsrv._buffer cimport Bytes
from tfsrv._call_loop cimport CallLoop
from tfsrv._method cimport Method
from tfsrv._clock cimport NS_PER_MS, now_ns
from tfsrv._status cimport RESOURCE_EXHAUSTED
from tfsrv._streaming_method cimport StreamingMethod
from tfsrv.frontends._http2_callbacks cimport set_callbacks
from tfsrv.frontends._http2_connection cimport Connection, flush_dirty
from tfsrv.frontends._http2_stream cimport COLLECTING, Stream
from tfsrv.frontends._http2_streaming cimport streaming_relieve
from tfsrv.frontends._nghttp2 cimport nghttp2

from tfsrv.frontends import _nghttp2
from tfsrv.frontends.settings import GrpcSettings

cdef extern from "Python.h":
    int PyBUF_WRITE

cdef size_t INPUT_BYTES = 262144             # one read at most
cdef int FREE_STREAMS = 4096
cdef double CANCELLED_SECONDS = 1.0          # that handlers of streams have to end when all is over
cdef int64_t RELIEVE_NS = 100 * NS_PER_MS    # how often memory is looked for; it takes a walk over all
# How often a client may reset streams before nghttp2 ends its connection. Its own 1,000 and 33 a
# second (CVE-2023-44487) end those of honest clients with short deadlines; what a reset leaves
# behind here is little, and is swept out of the queues.
cdef uint64_t RESETS_BURST = 100000
cdef uint64_t RESETS_PER_SECOND = 20000


def available() -> bool:
    """Whether libnghttp2 is here and can be used; opens it."""
    try:
        _nghttp2.open_library()
    except ImportError:
        return False
    return True


cdef class Http2Server:
    """What the connections of one gRPC server share.

    `methods` maps paths ("/package.Service/Method") to Methods. Use `connection` as the protocol
    factory of any listening socket of the loop.
    """

    def __cinit__(
        self,
        calls: CallLoop,
        loop: asyncio.AbstractEventLoop,
        methods: Mapping[str, Method],
        settings: GrpcSettings,
    ) -> None:
        cdef int i
        cdef bytes path
        _nghttp2.open_library()
        self.calls = calls
        self.loop = loop
        self.methods = dict(methods)
        self.settings = settings
        self.max_message_bytes = settings.max_receive_message_bytes
        self.preface_ns = settings.preface_timeout_ms * NS_PER_MS
        self.unread_ns = settings.unread_timeout_ms * NS_PER_MS
        self.upload_ns = settings.upload_timeout_ms * NS_PER_MS
        self.stall_ns = settings.stall_timeout_ms * NS_PER_MS
        self.last_word_ns = settings.goaway_timeout_ms * NS_PER_MS
        self.stream_grace_ns = settings.stream_grace_ms * NS_PER_MS
        self.tick_seconds = settings.tick_ms / 1000
        self.connection_share = max(settings.max_in_flight_bytes // 2, 1)
        self.connections = set()
        self.answering = set()
        self.dirty = []
        self.paths = []
        self.idle = asyncio.Event()
        self.idle.set()
        self.input = <char*>malloc(INPUT_BYTES)
        self.output = <char*>malloc(OUTPUT_BYTES)
        self.table = <MethodEntry*>calloc(len(methods) or 1, sizeof(MethodEntry))
        if self.input == NULL or self.output == NULL or self.table == NULL:
            raise MemoryError
        self.input_view = PyMemoryView_FromMemory(self.input, <Py_ssize_t>INPUT_BYTES, PyBUF_WRITE)
        for i, (name, method) in enumerate(self.methods.items()):
            if not isinstance(method, Method):
                raise TypeError(f"{name}: not a Method")
            path = name.encode()
            self.paths.append(path)
            self.table[i].path = Bytes(PyBytes_AS_STRING(path), <size_t>len(path))
            self.table[i].method = <void*>method
            if isinstance(method, StreamingMethod):
                self.table[i].streaming = <void*>method
        self.table_size = len(self.methods)
        self.make_callbacks()
        calls.add_flusher(flush_dirty, <void*>self)
        self.ticker = loop.call_later(self.tick_seconds, self._tick)

    cdef int make_callbacks(self) except -1:
        if nghttp2.session_callbacks_new(&self.callbacks) != 0 or nghttp2.option_new(&self.option) != 0:
            raise MemoryError
        nghttp2.option_set_no_auto_window_update(self.option, 1)
        if nghttp2.option_set_stream_reset_rate_limit != NULL:
            nghttp2.option_set_stream_reset_rate_limit(self.option, RESETS_BURST, RESETS_PER_SECOND)
        set_callbacks(self.callbacks)
        return 0

    def connection(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self)

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self.connections)

    @property
    def answering_streams(self) -> int:
        """Handlers of streaming calls that run now."""
        return len(self.answering)

    async def drain(self, grace_seconds: float) -> bool:
        """Ask every client to go, and wait until they have; then drop who is still there.

        False if connections had to be dropped. New connections are told to go as well, and
        dropped at once when the grace is over. Streaming calls, which might go on for ever, are
        ended early.
        """
        cdef Connection connection
        self.draining = True
        self.stream_grace_ns = min(self.stream_grace_ns, <int64_t>(grace_seconds / 2 * 1e9))
        if self.ticker is not None:  # it goes faster from here on
            self.ticker.cancel()
            self._tick()
        for connection in list(self.connections):
            connection.start_goaway()
        try:
            await asyncio.wait_for(self.idle.wait(), grace_seconds)
        except asyncio.TimeoutError:
            self.dropping = True
            for connection in list(self.connections):
                connection.abort()
            await self.idle.wait()
        if self.answering:  # cancelled; what a handler does about that must not hold us up
            await asyncio.wait(self.answering, timeout=CANCELLED_SECONDS)
        return not self.dropping

    def close(self) -> None:
        """Stop the ticker; after drain()."""
        if self.ticker is not None:
            self.ticker.cancel()
            self.ticker = None
            self.calls.remove_flusher(<void*>self)

    def _tick(self) -> None:
        cdef Connection connection
        cdef int64_t now = now_ns()
        self.ticker = self.loop.call_later(
            self.tick_seconds if not self.draining else self.tick_seconds / 10, self._tick)
        for connection in list(self.connections):
            connection.tick(now)
        if budget_ran_out():  # for an answer, say: those who want room for requests ask themselves
            self.relieve(None)
            flush_dirty(<void*>self)

    cdef bint relieve(self, object asking) noexcept:
        """Memory has run out: let go of connections that hold some and do not move.

        `asking` is in the middle of a read, and left alone; None: nobody is.
        """
        cdef Connection connection
        cdef Stream* stream
        cdef Stream* following
        cdef int64_t now = now_ns()
        cdef bint relieved = False
        if now - self.relieved_ns < RELIEVE_NS:
            return False
        self.relieved_ns = now
        for connection in list(self.connections):
            if connection is asking or connection.held == 0:
                continue
            if connection.closing or connection.is_stuck(now, self.stall_ns):
                connection.abort()
                connection.drop_streams()
                relieved = True
                continue
            stream = connection.streams
            while stream != NULL:
                following = stream.next
                if stream.phase == COLLECTING and stream.charged and now - stream.last_data_ns > self.stall_ns:
                    connection.refuse(stream, RESOURCE_EXHAUSTED, b"The request did not go on while memory was short.")
                    connection.touch()
                    relieved = True
                elif stream.streaming != NULL and streaming_relieve(stream, now):
                    relieved = True
                stream = following
        return relieved

    cdef void flush_soon(self) noexcept:
        """Write for all connections that have something to, once, after what runs now."""
        if self.flushing or not self.dirty:
            return
        try:
            self.loop.call_soon(self._flush)
            self.flushing = True
        except BaseException:
            flush_dirty(<void*>self)  # without memory: the loop's order is the lesser need

    def _flush(self) -> None:
        self.flushing = False
        flush_dirty(<void*>self)

    cdef Stream* new_stream(self) noexcept:
        cdef Stream* stream = self.free_streams
        if stream == NULL:
            return <Stream*>calloc(1, sizeof(Stream))
        self.free_streams = stream.next
        self.free_size -= 1
        memset(stream, 0, sizeof(Stream))
        return stream

    cdef void free_stream(self, Stream* stream) noexcept:
        if self.free_size >= FREE_STREAMS:
            free(stream)
            return
        stream.next = self.free_streams
        self.free_streams = stream
        self.free_size += 1

    def __dealloc__(self):
        cdef Stream* stream
        while self.free_streams != NULL:
            stream = self.free_streams
            self.free_streams = stream.next
            free(stream)
        if self.callbacks != NULL:
            nghttp2.session_callbacks_del(self.callbacks)
        if self.option != NULL:
            nghttp2.option_del(self.option)
        free(self.input)
        free(self.output)
        free(self.table)
