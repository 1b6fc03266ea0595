"""Messages of a gRPC stream, cut out of the bytes that they come in, put into those that they leave in.

What is announced is never allocated, only what was received.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from libc.string cimport memcpy, memmove, memset

from tfsrv._buffer cimport Buffer, Bytes, buffer_append, buffer_free, buffer_reserve

cdef size_t LONGEST_MESSAGE = 0xFFFFFFFF
cdef size_t KEPT_BYTES = 16384  # of the memory of what has become empty


cdef void messages_init(MessageQueue* queue) noexcept nogil:
    memset(queue, 0, sizeof(MessageQueue))


cdef void messages_free(MessageQueue* queue) noexcept nogil:
    """Drop everything; the queue is empty and usable afterwards."""
    buffer_free(&queue.received)
    messages_init(queue)


cdef Taken messages_push(
    MessageQueue* queue, const char* data, size_t size, size_t max_bytes, bint gzip
) noexcept nogil:
    """Take bytes, and look at the prefix of each message that begins in them.

    No message may be longer than `max_bytes`, nor compressed unless `gzip`.
    """
    cdef Buffer* received = &queue.received
    cdef const char* prefix
    cdef size_t length
    if queue.popped >= received.size - queue.popped:  # each byte is moved once at the most
        received.size -= queue.popped
        queue.arriving -= queue.popped
        if received.size:
            memmove(received.data, received.data + queue.popped, received.size)
        queue.popped = 0
    if buffer_append(received, data, size) != 0:
        return NO_MEMORY
    while messages_begun(queue) >= PREFIX:
        prefix = received.data + queue.arriving
        length = message_length(prefix)
        if length > max_bytes:
            return TOO_LONG
        if prefix[0] != 0 and not (prefix[0] == 1 and gzip):
            return BAD_FLAG
        if messages_begun(queue) - PREFIX < length:
            break
        queue.arriving += PREFIX + length
        queue.size += 1
    return TAKEN


cdef Bytes messages_first(const MessageQueue* queue) noexcept nogil:
    """The oldest whole message with its prefix, until the queue is changed; there is one."""
    cdef const char* prefix = queue.received.data + queue.popped
    return Bytes(prefix, PREFIX + message_length(prefix))


cdef void messages_pop(MessageQueue* queue) noexcept nogil:
    """Drop the oldest whole message."""
    queue.popped += messages_first(queue).size
    queue.size -= 1
    if queue.popped == queue.received.size and queue.received.capacity > KEPT_BYTES:
        messages_free(queue)


cdef void backlog_init(MessageBacklog* backlog) noexcept nogil:
    memset(backlog, 0, sizeof(MessageBacklog))


cdef void backlog_free(MessageBacklog* backlog) noexcept nogil:
    """Drop everything; the backlog is empty and usable afterwards."""
    buffer_free(&backlog.framed)
    backlog_init(backlog)


cdef int backlog_push(
    MessageBacklog* backlog, const char* data, size_t size, bint compressed
) noexcept nogil:
    """Put a message behind what waits. 0, or -1 when there is no memory; nothing is changed then.

    What waits is moved to the beginning of its memory: it should be little.
    """
    cdef Buffer* framed = &backlog.framed
    cdef char prefix[PREFIX]
    if backlog.gone:
        framed.size -= backlog.gone
        memmove(framed.data, framed.data + backlog.gone, framed.size)
        backlog.gone = 0
    if buffer_reserve(framed, PREFIX + size) != 0:
        return -1
    write_prefix(prefix, size, compressed)
    buffer_append(framed, prefix, PREFIX)
    buffer_append(framed, data, size)
    return 0


cdef void backlog_pull(MessageBacklog* backlog, char* target, size_t size) noexcept nogil:
    """Copy the next `size` bytes to `target`; there are as many."""
    if size == 0:
        return
    memcpy(target, backlog.framed.data + backlog.gone, size)
    backlog.gone += size
    if backlog.gone == backlog.framed.size:
        backlog.framed.size = 0
        backlog.gone = 0
        if backlog.framed.capacity > KEPT_BYTES:
            backlog_free(backlog)
