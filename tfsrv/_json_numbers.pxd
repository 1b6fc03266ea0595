"""Numbers of JSON texts: printed as TensorFlow Serving does, parsed to the nearest value. No GIL."""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from "_json_digits.h" nogil:
    ctypedef struct JsonDecimal:
        uint64_t mantissa
        int exponent
        bint negative
        bint is_integer     # there is neither a point nor an exponent

    # Room that printing one number needs: more than any text, as whole words are stored.
    enum: JSON_NUMBER_BYTES
    enum: JSON_SCAN_BYTES

    char* json_put_int64(char* at, int64_t value)
    char* json_put_uint64(char* at, uint64_t value)
    char* json_put_usual_float(char* at, float value)
    char* json_put_usual_double(char* at, double value)
    const char* json_scan_until(const char* at, const char* end, JsonDecimal* number)
    bint json_to_float(const JsonDecimal* number, float* value)
    bint json_to_double(const JsonDecimal* number, double* value)


cdef enum JsonNumberResult:
    JSON_NUMBER_OK = 0
    JSON_NO_NUMBER = 1          # no digit where a number's first has to be
    JSON_NO_FRACTION = 2        # no digit behind the point
    JSON_NO_EXPONENT = 3        # no digit behind the "e" and its sign
    JSON_NUMBER_TOO_BIG = 4     # for a double


cdef struct JsonNumber:
    int result              # a JsonNumberResult; what follows holds for JSON_NUMBER_OK only
    const char* stopped     # behind the number, or where a digit is missing, or where it begins if too big
    bint negative           # there is a minus
    bint is_integer         # neither point nor exponent, and within int64_t or uint64_t
    uint64_t magnitude      # of an integer, without its sign
    double real             # the nearest double, of integers too; the integer -0 is 0

cdef char* json_put_rare_float(char* at, float value) noexcept nogil
cdef char* json_put_rare_double(char* at, double value) noexcept nogil
cdef char* json_put_shortest(char* at, double value) noexcept nogil
cdef const char* json_get_rare_number(const char* at, const char* end, JsonNumber* number) noexcept nogil
cdef const char* json_get_rare_float(const char* at, const char* end, float* value) noexcept nogil
cdef const char* json_get_rare_double(const char* at, const char* end, double* value) noexcept nogil
cdef const char* json_get_floats(
    const char* at, const char* end, float* into, size_t most, size_t* got) noexcept nogil
cdef const char* json_get_doubles(
    const char* at, const char* end, double* into, size_t most, size_t* got) noexcept nogil
cdef const char* json_get_int32s(
    const char* at, const char* end, int32_t* into, size_t most, size_t* got) noexcept nogil
cdef const char* json_get_int64s(
    const char* at, const char* end, int64_t* into, size_t most, size_t* got) noexcept nogil


cdef inline char* json_put_float(char* at, float value) noexcept nogil:
    """Print into JSON_NUMBER_BYTES of room; what is behind the text."""
    cdef char* behind = json_put_usual_float(at, value)
    return behind if behind != NULL else json_put_rare_float(at, value)


cdef inline char* json_put_double(char* at, double value) noexcept nogil:
    """Print into JSON_NUMBER_BYTES of room; what is behind the text."""
    cdef char* behind = json_put_usual_double(at, value)
    return behind if behind != NULL else json_put_rare_double(at, value)


cdef inline char* json_put_half(char* at, uint16_t bits) noexcept nogil:
    """An IEEE half, printed as the float that it is: whoever reads floats gets its exact value."""
    return json_put_float(at, half_to_float(bits))


cdef inline char* json_put_bfloat16(char* at, uint16_t bits) noexcept nogil:
    """A bfloat16, printed as the float that it is."""
    return json_put_float(at, float_of_bits(<uint32_t>bits << 16))


cdef inline float float_of_bits(uint32_t bits) noexcept nogil:
    cdef float value
    memcpy(&value, &bits, 4)
    return value


cdef inline float half_to_float(uint16_t half) noexcept nogil:
    """Exact: every half is a float."""
    cdef uint32_t sign = <uint32_t>(half & 0x8000) << 16
    cdef uint32_t exponent = half >> 10 & 0x1f
    cdef uint32_t mantissa = half & 0x3ff
    cdef float small
    if exponent == 0:  # zero, or so many times 2^-24
        small = <float>mantissa * <float>5.9604644775390625e-8
        return -small if sign else small
    if exponent == 0x1f:  # infinity or NaN
        return float_of_bits(sign | 0x7f800000 | mantissa << 13)
    return float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13)


cdef inline const char* json_get_number(
    const char* at, const char* end, JsonNumber* number
) noexcept nogil:
    """The number that begins at `at`, in JSON's grammar; what is behind it, or NULL if `result` says so.

    What follows a number is the caller's to check: of "01" this reads the 0.
    """
    cdef JsonDecimal decimal
    cdef const char* behind = json_scan_until(at, end, &decimal)
    if behind == NULL:
        return json_get_rare_number(at, end, number)
    number.is_integer = (
        decimal.is_integer and not (decimal.negative and decimal.mantissa > <uint64_t>1 << 63))
    if not json_to_double(&decimal, &number.real):
        if not decimal.is_integer:
            return json_get_rare_number(at, end, number)
        number.real = <double>decimal.mantissa
        if decimal.negative:
            number.real = -number.real
    number.result = JSON_NUMBER_OK
    number.stopped = behind
    number.negative = decimal.negative
    number.magnitude = decimal.mantissa
    return behind


cdef inline const char* json_get_float(const char* at, const char* end, float* value) noexcept nogil:
    """The float nearest to the number that begins at `at`; what is behind it.

    Rounded once, from the text. Infinity if it is too big for a float, NULL if it is so for a double,
    or no number: json_get_number tells which.
    """
    cdef JsonDecimal decimal
    cdef const char* behind = json_scan_until(at, end, &decimal)
    if behind != NULL and json_to_float(&decimal, value):
        return behind
    return json_get_rare_float(at, end, value)


cdef inline const char* json_get_double(const char* at, const char* end, double* value) noexcept nogil:
    """The double nearest to the number that begins at `at`; what is behind it, NULL as json_get_float."""
    cdef JsonDecimal decimal
    cdef const char* behind = json_scan_until(at, end, &decimal)
    if behind != NULL and json_to_double(&decimal, value):
        return behind
    return json_get_rare_double(at, end, value)


cdef inline const char* json_skip_space(const char* at, const char* end) noexcept nogil:
    while at < end and (at[0] == c" " or at[0] == c"\n" or at[0] == c"\r" or at[0] == c"\t"):
        at += 1
    return at
