"""Messages of a gRPC stream, cut out of the bytes that they come in, put into those that they leave in."""

from libc.stdint cimport uint8_t

from tfsrv._buffer cimport Buffer, Bytes

cdef enum:
    PREFIX = 5              # bytes; flag and length in front of each gRPC message


cdef size_t LONGEST_MESSAGE  # what the prefix can say


cdef enum Taken:
    TAKEN = 0
    NO_MEMORY = 1
    TOO_LONG = 2            # a message is announced that is longer than allowed
    BAD_FLAG = 3            # its compression flag is not explained by the headers


cdef struct MessageQueue:
    Buffer received         # owned; whole messages with their prefixes, then the beginning of one
    size_t popped           # bytes of `received` that are gone
    size_t arriving         # where in `received` the message begins that is not whole
    size_t size             # whole messages


cdef struct MessageBacklog:
    Buffer framed           # owned; messages with their prefixes
    size_t gone             # bytes of `framed` that have left

cdef void messages_init(MessageQueue* queue) noexcept nogil
cdef void messages_free(MessageQueue* queue) noexcept nogil
cdef Taken messages_push(
    MessageQueue* queue, const char* data, size_t size, size_t max_bytes, bint gzip) noexcept nogil
cdef Bytes messages_first(const MessageQueue* queue) noexcept nogil
cdef void messages_pop(MessageQueue* queue) noexcept nogil
cdef void backlog_init(MessageBacklog* backlog) noexcept nogil
cdef void backlog_free(MessageBacklog* backlog) noexcept nogil
cdef int backlog_push(
    MessageBacklog* backlog, const char* data, size_t size, bint compressed) noexcept nogil
cdef void backlog_pull(MessageBacklog* backlog, char* target, size_t size) noexcept nogil


cdef inline size_t messages_bytes(const MessageQueue* queue) noexcept nogil:
    """Bytes that wait, in whole messages or not."""
    return queue.received.size - queue.popped


cdef inline size_t messages_begun(const MessageQueue* queue) noexcept nogil:
    """Bytes of the message that is not whole yet."""
    return queue.received.size - queue.arriving


cdef inline size_t backlog_bytes(const MessageBacklog* backlog) noexcept nogil:
    """Bytes that have yet to leave."""
    return backlog.framed.size - backlog.gone


cdef inline size_t message_length(const char* prefix) noexcept nogil:
    """The length that a gRPC message's prefix announces."""
    cdef const uint8_t* at = <const uint8_t*>prefix
    return (<size_t>at[1] << 24) | (<size_t>at[2] << 16) | (<size_t>at[3] << 8) | <size_t>at[4]


cdef inline void write_prefix(char* prefix, size_t length, bint compressed) noexcept nogil:
    """Write the five bytes that go before a message."""
    prefix[0] = 1 if compressed else 0
    prefix[1] = <char>((length >> 24) & 255)
    prefix[2] = <char>((length >> 16) & 255)
    prefix[3] = <char>((length >> 8) & 255)
    prefix[4] = <char>(length & 255)
