"""Streaming calls: streams on which messages go both ways until one side ends it.

A handler in a task of its own answers each call. What happens to one is read from top to bottom:
streaming_begin, take and pop for its requests, write and copy for its responses, then `end` with
a status, `cut` without one, or `closed` when the client was first.

Bounded memory: the client gets its stream's window back only as the handler takes messages, and
the handler waits with its next message while more than BACKLOG_BYTES of its last ones are here.
All of that counts against the connection's share and the in-flight budget. The connection's window
is given back at once: other calls go on beside one that nobody reads.
"""

import asyncio

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from tfsrv._budget cimport budget_give, budget_take
from tfsrv._buffer cimport Buffer, Bytes, buffer_free, buffer_init
from tfsrv._clock cimport now_ns
from tfsrv._counters cimport Counters, counters_add
from tfsrv._status cimport (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    OK,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
)
from tfsrv._streaming_method cimport StreamingMethod
from tfsrv.frontends._grpc cimport encode_message
from tfsrv.frontends._grpc_messages cimport (
    BAD_FLAG,
    LONGEST_MESSAGE,
    NO_MEMORY,
    PREFIX,
    TAKEN,
    TOO_LONG,
    MessageBacklog,
    MessageQueue,
    Taken,
    backlog_bytes,
    backlog_free,
    backlog_init,
    backlog_pull,
    backlog_push,
    messages_begun,
    messages_bytes,
    messages_first,
    messages_free,
    messages_init,
    messages_pop,
    messages_push,
)
from tfsrv.frontends._http2 cimport Http2Server
from tfsrv.frontends._http2_connection cimport Connection
from tfsrv.frontends._http2_fields cimport field, status_field
from tfsrv.frontends._http2_stream cimport ANSWERED, GZIP_FROM, PROGRESS_BYTES, STREAMING, Stream
from tfsrv.frontends._nghttp2 cimport (
    NGHTTP2_CANCEL,
    NGHTTP2_DATA_FLAG_EOF,
    NGHTTP2_DATA_FLAG_NO_COPY,
    NGHTTP2_DATA_FLAG_NO_END_STREAM,
    NGHTTP2_ERR_DEFERRED,
    NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE,
    NGHTTP2_FLAG_NONE,
    NGHTTP2_INTERNAL_ERROR,
    NGHTTP2_NV_FLAG_NO_COPY_NAME,
    nghttp2,
    nghttp2_data_provider,
    nghttp2_data_source,
    nghttp2_nv,
    nghttp2_session,
)

from tfsrv._streaming_method import answer_stream
from tfsrv.errors import ServingError
from tfsrv.frontends.compression import deflate, inflate
from tfsrv.frontends.transport import STOPPING

cdef size_t BACKLOG_BYTES = 65536   # of responses that may wait while the handler makes the next one


cdef class _StreamingCall:
    """One call: the requests that its handler reads, and where its responses go.

    Ownership: the stream has a reference until it has closed, and the handler's task has one. What
    a client sent and the responses that wait are owned, and freed at the latest when the stream
    closes; a task that outlives it finds nothing here but that it is cancelled.
    Everything happens in the loop's thread.
    """

    cdef Connection connection
    cdef Stream* stream         # borrowed from the connection; NULL once it has closed
    cdef Counters* counters     # live for ever
    cdef object loop            # asyncio.AbstractEventLoop
    cdef object task            # asyncio.Task of the handler, to be cancelled when this ends; or None
    cdef object timer           # of the deadline; or None
    cdef int64_t charged        # of the in-flight budget and the connection's share
    # requests
    cdef MessageQueue requests  # owned
    cdef size_t window          # bytes that the client does not have back in its stream's window
    cdef bint requests_ended
    cdef object request_waiter  # asyncio.Future while the handler waits for one; or None
    cdef int64_t in_hand        # bytes charged for the request that the handler took last
    # responses
    cdef MessageBacklog backlog  # owned
    cdef int64_t moved_ns       # when it last got shorter, or ceased to be empty
    cdef object room_waiter     # asyncio.Future while the handler waits for room; or None
    cdef bint packs             # responses may be gzipped
    cdef bint headers_sent
    # the end
    cdef bint ended             # `code` and `text` say how; the handler is through or cancelled
    cdef bint trailers_sent
    cdef bint is_cut
    cdef int code
    cdef Buffer text            # owned; encoded
    cdef int64_t ended_ns

    def __cinit__(self):
        messages_init(&self.requests)
        backlog_init(&self.backlog)
        buffer_init(&self.text)

    def __dealloc__(self):
        messages_free(&self.requests)
        backlog_free(&self.backlog)
        buffer_free(&self.text)

    cdef int begin(self, StreamingMethod method) except -1:
        """Start the deadline's clock and the handler."""
        cdef Http2Server server = self.connection.server
        cdef int64_t left_ns
        self.loop = server.loop
        self.counters = <Counters*>method.counters
        self.packs = self.stream.gzip_request and self.stream.gzip_accepted
        if self.stream.timeout_ns >= 0:
            left_ns = self.stream.received_ns + self.stream.timeout_ns - now_ns()
            if left_ns <= 0:
                self.expire()
                return 0
            # A loop's clock counts whole milliseconds in places: never fire early.
            self.timer = self.loop.call_later(min(left_ns / 1e9 + 0.001, 1e8), self.expire)
        task = self.loop.create_task(_answer(self, method))
        server.answering.add(task)
        task.add_done_callback(self.over)
        if not self.ended:  # an eager task may have answered already
            self.task = task
        return 0

    # Requests.

    cdef void take(self, const char* data, size_t size) noexcept:
        """Bytes of requests came."""
        cdef Stream* stream = self.stream
        cdef Connection connection = self.connection
        cdef size_t whole = self.requests.size
        cdef bint begins = messages_begun(&self.requests) == 0
        cdef Taken taken
        nghttp2.session_consume_connection(connection.session, size)
        self.window += size
        if self.ended:  # they are dropped
            self.give_window()
            return
        if not self.charge(<int64_t>size):
            self.refuse(RESOURCE_EXHAUSTED, b"Too many bytes are in flight (--max_in_flight_bytes).")
            return
        taken = messages_push(
            &self.requests, data, size, connection.server.max_message_bytes, stream.gzip_request)
        if taken != TAKEN:
            if taken == NO_MEMORY:
                self.refuse(RESOURCE_EXHAUSTED, b"out of memory")
            elif taken == TOO_LONG:
                self.refuse(RESOURCE_EXHAUSTED, b"Received message larger than max")
            elif taken == BAD_FLAG:
                self.refuse(INTERNAL, b"A message has a compression flag that its headers do not explain.")
            return
        stream.new_bytes += size
        if begins or self.requests.size != whole or stream.new_bytes >= PROGRESS_BYTES:
            stream.new_bytes = 0
            stream.last_data_ns = connection.received_ns
        if self.requests.size:
            wake(self.request_waiter)
        self.give_window()

    cdef void end_of_requests(self) noexcept:
        """The client has sent everything."""
        if self.ended:
            return
        self.requests_ended = True
        if messages_begun(&self.requests):
            self.refuse(INTERNAL, b"The request ended inside its message.")
        else:
            wake(self.request_waiter)

    cdef void give_window(self) noexcept:
        """Let the client send as much again as has been taken, or is waited for."""
        cdef size_t kept = messages_bytes(&self.requests)
        if self.stream == NULL:
            return
        if self.request_waiter is not None and self.requests.size == 0:
            kept = 0  # a message may be longer than the window
        if self.window > kept:
            nghttp2.session_consume_stream(
                self.connection.session, self.stream.id, self.window - kept)
            self.window = kept
            self.write_soon()

    def __aiter__(self):
        return self

    def __anext__(self):
        return self.next_request()

    async def next_request(self) -> bytes:
        """The next request; StopAsyncIteration when the client has no more."""
        had_turn = False
        while not had_turn or self.requests.size == 0:  # it may have ended during the turn
            if self.requests.size:
                had_turn = True
                turn = self.turn()
                if turn is not None:
                    await turn
                continue
            self.check_open()
            if self.requests_ended:
                raise StopAsyncIteration
            if self.request_waiter is not None:
                raise RuntimeError("another task waits for the next request")
            self.request_waiter = self.loop.create_future()
            self.begin_waiting()
            try:
                await self.request_waiter
            finally:
                self.request_waiter = None
        if messages_first(&self.requests).data[0] == 0:
            return self.pop()
        return await self.inflated(self.pop())

    cdef void begin_waiting(self) noexcept:
        self.stream.last_data_ns = now_ns()  # what has begun could not go on before
        self.give_window()

    cdef bytes pop(self):
        """Take the oldest request; its bytes stay charged until the next one is taken."""
        cdef Bytes message = messages_first(&self.requests)
        body = PyBytes_FromStringAndSize(message.data + PREFIX, <Py_ssize_t>(message.size - PREFIX))
        self.give(self.in_hand)
        self.in_hand = <int64_t>message.size
        messages_pop(&self.requests)
        self.give_window()
        return body

    async def inflated(self, packed: bytes) -> bytes:
        """The message that `packed` holds."""
        cdef Http2Server server = self.connection.server
        future = self.loop.run_in_executor(None, inflate, packed, server.max_message_bytes)
        try:
            body = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_give_back)
            raise
        if self.ended:
            _give_back(future)
            raise asyncio.CancelledError
        self.adopt(len(body))
        return body

    cdef void adopt(self, int64_t size) noexcept:
        """The request in hand has become one of `size` bytes, which are charged to the budget already."""
        self.give(self.in_hand)
        self.charged += size
        self.connection.held += size
        self.in_hand = size

    # Responses.

    async def send(self, data: bytes) -> None:
        """Queue a response. Comes back when the handler may go on."""
        packed = self.packs and len(data) > GZIP_FROM
        if packed:
            data = await self.loop.run_in_executor(None, deflate, data)
        self.write(data, packed)
        data = b""
        while backlog_bytes(&self.backlog) > BACKLOG_BYTES:
            self.room_waiter = self.loop.create_future()
            try:
                await self.room_waiter
            finally:
                self.room_waiter = None
            self.check_open()
        turn = self.turn()
        if turn is not None:
            await turn

    cdef int write(self, bytes data, bint packed) except -1:
        """Put a message behind those that wait to be sent."""
        cdef size_t size = <size_t>len(data)
        self.check_open()
        if size > LONGEST_MESSAGE:
            raise ServingError(RESOURCE_EXHAUSTED, "The answer is longer than a gRPC message can be.")
        if not self.charge(<int64_t>(size + PREFIX)):
            raise ServingError(RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
        if backlog_bytes(&self.backlog) == 0:
            self.moved_ns = now_ns()
        if backlog_push(&self.backlog, PyBytes_AS_STRING(data), size, packed) != 0:
            self.give(<int64_t>(size + PREFIX))
            raise ServingError(RESOURCE_EXHAUSTED, "out of memory")
        if self.headers_sent:
            nghttp2.session_resume_data(self.connection.session, self.stream.id)
        else:
            self.submit_headers()
        self.write_soon()
        return 0

    cdef void submit_headers(self) noexcept:
        """Begin to answer; read_responses is asked for data from here on."""
        cdef nghttp2_nv fields[3]
        cdef nghttp2_data_provider provider
        cdef size_t size = 2
        self.headers_sent = True
        fields[0] = field(b":status", 7, b"200", 3)
        fields[1] = field(b"content-type", 12, b"application/grpc", 16)
        if self.packs:
            fields[2] = field(b"grpc-encoding", 13, b"gzip", 4)
            size = 3
        provider.source.ptr = self.stream
        provider.read_callback = read_responses
        if nghttp2.submit_response(self.connection.session, self.stream.id, fields, size, &provider) != 0:
            nghttp2.submit_rst_stream(
                self.connection.session, NGHTTP2_FLAG_NONE, self.stream.id, NGHTTP2_INTERNAL_ERROR)

    cdef int submit_trailers(self) noexcept:
        cdef nghttp2_nv fields[2]
        cdef size_t size = 1
        fields[0] = status_field(self.code)
        if self.text.size:
            fields[1] = field(b"grpc-message", 12, self.text.data, self.text.size)
            fields[1].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME
            size = 2
        self.trailers_sent = True
        return nghttp2.submit_trailer(self.connection.session, self.stream.id, fields, size)

    cdef void copy(self, char* target, size_t size) noexcept:
        """The next bytes of the responses leave."""
        backlog_pull(&self.backlog, target, size)
        self.moved_ns = now_ns()
        self.give(<int64_t>size)
        if backlog_bytes(&self.backlog) <= BACKLOG_BYTES:
            wake(self.room_waiter)

    # Ending.

    cdef void refuse(self, int code, const char* text) noexcept:
        cdef size_t size = 0
        while text[size] != 0:
            size += 1
        self.end(code, Bytes(text, size))

    cdef void end(self, int code, Bytes text) noexcept:
        """End the call with this status, behind the responses that wait, unless it has ended."""
        if self.ended:
            return
        self.stop(code)
        if self.headers_sent:
            self.stream.phase = ANSWERED
            self.code = code
            if encode_message(text, &self.text) != 0:
                self.text.size = 0  # the code has to do
            if backlog_bytes(&self.backlog) == 0:
                self.moved_ns = self.ended_ns
            nghttp2.session_resume_data(self.connection.session, self.stream.id)
        else:
            self.trailers_sent = True
            self.connection.refuse_bytes(self.stream, code, text, b"200")
        self.write_soon()

    cdef void cut(self) noexcept:
        """Reset the stream: its client takes nothing of what is here for it."""
        if self.is_cut:
            return
        self.is_cut = True
        if not self.ended:
            self.stop(CANCELLED)
        self.stream.phase = ANSWERED
        nghttp2.submit_rst_stream(
            self.connection.session, NGHTTP2_FLAG_NONE, self.stream.id, NGHTTP2_CANCEL)
        self.write_soon()

    cdef void stop(self, int code) noexcept:
        """Let go of the requests and the handler: there will be no more responses."""
        self.ended = True
        self.ended_ns = now_ns()
        messages_free(&self.requests)
        self.in_hand = 0
        self.give(self.charged - <int64_t>backlog_bytes(&self.backlog))
        counters_add(self.counters, False, code, -1, -1, -1)  # how long it lasted tells nothing
        try:
            if self.timer is not None:
                self.timer.cancel()
            if self.task is not None:
                self.task.cancel()
        except BaseException:
            pass  # without memory; it finds that it has ended when it next does something here
        self.timer = None
        self.task = None
        wake(self.request_waiter)
        wake(self.room_waiter)

    cdef void closed(self) noexcept:
        """The stream is gone."""
        if not self.ended:
            self.stop(CANCELLED)
        self.stream = NULL
        self.give(self.charged)
        backlog_free(&self.backlog)

    cdef void finish(self, int code, str message) noexcept:
        """The handler is through."""
        self.task = None
        text = message.encode("utf-8", "replace")
        self.end(code, Bytes(PyBytes_AS_STRING(text), <size_t>len(text)))

    def over(self, task: asyncio.Task[None]) -> None:
        """The task has ended; one that was cancelled before its first step has run nothing."""
        self.connection.server.answering.discard(task)
        self.finish(CANCELLED, "CANCELLED")

    def expire(self) -> None:
        """The deadline has passed."""
        self.refuse(DEADLINE_EXCEEDED, b"Deadline Exceeded")

    cdef bint tick(self, int64_t now) noexcept:
        """What time brings. True if it changed something."""
        cdef Connection connection = self.connection
        cdef Http2Server server = connection.server
        cdef bytes stopping
        if server.draining and connection.goaway_ns:
            if not self.ended and now - connection.goaway_ns >= server.stream_grace_ns:
                stopping = STOPPING.encode()
                self.end(UNAVAILABLE, Bytes(PyBytes_AS_STRING(stopping), <size_t>len(stopping)))
                return True
            if self.ended and not self.trailers_sent and now - self.ended_ns > server.last_word_ns:
                self.cut()
                return True
        return self.is_unread(now, server.unread_ns) or self.is_unfinished(
            now, server.upload_ns, CANCELLED, b"The request did not go on.")

    cdef bint is_unread(self, int64_t now, int64_t patience_ns) noexcept:
        """Cut the call if its client has taken nothing for so long of what is there for it."""
        cdef bint waits = backlog_bytes(&self.backlog) != 0 or (self.ended and not self.trailers_sent)
        if not waits or now - self.moved_ns <= patience_ns:
            return False
        self.cut()
        return True

    cdef bint is_unfinished(self, int64_t now, int64_t patience_ns, int code, const char* text) noexcept:
        """End the call if a message that its handler waits for has begun and does not go on."""
        if (
            self.ended or self.request_waiter is None or messages_begun(&self.requests) == 0
            or now - self.stream.last_data_ns <= patience_ns
        ):
            return False
        self.refuse(code, text)
        return True

    # What all of it needs.

    cdef int check_open(self) except -1:
        """Raise CancelledError if nobody wants answers any more."""
        if self.ended:
            raise asyncio.CancelledError
        return 0

    cdef object turn(self):
        """What to await before the handler goes on, if others have their turn."""
        return self.connection.server.calls.turns.take()

    cdef bint charge(self, int64_t size) noexcept:
        """Count bytes that this call holds, against the connection's share and everybody's."""
        cdef Connection connection = self.connection
        if connection.held + size > connection.server.connection_share:
            return False
        if not budget_take(size):
            if not connection.server.relieve(connection) or not budget_take(size):
                return False
        connection.held += size
        self.charged += size
        return True

    cdef void give(self, int64_t size) noexcept:
        budget_give(size)
        self.connection.held -= size
        self.charged -= size

    cdef void write_soon(self) noexcept:
        self.connection.touch()
        self.connection.server.flush_soon()


async def _answer(_StreamingCall call, method: StreamingMethod) -> None:
    """Run a call's handler; never raises."""
    try:
        await answer_stream(method, call, call.send)
    except ServingError as error:
        call.finish(error.code or INTERNAL, error.message)
    except asyncio.CancelledError:
        call.finish(CANCELLED, "CANCELLED")
    else:
        call.finish(OK, "")


def _give_back(future: asyncio.Future[bytes]) -> None:
    """Nobody wants what was inflated any more."""
    if not future.cancelled() and future.exception() is None:
        budget_give(<int64_t>len(future.result()))


cdef void wake(object waiter) noexcept:
    """Let whoever waits look again."""
    try:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
    except BaseException:
        pass  # a loop that is closed, or no memory: the connection's end follows


cdef _StreamingCall call_of(Stream* stream):
    return <_StreamingCall>stream.streaming


# ---- what the connection calls --------------------------------------------------------------------

cdef void streaming_begin(Connection connection, Stream* stream, StreamingMethod method) noexcept:
    """The headers of a call are here: begin to answer it, or refuse it."""
    cdef _StreamingCall call
    cdef bytes text
    try:
        if method.local_only and not connection.local:
            text = f"{method.name} is only answered on loopback and unix sockets".encode()
            connection.refuse_bytes(
                stream, PERMISSION_DENIED, Bytes(PyBytes_AS_STRING(text), <size_t>len(text)), b"200")
            return
        call = _StreamingCall.__new__(_StreamingCall)
    except BaseException:
        connection.refuse(stream, RESOURCE_EXHAUSTED, b"out of memory")
        return
    call.connection = connection
    call.stream = stream
    stream.phase = STREAMING
    stream.streaming = <void*>call
    Py_INCREF(call)  # the stream's reference, given back in streaming_closed
    try:
        call.begin(method)
    except BaseException:
        call.refuse(RESOURCE_EXHAUSTED, b"out of memory")


cdef void streaming_data(Stream* stream, const char* data, size_t size) noexcept:
    """Bytes of requests came."""
    call_of(stream).take(data, size)


cdef void streaming_request_end(Stream* stream) noexcept:
    """The client has sent everything."""
    call_of(stream).end_of_requests()


cdef ssize_t read_responses(
    nghttp2_session* session, int32_t stream_id, uint8_t* target, size_t size, uint32_t* data_flags,
    nghttp2_data_source* source, void* user_data
) noexcept:
    """How much goes into the next DATA frame; streaming_copy puts it there."""
    cdef _StreamingCall call = call_of(<Stream*>source.ptr)
    cdef size_t left = backlog_bytes(&call.backlog)
    if left == 0 and not call.ended:
        return NGHTTP2_ERR_DEFERRED  # until session_resume_data
    data_flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
    if left > size:
        return <ssize_t>size
    if call.ended:
        data_flags[0] |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
        if call.submit_trailers() != 0:
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    return <ssize_t>left


cdef void streaming_copy(Stream* stream, char* target, size_t size) noexcept:
    """Write what read_responses has promised."""
    call_of(stream).copy(target, size)


cdef bint streaming_tick(Stream* stream, int64_t now) noexcept:
    """What time brings; True if it changed something. The stream lives on until it is flushed."""
    return call_of(stream).tick(now)


cdef bint streaming_relieve(Stream* stream, int64_t now) noexcept:
    """Memory has run out: end the call if it holds some and does not move. True if it did."""
    cdef _StreamingCall call = call_of(stream)
    cdef int64_t stall_ns = call.connection.server.stall_ns
    return call.charged != 0 and (
        call.is_unread(now, stall_ns) or call.is_unfinished(
            now, stall_ns, RESOURCE_EXHAUSTED, b"The request did not go on while memory was short."))


cdef void streaming_closed(Stream* stream) noexcept:
    """The stream is gone: give everything back."""
    cdef _StreamingCall call = call_of(stream)
    stream.streaming = NULL
    call.closed()
    Py_DECREF(call)  # the stream's reference
