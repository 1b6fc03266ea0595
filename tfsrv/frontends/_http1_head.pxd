"""The head of an HTTP/1.1 request: its first line and its header fields."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes


cdef enum:
    HEAD_BYTES = 65536      # of a whole head
    TARGET_BYTES = 8192     # of a request's target
    FIELDS = 100            # header fields


cdef enum HttpVerb:
    VERB_OTHER = 0
    VERB_GET = 1
    VERB_HEAD = 2
    VERB_POST = 3
    VERB_OPTIONS = 4


# What is wrong with a request; `problem_status` and `problem_text` tell more.
cdef enum HttpProblem:
    NO_PROBLEM = 0
    BAD_REQUEST_LINE = 1
    BAD_TARGET = 2
    LONG_TARGET = 3
    BAD_VERSION = 4
    LONG_HEAD = 5
    MANY_FIELDS = 6
    BAD_FIELD = 7
    BARE_LINE_FEED = 8
    BAD_HOST = 9
    BAD_LENGTH = 10
    TWO_LENGTHS = 11
    BAD_CODING = 12
    UNKNOWN_TRANSFER = 13
    BAD_EXPECTATION = 14
    NO_TUNNELS = 15
    LONG_BODY = 16
    BAD_CHUNK = 17
    LONG_TRAILERS = 18
    SLOW_HEAD = 19
    SLOW_BODY = 20
    MEMORY_IS_SHORT = 21
    NO_MEMORY = 22
    LATE_ANSWER = 23
    NO_ORIGIN = 24
    STALLED_BODY = 25
    FAULT = 26
    PROBLEMS = 27


# Views of one head, valid while its bytes are; empty where there is no such field.
cdef struct HttpHead:
    int verb                # an HttpVerb
    Bytes method            # as sent
    Bytes path              # the target up to "?", still percent-encoded; "*" of OPTIONS
    Bytes query             # behind the "?"
    bint has_query
    Bytes fields            # all header fields, lines ending in CR LF
    Bytes host
    Bytes content_type
    Bytes content_encoding
    Bytes accept
    Bytes accept_encoding
    Bytes origin
    bint old                # HTTP/1.0
    bint keep_alive         # the client wants the connection to stay
    bint expects_continue   # it waits to be told that we want the body
    bint chunked
    bint has_length
    int64_t length          # Content-Length
    bint gzipped            # Content-Encoding: gzip
    bint accepts_gzip       # Accept-Encoding has it, and not with q=0
    bint low_priority       # tfsrv-priority: low


cdef int http_head_end(const char* data, size_t size, size_t* scanned, size_t* end) noexcept nogil
cdef int http_head_parse(const char* data, size_t size, HttpHead* head) noexcept nogil
cdef int problem_status(int problem) noexcept nogil
cdef const char* problem_text(int problem) noexcept nogil
