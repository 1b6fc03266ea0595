"""A chunked body (RFC 9112, 7.1), as its bytes come in, in whatever pieces.

As strict as heads are read: CR LF ends a line, and nothing stands around a size. Extensions and
trailers are bounded and dropped.
"""

from libc.stdint cimport int64_t

from tfsrv.frontends._http1_head cimport BAD_CHUNK, LONG_TRAILERS, NO_PROBLEM, problem_status

cdef enum:
    SIZE = 0                # in the digits of a chunk's size
    EXTENSION = 1           # behind them
    SIZE_LF = 2             # behind the CR
    DATA = 3
    DATA_CR = 4
    DATA_LF = 5
    TRAILER_BEGIN = 6       # at the first byte of a trailer, or of the last line
    TRAILER = 7
    TRAILER_LF = 8
    END_LF = 9
    OVER = 10

    MOST_DIGITS = 15        # so that a size fits into an int64
    DROPPED_BYTES = 16384   # of extensions and trailers of one body


cdef int chunks_read(ChunkReader* reader, Bytes* rest, Bytes* piece) noexcept nogil:
    """Take bytes off `rest` up to the next event: a ChunkStep, or -1 with the reader's `problem`.

    With CHUNK_DATA, `piece` is the next piece of the body, a view of what was taken.
    """
    cdef size_t size
    while rest.size:
        if reader.state == DATA:
            size = rest.size if <int64_t>rest.size < reader.left else <size_t>reader.left
            piece[0] = Bytes(rest.data, size)
            rest[0] = Bytes(rest.data + size, rest.size - size)
            reader.left -= <int64_t>size
            if reader.left == 0:
                reader.state = DATA_CR
            return CHUNK_DATA
        if not take(reader, rest.data[0]):
            return -1
        rest[0] = Bytes(rest.data + 1, rest.size - 1)
        if reader.state == OVER:
            return CHUNK_END
    return CHUNK_MORE


cdef bint take(ChunkReader* reader, char byte) noexcept nogil:
    """One byte that is not of the body; False: it is none that may stand here."""
    cdef int digit
    if reader.state == SIZE:
        digit = hex_digit(byte)
        if digit >= 0:
            reader.digits += 1
            reader.left = reader.left * 16 + digit
            return reader.digits <= MOST_DIGITS or failed(reader, BAD_CHUNK)
        if reader.digits == 0:
            return failed(reader, BAD_CHUNK)
        if byte == c"\r":
            reader.state = SIZE_LF
            return True
        if byte == c";":
            reader.state = EXTENSION
            return True
        return failed(reader, BAD_CHUNK)
    if reader.state == EXTENSION or reader.state == TRAILER:
        if byte == c"\r":
            reader.state = SIZE_LF if reader.state == EXTENSION else TRAILER_LF
            return True
        return drop(reader, byte)
    if reader.state == TRAILER_BEGIN:
        if byte == c"\r":
            reader.state = END_LF
            return True
        reader.state = TRAILER
        # One that begins with a space is a folded line.
        return drop(reader, byte) if byte != c" " and byte != c"\t" else failed(reader, BAD_CHUNK)
    if reader.state == DATA_CR:
        reader.state = DATA_LF
        return byte == c"\r" or failed(reader, BAD_CHUNK)
    return byte == c"\n" and end_line(reader) or failed(reader, BAD_CHUNK)


cdef bint end_line(ChunkReader* reader) noexcept nogil:
    """A line feed where one is wanted."""
    if reader.state == SIZE_LF:
        reader.is_last = reader.left == 0
        reader.state = TRAILER_BEGIN if reader.is_last else DATA
    elif reader.state == DATA_LF:
        reader.state = SIZE
        reader.digits = 0
        reader.left = 0
    elif reader.state == TRAILER_LF:
        reader.state = TRAILER_BEGIN
    elif reader.state == END_LF:
        reader.state = OVER
    else:
        return False
    return True


cdef bint drop(ChunkReader* reader, char byte) noexcept nogil:
    if (0 <= byte < 0x20 and byte != c"\t") or byte == 0x7F:
        return failed(reader, BAD_CHUNK)
    reader.dropped += 1
    return reader.dropped <= DROPPED_BYTES or failed(reader, LONG_TRAILERS)


cdef bint failed(ChunkReader* reader, int problem) noexcept nogil:
    reader.problem = problem
    return False


cdef int hex_digit(char byte) noexcept nogil:
    if c"0" <= byte <= c"9":
        return byte - c"0"
    byte |= 0x20
    return byte - c"a" + 10 if c"a" <= byte <= c"f" else -1


def read_chunks(pieces: list[bytes]) -> tuple[int, bytes, bytes]:
    """A chunked body in pieces: the status of its problem or 0, the body, what is behind its end.

    For tests and tools. ValueError: it has no end.
    """
    cdef ChunkReader reader
    cdef Bytes rest, piece
    cdef int step = CHUNK_MORE
    cdef bytes data
    body = b""
    reader = ChunkReader(0, 0, 0, 0, False, NO_PROBLEM)
    for i, data in enumerate(pieces):
        rest = Bytes(<const char*>data, <size_t>len(data))
        while True:
            step = chunks_read(&reader, &rest, &piece)
            if step == CHUNK_DATA:
                body += piece.data[:piece.size]
            elif step == CHUNK_END:
                return 0, body, rest.data[:rest.size] + b"".join(pieces[i + 1:])
            elif step == CHUNK_MORE:
                break
            else:
                return problem_status(reader.problem), body, b""
    raise ValueError("the body has no end")
