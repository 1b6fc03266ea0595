# distutils: language = c++
"""The numbers of JSON texts: what _json_digits.h leaves over, lists of numbers, and a face for Python.

Printing follows WriteDecimal of TensorFlow Serving's util/json_tensor.cc: printf's "%g" if that
parses back to the same value, else "%.9g" for a float and "%.17g" for a double; ".0" behind a whole
number; NaN, Infinity and -Infinity as words.

Parsing is exact: the nearest value, ties to even, for a text of any length, in time linear in it.

Most numbers take the short ways of _json_digits.h. Others go to the C++ standard library:
std::to_chars (exact digits to any precision) and std::from_chars (correctly rounded).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT32_MAX, INT64_MAX, UINT64_MAX


cdef extern from *:
    """
    #include <charconv>
    #include <cmath>
    #include <cstring>
    #include <limits>

    /* The value of a number in JSON's grammar. 0, or 1 if it is too big or too small by far. */
    template <typename Real>
    static int json_from_chars(const char* at, const char* end, Real* value) noexcept {
        const auto parsed = std::from_chars(at, end, *value);
        return parsed.ec != std::errc();
    }

    /* Print as "%.<precision>g"; false if `value` is not what that parses to. */
    template <typename Real>
    static bool json_print(char** at, Real value, int precision) noexcept {
        char text[40];
        const auto done = std::to_chars(
            text, text + sizeof(text), value, std::chars_format::scientific, precision - 1);
        Real parsed = 0;
        std::from_chars(text, done.ptr, parsed);
        if (parsed != value)
            return false;
        /* d.dddde[+-]xx; what the digits leave of 16 are zeros */
        json_wide rest = 0;
        std::memcpy(&rest, text + 2, precision - 1);
        const json_wide digits = JSON_WIDE(JSON_ZEROS, JSON_ZEROS)
            & ~(json_wide)0 >> (128 - 8 * (precision - 1));
        int exponent = 0;
        const char* tail = text + precision + 2;  /* the exponent's sign */
        std::from_chars(tail + (*tail == '+'), done.ptr, exponent);
        *at = json_put_digits(*at, (unsigned)(text[0] - '0'), rest ^ digits, exponent, precision);
        return true;
    }

    template <typename Real>
    static char* json_put_rare(char* at, Real value, int digits) noexcept {
        if (std::isnan(value)) {
            std::memcpy(at, "NaN", 3);
            return at + 3;
        }
        if (std::signbit(value)) {
            *at++ = '-';
            value = -value;
        }
        if (std::isinf(value)) {
            std::memcpy(at, "Infinity", 8);
            return at + 8;
        }
        if (!json_print(&at, value, 6))
            json_print(&at, value, digits);
        return at;
    }

    /* The fewest digits that parse back to `value`, which is positive: into `digits`, which has
     * room for 17; how many there are. The first one counts 10^*exponent.
     */
    static int json_shortest_digits(double value, char* digits, int* exponent) noexcept {
        char text[40];
        const auto done = std::to_chars(
            text, text + sizeof(text), value, std::chars_format::scientific);
        const char* at = text;
        int size = 0;
        for (; *at != 'e'; at++) {
            if (*at != '.')
                digits[size++] = *at;
        }
        at += 1 + (at[1] == '+');
        std::from_chars(at, done.ptr, *exponent);
        return size;
    }
    """
    int json_from_chars(const char* at, const char* end, float* value) nogil
    int json_from_chars_double "json_from_chars"(const char* at, const char* end, double* value) nogil
    char* json_put_rare(char* at, float value, int digits) nogil
    char* json_put_rare_of_double "json_put_rare"(char* at, double value, int digits) nogil
    int json_shortest_digits(double value, char* digits, int* exponent) nogil
    bint is_nan "std::isnan"(double value) nogil
    bint is_infinite "std::isinf"(double value) nogil
    bint is_negative "std::signbit"(double value) nogil
    float FLOAT_INFINITY "std::numeric_limits<float>::infinity()"

cdef extern from "<cstring>" namespace "std" nogil:
    void* memset(void* target, int value, size_t size)


# ---- printing ----------------------------------------------------------------------------------------

cdef char* json_put_rare_float(char* at, float value) noexcept nogil:
    """json_put_float, for every float."""
    return json_put_rare(at, value, 9)


cdef char* json_put_rare_double(char* at, double value) noexcept nogil:
    """json_put_double, for every double."""
    return json_put_rare_of_double(at, value, 17)


cdef char* json_put_shortest(char* at, double value) noexcept nogil:
    """Print with as few digits as tell `value` from others, laid out as rapidjson's Writer does.

    That is 0.001 and 1e-7, 123456789012345680000.0 and 1e21, with neither plus nor zeros in exponents
    (rapidjson/internal/dtoa.h, Prettify). rapidjson takes its digits from Grisu2, which in one case of
    a thousand finds one more than needed. Needs JSON_NUMBER_BYTES of room.
    """
    cdef char digits[17]
    cdef int exponent
    cdef int size
    if is_nan(value):
        memcpy(at, b"NaN", 3)
        return at + 3
    if is_negative(value):
        at[0] = c"-"
        at += 1
        value = -value
    if is_infinite(value):
        memcpy(at, b"Infinity", 8)
        return at + 8
    size = json_shortest_digits(value, digits, &exponent)
    if 0 <= exponent < 21:
        return put_plain(at, digits, size, exponent + 1)
    if -7 < exponent < 0:
        memcpy(at, b"0.00000", 7)
        memcpy(at + 1 - exponent, digits, <size_t>size)
        return at + 1 - exponent + size
    at[0] = digits[0]
    at += 1
    if size > 1:
        at[0] = c"."
        memcpy(at + 1, digits + 1, <size_t>size - 1)
        at += size
    at[0] = c"e"
    return json_put_int64(at + 1, exponent)


cdef char* put_plain(char* at, const char* digits, int size, int whole) noexcept nogil:
    """`whole` digits before the point, and at least one behind it."""
    cdef int before = min(size, whole)
    cdef int behind = size - before
    memcpy(at, digits, <size_t>before)
    memset(at + before, c"0", <size_t>(whole - before))
    at += whole
    at[0] = c"."
    at[1] = c"0"
    memcpy(at + 1, digits + before, <size_t>behind)
    return at + 1 + max(behind, 1)


# ---- parsing -----------------------------------------------------------------------------------------

cdef inline bint is_digit(const char* at, const char* end) noexcept nogil:
    return at < end and b"0" <= at[0] <= c"9"


cdef inline const char* skip_digits(const char* at, const char* end) noexcept nogil:
    while is_digit(at, end):
        at += 1
    return at


cdef int read_grammar(const char* at, const char* end, const char** stopped, bint* is_integer) noexcept nogil:
    """Find the end of a number of any length, or where it lacks a digit. A JsonNumberResult."""
    if at < end and at[0] == c"-":
        at += 1
    stopped[0] = at
    is_integer[0] = True
    if not is_digit(at, end):
        return JSON_NO_NUMBER
    at = at + 1 if at[0] == c"0" else skip_digits(at, end)
    if at < end and at[0] == c".":
        is_integer[0] = False
        stopped[0] = at + 1
        if not is_digit(at + 1, end):
            return JSON_NO_FRACTION
        at = skip_digits(at + 1, end)
    if at < end and (at[0] == c"e" or at[0] == c"E"):
        is_integer[0] = False
        at += 1
        if at < end and (at[0] == c"+" or at[0] == c"-"):
            at += 1
        stopped[0] = at
        if not is_digit(at, end):
            return JSON_NO_EXPONENT
        at = skip_digits(at, end)
    stopped[0] = at
    return JSON_NUMBER_OK


cdef bint is_below_one(const char* at, const char* end) noexcept nogil:
    """Whether a number in JSON's grammar, that is not zero, is so because of where its first digit counts."""
    cdef int64_t position = 0       # of the first digit that is not 0: 1 for units, 0 for tenths
    cdef int64_t exponent = 0
    cdef const char* first
    cdef bint negative
    if at[0] == c"-":
        at += 1
    if at[0] == c"0":
        at += 1
        if at < end and at[0] == c".":
            at += 1
            first = at
            while at < end and at[0] == c"0":
                at += 1
            position = -(at - first)
            at = skip_digits(at, end)
    else:
        first = at
        at = skip_digits(at, end)
        position = at - first
        if at < end and at[0] == c".":
            at = skip_digits(at + 1, end)
    if at < end:  # at the "e"
        at += 1
        negative = at[0] == c"-"
        if negative or at[0] == c"+":
            at += 1
        while at < end:
            # Further digits do not matter: no text is long enough to make up for them.
            if exponent < INT64_MAX // 100:
                exponent = exponent * 10 + (at[0] - c"0")
            at += 1
        position += -exponent if negative else exponent
    return position <= 0


cdef inline double signed_zero(const char* at) noexcept nogil:
    return -0.0 if at[0] == c"-" else 0.0


cdef bint read_real(const char* at, const char* end, double* value) noexcept nogil:
    """The nearest double; False if there is none, the number is too big."""
    if json_from_chars_double(at, end, value) != 0:
        if not is_below_one(at, end):
            return False
        value[0] = signed_zero(at)
    return not is_infinite(value[0])


cdef bint read_integer(const char* at, const char* end, JsonNumber* number) noexcept nogil:
    """Set what an integer has; False if it is beyond 64 bits."""
    cdef uint64_t largest = <uint64_t>1 << 63 if number.negative else UINT64_MAX
    cdef uint64_t value = 0
    cdef uint64_t digit
    if number.negative:
        at += 1
    while at < end:
        digit = <uint64_t>(at[0] - c"0")
        if value > (largest - digit) // 10:
            return False
        value = value * 10 + digit
        at += 1
    number.magnitude = value
    number.real = -<double>value if number.negative and value else <double>value
    return True


cdef const char* json_get_rare_number(const char* at, const char* end, JsonNumber* number) noexcept nogil:
    """json_get_number, for every text."""
    number.result = read_grammar(at, end, &number.stopped, &number.is_integer)
    if number.result != JSON_NUMBER_OK:
        return NULL
    number.negative = at[0] == c"-"
    number.magnitude = 0
    if number.is_integer:
        number.is_integer = read_integer(at, number.stopped, number)
    if not number.is_integer and not read_real(at, number.stopped, &number.real):
        number.result = JSON_NUMBER_TOO_BIG
        number.stopped = at
        return NULL
    return number.stopped


cdef const char* json_get_rare_double(const char* at, const char* end, double* value) noexcept nogil:
    """json_get_double, for every text."""
    cdef JsonNumber number
    cdef const char* behind = json_get_rare_number(at, end, &number)
    value[0] = number.real if behind != NULL else 0
    return behind


cdef const char* json_get_rare_float(const char* at, const char* end, float* value) noexcept nogil:
    """json_get_float, for every text."""
    cdef JsonNumber number
    cdef const char* behind = json_get_rare_number(at, end, &number)
    value[0] = 0
    if behind == NULL:
        return NULL
    if json_from_chars(at, behind, value) != 0:
        if -1 < number.real < 1:
            value[0] = <float>signed_zero(at)
        else:
            value[0] = -FLOAT_INFINITY if number.negative else FLOAT_INFINITY
    elif number.is_integer and number.magnitude == 0:
        value[0] = 0
    return behind


# ---- lists -------------------------------------------------------------------------------------------

cdef inline const char* get_integer(
    const char* at, const char* end, uint64_t largest, int64_t* value
) noexcept nogil:
    """An integer down to -largest - 1; what is behind it, or NULL for all else."""
    cdef JsonDecimal decimal
    # What json_scan leaves over has more digits than any of these.
    cdef const char* behind = json_scan_until(at, end, &decimal)
    if behind == NULL or not decimal.is_integer or decimal.mantissa > largest + decimal.negative:
        return NULL
    value[0] = <int64_t>(0 - decimal.mantissa if decimal.negative else decimal.mantissa)
    return behind


ctypedef fused value_t:
    float
    double
    int32_t
    int64_t


cdef inline const char* get_value(const char* at, const char* end, value_t* value) noexcept nogil:
    cdef const char* behind
    cdef int64_t integer = 0
    if value_t is float:
        return json_get_float(at, end, value)
    elif value_t is double:
        return json_get_double(at, end, value)
    elif value_t is int32_t:
        behind = get_integer(at, end, INT32_MAX, &integer)
        if behind != NULL:
            value[0] = <int32_t>integer
        return behind
    else:
        return get_integer(at, end, INT64_MAX, value)


cdef inline const char* get_values(
    const char* at, const char* end, value_t* into, size_t most, size_t* got
) noexcept nogil:
    cdef const char* stopped = at
    cdef const char* behind
    cdef size_t count = 0
    while count < most:
        if end - at >= 1 and at[0] <= c" ":
            at = json_skip_space(at, end)
        behind = get_value(at, end, &into[count])
        if behind == NULL:
            break
        count += 1
        stopped = behind
        if end - behind >= 2 and behind[0] == c"," and behind[1] == c" ":
            at = behind + 2
            continue
        stopped = json_skip_space(behind, end)
        if stopped == end or stopped[0] != c",":
            break
        at = stopped + 1
    got[0] = count
    return stopped


cdef const char* json_get_floats(
    const char* at, const char* end, float* into, size_t most, size_t* got
) noexcept nogil:
    """Read up to `most` numbers of a flat list, from the first one on; *got is how many they were.

    Returns where it stopped: behind the last number taken and the space that follows it. So a closing
    bracket there ends the list, and a comma stands before what was not taken: a number too many, a word,
    a string, a list, or nothing that JSON has. Where it began if nothing was taken.
    """
    return get_values(at, end, into, most, got)


cdef const char* json_get_doubles(
    const char* at, const char* end, double* into, size_t most, size_t* got
) noexcept nogil:
    """As json_get_floats."""
    return get_values(at, end, into, most, got)


cdef const char* json_get_int32s(
    const char* at, const char* end, int32_t* into, size_t most, size_t* got
) noexcept nogil:
    """As json_get_floats; stops at a number with a point or an exponent, too, and at one beyond 32 bits."""
    return get_values(at, end, into, most, got)


cdef const char* json_get_int64s(
    const char* at, const char* end, int64_t* into, size_t most, size_t* got
) noexcept nogil:
    """As json_get_floats; stops at a number with a point or an exponent, too, and at one beyond int64_t."""
    return get_values(at, end, into, most, got)


# ---- a face for Python -------------------------------------------------------------------------------

ctypedef char* (*put_fn)(char* at, const char* value) noexcept nogil  # one value, as it lies in memory


cdef char* put_float_at(char* at, const char* value) noexcept nogil:
    return json_put_float(at, (<const float*>value)[0])


cdef char* put_double_at(char* at, const char* value) noexcept nogil:
    return json_put_double(at, (<const double*>value)[0])


cdef char* put_rare_float_at(char* at, const char* value) noexcept nogil:
    return json_put_rare_float(at, (<const float*>value)[0])


cdef char* put_rare_double_at(char* at, const char* value) noexcept nogil:
    return json_put_rare_double(at, (<const double*>value)[0])


cdef char* put_half_at(char* at, const char* value) noexcept nogil:
    return json_put_half(at, (<const uint16_t*>value)[0])


cdef char* put_bfloat16_at(char* at, const char* value) noexcept nogil:
    return json_put_bfloat16(at, (<const uint16_t*>value)[0])


cdef char* put_int64_at(char* at, const char* value) noexcept nogil:
    return json_put_int64(at, (<const int64_t*>value)[0])


cdef char* put_uint64_at(char* at, const char* value) noexcept nogil:
    return json_put_uint64(at, (<const uint64_t*>value)[0])


cdef char* put_shortest_at(char* at, const char* value) noexcept nogil:
    return json_put_shortest(at, (<const double*>value)[0])


cdef put_fn put_of(str kind, size_t* unit) except NULL:
    """What prints values of a kind, and the bytes of one."""
    unit[0] = 8
    if kind == "double":
        return put_double_at
    if kind == "rare_double":
        return put_rare_double_at
    if kind == "shortest":
        return put_shortest_at
    if kind == "int64":
        return put_int64_at
    if kind == "uint64":
        return put_uint64_at
    unit[0] = 2
    if kind == "half":
        return put_half_at
    if kind == "bfloat16":
        return put_bfloat16_at
    unit[0] = 4
    if kind == "float":
        return put_float_at
    if kind == "rare_float":
        return put_rare_float_at
    raise ValueError(kind)


def print_numbers(kind: str, values: bytes) -> bytes:
    """The texts of values as they lie in memory, with a comma behind each.

    `kind` is float, double, half, bfloat16, int64, uint64, or shortest for doubles; rare_float and
    rare_double are printed by the C++ standard library alone, which says the same.
    """
    cdef size_t unit = 0
    cdef put_fn put = put_of(kind, &unit)
    cdef Py_ssize_t count = <Py_ssize_t>(len(values) // unit)
    cdef Py_ssize_t longest = 27 if unit == 8 else 17  # with a comma: -1.2345678901234567e-308, or 9 digits
    cdef bytes text = PyBytes_FromStringAndSize(NULL, count * longest + JSON_NUMBER_BYTES)
    cdef const char* value = PyBytes_AS_STRING(values)
    cdef char* start = PyBytes_AS_STRING(text)
    cdef char* at = start
    cdef Py_ssize_t _i
    with nogil:
        for _i in range(count):
            at = put(at, value)
            at[0] = c","
            at += 1
            value += unit
    return text[:at - start]


def parse_number(text: bytes) -> tuple[int | float | None, int, int]:
    """The number that `text` begins with, or None; where reading stopped; a JsonNumberResult."""
    cdef JsonNumber number
    cdef const char* start = PyBytes_AS_STRING(text)
    cdef object value = None
    if json_get_number(start, start + len(text), &number) != NULL:
        value = number.real
        if number.is_integer:
            value = -<object>number.magnitude if number.negative else number.magnitude
    return value, number.stopped - start, number.result


def parse_numbers(kind: str, text: bytes, most: int) -> tuple[bytes, int]:
    """The memory of up to `most` numbers of a flat list without its brackets, and where reading stopped.

    `kind` is float, double, int32 or int64.
    """
    cdef size_t room = most
    cdef size_t got = 0
    cdef size_t unit = 4 if kind in ("float", "int32") else 8
    cdef bytes memory = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(room * unit))
    cdef void* into = PyBytes_AS_STRING(memory)
    cdef const char* start = PyBytes_AS_STRING(text)
    cdef const char* end = start + len(text)
    cdef const char* stopped
    if kind == "float":
        stopped = json_get_floats(start, end, <float*>into, room, &got)
    elif kind == "double":
        stopped = json_get_doubles(start, end, <double*>into, room, &got)
    elif kind == "int32":
        stopped = json_get_int32s(start, end, <int32_t*>into, room, &got)
    elif kind == "int64":
        stopped = json_get_int64s(start, end, <int64_t*>into, room, &got)
    else:
        raise ValueError(kind)
    return memory[:got * unit], stopped - start
