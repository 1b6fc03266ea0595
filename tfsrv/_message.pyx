"""Answers that leave without a copy of their own: long payloads stay where they are.

A writer appends to `head`, splices payloads in between, and seals. The transport then takes
bytes in order, straight into its frames. One writer, then one reader; never both at once.
"""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from tfsrv._buffer cimport buffer_free


cdef void message_init(Message* message) noexcept nogil:
    memset(message, 0, sizeof(Message))


cdef void message_clear(Message* message) noexcept nogil:
    """Release every payload and forget the content; memory of `head` is kept for the next one."""
    cdef int i
    for i in range(message.splices_size):
        message.splices[i].release(message.splices[i].holder)
    message.splices_size = 0
    message.head.size = 0
    message.left = 0
    message.head_read = 0
    message.splice_index = 0
    message.splice_read = 0


cdef void message_free(Message* message) noexcept nogil:
    message_clear(message)
    free(message.splices)
    buffer_free(&message.head)
    message_init(message)


cdef int message_splice(
    Message* message, const char* data, size_t size, void* holder, release_fn release
) noexcept nogil:
    """Put `size` bytes at `data` behind what `head` holds now, without copying them.

    Takes `holder` over and gives it to `release` when the message is cleared. 0, or -1 when
    there is no memory; the holder then stays the caller's.
    """
    cdef Splice* grown
    cdef int capacity
    if message.splices_size == message.splices_capacity:
        capacity = message.splices_capacity * 2 if message.splices_capacity else 4
        grown = <Splice*>realloc(message.splices, <size_t>capacity * sizeof(Splice))
        if grown == NULL:
            return -1
        message.splices = grown
        message.splices_capacity = capacity
    message.splices[message.splices_size] = Splice(message.head.size, data, size, holder, release)
    message.splices_size += 1
    return 0


cdef void message_seal(Message* message) noexcept nogil:
    """The message is whole: reading starts at its first byte."""
    cdef int i
    message.left = message.head.size
    for i in range(message.splices_size):
        message.left += message.splices[i].size
    message.head_read = 0
    message.splice_index = 0
    message.splice_read = 0


cdef size_t message_read(Message* message, char* target, size_t size) noexcept nogil:
    """Copy the next bytes, at most `size`, to `target`. Returns how many; 0 at the end."""
    cdef size_t done = 0
    cdef size_t part, until
    cdef Splice* splice
    while done < size and message.left > 0:
        splice = NULL
        until = message.head.size
        if message.splice_index < message.splices_size:
            splice = &message.splices[message.splice_index]
            until = splice.position
        if message.head_read < until:
            part = min(until - message.head_read, size - done)
            memcpy(target + done, message.head.data + message.head_read, part)
            message.head_read += part
        else:
            part = min(splice.size - message.splice_read, size - done)
            if part:
                memcpy(target + done, splice.data + message.splice_read, part)
            message.splice_read += part
            if message.splice_read == splice.size:
                message.splice_index += 1
                message.splice_read = 0
        done += part
        message.left -= part
    return done
