"""Answers that leave without a copy of their own: long payloads stay where they are.

A writer appends to `head`, splices payloads in between, and seals. The transport then takes
bytes in order, straight into its frames. One writer, then one reader; never both at once.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from tfsrv._buffer cimport buffer_append, buffer_free


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
    cdef Bytes piece
    while done < size and message.left > 0:
        message_pieces(message, &piece, 1, size - done)
        memcpy(target + done, piece.data, piece.size)
        message_skip(message, piece.size)
        done += piece.size
    return done


cdef int message_pieces(const Message* message, Bytes* pieces, int most, size_t size) noexcept nogil:
    """Where the next bytes lie, at most `size` of them in at most `most` pieces. Returns how many.

    For who sends them from there; message_skip tells that they have been read.
    """
    cdef size_t head_read = message.head_read, splice_read = message.splice_read, until, part
    cdef size_t left = min(size, message.left)
    cdef int index = message.splice_index
    cdef int found = 0
    while found < most and left > 0:
        until = message.splices[index].position if index < message.splices_size else message.head.size
        if head_read < until:
            part = min(until - head_read, left)
            pieces[found] = Bytes(message.head.data + head_read, part)
            head_read += part
        else:
            part = min(message.splices[index].size - splice_read, left)
            pieces[found] = Bytes(message.splices[index].data + splice_read, part)
            index += 1
            splice_read = 0
        left -= part
        if part:
            found += 1
    return found


cdef void message_skip(Message* message, size_t size) noexcept nogil:
    """The next `size` bytes, which are there, have been read."""
    cdef size_t part, until
    cdef Splice* splice
    message.left -= size
    while size > 0:
        splice = NULL
        until = message.head.size
        if message.splice_index < message.splices_size:
            splice = &message.splices[message.splice_index]
            until = splice.position
        if message.head_read < until:
            part = min(until - message.head_read, size)
            message.head_read += part
        else:
            part = min(splice.size - message.splice_read, size)
            message.splice_read += part
            if message.splice_read == splice.size:
                message.splice_index += 1
                message.splice_read = 0
        size -= part


cdef void release_object(void* holder) noexcept nogil:
    with gil:
        Py_DECREF(<object>holder)  # the message's reference


cdef class MessageBuilder:
    """A Message, for Python: for tests and tools. Write, `seal`, then `read`.

    Spliced bytes are not copied; the message holds a reference until it is cleared.
    """
    cdef Message message

    def __cinit__(self):
        message_init(&self.message)

    def __dealloc__(self):
        message_free(&self.message)

    def append(self, data: bytes) -> None:
        """Copy bytes behind what was written before."""
        if buffer_append(&self.message.head, PyBytes_AS_STRING(data), len(data)) != 0:
            raise MemoryError

    def splice(self, data: bytes) -> None:
        """Put bytes there without copying them."""
        if message_splice(
                &self.message, PyBytes_AS_STRING(data), len(data), <void*>data,
                release_object) != 0:
            raise MemoryError
        Py_INCREF(data)  # the message's reference

    def seal(self) -> int:
        """The message is whole. Returns its size; reading starts, or starts again."""
        message_seal(&self.message)
        return self.message.left

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        cdef size_t wanted = min(<size_t>size, self.message.left)
        cdef bytes data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>wanted)
        message_read(&self.message, PyBytes_AS_STRING(data), wanted)
        return data

    def pieces(self, most: int, size: int) -> list[bytes]:
        """The next bytes, at most `size`, in at most `most` pieces as they lie."""
        cdef Bytes[16] found
        cdef int i
        cdef int count = message_pieces(&self.message, found, min(most, 16), size)
        return [found[i].data[:found[i].size] for i in range(count)]

    def skip(self, size: int) -> None:
        """The next bytes, at most `size`, have been read."""
        message_skip(&self.message, min(<size_t>size, self.message.left))

    def clear(self) -> None:
        """Forget the content and let go of what was spliced."""
        message_clear(&self.message)
