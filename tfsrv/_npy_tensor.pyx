"""An array of numpy's, written as an input of a PredictRequest. No GIL.

Numbers become tensor_content: in C order, little-endian, bools 0 or 1, as TensorFlow has them in
memory. Strings become string_val: of S without the zeros behind them, of U in UTF-8 likewise.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tfsrv._buffer cimport buffer_reserve
from tfsrv._npy cimport npy_check_type, npy_refuse
from tfsrv._status cimport INVALID_ARGUMENT, OK, RESOURCE_EXHAUSTED, status_add, status_add_int, status_set
from tfsrv._tensor_proto cimport MAX_RANK, STRING_VAL
from tfsrv._wire_format cimport (
    LENGTH_DELIMITED,
    VARINT,
    field_size,
    put_bytes,
    put_varint,
    varint_size,
)

cdef extern from *:
    """
    /* A complex128, of which nothing has to be known but the size. */
    typedef struct { unsigned char bytes[16]; } tfsrv_npy_16;
    """
    ctypedef struct Bytes16 "tfsrv_npy_16":
        pass
    uint16_t swapped_2 "__builtin_bswap16"(uint16_t value) nogil
    uint32_t swapped_4 "__builtin_bswap32"(uint32_t value) nogil
    uint64_t swapped_8 "__builtin_bswap64"(uint64_t value) nogil

ctypedef fused element:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    Bytes16

cdef enum:
    CONTENT = 4             # tensor_content
    TILE = 16               # elements on each side of what is turned at once: their lines stay in cache
    LAST_CHARACTER = 0x10FFFF


cdef int npy_put_input(
    Buffer* wire, size_t most_bytes, const NpyArray* array, Bytes alias, int dtype, Status* status
) noexcept nogil:
    """Append the entry of the map `inputs` for `array`. OK, or a code with its text in `status`.

    INVALID_ARGUMENT if the array is not of `dtype`, is no text, or if `wire` would become longer
    than `most_bytes`, which are less than 2**31.
    """
    cdef bint is_strings = array.type.kind == c"S" or array.type.kind == c"U"
    cdef size_t shape = dims_size(array)
    cdef size_t content = array.data.size
    cdef size_t body
    cdef size_t entry
    cdef size_t room = most_bytes - min(wire.size, most_bytes)
    cdef char* at
    cdef int code = npy_check_type(array, dtype, status)
    if code != OK:
        return code
    # Each string takes a tag and a length: those of no bytes are limited too.
    if (<size_t>array.elements > room // 2) if is_strings else (content > room):
        return too_long(array, most_bytes, status)
    if is_strings:
        code = strings_size(array, &content, status)
        if code != OK:
            return code
    body = 1 + varint_size(<uint64_t>dtype) + field_size(shape)
    if is_strings:
        body += content
    elif content:
        body += field_size(content)
    entry = field_size(alias.size) + field_size(body)
    if field_size(entry) > room:
        return too_long(array, most_bytes, status)
    if buffer_reserve(wire, field_size(entry)) != 0:
        return status_set(status, RESOURCE_EXHAUSTED, "There is no memory for the request")
    at = wire.data + wire.size
    at[0] = 2 << 3 | LENGTH_DELIMITED  # inputs
    at = put_varint(at + 1, entry)
    at[0] = 1 << 3 | LENGTH_DELIMITED  # key
    at = put_bytes(at + 1, alias)
    at[0] = 2 << 3 | LENGTH_DELIMITED  # value
    at = put_varint(at + 1, body)
    at[0] = 1 << 3 | VARINT  # dtype
    at = put_varint(at + 1, <uint64_t>dtype)
    at[0] = 2 << 3 | LENGTH_DELIMITED  # tensor_shape
    at = put_dims(put_varint(at + 1, shape), array)
    if is_strings:
        at = put_strings(at, array)
    elif content:
        at[0] = CONTENT << 3 | LENGTH_DELIMITED
        at = put_varint(at + 1, content)
        put_numbers(at, array)
        at += content
    wire.size = <size_t>(at - wire.data)
    return OK


cdef int too_long(const NpyArray* array, size_t most_bytes, Status* status) noexcept nogil:
    npy_refuse(status, array.name, "makes the request longer than ")
    status_add_int(status, <int64_t>most_bytes)
    status_add(status, " bytes")
    return INVALID_ARGUMENT


cdef size_t dims_size(const NpyArray* array) noexcept nogil:
    """Of a TensorShapeProto."""
    cdef size_t size = 0
    cdef int i
    for i in range(array.rank):
        size += 2 + (1 + varint_size(<uint64_t>array.dims[i]) if array.dims[i] else 0)
    return size


cdef char* put_dims(char* at, const NpyArray* array) noexcept nogil:
    cdef int i
    for i in range(array.rank):
        at[0] = 2 << 3 | LENGTH_DELIMITED  # dim
        if array.dims[i]:
            at[1] = <char>(1 + varint_size(<uint64_t>array.dims[i]))
            at[2] = 1 << 3 | VARINT  # size
            at = put_varint(at + 3, <uint64_t>array.dims[i])
        else:
            at[1] = 0
            at += 2
    return at


# ---- numbers ----------------------------------------------------------------------------------------

cdef int dims_that_count(const NpyArray* array, int64_t* dims) noexcept nogil:
    """Dims of 1 change nothing about the order, and many of them would cost time. The rank without."""
    cdef int rank = 0
    cdef int i
    for i in range(array.rank):
        if array.dims[i] != 1:
            dims[rank] = array.dims[i]
            rank += 1
    return rank


cdef void put_numbers(char* at, const NpyArray* array) noexcept nogil:
    """All elements, which may stand at any address, as may `at`."""
    cdef const char* data = array.data.data
    cdef int64_t dims[MAX_RANK]
    cdef int rank = dims_that_count(array, dims)
    if not array.fortran or rank < 2:
        memcpy(at, data, array.data.size)
    elif array.type.unit == 1:
        turn(at, <const uint8_t*>data, dims, rank)
    elif array.type.unit == 2:
        turn(at, <const uint16_t*>data, dims, rank)
    elif array.type.unit == 4:
        turn(at, <const uint32_t*>data, dims, rank)
    elif array.type.unit == 8:
        turn(at, <const uint64_t*>data, dims, rank)
    else:
        turn(at, <const Bytes16*>data, dims, rank)
    if array.type.kind == c"b":
        make_bools(<uint8_t*>at, array.data.size)
    elif array.big_endian:
        swap(at, array)


cdef void turn(char* target, const element* source, const int64_t* dims, int rank) noexcept nogil:
    """From Fortran's order, the first dim fastest, to C's, the last dim fastest.

    For each index of the dims between these two it is a transposition of a plane.
    """
    cdef int64_t index[MAX_RANK]
    cdef int64_t strides[MAX_RANK]      # in the source, in elements
    cdef int64_t planes = 1
    cdef int64_t last = dims[rank - 1]
    cdef int64_t offset = 0             # in the source
    cdef int64_t plane
    cdef int i
    strides[0] = 1
    for i in range(1, rank):
        index[i] = 0
        strides[i] = strides[i - 1] * dims[i - 1]
        if i < rank - 1:
            planes *= dims[i]
    for plane in range(planes):
        turn_plane(
            target + plane * last * <int64_t>sizeof(element), planes * last,
            <const element*>(<const char*>source + offset * <int64_t>sizeof(element)),
            strides[rank - 1], dims[0], last)
        for i in range(rank - 2, 0, -1):
            index[i] += 1
            offset += strides[i]
            if index[i] < dims[i]:
                break
            offset -= dims[i] * strides[i]
            index[i] = 0


cdef inline void turn_plane(
    char* target, int64_t target_stride, const element* source, int64_t source_stride, int64_t rows,
    int64_t columns
) noexcept nogil:
    """target[row, column] = source[column, row], tile by tile. Strides are in elements."""
    cdef int64_t unit = sizeof(element)
    cdef const char* start = <const char*>source
    cdef int64_t first_row = 0
    cdef int64_t first_column, row, column
    while first_row < rows:
        first_column = 0
        while first_column < columns:
            for row in range(first_row, min(first_row + TILE, rows)):
                for column in range(first_column, min(first_column + TILE, columns)):
                    # No assignment: nothing says that the elements are aligned.
                    memcpy(
                        target + (row * target_stride + column) * unit,
                        start + (row + column * source_stride) * unit, sizeof(element))
            first_column += TILE
        first_row += TILE


cdef void make_bools(uint8_t* flags, size_t size) noexcept nogil:
    """Whatever is not 0 is true to numpy; TensorFlow knows 0 and 1 alone."""
    cdef size_t i
    for i in range(size):
        flags[i] = flags[i] != 0


cdef void swap(char* at, const NpyArray* array) noexcept nogil:
    """Have all numbers little-endian, in place. A complex one is two."""
    cdef size_t unit = <size_t>(array.type.unit // 2 if array.type.kind == c"c" else array.type.unit)
    cdef size_t count = array.data.size // unit
    if array.type.kind == c"V":  # without an order
        return
    if unit == 2:
        swap_all(at, count, <uint16_t>0)
    elif unit == 4:
        swap_all(at, count, <uint32_t>0)
    elif unit == 8:
        swap_all(at, count, <uint64_t>0)


ctypedef fused word:
    uint16_t
    uint32_t
    uint64_t


cdef void swap_all(char* at, size_t count, word value) noexcept nogil:
    cdef size_t i
    for i in range(count):
        memcpy(&value, at + i * sizeof(word), sizeof(word))
        if word is uint16_t:
            value = swapped_2(value)
        elif word is uint32_t:
            value = swapped_4(value)
        else:
            value = swapped_8(value)
        memcpy(at + i * sizeof(word), &value, sizeof(word))


# ---- strings ----------------------------------------------------------------------------------------

# A walk over the elements in C's order.
cdef struct Walk:
    const char* at              # the element
    int rank                    # 0: they lie in this order
    int64_t[MAX_RANK] dims
    int64_t[MAX_RANK] index
    int64_t[MAX_RANK] strides   # in bytes


cdef void walk_begin(Walk* walk, const NpyArray* array) noexcept nogil:
    cdef int64_t stride = array.type.unit
    cdef int i
    walk.at = array.data.data
    walk.rank = 0
    if array.fortran:
        walk.rank = dims_that_count(array, walk.dims)
        for i in range(walk.rank):
            walk.index[i] = 0
            walk.strides[i] = stride
            stride *= walk.dims[i]


cdef void walk_on(Walk* walk, const NpyArray* array) noexcept nogil:
    cdef int i
    if walk.rank == 0:
        walk.at += array.type.unit
        return
    for i in range(walk.rank - 1, -1, -1):
        walk.index[i] += 1
        walk.at += walk.strides[i]
        if walk.index[i] < walk.dims[i]:
            return
        walk.at -= walk.strides[i] * walk.dims[i]
        walk.index[i] = 0


cdef inline uint32_t character_at(const char* at, bint big_endian) noexcept nogil:
    cdef uint32_t character
    memcpy(&character, at, 4)
    return swapped_4(character) if big_endian else character


cdef Bytes text_of(const char* at, const NpyArray* array) noexcept nogil:
    """An element without the zeros behind it; whole characters."""
    cdef size_t size = <size_t>array.type.unit
    if array.type.kind == c"U":
        while size and character_at(at + size - 4, False) == 0:
            size -= 4
    else:
        while size and at[size - 1] == 0:
            size -= 1
    return Bytes(at, size)


cdef int strings_size(const NpyArray* array, size_t* size, Status* status) noexcept nogil:
    """Bytes that put_strings writes. INVALID_ARGUMENT for what is no text."""
    cdef bint is_unicode = array.type.kind == c"U"
    cdef uint32_t character = 0
    cdef int64_t _i
    cdef Bytes text
    cdef size_t bytes
    cdef Walk walk
    size[0] = 0
    walk_begin(&walk, array)
    for _i in range(array.elements):
        text = text_of(walk.at, array)
        bytes = text.size
        if is_unicode and not utf8_size(text, array.big_endian, &bytes, &character):
            npy_refuse(status, array.name, "has a string with the number ")
            status_add_int(status, character)
            status_add(status, " in it, which is no character of Unicode")
            return INVALID_ARGUMENT
        size[0] += field_size(bytes)
        walk_on(&walk, array)
    return OK


cdef char* put_strings(char* at, const NpyArray* array) noexcept nogil:
    """All elements, each with its tag and length."""
    cdef bint is_unicode = array.type.kind == c"U"
    cdef uint32_t character
    cdef int64_t _i
    cdef Bytes text
    cdef size_t size
    cdef Walk walk
    walk_begin(&walk, array)
    for _i in range(array.elements):
        text = text_of(walk.at, array)
        at[0] = STRING_VAL << 3 | LENGTH_DELIMITED
        if is_unicode:
            utf8_size(text, array.big_endian, &size, &character)
            at = put_utf8(put_varint(at + 1, size), text, array.big_endian)
        else:
            at = put_bytes(at + 1, text)
        walk_on(&walk, array)
    return at


cdef bint utf8_size(Bytes text, bint big_endian, size_t* size, uint32_t* character) noexcept nogil:
    """Bytes that put_utf8 writes. False if `character` is none: a surrogate, or beyond the last."""
    cdef size_t i
    cdef uint32_t c
    size[0] = 0
    for i in range(0, text.size, 4):
        c = character_at(text.data + i, big_endian)
        if 0xD800 <= c < 0xE000 or c > LAST_CHARACTER:
            character[0] = c
            return False
        size[0] += 1 + (c >= 0x80) + (c >= 0x800) + (c >= 0x10000)
    return True


cdef char* put_utf8(char* at, Bytes text, bint big_endian) noexcept nogil:
    cdef size_t i
    cdef uint32_t c
    for i in range(0, text.size, 4):
        c = character_at(text.data + i, big_endian)
        if c < 0x80:
            at[0] = <char>c
            at += 1
        elif c < 0x800:
            at[0] = <char>(0xC0 | c >> 6)
            at[1] = <char>(0x80 | c & 0x3F)
            at += 2
        elif c < 0x10000:
            at[0] = <char>(0xE0 | c >> 12)
            at[1] = <char>(0x80 | c >> 6 & 0x3F)
            at[2] = <char>(0x80 | c & 0x3F)
            at += 3
        else:
            at[0] = <char>(0xF0 | c >> 18)
            at[1] = <char>(0x80 | c >> 12 & 0x3F)
            at[2] = <char>(0x80 | c >> 6 & 0x3F)
            at[3] = <char>(0x80 | c & 0x3F)
            at += 4
    return at
