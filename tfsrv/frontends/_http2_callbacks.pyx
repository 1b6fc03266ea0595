"""What nghttp2 calls: find the stream, tell its connection, and give nghttp2 the answer's bytes."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from tfsrv._buffer cimport Bytes
from tfsrv._clock cimport now_ns
from tfsrv._message cimport message_read
from tfsrv._status cimport OK
from tfsrv.frontends._http2_connection cimport GOAWAY_PING, Connection
from tfsrv.frontends._http2_fields cimport status_field
from tfsrv.frontends._http2_stream cimport PROGRESS_BYTES, Stream
from tfsrv.frontends._http2_streaming cimport streaming_copy, streaming_data
from tfsrv.frontends._nghttp2 cimport (
    NGHTTP2_DATA,
    NGHTTP2_DATA_FLAG_EOF,
    NGHTTP2_DATA_FLAG_NO_COPY,
    NGHTTP2_DATA_FLAG_NO_END_STREAM,
    NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE,
    NGHTTP2_ERR_WOULDBLOCK,
    NGHTTP2_FLAG_ACK,
    NGHTTP2_FLAG_END_STREAM,
    NGHTTP2_FLAG_NONE,
    NGHTTP2_HCAT_REQUEST,
    NGHTTP2_HEADERS,
    NGHTTP2_NO_ERROR,
    NGHTTP2_PING,
    NGHTTP2_SETTINGS,
    nghttp2,
    nghttp2_data_source,
    nghttp2_frame,
    nghttp2_nv,
    nghttp2_session,
    nghttp2_session_callbacks,
)

cdef size_t FRAME_HEAD = 9  # bytes


cdef void set_callbacks(nghttp2_session_callbacks* callbacks) noexcept:
    """Have sessions made with `callbacks` call us; their user data is the Connection."""
    nghttp2.session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers)
    nghttp2.session_callbacks_set_on_header_callback(callbacks, on_header)
    nghttp2.session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv)
    nghttp2.session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send)
    nghttp2.session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk)
    nghttp2.session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close)
    nghttp2.session_callbacks_set_send_data_callback(callbacks, send_answer)


cdef Stream* stream_of(nghttp2_session* session, int32_t stream_id) noexcept:
    return <Stream*>nghttp2.session_get_stream_user_data(session, stream_id)


cdef int on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) noexcept:
    if frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        (<Connection>user_data).begin_headers(frame.hd.stream_id)
    return 0


cdef int on_header(
    nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
    const uint8_t* value, size_t value_size, uint8_t flags, void* user_data
) noexcept:
    cdef Stream* stream = stream_of(session, frame.hd.stream_id)
    if frame.hd.type == NGHTTP2_HEADERS and frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0  # a client's trailers say nothing to any method
    if stream == NULL:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    return (<Connection>user_data).header(
        stream, Bytes(<const char*>name, name_size), Bytes(<const char*>value, value_size))


cdef int on_frame_recv(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) noexcept:
    cdef Connection connection = <Connection>user_data
    cdef Stream* stream
    if frame.hd.type == NGHTTP2_SETTINGS:
        connection.got_settings = True
    elif frame.hd.type == NGHTTP2_PING:
        if frame.hd.flags & NGHTTP2_FLAG_ACK:
            if memcmp(frame.ping.opaque_data, GOAWAY_PING, 8) == 0:
                connection.goaway_seen = connection.goaway_ns != 0
            else:
                connection.pinged_ns = 0
    elif frame.hd.type == NGHTTP2_HEADERS or frame.hd.type == NGHTTP2_DATA:
        stream = stream_of(session, frame.hd.stream_id)
        if stream == NULL:
            return 0
        if frame.hd.type == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
            connection.headers_complete(stream)
        if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
            stream.ended = True
            connection.request_end(stream)
    return 0


cdef int on_data_chunk(
    nghttp2_session* session, uint8_t flags, int32_t stream_id, const uint8_t* data, size_t size,
    void* user_data
) noexcept:
    cdef Stream* stream = stream_of(session, stream_id)
    if stream != NULL:
        if stream.streaming != NULL:
            streaming_data(stream, <const char*>data, size)  # consumes as its handler reads
            return 0
        (<Connection>user_data).data(stream, <const char*>data, size)
    # Taken, or dropped: in both cases the client may send as much again.
    nghttp2.session_consume(session, stream_id, size)
    return 0


cdef int on_frame_send(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) noexcept:
    cdef Stream* stream
    if frame.hd.type == NGHTTP2_HEADERS and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        stream = stream_of(session, frame.hd.stream_id)
        if stream != NULL and not stream.ended:
            # Answered before the request was whole: tell the client not to send the rest.
            nghttp2.submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR)
    return 0


cdef int on_stream_close(
    nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user_data
) noexcept:
    cdef Stream* stream = stream_of(session, stream_id)
    if stream != NULL:
        (<Connection>user_data).stream_closed(stream)
    return 0


cdef ssize_t read_answer(
    nghttp2_session* session, int32_t stream_id, uint8_t* target, size_t size, uint32_t* data_flags,
    nghttp2_data_source* source, void* user_data
) noexcept:
    """How much goes into the next DATA frame; send_answer puts it there."""
    cdef Stream* stream = <Stream*>source.ptr
    cdef nghttp2_nv trailer
    cdef size_t left = stream.call.response.left
    data_flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
    if left <= size:
        data_flags[0] |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
        trailer = status_field(OK)
        if nghttp2.submit_trailer(session, stream_id, &trailer, 1) != 0:
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
        return <ssize_t>left
    return <ssize_t>size


cdef int send_answer(
    nghttp2_session* session, nghttp2_frame* frame, const uint8_t* frame_head, size_t size,
    nghttp2_data_source* source, void* user_data
) noexcept:
    """Write one DATA frame, the answer's bytes straight into what is being written."""
    cdef Connection connection = <Connection>user_data
    cdef Stream* stream = <Stream*>source.ptr
    if connection.writing_paused:
        # One nghttp2_session_mem_send makes as many of these as windows allow: stop it.
        return NGHTTP2_ERR_WOULDBLOCK
    if not connection.make_room(FRAME_HEAD + size):
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    memcpy(connection.target + connection.filled, frame_head, FRAME_HEAD)
    if stream.streaming != NULL:
        streaming_copy(stream, connection.target + connection.filled + FRAME_HEAD, size)
        connection.filled += FRAME_HEAD + size
        return 0
    message_read(&stream.call.response, connection.target + connection.filled + FRAME_HEAD, size)
    connection.filled += FRAME_HEAD + size
    connection.unsent -= <int64_t>size
    connection.sent_bytes += size
    if connection.sent_bytes >= PROGRESS_BYTES or connection.unsent == 0:
        connection.sent_bytes = 0
        connection.sent_ns = now_ns()
    return 0
