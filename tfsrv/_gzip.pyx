"""gzip (RFC 1952) without the GIL: bodies of REST requests and answers, in worker threads.

Memory follows what was really unpacked, never what a header promises: a bomb is stopped at its
limit, having taken no more than twice that.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t
from libc.string cimport memset

from tfsrv._buffer cimport buffer_append, buffer_free, buffer_init, buffer_reserve
from tfsrv._call cimport call_charge
from tfsrv._message cimport (
    message_clear,
    message_free,
    message_init,
    message_read,
    message_seal,
    message_splice,
)
from tfsrv._zlib cimport (
    Z_BUF_ERROR,
    Z_DEFAULT_STRATEGY,
    Z_DEFLATED,
    Z_FINISH,
    Z_MEM_ERROR,
    Z_NO_FLUSH,
    Z_OK,
    Z_STREAM_END,
    ZLIB_VERSION,
    ZStream,
    zlib,
)

cdef enum:
    GZIP_WINDOW = 31        # windowBits: the largest window, in gzip's format
    MEMORY_LEVEL = 8        # deflate's default
    FASTEST = 1             # level: numbers as text shrink to a half with any, and others take longer

cdef size_t STEP_BYTES = 65536               # room is made for so much at least
cdef size_t MOST_AT_ONCE = 1 << 30           # bytes, which zlib counts in an unsigned int


# ---- unpacking --------------------------------------------------------------------------------------

cdef int gzip_inflate(Bytes source, Buffer* into, size_t most_bytes) noexcept nogil:
    """Append what `source` holds to `into`. A GzipResult; unless it is OK, `into` is as before.

    `source` is one gzip member or several behind each other, and nothing else. Any thread.
    """
    return gzip_inflate_charged(source, into, most_bytes, NULL)


cdef int gzip_inflate_charged(Bytes source, Buffer* into, size_t most_bytes, Call* call) noexcept nogil:
    """The same, with each step charged to `call` before it is taken; NULL: to nobody."""
    cdef ZStream stream
    cdef size_t before = into.size
    cdef int result
    memset(&stream, 0, sizeof(stream))
    if zlib.inflateInit2_(&stream, GZIP_WINDOW, ZLIB_VERSION, sizeof(ZStream)) != Z_OK:
        return GZIP_NO_MEMORY
    result = inflate_members(&stream, source, into, most_bytes, call)
    zlib.inflateEnd(&stream)
    if result != GZIP_OK:
        into.size = before
    return result


cdef int inflate_members(
    ZStream* stream, Bytes source, Buffer* into, size_t most_bytes, Call* call
) noexcept nogil:
    cdef size_t taken = 0, made = 0, before, given, room, charged = 0
    cdef int result
    while True:
        # Room for one byte more than is allowed tells what is too long from what just fits.
        if made == charged:
            room = min(max(STEP_BYTES, made), most_bytes + 1 - made)
            if call != NULL and not call_charge(call, <int64_t>room):
                return GZIP_NO_MEMORY
            if buffer_reserve(into, room) != 0:
                return GZIP_NO_MEMORY
            charged += room
        given = min(source.size - taken, MOST_AT_ONCE)
        stream.next_in = <const unsigned char*>source.data + taken
        stream.avail_in = <unsigned int>given
        room = min(charged - made, MOST_AT_ONCE)
        stream.next_out = <unsigned char*>into.data + into.size
        stream.avail_out = <unsigned int>room
        result = zlib.inflate(stream, Z_NO_FLUSH)
        taken += given - stream.avail_in
        before = made
        made += room - stream.avail_out
        into.size += made - before
        if made > most_bytes:
            return GZIP_TOO_BIG
        if result == Z_STREAM_END:
            if taken == source.size:
                return GZIP_OK
            if zlib.inflateReset(stream) != Z_OK:
                return GZIP_BAD
        elif result == Z_MEM_ERROR:
            return GZIP_NO_MEMORY
        elif result != Z_OK and not (result == Z_BUF_ERROR and stream.avail_out == 0):
            return GZIP_BAD
        elif taken == source.size and stream.avail_out != 0:
            return GZIP_BAD  # cut off


# ---- packing ----------------------------------------------------------------------------------------

cdef int begin_deflate(ZStream* stream) noexcept nogil:
    memset(stream, 0, sizeof(ZStream))
    if zlib.deflateInit2_(
        stream, FASTEST, Z_DEFLATED, GZIP_WINDOW, MEMORY_LEVEL, Z_DEFAULT_STRATEGY, ZLIB_VERSION, sizeof(ZStream)
    ) != Z_OK:
        return -1
    return 0


cdef int deflate_part(ZStream* stream, Bytes part, Buffer* into, bint is_last) noexcept nogil:
    """Pack one more part of the whole. 0, or -1 without memory."""
    cdef size_t taken = 0, given, room
    cdef int result = Z_OK
    cdef bint finishing
    while True:
        if buffer_reserve(into, STEP_BYTES) != 0:
            return -1
        given = min(part.size - taken, MOST_AT_ONCE)
        finishing = is_last and taken + given == part.size
        stream.next_in = <const unsigned char*>part.data + taken
        stream.avail_in = <unsigned int>given
        room = min(into.capacity - into.size, MOST_AT_ONCE)
        stream.next_out = <unsigned char*>into.data + into.size
        stream.avail_out = <unsigned int>room
        result = zlib.deflate(stream, Z_FINISH if finishing else Z_NO_FLUSH)
        taken += given - stream.avail_in
        into.size += room - stream.avail_out
        if result == Z_STREAM_END:
            return 0
        if result != Z_OK and result != Z_BUF_ERROR:
            return -1
        if not is_last and taken == part.size and stream.avail_out != 0:
            return 0


cdef int gzip_deflate(Bytes source, Buffer* into) noexcept nogil:
    """Append `source`, packed fast, to `into`. GZIP_OK, or GZIP_NO_MEMORY with `into` as before."""
    cdef ZStream stream
    cdef size_t before = into.size
    cdef int failed
    if begin_deflate(&stream) != 0:
        return GZIP_NO_MEMORY
    failed = deflate_part(&stream, source, into, True)
    zlib.deflateEnd(&stream)
    if failed:
        into.size = before
        return GZIP_NO_MEMORY
    return GZIP_OK


cdef int gzip_deflate_message(Message* message) noexcept nogil:
    """Pack a sealed message's content in its place. Without memory it is as before, and sealed anew.

    GZIP_OK or GZIP_NO_MEMORY. Any thread that has the message.
    """
    cdef ZStream stream
    cdef Buffer packed, piece
    cdef int failed
    if begin_deflate(&stream) != 0:
        return GZIP_NO_MEMORY
    buffer_init(&packed)
    buffer_init(&piece)
    message_seal(message)
    failed = buffer_reserve(&piece, STEP_BYTES)
    while not failed:
        piece.size = message_read(message, piece.data, STEP_BYTES)
        failed = deflate_part(&stream, Bytes(piece.data, piece.size), &packed, message.left == 0)
        if message.left == 0:
            break
    zlib.deflateEnd(&stream)
    buffer_free(&piece)
    if failed:
        buffer_free(&packed)
        message_seal(message)
        return GZIP_NO_MEMORY
    message_clear(message)
    buffer_free(&message.head)
    message.head = packed
    message_seal(message)
    return GZIP_OK


# ---- for tests and tools ------------------------------------------------------------------------------

cdef void release_nothing(void* holder) noexcept nogil:
    pass


cdef bytes taken_bytes(Buffer* buffer):
    try:
        return buffer.data[:buffer.size] if buffer.size else b""
    finally:
        buffer_free(buffer)


def inflate(data: bytes, most_bytes: int) -> bytes:
    """What a gzip holds. ValueError: it is no gzip; OverflowError: it holds more than `most_bytes`."""
    cdef Bytes source = Bytes(PyBytes_AS_STRING(data), <size_t>len(data))
    cdef size_t most = most_bytes
    cdef Buffer into
    cdef int result
    buffer_init(&into)
    with nogil:
        result = gzip_inflate(source, &into, most)
    unpacked = taken_bytes(&into)
    if result == GZIP_TOO_BIG:
        raise OverflowError(f"it holds more than {most_bytes} bytes")
    if result == GZIP_BAD:
        raise ValueError("not a gzip")
    if result != GZIP_OK:
        raise MemoryError
    return unpacked


def deflate(data: bytes) -> bytes:
    """`data` as gzip."""
    cdef Bytes source = Bytes(PyBytes_AS_STRING(data), <size_t>len(data))
    cdef Buffer into
    cdef int result
    buffer_init(&into)
    with nogil:
        result = gzip_deflate(source, &into)
    packed = taken_bytes(&into)
    if result != GZIP_OK:
        raise MemoryError
    return packed


def deflate_parts(data: bytes, spliced: bytes) -> bytes:
    """A message of `data` with `spliced` behind it, as gzip."""
    cdef Message message
    cdef int result
    message_init(&message)
    try:
        if buffer_append(&message.head, PyBytes_AS_STRING(data), <size_t>len(data)) != 0:
            raise MemoryError
        if message_splice(
            &message, PyBytes_AS_STRING(spliced), <size_t>len(spliced), NULL, release_nothing
        ) != 0:
            raise MemoryError
        message_seal(&message)
        with nogil:
            result = gzip_deflate_message(&message)
        if result != GZIP_OK:
            raise MemoryError
        return message.head.data[:message.head.size]
    finally:
        message_free(&message)
