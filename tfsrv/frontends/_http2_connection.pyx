"""One HTTP/2 connection of the gRPC server: requests in, answers out, and how it ends.

What happens to a request is read from top to bottom: begin_headers, header, headers_complete,
data, request_end, dispatch; then answer and submit_message, or refuse; at last stream_closed.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import random

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from tfsrv._buffer cimport Buffer, Bytes, buffer_append, buffer_free, buffer_init, buffer_reserve, bytes_equal
from tfsrv._call cimport Call, call_charge, call_free, call_new, call_take_spare
from tfsrv._call_loop cimport call_abandon, call_dispatch
from tfsrv._method cimport Method
from tfsrv._clock cimport NS_PER_MS, now_ns
from tfsrv._status cimport (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    OK,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    UNKNOWN,
)
from tfsrv._streaming_method cimport StreamingMethod
from tfsrv.frontends._error_details cimport write_details
from tfsrv.frontends._grpc cimport encode_message, has_token, is_grpc_content_type, parse_timeout
from tfsrv.frontends._grpc_messages cimport LONGEST_MESSAGE, PREFIX, message_length, write_prefix
from tfsrv.frontends._http2 cimport OUTPUT_BYTES, Http2Server
from tfsrv.frontends._http2_callbacks cimport read_answer
from tfsrv.frontends._http2_fields cimport field, same, status_field
from tfsrv.frontends._http2_gzip cimport deflate_answer, inflate_request, let_go
from tfsrv.frontends._http2_stream cimport (
    ANSWERED,
    CODING,
    COLLECTING,
    GZIP_FROM,
    PROGRESS_BYTES,
    WAITING,
    Stream,
)
from tfsrv.frontends._http2_streaming cimport (
    streaming_begin,
    streaming_closed,
    streaming_request_end,
    streaming_tick,
)
from tfsrv.frontends._nghttp2 cimport (
    NGHTTP2_ERR_BAD_CLIENT_MAGIC,
    NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE,
    NGHTTP2_FLAG_NONE,
    NGHTTP2_INTERNAL_ERROR,
    NGHTTP2_NO_ERROR,
    NGHTTP2_NV_FLAG_NO_COPY_NAME,
    NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
    NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,
    NGHTTP2_SETTINGS_MAX_FRAME_SIZE,
    NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
    nghttp2,
    nghttp2_data_provider,
    nghttp2_nv,
    nghttp2_settings_entry,
)

from tfsrv.frontends.peers import is_local

cdef extern from "<sys/ioctl.h>":
    int ioctl(int file, unsigned long request, int* size)

cdef extern from "<linux/sockios.h>":
    unsigned long SIOCOUTQ

cdef extern from "Python.h":
    int resize_bytes "_PyBytes_Resize"(PyObject** bytes, Py_ssize_t size) except -1

cdef size_t CHUNK_BYTES = 1 << 20            # long answers are written in pieces of this size, uncopied
cdef size_t HEADERS_LIMIT = 16384            # bytes of a header list as HTTP/2 counts them; gRPC's soft limit
cdef size_t HEADERS_HARD_LIMIT = 65536       # the stream is reset then
cdef int32_t STREAM_WINDOW = 4 << 20         # bytes that a client may send ahead of our reading
cdef int32_t CONNECTION_WINDOW = 16 << 20
cdef uint32_t FRAME_BYTES = 131072
cdef size_t OUTBOUND_FRAMES = 200            # that may wait for a client that does not read, and 2 a stream

cdef char* GOAWAY_PING = b"go away."  # a PING's eight bytes; those of keepalive are zeros


cdef void call_done(void* owner, Call* call) noexcept:
    """A call of one of our streams has its answer, or (NULL) its deadline has passed."""
    cdef Stream* stream = <Stream*>owner
    cdef Connection connection = <Connection>stream.connection
    if call == NULL:
        stream.call = NULL
        connection.refuse(stream, DEADLINE_EXCEEDED, b"Deadline Exceeded")
    else:
        connection.answer(stream, call)
    connection.touch()


cdef size_t unacknowledged(object transport):
    """Bytes that the socket holds for a client that has not taken them yet."""
    cdef int size = 0
    cdef int file = transport.get_extra_info("socket").fileno()
    if ioctl(file, SIOCOUTQ, &size) != 0 or size < 0:
        return 0
    return <size_t>size


cdef class Connection:
    """One HTTP/2 connection; an asyncio BufferedProtocol by its methods.

    Ownership: `session`, from connection_made to connection_lost, and the streams in the list.
    Everything happens in the loop's thread.
    """

    def __cinit__(self, server: Http2Server) -> None:
        self.server = server

    # What uvloop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin: announce what we accept."""
        cdef nghttp2_settings_entry entries[4]
        cdef int64_t age = self.server.settings.max_connection_age_ms * NS_PER_MS
        self.transport = transport
        self.local = is_local(transport)
        self.begun_ns = now_ns()
        self.received_ns = self.begun_ns
        self.sent_ns = self.begun_ns
        if age:
            # Ten per cent either way, so that connections made together do not go together.
            self.age_limit_ns = self.begun_ns + <int64_t>(age * random.uniform(0.9, 1.1))
        if self.server.dropping or nghttp2.session_server_new2(
            &self.session, self.server.callbacks, <void*>self, self.server.option
        ) != 0:
            self.session = NULL
            transport.abort()
            return
        self.server.connections.add(self)
        self.server.idle.clear()
        entries[0] = nghttp2_settings_entry(
            NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, self.server.settings.max_concurrent_streams)
        entries[1] = nghttp2_settings_entry(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, <uint32_t>STREAM_WINDOW)
        entries[2] = nghttp2_settings_entry(NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_BYTES)
        entries[3] = nghttp2_settings_entry(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, <uint32_t>HEADERS_LIMIT)
        nghttp2.submit_settings(self.session, NGHTTP2_FLAG_NONE, entries, 4)
        nghttp2.session_set_local_window_size(self.session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW)
        # All that leaves with the first answer: clients speak first, and one that speaks
        # HTTP/1 can read what it is told.
        if self.server.draining:
            self.start_goaway()

    def get_buffer(self, size_hint: int) -> memoryview:
        """Where to read into: the buffer that all connections share."""
        return self.server.input_view

    def buffer_updated(self, size: int) -> None:
        """Bytes came: handle what they complete, write what that answers."""
        cdef ssize_t taken
        if self.session == NULL or self.closing:
            return
        self.received_ns = now_ns()
        self.server.calls.state.event_ns = self.received_ns
        self.in_event = True
        taken = nghttp2.session_mem_recv(self.session, <const uint8_t*>self.server.input, <size_t>size)
        self.in_event = False
        self.server.calls.state.event_ns = 0
        if taken < 0:
            self.tell_bad_bytes(taken)
            return
        if self.writing_paused and nghttp2.session_get_outbound_queue_size(self.session) > (
            OUTBOUND_FRAMES + 2 * <size_t>self.server.settings.max_concurrent_streams
        ):
            # It makes us answer (refused streams, resets) and does not read.
            self.abort()
            return
        if self.goaway_seen:
            self.finish_goaway()
        self.flush()
        flush_dirty(<void*>self.server)  # other connections' requests may have been refused for this one

    def eof_received(self) -> bool:
        """The client has gone: nobody reads answers any more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End: give up every stream."""
        self.closing = True
        self.drop_streams()  # nghttp2_session_del calls no on_stream_close
        if self.session != NULL:
            nghttp2.session_del(self.session)
            self.session = NULL
        self.server.connections.discard(self)
        if not self.server.connections:
            self.server.idle.set()
        self.transport = None

    def pause_writing(self) -> None:
        """The socket is full: leave the answers where they are."""
        self.writing_paused = True
        self.sent_ns = now_ns()

    def resume_writing(self) -> None:
        """The socket has room again."""
        self.writing_paused = False
        self.sent_ns = now_ns()
        self.flush()

    # Requests.

    cdef void begin_headers(self, int32_t stream_id) noexcept:
        cdef Stream* stream = self.server.new_stream()
        if stream == NULL:
            nghttp2.submit_rst_stream(self.session, NGHTTP2_FLAG_NONE, stream_id, NGHTTP2_INTERNAL_ERROR)
            return
        stream.connection = <void*>self
        stream.id = stream_id
        stream.method = -1
        stream.timeout_ns = -1
        stream.received_ns = self.received_ns
        stream.last_data_ns = self.received_ns
        stream.next = self.streams
        if self.streams != NULL:
            self.streams.previous = stream
        self.streams = stream
        self.streams_size += 1
        nghttp2.session_set_stream_user_data(self.session, stream_id, stream)

    cdef int header(self, Stream* stream, Bytes name, Bytes value) noexcept:
        """Take one header field; not 0 to reset the stream."""
        stream.header_bytes += name.size + value.size + 32  # RFC 9113, 6.5.2
        if stream.header_bytes > HEADERS_HARD_LIMIT:
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
        if name.size == 5 and same(name, b":path", 5):
            stream.has_path = True
            stream.method = self.find_method(value)
        elif name.size == 7 and same(name, b":method", 7):
            stream.has_post = same(value, b"POST", 4)
        elif name.size == 2 and same(name, b"te", 2):
            stream.has_te = same(value, b"trailers", 8)
        elif name.size == 12 and same(name, b"content-type", 12):
            stream.has_content_type = True
            stream.grpc_content_type = is_grpc_content_type(value)
        elif name.size == 12 and same(name, b"grpc-timeout", 12):
            stream.timeout_ns = parse_timeout(value)
            stream.bad_timeout = stream.timeout_ns < 0
        elif name.size == 13 and same(name, b"grpc-encoding", 13):
            stream.gzip_request = same(value, b"gzip", 4)
            stream.unknown_encoding = not stream.gzip_request and not same(value, b"identity", 8)
        elif name.size == 14 and same(name, b"tfsrv-priority", 14):
            stream.low_priority = value.size == 3 and same(value, b"low", 3)
        elif name.size == 20 and same(name, b"grpc-accept-encoding", 20):
            stream.gzip_accepted = has_token(value, Bytes(b"gzip", 4))
        return 0

    cdef int find_method(self, Bytes path) noexcept:
        cdef int i
        for i in range(self.server.table_size):
            if bytes_equal(self.server.table[i].path, path):
                return i
        return -1

    cdef void headers_complete(self, Stream* stream) noexcept:
        """Refuse at once what cannot become a call."""
        if stream.header_bytes > HEADERS_LIMIT:
            self.refuse(stream, RESOURCE_EXHAUSTED, b"received metadata size exceeds limit")
        elif not stream.has_post:
            self.refuse_bytes(stream, UNKNOWN, Bytes(b"Bad method header", 17), b"405")
        elif not stream.grpc_content_type:
            self.refuse_bytes(stream, UNKNOWN, Bytes(b"Bad content-type header", 23), b"415")
        elif not stream.has_te:
            self.refuse(stream, UNKNOWN, b"Missing te header")
        elif stream.method < 0:
            self.refuse(stream, UNIMPLEMENTED, b"")
        elif stream.bad_timeout:
            self.refuse(stream, INTERNAL, b"Malformed grpc-timeout header")
        elif stream.unknown_encoding:
            self.refuse(stream, UNIMPLEMENTED, b"The grpc-encoding is not supported; identity and gzip are.")
        elif self.server.table[stream.method].streaming != NULL:
            streaming_begin(self, stream, <StreamingMethod>self.server.table[stream.method].streaming)

    cdef void data(self, Stream* stream, const char* data, size_t size) noexcept:
        """Take bytes of a request; what comes after its answer is dropped."""
        if stream.phase != COLLECTING or size == 0:
            return
        stream.new_bytes += size
        if stream.new_bytes >= PROGRESS_BYTES:
            stream.new_bytes = 0
            stream.last_data_ns = self.received_ns
        if stream.call == NULL:
            stream.call = call_new(&self.server.calls.state)
            if stream.call == NULL:
                self.refuse(stream, RESOURCE_EXHAUSTED, b"out of memory")
                return
        self.collect(stream, data, size)

    cdef bint collect(self, Stream* stream, const char* data, size_t size) noexcept:
        """Append to the call's request and look at its prefix; False when that refused it."""
        cdef Buffer* request = &stream.call.request
        cdef size_t length, room
        if not self.charge(stream, <int64_t>size):
            self.refuse(stream, RESOURCE_EXHAUSTED, b"Too many bytes are in flight (--max_in_flight_bytes).")
            return False
        if request.size >= PREFIX:
            length = message_length(request.data)
            if request.size + size > PREFIX + length:
                self.refuse(stream, UNIMPLEMENTED, b"Several messages came on a unary call.")
                return False
            if request.capacity - request.size < size:
                # Grow with what came: by as much as there is, but not beyond what is announced.
                room = min(max(size, request.size), PREFIX + length - request.size)
                call_take_spare(stream.call, request.size + room)
                if buffer_reserve(request, room) != 0:
                    self.refuse(stream, RESOURCE_EXHAUSTED, b"out of memory")
                    return False
            buffer_append(request, data, size)
            return True
        if buffer_append(request, data, size) != 0:
            self.refuse(stream, RESOURCE_EXHAUSTED, b"out of memory")
            return False
        if request.size < PREFIX:
            return True
        length = message_length(request.data)
        if length > self.server.max_message_bytes:
            self.refuse(stream, RESOURCE_EXHAUSTED, b"Received message larger than max")
        elif request.size > PREFIX + length:
            self.refuse(stream, UNIMPLEMENTED, b"Several messages came on a unary call.")
        elif request.data[0] == 1 and stream.gzip_request:
            stream.compressed = True
            return True
        elif request.data[0] != 0:
            self.refuse(stream, INTERNAL, b"A message has a compression flag that its headers do not explain.")
        else:
            return True
        return False

    cdef void request_end(self, Stream* stream) noexcept:
        """The client has sent all: the message must be whole."""
        cdef Call* call = stream.call
        if stream.phase != COLLECTING:
            if stream.streaming != NULL:
                streaming_request_end(stream)
            return
        if call == NULL:
            self.refuse(stream, UNIMPLEMENTED, b"No message came on a unary call.")
            return
        if call.request.size < PREFIX or call.request.size < PREFIX + message_length(call.request.data):
            self.refuse(stream, INTERNAL, b"The request ended inside its message.")
            return
        call.body = Bytes(call.request.data + PREFIX, call.request.size - PREFIX)
        if stream.compressed:
            stream.compressed = False
            inflate_request(self, stream)
        else:
            self.dispatch(stream)

    cdef void dispatch(self, Stream* stream) noexcept:
        cdef Call* call = stream.call
        stream.phase = WAITING
        call.owner = stream
        call.done = call_done
        call.headroom = PREFIX
        call.local = self.local
        call.low_priority = stream.low_priority
        call.received_ns = stream.received_ns
        if stream.timeout_ns >= 0:
            call.deadline_ns = stream.received_ns + stream.timeout_ns
        call_dispatch(call, <Method>self.server.table[stream.method].method)

    # Answers.

    cdef void answer(self, Stream* stream, Call* call) noexcept:
        """The call is ours again and has its answer."""
        if call.status.code != OK:
            self.refuse_bytes(
                stream, call.status.code, Bytes(call.status.message.data, call.status.message.size), b"200")
            return
        if call.response.left < PREFIX:  # nobody has written one
            self.refuse(stream, INTERNAL, b"There is no answer.")
        elif call.response.left - PREFIX > LONGEST_MESSAGE:
            self.refuse(stream, RESOURCE_EXHAUSTED, b"The answer is longer than a gRPC message can be.")
        elif stream.gzip_request and stream.gzip_accepted and call.response.left > GZIP_FROM:
            deflate_answer(self, stream)
        else:
            self.submit_message(stream)

    cdef void submit_message(self, Stream* stream) noexcept:
        """Queue headers and the message; its trailers follow from read_answer."""
        cdef nghttp2_nv fields[3]
        cdef nghttp2_data_provider provider
        cdef Call* call = stream.call
        cdef size_t length = call.response.left - PREFIX
        cdef size_t size = 2
        stream.phase = ANSWERED
        write_prefix(call.response.head.data, length, stream.compressed)
        fields[0] = field(b":status", 7, b"200", 3)
        fields[1] = field(b"content-type", 12, b"application/grpc", 16)
        if stream.compressed:
            fields[2] = field(b"grpc-encoding", 13, b"gzip", 4)
            size = 3
        provider.source.ptr = stream
        provider.read_callback = read_answer
        if self.unsent == 0:
            self.sent_ns = now_ns()
        self.unsent += <int64_t>call.response.left
        stream.charged += <int64_t>call.response.left
        self.held += <int64_t>call.response.left
        if nghttp2.submit_response(self.session, stream.id, fields, size, &provider) != 0:
            nghttp2.submit_rst_stream(self.session, NGHTTP2_FLAG_NONE, stream.id, NGHTTP2_INTERNAL_ERROR)

    cdef void refuse(self, Stream* stream, int code, const char* text) noexcept:
        cdef size_t size = 0
        while text[size] != 0:
            size += 1
        self.refuse_bytes(stream, code, Bytes(text, size), b"200")

    cdef void refuse_bytes(self, Stream* stream, int code, Bytes text, const char* http_status) noexcept:
        """Answer with an error: headers that are trailers as well."""
        cdef nghttp2_nv fields[6]
        cdef Buffer message, details
        cdef size_t size = 3
        buffer_init(&message)
        buffer_init(&details)
        stream.phase = ANSWERED
        fields[0] = field(b":status", 7, http_status, 3)
        fields[1] = field(b"content-type", 12, b"application/grpc", 16)
        fields[2] = status_field(code)
        if text.size > 0 and encode_message(text, &message) == 0:
            fields[size] = field(b"grpc-message", 12, message.data, message.size)
            fields[size].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME
            size += 1
        if stream.call != NULL and stream.call.status.code == code and write_details(stream.call, &details):
            fields[size] = field(b"grpc-status-details-bin", 23, details.data, details.size)
            fields[size].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME
            size += 1
        if stream.unknown_encoding:
            fields[size] = field(b"grpc-accept-encoding", 20, b"identity, gzip", 14)
            size += 1
        if nghttp2.submit_response(self.session, stream.id, fields, size, NULL) != 0:
            nghttp2.submit_rst_stream(self.session, NGHTTP2_FLAG_NONE, stream.id, NGHTTP2_INTERNAL_ERROR)
        buffer_free(&message)
        buffer_free(&details)
        self.drop_call(stream)  # `text` may have been the call's

    cdef void drop_call(self, Stream* stream) noexcept:
        """Free the stream's call, which no loop and no worker has."""
        if stream.coding != NULL:
            let_go(stream)
        if stream.call != NULL:
            call_free(stream.call)
            stream.call = NULL
        self.held -= stream.charged
        stream.charged = 0

    cdef void stream_closed(self, Stream* stream) noexcept:
        """The stream has ended, in whatever way: give all of it back."""
        if stream.streaming != NULL:
            streaming_closed(stream)
        if stream.phase == ANSWERED and stream.call != NULL:
            self.unsent -= <int64_t>stream.call.response.left
        if stream.phase == WAITING and stream.call != NULL:
            call_abandon(stream.call)
            stream.call = NULL
        self.drop_call(stream)
        if stream.previous != NULL:
            stream.previous.next = stream.next
        else:
            self.streams = stream.next
        if stream.next != NULL:
            stream.next.previous = stream.previous
        self.streams_size -= 1
        self.server.free_stream(stream)

    cdef bint charge(self, Stream* stream, int64_t size) noexcept:
        """Count bytes that a request holds, against the connection's share and everybody's."""
        if self.held + size > self.server.connection_share:
            return False
        if not call_charge(stream.call, size):
            if not self.server.relieve(self) or not call_charge(stream.call, size):
                return False
        self.held += size
        stream.charged += size
        return True

    # Writing.

    cdef void touch(self) noexcept:
        """There may be something to write: now, or after the batch that we are in."""
        if not self.in_event and not self.is_dirty:
            self.is_dirty = True
            self.server.dirty.append(self)

    cdef void flush(self) noexcept:
        """Write what there is, as long as the socket takes it."""
        if self.session == NULL or self.closing:
            return
        try:
            self.fill()
            self.close_when_done()
        except BaseException:
            self.abort()

    cdef void fill(self) noexcept:
        cdef const uint8_t* data = NULL
        cdef ssize_t size
        self.target = self.server.output
        self.room = OUTPUT_BYTES
        self.filled = 0
        while not self.writing_paused and not self.closing:
            size = nghttp2.session_mem_send(self.session, &data)
            if size <= 0:
                if size < 0:
                    self.abort()
                break
            if not self.make_room(<size_t>size):
                self.abort()
                break
            memcpy(self.target + self.filled, data, <size_t>size)
            self.filled += <size_t>size
        self.write_out()

    cdef bint make_room(self, size_t size) noexcept:
        """Have room for `size` bytes behind what is filled."""
        if self.room - self.filled >= size:
            return True
        self.write_out()
        if size <= self.room and self.unsent <= <int64_t>OUTPUT_BYTES:
            return True
        try:
            # The bytes object is filled in place and given to the transport: no copy of it is made.
            self.room = max(size, min(CHUNK_BYTES, <size_t>self.unsent + OUTPUT_BYTES))
            chunk = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.room)
        except MemoryError:
            self.room = OUTPUT_BYTES
            return False
        Py_INCREF(chunk)
        self.chunk = <void*>chunk
        self.target = PyBytes_AS_STRING(chunk)
        return True

    cdef void write_out(self) noexcept:
        """Hand what is filled to the transport, which may call pause_writing in turn."""
        cdef PyObject* raw = <PyObject*>self.chunk
        cdef size_t filled = self.filled
        self.chunk = NULL
        self.filled = 0
        try:
            if raw == NULL:
                if filled and not self.closing:
                    self.transport.write(PyBytes_FromStringAndSize(self.target, <Py_ssize_t>filled))
                return
            if filled and not self.closing:
                resize_bytes(&raw, <Py_ssize_t>filled)  # without memory `raw` is NULL and freed
                self.transport.write(<object>raw)
        except BaseException:
            self.abort()
        finally:
            if raw != NULL:
                Py_DECREF(<object>raw)  # make_room's reference
            self.target = self.server.output
            self.room = OUTPUT_BYTES

    # Ending.

    cdef bint is_stuck(self, int64_t now, int64_t patience_ns) noexcept:
        """The client has taken nothing for so long of what is there for it."""
        cdef size_t backlog
        if self.unsent == 0 and not self.writing_paused and not self.closing:
            return False
        if self.transport is not None:
            # The transport tells of its progress only when it has little left.
            backlog = self.transport.get_write_buffer_size() + unacknowledged(self.transport)
            if backlog > self.backlog or backlog + PROGRESS_BYTES <= self.backlog:
                self.backlog = backlog
                self.sent_ns = now
        return now - self.sent_ns > patience_ns

    cdef void drop_streams(self) noexcept:
        """Give up every stream; not from within nghttp2, and it is not used afterwards."""
        cdef Stream* stream
        while self.streams != NULL:
            stream = self.streams
            if self.session != NULL:
                nghttp2.session_set_stream_user_data(self.session, stream.id, NULL)
            self.stream_closed(stream)

    def start_goaway(self) -> None:
        """Ask the client to go elsewhere; what is in flight goes on."""
        if self.session == NULL or self.goaway_ns != 0:
            return
        self.goaway_ns = now_ns()
        nghttp2.submit_shutdown_notice(self.session)
        # When this comes back the client has seen the notice, and so has sent its last requests.
        nghttp2.submit_ping(self.session, NGHTTP2_FLAG_NONE, <const uint8_t*>GOAWAY_PING)
        self.flush()

    cdef void finish_goaway(self) noexcept:
        """The last word: streams that are not known by now will not be served."""
        if self.session == NULL or self.final_goaway:
            return
        self.final_goaway = True
        nghttp2.submit_goaway(
            self.session, NGHTTP2_FLAG_NONE, nghttp2.session_get_last_proc_stream_id(self.session),
            NGHTTP2_NO_ERROR, NULL, 0)
        self.flush()

    cdef void close_when_done(self) noexcept:
        if self.writing_paused or self.closing:
            return
        if (self.final_goaway and self.streams_size == 0) or not (
            nghttp2.session_want_read(self.session) or nghttp2.session_want_write(self.session)
        ):
            self.closing = True
            self.sent_ns = now_ns()
            self.drop_streams()
            self.transport.close()

    cdef void abort(self) noexcept:
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    cdef void tell_bad_bytes(self, ssize_t error) noexcept:
        """Not HTTP/2, or no valid one."""
        if error == NGHTTP2_ERR_BAD_CLIENT_MAGIC and not self.closing:
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
                b"Content-Length: 31\r\n\r\nThis port speaks gRPC (HTTP/2).")
            self.closing = True
            self.transport.close()
        else:
            self.abort()

    cdef void tick(self, int64_t now) noexcept:
        """Once a second: what time brings."""
        cdef object settings = self.server.settings
        cdef Stream* stream = self.streams
        cdef Stream* following
        cdef int64_t keepalive_ns = settings.keepalive_time_ms * NS_PER_MS
        cdef bint changed = False
        if self.session == NULL:
            return
        if self.is_stuck(now, self.server.unread_ns):
            self.abort()
            return
        if self.closing:
            return
        if not self.got_settings and now - self.begun_ns > self.server.preface_ns:
            self.abort()
            return
        while stream != NULL:
            following = stream.next
            if (stream.phase == COLLECTING or stream.phase == CODING) and stream.timeout_ns >= 0 and (
                now - stream.received_ns > stream.timeout_ns
            ):
                self.refuse(stream, DEADLINE_EXCEEDED, b"Deadline Exceeded")
                changed = True
            elif stream.phase == COLLECTING and now - stream.last_data_ns > self.server.upload_ns:
                self.refuse(stream, CANCELLED, b"The request did not go on.")
                changed = True
            elif stream.streaming != NULL and streaming_tick(stream, now):
                changed = True
            stream = following
        if keepalive_ns and self.pinged_ns:
            if now - self.pinged_ns > settings.keepalive_timeout_ms * NS_PER_MS:
                self.abort()
                return
        elif keepalive_ns and now - self.received_ns > keepalive_ns:
            self.pinged_ns = now
            nghttp2.submit_ping(self.session, NGHTTP2_FLAG_NONE, NULL)
            changed = True
        if self.age_limit_ns and now > self.age_limit_ns:
            self.start_goaway()
            if settings.max_connection_age_grace_ms and (
                now > self.age_limit_ns + settings.max_connection_age_grace_ms * NS_PER_MS
            ):
                self.abort()
                return
        if self.goaway_ns and not self.final_goaway and now - self.goaway_ns >= self.server.last_word_ns:
            self.finish_goaway()
        if changed:
            self.flush()

    def __dealloc__(self):
        # Only when the loop died without a word. Calls may still know the streams: leak those.
        if self.session != NULL:
            nghttp2.session_del(self.session)


cdef void flush_dirty(void* server) noexcept:
    """After a batch of completions: each connection that got answers writes once."""
    cdef list dirty = (<Http2Server>server).dirty
    cdef Connection connection
    while dirty:
        connection = dirty.pop()
        connection.is_dirty = False
        connection.flush()
