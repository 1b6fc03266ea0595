"""Strings of JSON texts.

Written as rapidjson's Writer does, which TensorFlow Serving's answers come from: `"`, `\\` and control
characters escaped, the latter as \\b, \\f, \\n, \\r, \\t or with upper-case hexadecimal digits; all else,
a slash too, as it is. Unlike there the result is always valid: what is no UTF-8 becomes U+FFFD, one for
each maximal part of a character (The Unicode Standard, 3.9), as in Python's decode(errors="replace").

Base64 is RFC 4648's, with padding. Read is what absl::Base64Unescape takes (absl/strings/escaping.cc):
white space anywhere, padding of the right length or none, a dot for "=", any bits left over.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int8_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tfsrv._buffer cimport buffer_append, buffer_append_text, buffer_free, buffer_init, buffer_reserve
from tfsrv._wire_format cimport Cursor, is_continuation, load_8_bytes, utf8_sequence


cdef extern from *:
    """
    #define TFSRV_EACH_BYTE(byte) (0x0101010101010101ULL * (byte))
    static const char tfsrv_base64[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    /* Six bits; -1 for other bytes. */
    static int8_t tfsrv_unbase64[256];
    static void tfsrv_unbase64_init(void) {
        memset(tfsrv_unbase64, -1, sizeof tfsrv_unbase64);
        for (int i = 0; i < 64; i++)
            tfsrv_unbase64[(unsigned char)tfsrv_base64[i]] = (int8_t)i;
    }
    """
    uint64_t EACH_BYTE "TFSRV_EACH_BYTE"(unsigned int byte) nogil
    const char* BASE64 "tfsrv_base64"
    const int8_t* UNBASE64 "tfsrv_unbase64"
    void tfsrv_unbase64_init()

tfsrv_unbase64_init()

cdef enum:
    STEP = 4096             # bytes of text for which room is made at once
    LONGEST_ESCAPE = 6      # bytes: \u001F
    SLACK = 16              # bytes: a character that begins in one step and ends in the next, a quote


# ---- strings -----------------------------------------------------------------------------------------

cdef inline bint is_plain(uint64_t word) noexcept nogil:
    """Whether eight bytes are ASCII that nothing has to be done to."""
    cdef uint64_t quote = word ^ EACH_BYTE(c'"')
    cdef uint64_t backslash = word ^ EACH_BYTE(c"\\")
    # Of bytes below 0x80, each is less than what is taken from it if the highest bit is set then.
    cdef uint64_t special = (
        (word - EACH_BYTE(0x20)) | (quote - EACH_BYTE(1)) | (backslash - EACH_BYTE(1)) | word)
    return special & EACH_BYTE(0x80) == 0


cdef inline char hexadecimal(uint8_t digit) noexcept nogil:
    return <char>(c"0" + digit if digit < 10 else c"A" + digit - 10)


cdef char* put_escape(char* out, uint8_t byte) noexcept nogil:
    """A control character, a quote or a backslash."""
    cdef char letter = 0
    out[0] = c"\\"
    if byte == c'"' or byte == c"\\":
        letter = <char>byte
    elif byte == c"\b":
        letter = c"b"
    elif byte == c"\f":
        letter = c"f"
    elif byte == c"\n":
        letter = c"n"
    elif byte == c"\r":
        letter = c"r"
    elif byte == c"\t":
        letter = c"t"
    if letter:
        out[1] = letter
        return out + 2
    memcpy(out + 1, b"u00", 3)
    out[4] = hexadecimal(byte >> 4)
    out[5] = hexadecimal(byte & 15)
    return out + 6


cdef int maximal_part(Cursor at, Cursor end) noexcept nogil:
    """Bytes at `at`, which begin no whole character, that could have been the start of one; 1 at least."""
    cdef uint8_t first = at[0]
    cdef int size = 4 if first >= 0xf0 else 3 if first >= 0xe0 else 2
    cdef int part = 1
    if first < 0xc2 or first > 0xf4 or end - at < 2 or not is_continuation(at[1]):
        return 1
    # Too long for what they say, surrogates, and what is beyond U+10FFFF: the second byte tells.
    if (first == 0xe0 and at[1] < 0xa0) or (first == 0xed and at[1] >= 0xa0):
        return 1
    if (first == 0xf0 and at[1] < 0x90) or (first == 0xf4 and at[1] >= 0x90):
        return 1
    while part < size and at + part < end and is_continuation(at[part]):
        part += 1
    return part


cdef char* put_character(char* out, Cursor* at, Cursor end) noexcept nogil:
    """A character beyond ASCII, or U+FFFD for what is none."""
    cdef uint8_t bytes4[4]
    cdef int size = <int>min(end - at[0], <Py_ssize_t>4)
    cdef int step
    # Looked at where they cannot change any more: a model's variable may be what is written.
    memcpy(bytes4, at[0], <size_t>size)
    step = utf8_sequence(bytes4, bytes4 + size) if bytes4[0] >= 0x80 else 1
    if step:
        memcpy(out, bytes4, <size_t>step)
        at[0] += step
        return out + step
    memcpy(out, b"\xef\xbf\xbd", 3)
    at[0] += maximal_part(bytes4, bytes4 + size)
    return out + 3


cdef char* put_text(char* out, Cursor* start, Cursor stop, Cursor end) noexcept nogil:
    """Characters up to `stop`, the last of which may go on up to `end`."""
    cdef Cursor at = start[0]
    cdef uint64_t word
    cdef uint8_t byte
    while at < stop:
        if stop - at >= 8:
            word = load_8_bytes(at)
            if is_plain(word):
                memcpy(out, &word, 8)
                at += 8
                out += 8
                continue
        byte = at[0]
        if byte >= 0x80:
            out = put_character(out, &at, end)
        elif byte < 0x20 or byte == c'"' or byte == c"\\":
            out = put_escape(out, byte)
            at += 1
        else:
            out[0] = <char>byte
            out += 1
            at += 1
    start[0] = at
    return out


cdef int json_put_string(Buffer* buffer, Bytes text) noexcept nogil:
    """Append a string in quotes, whatever bytes it has. 0, or -1 when there is no memory."""
    cdef Cursor at = <Cursor>text.data
    cdef Cursor end = at + text.size
    cdef size_t step
    cdef char* out
    if buffer_append(buffer, b'"', 1) != 0:
        return -1
    while at < end:
        step = min(<size_t>(end - at), <size_t>STEP)
        if buffer_reserve(buffer, step * LONGEST_ESCAPE + SLACK) != 0:
            return -1
        out = put_text(buffer.data + buffer.size, &at, at + step, end)
        buffer.size = <size_t>(out - buffer.data)
    return buffer_append(buffer, b'"', 1)


cdef int json_put_error(Buffer* buffer, Bytes message, bint pretty) noexcept nogil:
    """Append the body of an answer that is an error. 0, or -1 when there is no memory."""
    if buffer_append_text(buffer, b'{\n    "error": ' if pretty else b'{"error":') != 0:
        return -1
    if json_put_string(buffer, message) != 0:
        return -1
    return buffer_append_text(buffer, b"\n}" if pretty else b"}")


# ---- base64 ------------------------------------------------------------------------------------------

cdef inline void put_four(char* out, uint32_t bits) noexcept nogil:
    """Of 24 bits."""
    out[0] = BASE64[bits >> 18]
    out[1] = BASE64[bits >> 12 & 63]
    out[2] = BASE64[bits >> 6 & 63]
    out[3] = BASE64[bits & 63]


cdef int json_put_base64(Buffer* buffer, Bytes data) noexcept nogil:
    """Append bytes in base64, without quotes. 0, or -1 when there is no memory."""
    cdef Cursor at = <Cursor>data.data
    cdef Cursor end = at + data.size
    cdef uint32_t bits
    cdef char* out
    if buffer_reserve(buffer, (data.size // 3 + 1) * 4) != 0:
        return -1
    out = buffer.data + buffer.size
    while end - at >= 3:
        put_four(out, <uint32_t>at[0] << 16 | <uint32_t>at[1] << 8 | at[2])
        at += 3
        out += 4
    if at < end:
        bits = <uint32_t>at[0] << 16
        if end - at == 2:
            bits |= <uint32_t>at[1] << 8
        put_four(out, bits)
        out[3] = c"="
        if end - at == 1:
            out[2] = c"="
        out += 4
    buffer.size = <size_t>(out - buffer.data)
    return 0


cdef inline bint is_space(uint8_t byte) noexcept nogil:
    return byte == c" " or 9 <= byte <= 13


cdef inline bint is_padding(uint8_t byte) noexcept nogil:
    return byte == c"=" or byte == c"."


cdef inline bint padding_fits(Cursor at, Cursor end, int expected) noexcept nogil:
    """Whether the rest is white space with so many signs of padding, or none."""
    cdef Py_ssize_t found = 0
    while at < end:
        if is_padding(at[0]):
            found += 1
        elif not is_space(at[0]):
            return False
        at += 1
    return found == 0 or found == expected


cdef inline char* put_three(char* out, uint32_t bits) noexcept nogil:
    """Of 24 bits."""
    out[0] = <char>(bits >> 16)
    out[1] = <char>(bits >> 8)
    out[2] = <char>bits
    return out + 3


cdef Py_ssize_t json_get_base64(Bytes text, char* into) noexcept nogil:
    """Decode `text` to base64_room(text.size) bytes, which may be where `text` is. How many, or -1 if bad."""
    cdef Cursor at = <Cursor>text.data
    cdef Cursor end = at + text.size
    cdef char* out = into
    cdef uint32_t bits = 0
    cdef int sixes = 0          # in `bits`
    cdef int six
    while at < end:
        if sixes == 0 and end - at >= 4:
            six = UNBASE64[at[0]] | UNBASE64[at[1]] | UNBASE64[at[2]] | UNBASE64[at[3]]
            if six >= 0:
                bits = <uint32_t>UNBASE64[at[0]] << 18 | <uint32_t>UNBASE64[at[1]] << 12
                bits |= <uint32_t>UNBASE64[at[2]] << 6 | <uint32_t>UNBASE64[at[3]]
                out = put_three(out, bits)
                at += 4
                continue
        six = UNBASE64[at[0]]
        if six >= 0:
            bits = bits << 6 | <uint32_t>six
            sixes += 1
            if sixes == 4:
                out = put_three(out, bits)
                sixes = 0
        elif is_padding(at[0]):
            break
        elif not is_space(at[0]):
            return -1
        at += 1
    if sixes == 1 or not padding_fits(at, end, 4 - sixes if sixes else 0):
        return -1
    if sixes == 2:
        out[0] = <char>(bits >> 4)
        out += 1
    elif sixes == 3:
        out[0] = <char>(bits >> 10)
        out[1] = <char>(bits >> 2)
        out += 2
    return out - into


# ---- a face for Python -------------------------------------------------------------------------------

cdef Bytes view_of(bytes text):
    return Bytes(PyBytes_AS_STRING(text), <size_t>len(text))


cdef bytes taken(Buffer* buffer, int result):
    """What is in the buffer, which is given back; MemoryError if `result` is not 0."""
    try:
        if result != 0:
            raise MemoryError
        return buffer.data[:buffer.size]
    finally:
        buffer_free(buffer)


def json_string(text: bytes) -> bytes:
    """`text` as a JSON string."""
    cdef Buffer buffer
    buffer_init(&buffer)
    return taken(&buffer, json_put_string(&buffer, view_of(text)))


def json_error(message: bytes, pretty: bool) -> bytes:
    """The body of an answer that is an error."""
    cdef Buffer buffer
    buffer_init(&buffer)
    return taken(&buffer, json_put_error(&buffer, view_of(message), pretty))


def encode_base64(data: bytes) -> bytes:
    """With padding."""
    cdef Buffer buffer
    buffer_init(&buffer)
    return taken(&buffer, json_put_base64(&buffer, view_of(data))) if data else b""


def decode_base64(text: bytes) -> bytes | None:
    """None if it is not base64."""
    cdef bytes memory = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>base64_room(len(text)))
    cdef Py_ssize_t size = json_get_base64(view_of(text), PyBytes_AS_STRING(memory))
    return None if size < 0 else memory[:size]
