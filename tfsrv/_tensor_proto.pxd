"""What a TensorProto can carry: by dtype, the size of an element and the field of its values.

The field numbers are those of tensorflow/core/framework/tensor.proto. Resources and variants
have none: no client can send one. The integers of 4 and 2 bits and the floats of 4 have none
either.
"""

from libc.stdint cimport uint32_t, uint64_t

from tfsrv._buffer cimport Bytes
from tfsrv._wire_format cimport (
    FIXED32,
    FIXED64,
    LENGTH_DELIMITED,
    VARINT,
    Cursor,
    count_varints,
    read_bytes,
    read_tag,
    read_varint,
    skip_value,
)


cdef extern from *:
    """
    enum { TFSRV_DTYPES = 29 };  /* up to DT_FLOAT8_E5M2FNUZ */
    static const unsigned char tfsrv_dtype_bytes[TFSRV_DTYPES] = {
        0,  4, 8, 4, 1, 2, 1,         /* -, float, double, int32, uint8, int16, int8 */
        24, 8, 8, 1,                  /* string (a TString), complex64, int64, bool */
        1,  1, 4, 2, 2, 2, 2,         /* qint8, quint8, qint32, bfloat16, qint16, quint16, uint16 */
        16, 2, 0, 0, 4, 8,            /* complex128, half, resource, variant, uint32, uint64 */
        1,  1, 1, 1, 1,               /* float8: e5m2, e4m3fn, e4m3fnuz, e4m3b11fnuz, e5m2fnuz */
    };
    static const unsigned char tfsrv_dtype_field[TFSRV_DTYPES] = {
        0,  5,  6, 7, 7, 7, 7,
        8,  9, 10, 11,
        7,  7,  7, 13, 7, 7, 7,
        12, 13, 0, 0, 16, 17,
        18, 18, 18, 18, 18,
    };
    """
    enum:
        TFSRV_DTYPES
    const unsigned char* tfsrv_dtype_bytes
    const unsigned char* tfsrv_dtype_field


cdef enum ValueField:
    FLOAT_VAL = 5
    DOUBLE_VAL = 6
    INT_VAL = 7
    STRING_VAL = 8
    SCOMPLEX_VAL = 9
    INT64_VAL = 10
    BOOL_VAL = 11
    DCOMPLEX_VAL = 12
    HALF_VAL = 13
    RESOURCE_HANDLE_VAL = 14
    VARIANT_VAL = 15
    UINT32_VAL = 16
    UINT64_VAL = 17
    FLOAT8_VAL = 18


cdef enum:
    MAX_RANK = 254          # of TensorFlow's TensorShape


cdef inline size_t dtype_bytes(int dtype) noexcept nogil:
    """Bytes of one element in memory; 0 if a TensorProto cannot carry the dtype."""
    return tfsrv_dtype_bytes[dtype] if 0 <= dtype < TFSRV_DTYPES else 0


cdef inline int dtype_field(int dtype) noexcept nogil:
    """The ValueField of a dtype; 0 if a TensorProto cannot carry it."""
    return tfsrv_dtype_field[dtype] if 0 <= dtype < TFSRV_DTYPES else 0


cdef inline int value_field(uint32_t tag) noexcept nogil:
    """The ValueField that a tag of a TensorProto stands for, in a wire type that it may have.

    0 for all other tags. A repeated number may be packed or not, whatever its .proto says.
    """
    cdef int wire_type = tag & 7
    cdef uint32_t field = tag >> 3
    if field == FLOAT_VAL or field == SCOMPLEX_VAL:
        return field if wire_type == LENGTH_DELIMITED or wire_type == FIXED32 else 0
    if field == DOUBLE_VAL or field == DCOMPLEX_VAL:
        return field if wire_type == LENGTH_DELIMITED or wire_type == FIXED64 else 0
    if field == STRING_VAL or field == FLOAT8_VAL:
        return field if wire_type == LENGTH_DELIMITED else 0
    if (field == INT_VAL or field == INT64_VAL or field == BOOL_VAL or field == HALF_VAL
            or field == UINT32_VAL or field == UINT64_VAL):
        return field if wire_type == LENGTH_DELIMITED or wire_type == VARINT else 0
    return 0


cdef inline Cursor read_values_of(
    int field, Cursor at, Cursor end, uint32_t tag, Bytes* part, size_t* count
) noexcept nogil:
    """The values that follow a tag with a value_field: as they would stand packed, and how many.

    NULL when they are not valid. Contents of packed numbers are checked here, and only here.
    """
    cdef uint64_t value
    cdef size_t unit
    if tag & 7 == LENGTH_DELIMITED:
        at = read_bytes(at, end, part)
        if at == NULL:
            return NULL
        if field == STRING_VAL:
            count[0] = 1
        elif field == FLOAT8_VAL:
            count[0] = part.size
        elif field in (FLOAT_VAL, SCOMPLEX_VAL, DOUBLE_VAL, DCOMPLEX_VAL):
            unit = 4 if field == FLOAT_VAL or field == SCOMPLEX_VAL else 8
            count[0] = part.size // unit
            if part.size % unit:
                return NULL
        elif not count_varints(part[0], count):
            return NULL
        return at
    part.data = <const char*>at
    count[0] = 1
    if tag & 7 == VARINT:
        at = read_varint(at, end, &value)
    else:
        at = skip_value(at, end, tag)
    if at != NULL:
        part.size = <const char*>at - part.data
    return at


cdef inline bint next_values(
    int field, Cursor* at, Cursor end, Bytes* part, size_t* count
) noexcept nogil:
    """Find the next values of `field` in a TensorProto; False if there are no more."""
    cdef uint32_t tag
    while at[0] != NULL and at[0] < end:
        at[0] = read_tag(at[0], end, &tag)
        if at[0] == NULL:
            return False
        if value_field(tag) == field:
            at[0] = read_values_of(field, at[0], end, tag, part, count)
            return at[0] != NULL
        at[0] = skip_value(at[0], end, tag)
    return False
