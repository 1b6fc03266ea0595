"""Base64 in, as lenient as absl::Base64Unescape (strings/escaping.cc), which TensorFlow Serving uses.

The alphabet is RFC 4648's with + and /. White space may stand anywhere. Padding is left out or complete, and a
dot may stand for each of its signs. Bits that are left over are not looked at.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t

cdef extern from *:
    """
    #define TFSRV_NO_DIGIT 64
    #define TFSRV_BLANK 65
    #define TFSRV_PADDING 66
    static unsigned char tfsrv_base64[256];
    static void tfsrv_fill_base64(void)
    {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        static const char blanks[] = " \\t\\n\\v\\f\\r";
        int i;
        for (i = 0; i < 256; i++) tfsrv_base64[i] = TFSRV_NO_DIGIT;
        for (i = 0; i < 64; i++) tfsrv_base64[(unsigned char)digits[i]] = (unsigned char)i;
        for (i = 0; blanks[i]; i++) tfsrv_base64[(unsigned char)blanks[i]] = TFSRV_BLANK;
        tfsrv_base64['='] = tfsrv_base64['.'] = TFSRV_PADDING;
    }
    """
    enum:
        NO_DIGIT "TFSRV_NO_DIGIT"
        BLANK "TFSRV_BLANK"
        PADDING "TFSRV_PADDING"
    const unsigned char* VALUES "tfsrv_base64"
    void fill_values "tfsrv_fill_base64"()

fill_values()


cdef bint base64_decode(Bytes text, char* out, size_t* size) noexcept nogil:
    """Decode into `out`, which has base64_room(text) bytes. False if it is no base64."""
    cdef const unsigned char* at = <const unsigned char*>text.data
    cdef const unsigned char* end = at + text.size
    cdef char* start = out
    cdef uint32_t bits = 0
    cdef int digits = 0
    cdef unsigned char value = 0
    while at < end:
        # Four digits are below 64 if their union is.
        while digits == 0 and end - at >= 4 and (
                VALUES[at[0]] | VALUES[at[1]] | VALUES[at[2]] | VALUES[at[3]]) < NO_DIGIT:
            bits = (<uint32_t>VALUES[at[0]] << 18 | <uint32_t>VALUES[at[1]] << 12
                    | <uint32_t>VALUES[at[2]] << 6 | VALUES[at[3]])
            out[0] = <char>(bits >> 16)
            out[1] = <char>(bits >> 8)
            out[2] = <char>bits
            out += 3
            at += 4
        if at == end:
            break
        value = VALUES[at[0]]
        if value == PADDING:
            break
        at += 1
        if value == BLANK:
            continue
        if value == NO_DIGIT:
            return False
        bits = bits << 6 | value
        digits += 1
        if digits == 4:
            out[0] = <char>(bits >> 16)
            out[1] = <char>(bits >> 8)
            out[2] = <char>bits
            out += 3
            digits = 0
    if digits == 1:
        return False
    if digits >= 2:
        out[0] = <char>(bits >> 4 if digits == 2 else bits >> 10)
        out += 1
    if digits == 3:
        out[0] = <char>(bits >> 2)
        out += 1
    size[0] = <size_t>(out - start)
    return is_padding(at, end, (4 - digits) & 3)


cdef bint is_padding(const unsigned char* at, const unsigned char* end, int wanted) noexcept nogil:
    """Whether there are blanks and no padding, or exactly that much of it."""
    cdef size_t found = 0
    while at < end:
        if VALUES[at[0]] == PADDING:
            found += 1
        elif VALUES[at[0]] != BLANK:
            return False
        at += 1
    return found == 0 or found == <size_t>wanted


def decode_base64(text: bytes) -> bytes | None:
    """What `text` stands for; None if it is no base64."""
    cdef Bytes view = Bytes(PyBytes_AS_STRING(text), <size_t>len(text))
    cdef size_t size = 0
    cdef bytes room = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>base64_room(view))
    if not base64_decode(view, PyBytes_AS_STRING(room), &size):
        return None
    return room[:size]
