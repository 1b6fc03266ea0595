"""gRPC's own encodings in HTTP/2 headers: time-outs, content types, messages.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport buffer_append, buffer_free, buffer_init
from tfsrv._clock cimport NS_PER_MS, NS_PER_S, NS_PER_US

cdef size_t LONGEST_MESSAGE = 1024  # bytes; TensorFlow Serving's grpc_status_util.cc cuts there
cdef char* CUT_MARK = b"...TRUNCATED"  # 12 bytes, behind a message that was cut
cdef char* HEX_DIGITS = b"0123456789ABCDEF"


cdef int64_t parse_timeout(Bytes text) noexcept nogil:
    """Nanoseconds of a grpc-timeout: one to eight digits and a unit of HMSmun. -1 if it is none."""
    cdef int64_t value = 0
    cdef size_t i
    cdef char unit
    if text.size < 2 or text.size > 9:
        return -1
    for i in range(text.size - 1):
        if text.data[i] < c"0" or text.data[i] > c"9":
            return -1
        value = value * 10 + (text.data[i] - c"0")
    unit = text.data[text.size - 1]
    if unit == c"n":
        return value
    if unit == c"u":
        return value * NS_PER_US
    if unit == c"m":
        return value * NS_PER_MS
    if unit == c"S":
        return value * NS_PER_S
    if unit == c"M":
        return value * 60 * NS_PER_S
    if unit == c"H":  # 10^8 hours would not fit: more than 100 years is for ever
        return min(value, 876000) * 3600 * NS_PER_S
    return -1


cdef bint is_grpc_content_type(Bytes text) noexcept nogil:
    """application/grpc, also with a +format or ;parameters behind it."""
    cdef Bytes prefix = Bytes(b"application/grpc", 16)
    cdef size_t i
    if text.size < prefix.size:
        return False
    for i in range(prefix.size):
        if (text.data[i] | 0x20 if c"A" <= text.data[i] <= c"Z" else text.data[i]) != prefix.data[i]:
            return False
    return text.size == prefix.size or text.data[prefix.size] == c"+" or text.data[prefix.size] == c";"


cdef bint has_token(Bytes text, Bytes token) noexcept nogil:
    """Whether a comma-separated list, as of grpc-accept-encoding, names `token`."""
    cdef size_t begin = 0, end, i
    while begin <= text.size:
        end = begin
        while end < text.size and text.data[end] != c",":
            end += 1
        while begin < end and text.data[begin] == c" ":
            begin += 1
        i = 0
        while i < token.size and begin + i < end and text.data[begin + i] == token.data[i]:
            i += 1
        if i == token.size:
            begin += i
            while begin < end and text.data[begin] == c" ":
                begin += 1
            if begin == end:
                return True
        begin = end + 1
    return False


cdef size_t kept_size(Bytes text) noexcept nogil:
    """How many bytes of an error's text its client gets: 1,024 at most, whole characters only."""
    cdef size_t size = text.size
    if size > LONGEST_MESSAGE:
        size = LONGEST_MESSAGE
        while size > 0 and (<unsigned char>text.data[size] & 0xC0) == 0x80:
            size -= 1  # a continuation byte: its character begins further left
    return size


cdef int encode_message(Bytes text, Buffer* into) noexcept nogil:
    """Append `text` percent-encoded, as grpc-message wants it. 0, or -1 without memory.

    Longer texts than 1,024 bytes are cut, never inside a character, and end in "...TRUNCATED".
    """
    cdef size_t size = kept_size(text)
    cdef size_t i
    cdef unsigned char byte
    cdef char encoded[3]
    cdef int failed = 0
    for i in range(size):
        byte = <unsigned char>text.data[i]
        if 0x20 <= byte <= 0x7E and byte != c"%":
            failed |= buffer_append(into, &byte, 1)
        else:
            encoded[0] = c"%"
            encoded[1] = HEX_DIGITS[byte >> 4]
            encoded[2] = HEX_DIGITS[byte & 15]
            failed |= buffer_append(into, encoded, 3)
    if size < text.size:
        failed |= buffer_append(into, CUT_MARK, 12)
    return failed


# ---- for tests and tools -------------------------------------------------------------------------

cdef Bytes view(bytes text):
    return Bytes(<const char*>text, <size_t>len(text))


def timeout_nanoseconds(text: bytes) -> int:
    """What a grpc-timeout says; -1 when it is malformed."""
    return parse_timeout(view(text))


def accepts_content_type(text: bytes) -> bool:
    """Whether a request of this content type is gRPC."""
    return is_grpc_content_type(view(text))


def lists_token(text: bytes, token: bytes) -> bool:
    """Whether the comma-separated list `text` names `token`."""
    return has_token(view(text), view(token))


def percent_encode(text: bytes) -> bytes:
    """`text` as the value of grpc-message."""
    cdef Buffer buffer
    buffer_init(&buffer)
    try:
        if encode_message(view(text), &buffer) != 0:
            raise MemoryError
        return buffer.data[: buffer.size] if buffer.size else b""
    finally:
        buffer_free(&buffer)
