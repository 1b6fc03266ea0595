"""A gRPC server for unary methods on libnghttp2 and uvloop."""

from libc.stdint cimport int32_t, int64_t, uint8_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._call cimport Call, CallLoop, Method
from tfsrv.frontends._nghttp2 cimport nghttp2_session, nghttp2_session_callbacks, nghttp2_option


cdef enum Phase:
    COLLECTING = 0          # the request is on its way
    WAITING = 1             # it was dispatched
    CODING = 2              # gzip is at work on it, in a thread
    ANSWERED = 3            # headers are submitted; what still comes of the request is dropped


# One HTTP/2 stream; owned by its Connection from HEADERS to on_stream_close.
cdef struct Stream:
    void* connection        # Connection, borrowed
    Stream* previous        # in the connection's list
    Stream* next
    Call* call              # owned, except in WAITING, when the loop may end it; NULL: none
    void* coding            # _Coding, one reference; NULL: none
    int32_t id
    int phase
    int method              # index of the path; -1: unknown
    bint has_path
    bint has_post
    bint has_te
    bint grpc_content_type
    bint has_content_type
    bint gzip_request       # grpc-encoding: gzip
    bint gzip_accepted
    bint unknown_encoding
    bint bad_timeout
    bint compressed         # the message's flag
    bint ended              # the client has sent everything
    size_t header_bytes
    int64_t timeout_ns      # -1: none
    int64_t received_ns
    int64_t charged         # of the connection's share
    int64_t last_data_ns    # when the request last made progress
    size_t new_bytes        # since then


cdef struct MethodEntry:
    Bytes path              # bytes of an object in Http2Server.paths
    void* method            # Method, kept alive by Http2Server.methods


cdef class Http2Server:
    cdef CallLoop calls
    cdef object loop
    cdef dict methods
    cdef list paths
    cdef MethodEntry* table
    cdef int table_size
    cdef nghttp2_session_callbacks* callbacks
    cdef nghttp2_option* option
    cdef Stream* free_streams
    cdef int free_size
    cdef char* input        # what connections read into, one after the other
    cdef object input_view
    cdef char* output       # what connections write from, one after the other
    cdef list dirty         # connections with something to write, after completions
    cdef set connections
    cdef object ticker
    cdef object idle        # asyncio.Event: no connection left
    cdef bint draining
    cdef bint dropping      # the grace of drain() is over
    cdef readonly object settings
    cdef size_t max_message_bytes
    cdef int64_t connection_share
    cdef int64_t preface_ns     # the settings' patience
    cdef int64_t unread_ns
    cdef int64_t upload_ns
    cdef int64_t stall_ns
    cdef int64_t last_word_ns
    cdef double tick_seconds
    cdef int64_t relieved_ns    # when relieve() last looked
    cdef Stream* new_stream(self) noexcept
    cdef void free_stream(self, Stream* stream) noexcept
    cdef bint relieve(self, Connection asking) noexcept
    cdef int make_callbacks(self) except -1


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
    cdef void inflate_request(self, Stream* stream) noexcept
    cdef object coding(self, Stream* stream)
    cdef void deflate_answer(self, Stream* stream) noexcept
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
