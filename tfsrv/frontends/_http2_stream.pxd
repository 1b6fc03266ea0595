"""One HTTP/2 stream: a request on its way in, and its answer on its way out."""

from libc.stdint cimport int32_t, int64_t

from tfsrv._call cimport Call

cdef enum:
    PROGRESS_BYTES = 4096   # what moves less between two looks does not move
    GZIP_FROM = 1024        # bytes; smaller answers do not get smaller


cdef enum Phase:
    COLLECTING = 0          # the request is on its way
    WAITING = 1             # it was dispatched
    CODING = 2              # gzip is at work on it, in a thread
    ANSWERED = 3            # headers are submitted; what still comes of the request is dropped
    STREAMING = 4           # `streaming` answers it until it is ANSWERED with a status


# One HTTP/2 stream; owned by its Connection from HEADERS to stream_closed.
cdef struct Stream:
    void* connection        # Connection, borrowed
    Stream* previous        # in the connection's list
    Stream* next
    Call* call              # owned, except in WAITING, when the loop may end it; NULL: none
    void* coding            # of _http2_gzip, one reference; NULL: none
    void* streaming         # of _http2_streaming, one reference until the stream has closed; NULL: unary
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
    bint low_priority       # tfsrv-priority: low
    bint compressed         # the message's flag
    bint ended              # the client has sent everything
    size_t header_bytes
    int64_t timeout_ns      # -1: none
    int64_t received_ns
    int64_t charged         # of the connection's share
    int64_t last_data_ns    # when the request last made progress
    size_t new_bytes        # since then
