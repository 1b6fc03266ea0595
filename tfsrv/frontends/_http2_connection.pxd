"""One HTTP/2 connection of the gRPC server."""

from libc.stdint cimport int32_t, int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._call cimport Call
from tfsrv.frontends._http2 cimport Http2Server
from tfsrv.frontends._http2_stream cimport Stream
from tfsrv.frontends._nghttp2 cimport nghttp2_session

cdef char* GOAWAY_PING

cdef void flush_dirty(void* server) noexcept


cdef class Connection:
    cdef Http2Server server
    cdef nghttp2_session* session
    cdef object transport
    cdef Stream* streams
    cdef int streams_size
    cdef int64_t held       # bytes of requests and answers
    cdef int64_t unsent     # bytes of answers that nghttp2 has not taken
    cdef int64_t begun_ns
    cdef int64_t received_ns
    cdef int64_t sent_ns    # when what we send last made progress
    cdef size_t sent_bytes  # since then
    cdef size_t backlog     # bytes that the transport held at the last progress
    cdef int64_t pinged_ns  # keepalive: when a PING left that is not answered; 0: none
    cdef int64_t age_limit_ns   # when its age makes it go; 0: never
    cdef int64_t goaway_ns  # when it was told to go; 0: not yet
    cdef bint local         # the client is on this machine
    cdef bint got_settings
    cdef bint goaway_seen   # the client has answered a PING that we sent behind the notice
    cdef bint final_goaway
    cdef bint writing_paused
    cdef bint in_event
    cdef bint is_dirty
    cdef bint closing
    cdef size_t filled      # of what is being written
    cdef size_t room
    cdef char* target       # server.output or the bytes of `chunk`
    cdef void* chunk        # bytes object under construction, one reference; NULL: server.output
    cdef void begin_headers(self, int32_t stream_id) noexcept
    cdef int find_method(self, Bytes path) noexcept
    cdef int header(self, Stream* stream, Bytes name, Bytes value) noexcept
    cdef void headers_complete(self, Stream* stream) noexcept
    cdef void data(self, Stream* stream, const char* data, size_t size) noexcept
    cdef bint collect(self, Stream* stream, const char* data, size_t size) noexcept
    cdef void request_end(self, Stream* stream) noexcept
    cdef void dispatch(self, Stream* stream) noexcept
    cdef void answer(self, Stream* stream, Call* call) noexcept
    cdef void submit_message(self, Stream* stream) noexcept
    cdef void refuse(self, Stream* stream, int code, const char* text) noexcept
    cdef void refuse_bytes(self, Stream* stream, int code, Bytes text, const char* http_status) noexcept
    cdef void drop_call(self, Stream* stream) noexcept
    cdef void stream_closed(self, Stream* stream) noexcept
    cdef bint charge(self, Stream* stream, int64_t size) noexcept
    cdef void touch(self) noexcept
    cdef void flush(self) noexcept
    cdef void fill(self) noexcept
    cdef bint make_room(self, size_t size) noexcept
    cdef void write_out(self) noexcept
    cdef bint is_stuck(self, int64_t now, int64_t patience_ns) noexcept
    cdef void drop_streams(self) noexcept
    cdef void finish_goaway(self) noexcept
    cdef void tell_bad_bytes(self, ssize_t error) noexcept
    cdef void abort(self) noexcept
    cdef void close_when_done(self) noexcept
    cdef void tick(self, int64_t now) noexcept
