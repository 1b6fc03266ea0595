"""What HTTP/1.1 answers look like: their heads, and errors as JSON."""

from libc.string cimport memcpy, strlen
from libc.time cimport time, time_t, tm

from tfsrv._buffer cimport buffer_append, buffer_append_text, buffer_free, buffer_init
from tfsrv._rest_call cimport FORM_JSON, FORM_NPY, FORM_NPZ, FORM_PROTOBUF

from http import HTTPStatus

from tfsrv import errors

cdef extern from "<time.h>" nogil:
    tm* gmtime_r(const time_t* seconds, tm* result)
    size_t strftime(char* target, size_t size, const char* form, const tm* parts)

cdef enum:
    CODES = 17
    HIGHEST_STATUS = 600
    LONGEST_ERROR = 16384   # bytes of a message: it may quote a body, and is escaped in the loop's thread

cdef int[CODES] STATUSES                        # HTTP status by code
ctypedef const char* Reason

cdef Reason[HIGHEST_STATUS] REASONS             # by status; NULL where there is none
cdef char* HEX_DIGITS = b"0123456789ABCDEF"     # capitals, as TensorFlow Serving's
cdef char* REPLACEMENT = b"\xef\xbf\xbd"        # U+FFFD

_reasons = {int(status): status.phrase.encode() for status in HTTPStatus}
_reasons[499] = b"Client Closed Request"        # nginx's, for CANCELLED


cdef int set_tables() except -1:
    cdef int status
    for code in errors.HTTP_STATUS:
        STATUSES[<int>code] = errors.HTTP_STATUS[code]
    for status in range(HIGHEST_STATUS):
        reason = _reasons.get(status)
        REASONS[status] = NULL
        if reason is not None:
            REASONS[status] = <const char*><bytes>reason  # which _reasons keeps
    return 0


set_tables()


cdef int http_status(int code) noexcept nogil:
    """The HTTP status of one of the seventeen codes."""
    return STATUSES[code] if 0 <= code < CODES else 500


cdef inline char* put(char* at, const char* text, size_t size) noexcept nogil:
    memcpy(at, text, size)
    return at + size


cdef char* put_number(char* at, size_t number) noexcept nogil:
    cdef char[24] digits
    cdef int size = 0
    while True:
        digits[23 - size] = <char>(c"0" + number % 10)
        size += 1
        number //= 10
        if number == 0:
            return put(at, &digits[24 - size], <size_t>size)


cdef char* put_status(char* at, int status) noexcept nogil:
    cdef const char* reason = NULL
    if 0 <= status < HIGHEST_STATUS:
        reason = REASONS[status]
    at = put(at, b"HTTP/1.1 ", 9)
    at = put_number(at, <size_t>status)
    at = put(at, b" ", 1)
    if reason != NULL:
        at = put(at, reason, strlen(reason))
    return put(at, b"\r\n", 2)


cdef char* put_form(char* at, int form) noexcept nogil:
    if form == FORM_JSON:
        return put(at, b"Content-Type: application/json\r\n", 32)
    if form == FORM_PROTOBUF:
        return put(at, b"Content-Type: application/x-protobuf\r\n", 38)
    if form == FORM_NPY:
        return put(at, b"Content-Type: application/x-npy\r\n", 33)
    if form == FORM_NPZ:
        return put(at, b"Content-Type: application/x-npz\r\n", 33)
    return at


cdef void clock_look(Clock* clock) noexcept nogil:
    """Bring the text up to the second (RFC 9110, 5.6.7)."""
    cdef time_t now = time(NULL)
    cdef tm parts
    cdef const char* days = b"SunMonTueWedThuFriSat"
    cdef const char* months = b"JanFebMarAprMayJunJulAugSepOctNovDec"
    if now == clock.second:
        return
    clock.second = now
    gmtime_r(&now, &parts)
    # Not by %a and %b, which a locale would change.
    strftime(clock.text, sizeof(clock.text), b"   , %d     %Y %H:%M:%S GMT", &parts)
    memcpy(clock.text, days + 3 * parts.tm_wday, 3)
    memcpy(&clock.text[8], months + 3 * parts.tm_mon, 3)


cdef size_t answer_head(char* target, const AnswerHead* head, Clock* clock) noexcept nogil:
    """Write a head with its empty line; at most ANSWER_HEAD_BYTES and the extra fields. Its size."""
    cdef char* at = put_status(target, head.status)
    at = put_form(at, head.form)
    at = put(at, b"Content-Length: ", 16)
    at = put_number(at, head.length)
    at = put(at, b"\r\nDate: ", 8)
    clock_look(clock)
    at = put(at, clock.text, 29)
    at = put(at, b"\r\n", 2)
    if head.gzipped:
        at = put(at, b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n", 47)
    if head.status == 503:
        at = put(at, b"Retry-After: 1\r\n", 16)
    if not head.keep_alive:
        at = put(at, b"Connection: close\r\n", 19)
    elif head.old:
        at = put(at, b"Connection: keep-alive\r\n", 24)
    at = put(at, head.extra.data, head.extra.size) if head.extra.size else at
    at = put(at, b"\r\n", 2)
    return <size_t>(at - target)


# ---- errors -------------------------------------------------------------------------------------

cdef int error_json(Bytes message, bint pretty, Buffer* into) noexcept nogil:
    """Append {"error": message}, valid whatever the message is. 0, or -1 without memory.

    Of a long message only the begin is told.

    `pretty`: in lines, as TensorFlow Serving's util/json_tensor.cc does.
    """
    cdef int failed = buffer_append_text(into, b'{\n    "error": "' if pretty else b'{"error":"')
    failed |= escape(shortened(message), into)
    if message.size > LONGEST_ERROR:
        failed |= buffer_append_text(into, b"...")
    failed |= buffer_append_text(into, b'"\n}' if pretty else b'"}')
    return failed


cdef Bytes shortened(Bytes message) noexcept nogil:
    """As much of it as is told, without the part of a character at the end."""
    cdef size_t size = message.size
    if size <= LONGEST_ERROR:
        return message
    size = LONGEST_ERROR
    while size > LONGEST_ERROR - 3 and message.data[size] & 0xC0 == 0x80:
        size -= 1
    return Bytes(message.data, size)


cdef int escape(Bytes text, Buffer* into) noexcept nogil:
    """Append `text` as the inside of a JSON string; what is no UTF-8 becomes U+FFFD."""
    cdef size_t at = 0, size
    cdef int failed = 0
    cdef unsigned char byte
    cdef char[6] escaped
    while at < text.size:
        byte = <unsigned char>text.data[at]
        if byte >= 0x80:
            size = character_size(text.data + at, text.size - at)
            failed |= buffer_append(into, text.data + at, size) if size else buffer_append(into, REPLACEMENT, 3)
            at += size if size else 1
            continue
        at += 1
        if byte >= 0x20 and byte != c'"' and byte != c"\\":
            failed |= buffer_append(into, &byte, 1)
            continue
        escaped[0] = c"\\"
        escaped[1] = short_escape(byte)
        size = 2
        if escaped[1] == c"u":
            escaped[2] = escaped[3] = c"0"
            escaped[4] = HEX_DIGITS[byte >> 4]
            escaped[5] = HEX_DIGITS[byte & 15]
            size = 6
        failed |= buffer_append(into, escaped, size)
    return failed


cdef char short_escape(unsigned char byte) noexcept nogil:
    """The letter behind the backslash."""
    if byte == c"\n":
        return c"n"
    if byte == c"\r":
        return c"r"
    if byte == c"\t":
        return c"t"
    if byte == 8:
        return c"b"
    if byte == 12:
        return c"f"
    return c"u" if byte < 0x20 else <char>byte


cdef size_t character_size(const char* text, size_t size) noexcept nogil:
    """Bytes of the character that begins here, two to four; 0 if none does (RFC 3629, 4)."""
    cdef const unsigned char* at = <const unsigned char*>text
    cdef size_t wanted, i
    cdef unsigned char least = 0x80, most = 0xBF    # of the second byte
    if 0xC2 <= at[0] <= 0xDF:
        wanted = 2
    elif 0xE0 <= at[0] <= 0xEF:
        wanted = 3
        least = 0xA0 if at[0] == 0xE0 else 0x80     # no longer forms
        most = 0x9F if at[0] == 0xED else 0xBF      # no surrogates
    elif 0xF0 <= at[0] <= 0xF4:
        wanted = 4
        least = 0x90 if at[0] == 0xF0 else 0x80
        most = 0x8F if at[0] == 0xF4 else 0xBF
    else:
        return 0
    if size < wanted or not least <= at[1] <= most:
        return 0
    for i in range(2, wanted):
        if at[i] & 0xC0 != 0x80:
            return 0
    return wanted


# ---- for answers that Python makes, and for tests -------------------------------------------------

def error_body(message: bytes, pretty: bool = False) -> bytes:
    """`{"error": message}`, valid JSON whatever bytes the message has."""
    cdef Buffer buffer
    buffer_init(&buffer)
    try:
        if error_json(Bytes(<const char*>message, <size_t>len(message)), pretty, &buffer) != 0:
            raise MemoryError
        return buffer.data[:buffer.size]
    finally:
        buffer_free(&buffer)


def date_line() -> bytes:
    """`Date: ...` with its line end."""
    cdef Clock clock
    clock.second = -1
    clock_look(&clock)
    return b"Date: " + clock.text[:29] + b"\r\n"


def status_line(status: int) -> bytes:
    """`HTTP/1.1 STATUS REASON` with its line end."""
    cdef char[128] line
    return line[:put_status(line, status) - line]
