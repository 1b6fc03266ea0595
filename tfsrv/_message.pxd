"""A message to be sent: bytes of ours with long payloads spliced in where they lie."""

from tfsrv._buffer cimport Buffer, Bytes

ctypedef void (*release_fn)(void* holder) noexcept nogil


cdef struct Splice:
    size_t position         # in `head`: the payload goes before the byte at this index
    const char* data        # lives as long as `holder`
    size_t size
    void* holder            # owned by the message; given to `release` once
    release_fn release


cdef struct Message:
    Buffer head             # owned
    Splice* splices         # owned array, by rising position
    int splices_size
    int splices_capacity
    size_t left             # bytes that message_read has yet to give out; set by message_seal
    # where message_read stands
    size_t head_read
    int splice_index
    size_t splice_read

cdef void message_init(Message* message) noexcept nogil
cdef void message_clear(Message* message) noexcept nogil
cdef void message_free(Message* message) noexcept nogil
cdef int message_splice(
    Message* message, const char* data, size_t size, void* holder, release_fn release) noexcept nogil
cdef void message_seal(Message* message) noexcept nogil
cdef size_t message_read(Message* message, char* target, size_t size) noexcept nogil
cdef int message_pieces(const Message* message, Bytes* pieces, int most, size_t size) noexcept nogil
cdef void message_skip(Message* message, size_t size) noexcept nogil
