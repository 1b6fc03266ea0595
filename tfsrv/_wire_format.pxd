"""The pieces of protobuf's wire format: varints, tags, lengths, UTF-8.

https://protobuf.dev/programming-guides/encoding says what is valid; where it leaves room, these
refuse exactly what protobuf's own parser (upb) refuses. A reader takes a cursor and the end of
what may be read and returns the cursor behind the piece, or NULL when it is not valid.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from tfsrv._buffer cimport Bytes

ctypedef const unsigned char* Cursor

cdef extern from *:
    """
    #define TFSRV_HIGH_BITS 0x8080808080808080ULL
    #define TFSRV_LARGEST_LENGTH 0x7fffffffULL
    #define TFSRV_LARGEST_TAG 0xffffffffULL
    """
    const uint64_t HIGH_BITS "TFSRV_HIGH_BITS"
    const uint64_t LARGEST_LENGTH "TFSRV_LARGEST_LENGTH"  # bytes; protobuf's limit for any length
    const uint64_t LARGEST_TAG "TFSRV_LARGEST_TAG"
    int count_leading_zeros "__builtin_clzll"(unsigned long long value) nogil
    int count_trailing_zeros "__builtin_ctzll"(unsigned long long value) nogil
    int count_ones "__builtin_popcountll"(unsigned long long value) nogil

cdef enum WireType:
    VARINT = 0
    FIXED64 = 1
    LENGTH_DELIMITED = 2
    START_GROUP = 3
    END_GROUP = 4
    FIXED32 = 5

# What reading or writing a whole message came to.
cdef enum WireResult:
    WIRE_OK = 0
    WIRE_RARE = 1           # valid so far, but uses a known field that only Python protobuf handles
    WIRE_BAD = -1           # not decodable; protobuf refuses it too
    WIRE_NO_MEMORY = -2     # or a request of so many parts that no model can have asked for them
    WIRE_TOO_BIG = -3       # the answer would be longer than a protobuf message can be
    WIRE_CHANGED = -4       # values changed between measuring and writing them

cdef enum:
    LONGEST_VARINT = 10     # bytes
    LONGEST_TAG = 5         # bytes; lengths too


cdef inline uint64_t load_8_bytes(Cursor at) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, at, 8)  # one unaligned load
    return word


cdef inline Cursor read_varint_of(
    Cursor at, Cursor end, int longest, uint64_t* value
) noexcept nogil:
    """A varint of at most `longest` bytes; bits above the 64th are dropped."""
    cdef uint64_t result = 0
    cdef unsigned char byte
    cdef int i
    for i in range(longest):
        if at == end:
            return NULL
        byte = at[0]
        at += 1
        result |= <uint64_t>(byte & 0x7f) << (7 * i)
        if byte < 0x80:
            value[0] = result
            return at
    return NULL


cdef inline Cursor read_varint(Cursor at, Cursor end, uint64_t* value) noexcept nogil:
    if at < end and at[0] < 0x80:
        value[0] = at[0]
        return at + 1
    return read_varint_of(at, end, LONGEST_VARINT, value)


cdef inline Cursor read_tag(Cursor at, Cursor end, uint32_t* tag) noexcept nogil:
    """Field number and wire type. There is no field 0."""
    cdef uint64_t value
    if at < end and at[0] < 0x80:
        value = at[0]
        at += 1
    else:
        at = read_varint_of(at, end, LONGEST_TAG, &value)
        if at == NULL or value > LARGEST_TAG:
            return NULL
    tag[0] = <uint32_t>value
    return at if value >> 3 else NULL


cdef inline Cursor read_bytes(Cursor at, Cursor end, Bytes* view) noexcept nogil:
    """A length and that many bytes. What is behind them is the result, what they are `view`."""
    cdef uint64_t size
    if at < end and at[0] < 0x80:
        size = at[0]
        at += 1
    else:
        at = read_varint_of(at, end, LONGEST_TAG, &size)
        if at == NULL or size > LARGEST_LENGTH:
            return NULL
    if size > <size_t>(end - at):
        return NULL
    view.data = <const char*>at
    view.size = size
    return at + size


cdef inline Cursor skip_value(Cursor at, Cursor end, uint32_t tag) noexcept nogil:
    """Step over the value of an unknown field. Groups are not looked into: they are refused."""
    cdef uint64_t value
    cdef Bytes view
    cdef int wire_type = tag & 7
    if wire_type == VARINT:
        return read_varint(at, end, &value)
    if wire_type == LENGTH_DELIMITED:
        return read_bytes(at, end, &view)
    if wire_type == FIXED32:
        return at + 4 if end - at >= 4 else NULL
    if wire_type == FIXED64:
        return at + 8 if end - at >= 8 else NULL
    return NULL


cdef inline int skip_unknown(Cursor* at, Cursor end, uint32_t tag) noexcept nogil:
    """Step over an unknown field, which is left to Python protobuf if it is a group. A WireResult."""
    if tag & 7 == START_GROUP:
        return WIRE_RARE
    at[0] = skip_value(at[0], end, tag)
    return WIRE_OK if at[0] != NULL else WIRE_BAD


cdef inline bint count_varints(Bytes run, size_t* count) noexcept nogil:
    """How many varints stand in `run`, one after the other. False if one is cut off or too long.

    A varint ends with the first byte that has no high bit, so eight bytes are looked at in one
    step: `pending` is the number of bytes with a high bit right before the current position.
    """
    cdef Cursor at = <Cursor>run.data
    cdef Cursor end = at + run.size
    cdef uint64_t ends
    cdef int pending = 0
    cdef size_t found = 0
    while end - at >= 8:
        ends = ~load_8_bytes(at) & HIGH_BITS
        at += 8
        if ends == HIGH_BITS and pending == 0:
            found += 8
        elif ends == 0:
            pending += 8
            if pending >= LONGEST_VARINT:
                return False
        else:
            if pending + (count_trailing_zeros(ends) >> 3) >= LONGEST_VARINT:
                return False
            pending = count_leading_zeros(ends) >> 3
            found += count_ones(ends)
    while at < end:
        if at[0] < 0x80:
            found += 1
            pending = 0
        else:
            pending += 1
            if pending >= LONGEST_VARINT:
                return False
        at += 1
    count[0] = found
    return pending == 0


cdef inline bint is_continuation(unsigned char byte) noexcept nogil:
    return byte & 0xc0 == 0x80


cdef inline int utf8_sequence(Cursor at, Cursor end) noexcept nogil:
    """Bytes of the character at `at`, a byte of 0x80 or more; 0 if it is none."""
    cdef unsigned char first = at[0]
    if first < 0xc2:  # a continuation, or two bytes for what one could say
        return 0
    if first < 0xe0:
        return 2 if end - at >= 2 and is_continuation(at[1]) else 0
    if first < 0xf0:
        if end - at < 3 or not is_continuation(at[1]) or not is_continuation(at[2]):
            return 0
        if first == 0xe0 and at[1] < 0xa0:  # longer than needed
            return 0
        if first == 0xed and at[1] >= 0xa0:  # a surrogate
            return 0
        return 3
    if first > 0xf4 or end - at < 4:
        return 0
    if not (is_continuation(at[1]) and is_continuation(at[2]) and is_continuation(at[3])):
        return 0
    if first == 0xf0 and at[1] < 0x90:  # longer than needed
        return 0
    if first == 0xf4 and at[1] >= 0x90:  # beyond U+10FFFF
        return 0
    return 4


cdef inline bint is_utf8(Bytes text) noexcept nogil:
    """Whether protobuf would take `text` for a string."""
    cdef Cursor at = <Cursor>text.data
    cdef Cursor end = at + text.size
    cdef int step
    while at < end:
        if at[0] < 0x80:
            if end - at >= 8 and load_8_bytes(at) & HIGH_BITS == 0:
                at += 8
            else:
                at += 1
        else:
            step = utf8_sequence(at, end)
            if step == 0:
                return False
            at += step
    return True


cdef inline Cursor read_string(Cursor at, Cursor end, Bytes* view) noexcept nogil:
    """A length and that many bytes of UTF-8."""
    at = read_bytes(at, end, view)
    return at if at != NULL and is_utf8(view[0]) else NULL


cdef inline size_t varint_size(uint64_t value) noexcept nogil:
    """Bytes that put_varint writes, 1 to 10: one for each 7 bits begun."""
    return <size_t>((63 - count_leading_zeros(value | 1)) * 9 + 73) >> 6


cdef inline size_t field_size(size_t size) noexcept nogil:
    """Of a length-delimited field with a number below 16, whose value has so many bytes."""
    return 1 + varint_size(size) + size


cdef inline char* put_varint(char* at, uint64_t value) noexcept nogil:
    while value >= 0x80:
        at[0] = <char>(value | 0x80)
        at += 1
        value >>= 7
    at[0] = <char>value
    return at + 1


cdef inline char* put_bytes(char* at, Bytes view) noexcept nogil:
    """A length and the bytes."""
    at = put_varint(at, view.size)
    if view.size:
        memcpy(at, view.data, view.size)
    return at + view.size
