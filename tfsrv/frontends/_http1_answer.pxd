"""What HTTP/1.1 answers look like: their heads, and errors as JSON."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes

cdef enum:
    ANSWER_HEAD_BYTES = 1024    # of a head of ours, at most, without `extra`


# What answer_head writes.
cdef struct AnswerHead:
    int status
    int form                # a RestForm; -1: no Content-Type
    bint gzipped
    bint keep_alive
    bint old                # the client speaks HTTP/1.0, which does not keep alive by itself
    size_t length
    Bytes extra             # more fields, ending in CR LF


# The Date field's value, made anew when the second changes.
cdef struct Clock:
    int64_t second
    char[30] text           # and a zero

cdef void clock_look(Clock* clock) noexcept nogil
cdef size_t answer_head(char* target, const AnswerHead* head, Clock* clock) noexcept nogil
cdef int error_json(Bytes message, bint pretty, Buffer* into) noexcept nogil
cdef int http_status(int code) noexcept nogil
