"""numpy's .npy: what its header says, and headers for arrays of ours. No GIL.

A file is a magic string, two bytes of version, the length of the header in 2 or 4 bytes, the
header, and the elements. The header is a Python dict as numpy prints it:

    {'descr': '<f4', 'fortran_order': False, 'shape': (1, 224, 224, 3), }

It is read by a tokenizer of its own, never evaluated, and takes what numpy writes, in any order
and with any quotes and white space: three keys, each once. Elements of Python objects and of
several fields are refused. Elements that are not all there, or more, are refused too.

An array has to have the dtype of the input that it is for. Nothing is converted: numpy's default
is float64, and who sends that for a float32 input is told what to call.
"""

from libc.stdint cimport INT64_MAX, uint8_t
from libc.string cimport memcmp, strlen

from tfsrv._buffer cimport buffer_append, buffer_append_int, buffer_append_text, bytes_equal
from tfsrv._status cimport (
    INVALID_ARGUMENT,
    INVALID_INPUT,
    OK,
    status_add,
    status_add_bytes,
    status_add_int,
    status_set,
)

cdef enum:
    MAGIC_BYTES = 6
    VERSION_1_START = 10    # of the header in a file of version 1.0
    VERSION_2_START = 12    # in later ones
    LONGEST_HEADER = 10_000     # bytes; numpy refuses longer ones too
    LONGEST_NUMBER = 18     # digits that are sure to fit into 64 bits
    ALIGNMENT = 64          # of the first element within a file

# What numpy calls TensorFlow's dtypes. The kind is 0 where it has nothing of the kind; S is for
# strings. Types of ml_dtypes are V to numpy's files; quantized integers are their integers.
cdef extern from *:
    """
    enum { TFSRV_NPY_DTYPES = 29 };  /* up to DT_FLOAT8_E5M2FNUZ */
    static const struct { char kind; char unit; const char* name; } tfsrv_npy[TFSRV_NPY_DTYPES] = {
        {0, 0, ""},
        {'f', 4, "float32"}, {'f', 8, "float64"}, {'i', 4, "int32"}, {'u', 1, "uint8"},
        {'i', 2, "int16"}, {'i', 1, "int8"}, {'S', 0, "strings"}, {'c', 8, "complex64"},
        {'i', 8, "int64"}, {'b', 1, "bool"}, {'i', 1, "int8"}, {'u', 1, "uint8"},
        {'i', 4, "int32"}, {'V', 2, "bfloat16"}, {'i', 2, "int16"}, {'u', 2, "uint16"},
        {'u', 2, "uint16"}, {'c', 16, "complex128"}, {'f', 2, "float16"}, {0, 0, ""}, {0, 0, ""},
        {'u', 4, "uint32"}, {'u', 8, "uint64"},
        {'V', 1, "float8_e5m2"}, {'V', 1, "float8_e4m3fn"}, {'V', 1, "float8_e4m3fnuz"},
        {'V', 1, "float8_e4m3b11fnuz"}, {'V', 1, "float8_e5m2fnuz"},
    };
    """
    cdef struct NpyDtype "tfsrv_npy[0]":
        char kind
        char unit
        const char* name
    enum:
        TFSRV_NPY_DTYPES
    const NpyDtype* tfsrv_npy

cdef enum:
    FLOAT8_E5M2 = 24        # ml_dtypes writes it as f1, the others of one byte as V1


# ---- reading ----------------------------------------------------------------------------------------

# Where the tokenizer stands in a header.
cdef struct Scanner:
    const char* at
    const char* end


cdef int npy_refuse(Status* status, Bytes name, const char* text) noexcept nogil:
    """INVALID_ARGUMENT: The npy array "name" `text`. Returns the code."""
    status_set(status, INVALID_ARGUMENT, "The npy array ")
    if name.size:
        status_add(status, "\"")
        status_add_bytes(status, name)
        status_add(status, "\" ")
    status_add(status, text)
    return INVALID_ARGUMENT


cdef int npy_read(Bytes file, Bytes name, NpyArray* array, Status* status) noexcept nogil:
    """Have `array` say what `file` holds. OK, or a code with its text in `status`."""
    cdef Scanner header
    cdef int code
    array.name = name
    code = find_header(file, name, &header, status)
    if code != OK:
        return code
    array.data = Bytes(header.end, file.size - <size_t>(header.end - file.data))
    code = read_header(&header, array, status)
    return code if code != OK else check_size(array, status)


cdef int find_header(Bytes file, Bytes name, Scanner* header, Status* status) noexcept nogil:
    cdef const uint8_t* data = <const uint8_t*>file.data
    cdef size_t start = VERSION_1_START
    cdef size_t size
    if file.size < MAGIC_BYTES or memcmp(data, b"\x93NUMPY", MAGIC_BYTES) != 0:
        return npy_refuse(status, name, "is not in numpy's npy format")
    if file.size < VERSION_2_START:
        return npy_refuse(status, name, "is cut off in its header")
    if data[7] != 0 or not 1 <= data[6] <= 3:
        npy_refuse(status, name, "has version ")
        status_add_int(status, data[6])
        status_add(status, ".")
        status_add_int(status, data[7])
        status_add(status, " of the format; 1.0, 2.0 and 3.0 are known")
        return INVALID_ARGUMENT
    size = data[8] | <size_t>data[9] << 8
    if data[6] > 1:
        size |= <size_t>data[10] << 16 | <size_t>data[11] << 24
        start = VERSION_2_START
    if size > LONGEST_HEADER:
        return npy_refuse(status, name, "has a header of more than 10000 bytes")
    if size > file.size - start:
        return npy_refuse(status, name, "is cut off in its header")
    header.at = file.data + start
    header.end = header.at + size
    return OK


cdef int read_header(Scanner* header, NpyArray* array, Status* status) noexcept nogil:
    """The dict, each of its three keys once."""
    cdef bint has_descr = False
    cdef bint has_order = False
    cdef bint has_shape = False
    cdef Bytes key
    cdef int code
    if not take(header, c"{"):
        return bad_header(array, status)
    while not take(header, c"}"):
        if not take_string(header, &key) or not take(header, c":"):
            return bad_header(array, status)
        if is_text(key, "descr") and not has_descr:
            has_descr = True
            code = read_descr(header, array, status)
        elif is_text(key, "fortran_order") and not has_order:
            has_order = True
            code = read_order(header, array, status)
        elif is_text(key, "shape") and not has_shape:
            has_shape = True
            code = read_shape(header, array, status)
        else:
            return bad_header(array, status)
        if code != OK:
            return code
        if not take(header, c","):
            if take(header, c"}"):
                break
            return bad_header(array, status)
    skip_space(header)
    if header.at != header.end or not (has_descr and has_order and has_shape):
        return bad_header(array, status)
    return OK


cdef int bad_header(const NpyArray* array, Status* status) noexcept nogil:
    return npy_refuse(
        status, array.name,
        "has a header that is not {'descr': ..., 'fortran_order': ..., 'shape': ...}")


cdef void skip_space(Scanner* header) noexcept nogil:
    while header.at < header.end and header.at[0] in (c" ", c"\t", c"\n", c"\r", c"\f"):
        header.at += 1


cdef bint take(Scanner* header, char sign) noexcept nogil:
    """Step over white space and `sign`, if that comes."""
    skip_space(header)
    if header.at == header.end or header.at[0] != sign:
        return False
    header.at += 1
    return True


cdef bint take_string(Scanner* header, Bytes* text) noexcept nogil:
    """A string in either kind of quotes. None that is needed here has an escape."""
    cdef char quote = c"'"
    cdef const char* start
    if not take(header, quote):
        quote = c"\""
        if not take(header, quote):
            return False
    start = header.at
    while header.at < header.end and header.at[0] != quote:
        if header.at[0] == c"\\" or header.at[0] == c"\n":
            return False
        header.at += 1
    text[0] = Bytes(start, <size_t>(header.at - start))
    return take(header, quote)


cdef bint take_word(Scanner* header, const char* word) noexcept nogil:
    cdef size_t size = strlen(word)
    skip_space(header)
    if <size_t>(header.end - header.at) < size or memcmp(header.at, word, size) != 0:
        return False
    header.at += size
    return True


cdef bint take_digits(Scanner* header, int64_t* number) noexcept nogil:
    """A number in decimal that fits into LONGEST_NUMBER digits; no zero before others."""
    cdef const char* start = header.at
    number[0] = 0
    while header.at < header.end and c"0" <= header.at[0] <= c"9":
        if header.at - start == LONGEST_NUMBER:
            return False
        number[0] = number[0] * 10 + (header.at[0] - c"0")
        header.at += 1
    if header.at == start:
        return False
    return header.at - start == 1 or start[0] != c"0"


cdef bint is_text(Bytes text, const char* expected) noexcept nogil:
    return bytes_equal(text, Bytes(expected, strlen(expected)))


cdef int read_order(Scanner* header, NpyArray* array, Status* status) noexcept nogil:
    array.fortran = take_word(header, "True")
    if not array.fortran and not take_word(header, "False"):
        return npy_refuse(status, array.name, "has a fortran_order that is not True or False")
    return OK


cdef int read_shape(Scanner* header, NpyArray* array, Status* status) noexcept nogil:
    """A tuple of numbers, which needs a comma if it is one."""
    cdef bint after_comma = True
    array.rank = 0
    if not take(header, c"("):
        return bad_shape(array, status)
    while not take(header, c")"):
        skip_space(header)
        if not after_comma:
            return bad_shape(array, status)
        if array.rank == MAX_RANK:
            return npy_refuse(status, array.name, "has more than 254 dimensions")
        if not take_digits(header, &array.dims[array.rank]):
            return bad_shape(array, status)
        array.rank += 1
        after_comma = take(header, c",")
    if array.rank == 1 and not after_comma:
        return bad_shape(array, status)
    return OK


cdef int bad_shape(const NpyArray* array, Status* status) noexcept nogil:
    return npy_refuse(
        status, array.name, "has a shape that is not a tuple of sizes, like (1, 224, 224, 3)")


cdef int read_descr(Scanner* header, NpyArray* array, Status* status) noexcept nogil:
    """numpy's name of the type: byte order, a letter, and bytes (of U characters)."""
    cdef Bytes descr
    cdef Scanner at
    cdef char order = c"="
    skip_space(header)
    if header.at < header.end and header.at[0] in (c"[", c"("):
        return npy_refuse(
            status, array.name, "has elements of several fields: send an array for each field")
    if not take_string(header, &descr):
        return bad_header(array, status)
    at.at = descr.data
    at.end = descr.data + descr.size
    if at.at < at.end and at.at[0] in (c"<", c">", c"|", c"="):
        order = at.at[0]
        at.at += 1
    if at.at == at.end:
        return bad_descr(array, descr, status)
    array.type.kind = at.at[0]
    at.at += 1
    if array.type.kind == c"O":
        return npy_refuse(
            status, array.name,
            "holds Python objects, which are not read: send numbers, or strings by"
            " .astype(\"S\") or .astype(\"U\")")
    if not take_digits(&at, &array.type.unit) or at.at != at.end or not is_type(&array.type):
        return bad_descr(array, descr, status)
    array.big_endian = order == c">"
    if array.type.kind == c"U":
        array.type.unit *= 4
    return OK


cdef bint is_type(const NpyType* type) noexcept nogil:
    """Whether numpy has such a type, and we can do with it."""
    if type.kind in (c"i", c"u"):
        return type.unit in (1, 2, 4, 8)
    if type.kind == c"f":
        return type.unit in (1, 2, 4, 8)
    if type.kind == c"c":
        return type.unit in (8, 16)
    if type.kind == c"b":
        return type.unit == 1
    if type.kind == c"V":
        return type.unit in (1, 2)
    return type.kind in (c"S", c"U") and type.unit <= INT64_MAX // 4


cdef int bad_descr(const NpyArray* array, Bytes descr, Status* status) noexcept nogil:
    npy_refuse(status, array.name, "has the dtype \"")
    status_add_bytes(status, descr)
    status_add(status, "\", which no input of a model can have")
    return INVALID_ARGUMENT


cdef int check_size(NpyArray* array, Status* status) noexcept nogil:
    """Count the elements, and see that they are what is there."""
    cdef int64_t most = INT64_MAX // max(array.type.unit, 1)
    cdef int64_t elements = 1  # of the dims that are not 0
    cdef bint is_empty = False
    cdef int64_t expected
    cdef int i
    for i in range(array.rank):
        if array.dims[i] == 0:
            is_empty = True
        elif array.dims[i] > most // elements:
            return npy_refuse(status, array.name, "has a shape of more elements than can be")
        else:
            elements *= array.dims[i]
    array.elements = 0 if is_empty else elements
    expected = array.elements * array.type.unit
    if <size_t>expected != array.data.size:
        npy_refuse(status, array.name, "has ")
        status_add_int(status, <int64_t>array.data.size)
        status_add(status, " bytes of elements where its header says ")
        status_add_int(status, expected)
        return INVALID_ARGUMENT
    return OK


cdef int npy_check_type(const NpyArray* array, int dtype, Status* status) noexcept nogil:
    """OK if `array` has the type of an input of `dtype`; the text says what to call if not.

    The name of the array is the input's.
    """
    cdef NpyType type
    if npy_type_of(dtype, 0, &type):
        if type.kind == c"S" and array.type.kind in (c"S", c"U"):
            return OK
        if type.kind == array.type.kind and type.unit == array.type.unit:
            return OK
        if dtype == FLOAT8_E5M2 and array.type.kind == c"f" and array.type.unit == 1:
            return OK
    npy_refuse(status, array.name, "is of ")
    add_type_name(array.type, status)
    if type.kind == 0:
        status_add(status, ", and its input is of a type that numpy does not have")
    else:
        status_add(status, ", but its input takes ")
        status_add(status, tfsrv_npy[dtype].name)
        status_add(status, ": use .astype(")
        add_type_call(type, dtype, status)
        status_add(status, ")")
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


cdef void add_type_name(NpyType type, Status* status) noexcept nogil:
    """numpy's name: float64, strings for S and U."""
    if type.kind in (c"S", c"U"):
        status_add(status, "strings")
        return
    if type.kind == c"b":
        status_add(status, "bool")
        return
    if type.kind == c"i":
        status_add(status, "int")
    elif type.kind == c"u":
        status_add(status, "uint")
    elif type.kind == c"f":
        status_add(status, "float")
    elif type.kind == c"c":
        status_add(status, "complex")
    else:
        status_add(status, "void")
    status_add_int(status, type.unit * 8)


cdef void add_type_call(NpyType type, int dtype, Status* status) noexcept nogil:
    """What stands in numpy's astype() for the dtype."""
    if type.kind == c"V":
        status_add(status, "ml_dtypes.")
        status_add(status, tfsrv_npy[dtype].name)
        return
    status_add(status, "\"")
    if type.kind == c"S":
        status_add(status, "S")
    else:
        status_add(status, tfsrv_npy[dtype].name)
    status_add(status, "\"")


# ---- writing ----------------------------------------------------------------------------------------

cdef bint npy_type_of(int dtype, int64_t longest, NpyType* type) noexcept nogil:
    """numpy's type for a dtype, of strings with room for `longest` bytes each.

    False, and a kind of 0, if there is none.
    """
    type.kind = 0
    type.unit = 0
    if not 0 <= dtype < TFSRV_NPY_DTYPES:
        return False
    type.kind = tfsrv_npy[dtype].kind
    type.unit = longest if type.kind == c"S" else tfsrv_npy[dtype].unit
    return type.kind != 0


cdef int npy_put_header(Buffer* into, NpyType type, const int64_t* dims, int rank) noexcept nogil:
    """Append the beginning of a file of version 1.0, up to the first element. 0, or -1 without memory."""
    cdef size_t start = into.size
    cdef size_t size
    cdef int failed = 0
    cdef int i
    cdef char descr[2]
    descr[0] = c"|" if type.unit == 1 or type.kind == c"S" else c"<"
    descr[1] = type.kind
    failed |= buffer_append(into, b"\x93NUMPY\x01\x00\x00\x00", VERSION_1_START)
    failed |= buffer_append_text(into, "{'descr': '")
    failed |= buffer_append(into, descr, 2)
    failed |= buffer_append_int(into, type.unit)
    failed |= buffer_append_text(into, "', 'fortran_order': False, 'shape': (")
    for i in range(rank):
        failed |= buffer_append_int(into, dims[i])
        if i == 0 or i < rank - 1:  # one of them alone has a comma too
            failed |= buffer_append_text(into, ", " if i < rank - 1 else ",")
    failed |= buffer_append_text(into, "), }")
    while failed == 0 and (into.size - start + 1) % ALIGNMENT != 0:
        failed = buffer_append(into, b" ", 1)
    failed |= buffer_append(into, b"\n", 1)
    if failed:
        return -1
    size = into.size - start - VERSION_1_START
    into.data[start + 8] = <char>(size & 0xFF)
    into.data[start + 9] = <char>(size >> 8)
    return 0
