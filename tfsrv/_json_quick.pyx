"""Predict bodies as most clients write them, decoded in one pass: numbers go straight where they are read.

    {"signature_name": "...", "instances": [[1.0, 2.0], [3.0, 4.0]]}
    {"instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}]}
    {"inputs": {"a": [[1, 2], [4, 5]], "b": [3, 6]}}

That is: one or no signature_name first, then the values, and no other key; nested lists of numbers, none of
them empty; names without escapes. Whatever else a body is, or is wrong with it, _json_document and
_json_predict_request find out: they read all bodies, and those that are read here in the same way.

`read_quick` is the reader's face for Python.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t
from libc.stdlib cimport calloc, free

from tfsrv._buffer cimport buffer_append, buffer_free, buffer_init, buffer_reserve, bytes_equal
from tfsrv._json_numbers cimport (
    json_get_doubles,
    json_get_floats,
    json_get_int32s,
    json_get_int64s,
)
from tfsrv._model_spec cimport request_put_spec
from tfsrv._predict_wire cimport (
    InputMark,
    request_begin_content,
    request_begin_input,
    request_end_content,
    request_end_input,
)
from tfsrv._tf cimport (
    DT_DOUBLE,
    DT_FLOAT,
    DT_INT16,
    DT_INT32,
    DT_INT64,
    DT_INT8,
    DT_UINT16,
    DT_UINT8,
)
from tfsrv._wire_format cimport WIRE_NO_MEMORY, WIRE_OK, is_utf8

cdef enum:
    QUICK_RANK = 8          # of a tensor
    QUICK_INPUTS = 16       # of a signature
    NARROW_VALUES = 256     # of one or two bytes each, that are read at a time
    CHUNK_VALUES = 1024     # that there is room for, before it is known how many there are


cdef struct Shape:
    int rank                # -1: not known yet
    int64_t dims[9]         # QUICK_RANK and one for the rows


cdef inline const char* skip_space(const char* at, const char* end) noexcept nogil:
    while at < end and (at[0] == c" " or at[0] == c"\n" or at[0] == c"\r" or at[0] == c"\t"):
        at += 1
    return at


cdef inline const char* expect(const char* at, const char* end, char what) noexcept nogil:
    """Behind that character, which comes after white space; NULL if it does not."""
    at = skip_space(at, end)
    return at + 1 if at < end and at[0] == what else NULL


cdef inline bint comes(const char* at, const char* end, char what) noexcept nogil:
    return at < end and at[0] == what


cdef const char* read_name(const char* at, const char* end, Bytes* name) noexcept nogil:
    """A string without escapes or control characters; NULL for any other."""
    cdef const char* start
    at = expect(at, end, c'"')
    start = at
    while at != NULL and at < end and at[0] != c'"':
        if at[0] == c"\\" or <unsigned char>at[0] < 0x20:
            return NULL
        at += 1
    if at == NULL or at >= end:
        return NULL
    name[0] = Bytes(start, <size_t>(at - start))
    return at + 1 if is_utf8(name[0]) else NULL


cdef bint json_quick_open(Bytes body, Bytes* signature_name, const char** values) noexcept nogil:
    """Whether the body may be one for json_quick_read, from `values` on; its signature, if it names one.

    Both point into the body.
    """
    cdef const char* end = body.data + body.size
    cdef const char* at = expect(body.data, end, c"{")
    cdef const char* key = at
    cdef Bytes name
    signature_name[0] = Bytes(NULL, 0)
    if at == NULL:
        return False
    at = read_name(at, end, &name)
    if at != NULL and bytes_equal(name, Bytes(b"signature_name", 14)):
        at = expect(at, end, c":")
        if at != NULL:
            at = read_name(at, end, signature_name)
        if at != NULL:
            at = expect(at, end, c",")
        if at == NULL:
            return False
        key = at
        at = read_name(at, end, &name)
    values[0] = key
    return at != NULL and (
        bytes_equal(name, Bytes(b"instances", 9)) or bytes_equal(name, Bytes(b"inputs", 6)))


cdef int json_quick_read(
    const char* values, const char* end, const InputType* inputs, int inputs_size,
    const RequestSpec* spec, Buffer* wire, bint* in_rows
) noexcept nogil:
    """Append the PredictRequest that a body stands for, which json_quick_open has found to be of use.

    A WireResult, or QUICK_NOT: then `wire` has something of no meaning.
    """
    cdef Bytes key
    cdef bint are_objects
    cdef int result
    cdef const char* at
    if inputs_size < 1 or inputs_size > QUICK_INPUTS:
        return QUICK_NOT
    result = request_put_spec(wire, spec)
    if result != WIRE_OK:
        return result
    at = read_name(values, end, &key)
    at = expect(at, end, c":")
    if at == NULL:
        return QUICK_NOT
    in_rows[0] = key.size == 9
    at = skip_space(at, end)
    if not in_rows[0]:
        if comes(at, end, c"{"):
            return read_columns(at + 1, end, inputs, inputs_size, wire)
        return read_plain(at, end, inputs, inputs_size, wire)
    if not comes(at, end, c"["):
        return QUICK_NOT
    are_objects = comes(skip_space(at + 1, end), end, c"{")
    if are_objects:
        return read_rows(at + 1, end, inputs, inputs_size, wire)
    return read_plain(at, end, inputs, inputs_size, wire)


cdef inline int done(const char* at, const char* end) noexcept nogil:
    """The values have been read: nothing but the end of the body may come."""
    return WIRE_OK if expect(at, end, c"}") != NULL else QUICK_NOT


cdef int read_plain(
    const char* at, const char* end, const InputType* inputs, int inputs_size, Buffer* wire
) noexcept nogil:
    """The value of the only input, in rows or not."""
    cdef int result
    if inputs_size != 1:
        return QUICK_NOT
    result = read_input(&at, end, &inputs[0], wire)
    return result if result != WIRE_OK else done(at, end)


cdef int read_columns(
    const char* at, const char* end, const InputType* inputs, int inputs_size, Buffer* wire
) noexcept nogil:
    """Every input once, by its name."""
    cdef unsigned int seen = 0
    cdef Bytes name
    cdef int i, input, result
    for i in range(inputs_size):
        if i > 0:
            at = expect(at, end, c",")
        at = read_name(at, end, &name) if at != NULL else NULL
        at = expect(at, end, c":") if at != NULL else NULL
        input = find_input(inputs, inputs_size, name) if at != NULL else -1
        if input < 0 or seen >> <unsigned int>input & 1:
            return QUICK_NOT
        seen |= <unsigned int>1 << <unsigned int>input
        result = read_input(&at, end, &inputs[input], wire)
        if result != WIRE_OK:
            return result
    at = expect(at, end, c"}")
    return done(at, end) if at != NULL else QUICK_NOT


cdef int find_input(const InputType* inputs, int inputs_size, Bytes name) noexcept nogil:
    cdef int i
    for i in range(inputs_size):
        if bytes_equal(inputs[i].alias, name):
            return i
    return -1


cdef int read_input(const char** at, const char* end, const InputType* input, Buffer* wire) noexcept nogil:
    """One value, which is a whole input."""
    cdef InputMark mark
    cdef Shape shape
    cdef int result = request_begin_input(wire, input.alias, input.dtype, &mark)
    if result == WIRE_OK:
        result = request_begin_content(wire, &mark)
    if result != WIRE_OK:
        return result
    shape.rank = -1
    result = read_value(at, end, input.dtype, wire, &shape)
    if result == WIRE_OK:
        result = request_end_content(wire, &mark)
    if result == WIRE_OK:
        result = request_end_input(wire, &mark, shape.dims, shape.rank)
    return result


# ---- rows -----------------------------------------------------------------------------------------------

cdef struct Column:
    Buffer values           # owned
    Shape shape             # of one row


cdef int read_rows(
    const char* at, const char* end, const InputType* inputs, int inputs_size, Buffer* wire
) noexcept nogil:
    """A list of objects, after its bracket: each has every input once."""
    cdef Column[16] columns  # QUICK_INPUTS
    cdef int64_t rows = 0
    cdef int i, result
    for i in range(inputs_size):
        buffer_init(&columns[i].values)
        columns[i].shape.rank = -1
    while True:
        result = read_row(&at, end, inputs, inputs_size, columns)
        if result != WIRE_OK:
            break
        rows += 1
        at = skip_space(at, end)
        if not comes(at, end, c","):
            result = QUICK_NOT
            at = expect(at, end, c"]")
            if at != NULL:
                result = done(at, end)
            break
        at += 1
    for i in range(inputs_size):
        if result == WIRE_OK:
            result = put_column(wire, &inputs[i], &columns[i], rows)
        buffer_free(&columns[i].values)
    return result


cdef int read_row(
    const char** at, const char* end, const InputType* inputs, int inputs_size, Column* columns
) noexcept nogil:
    cdef unsigned int seen = 0
    cdef Bytes name
    cdef int i, input, result
    at[0] = expect(at[0], end, c"{")
    for i in range(inputs_size):
        if i > 0 and at[0] != NULL:
            at[0] = expect(at[0], end, c",")
        if at[0] != NULL:
            at[0] = read_name(at[0], end, &name)
        if at[0] != NULL:
            at[0] = expect(at[0], end, c":")
        input = find_input(inputs, inputs_size, name) if at[0] != NULL else -1
        if input < 0 or seen >> <unsigned int>input & 1:
            return QUICK_NOT
        seen |= <unsigned int>1 << <unsigned int>input
        result = read_value(
            at, end, inputs[input].dtype, &columns[input].values, &columns[input].shape)
        if result != WIRE_OK:
            return result
    at[0] = expect(at[0], end, c"}")
    return WIRE_OK if at[0] != NULL else QUICK_NOT


cdef int put_column(Buffer* wire, const InputType* input, const Column* column, int64_t rows) noexcept nogil:
    cdef int64_t[9] dims    # QUICK_RANK and one for the rows
    cdef InputMark mark
    cdef int i
    cdef int result = request_begin_input(wire, input.alias, input.dtype, &mark)
    if result == WIRE_OK:
        result = request_begin_content(wire, &mark)
    if result != WIRE_OK:
        return result
    if buffer_append(wire, column.values.data, column.values.size) != 0:
        return WIRE_NO_MEMORY
    result = request_end_content(wire, &mark)
    if result != WIRE_OK:
        return result
    dims[0] = rows
    for i in range(column.shape.rank):
        dims[i + 1] = column.shape.dims[i]
    return request_end_input(wire, &mark, dims, column.shape.rank + 1)


# ---- one value ------------------------------------------------------------------------------------------

cdef int read_value(
    const char** place, const char* end, int dtype, Buffer* values, Shape* shape
) noexcept nogil:
    """Append the numbers of a nested list, or of one number, to `values`.

    Sets its shape, or finds that it has the one that others had before.
    """
    cdef const char* at = skip_space(place[0], end)
    cdef int64_t[8] sizes   # QUICK_RANK; of the lists that are open: what is in them so far
    cdef int64_t[8] dims    # likewise; -1: not known yet
    cdef int64_t got
    cdef int rank = 0
    cdef int level, i, result
    while comes(at, end, c"["):
        if rank == QUICK_RANK:
            return QUICK_NOT
        sizes[rank] = 0
        dims[rank] = shape.dims[rank] if shape.rank >= 0 else -1
        rank += 1
        at = skip_space(at + 1, end)
    if shape.rank >= 0 and shape.rank != rank:
        return QUICK_NOT
    level = rank            # how many lists are open
    while True:
        result = read_run(&at, end, dtype, values, rank == 0, &got)
        if result != WIRE_OK:
            return result
        if level > 0:
            sizes[level - 1] = got
        # Close what ends here.
        while level > 0:
            at = skip_space(at, end)
            if not comes(at, end, c"]"):
                break
            at += 1
            level -= 1
            if dims[level] < 0:
                dims[level] = sizes[level]
            elif dims[level] != sizes[level]:
                return QUICK_NOT
            if level > 0:
                sizes[level - 1] += 1
        if level == 0:
            break
        if level == rank or not comes(at, end, c","):
            return QUICK_NOT
        at += 1
        # Open what follows.
        while level < rank:
            at = expect(at, end, c"[")
            if at == NULL:
                return QUICK_NOT
            sizes[level] = 0
            level += 1
    shape.rank = rank
    for i in range(rank):
        shape.dims[i] = dims[i]
    place[0] = at
    return WIRE_OK


cdef int read_run(
    const char** place, const char* end, int dtype, Buffer* values, bint only_one, int64_t* count
) noexcept nogil:
    """Append the numbers that follow, which have commas between them: all, or `only_one`."""
    cdef const char* at = place[0]
    cdef size_t item = 8 if dtype == DT_DOUBLE or dtype == DT_INT64 else 4
    cdef size_t room, got
    count[0] = 0
    while True:
        # As much again as there is, so that all growing together costs no more than a copy or two.
        if buffer_reserve(values, item if only_one else CHUNK_VALUES * item) != 0:
            return WIRE_NO_MEMORY
        room = (values.capacity - values.size) // item
        if only_one:
            room = 1
        elif is_narrow(dtype):
            room = min(room, <size_t>NARROW_VALUES)
        got = 0
        at = get_numbers(at, end, dtype, values, room, &got)
        if at == NULL or got == 0:
            return QUICK_NOT
        count[0] += <int64_t>got
        if got < room or only_one:
            break
        at = skip_space(at, end)
        if not comes(at, end, c","):
            break
        at += 1
    place[0] = at
    return WIRE_OK


cdef const char* get_numbers(
    const char* at, const char* end, int dtype, Buffer* values, size_t most, size_t* got
) noexcept nogil:
    """Append at most so many numbers of a dtype, and say how many; NULL if it is none for numbers."""
    cdef char* into = values.data + values.size
    if dtype == DT_FLOAT:
        at = json_get_floats(at, end, <float*>into, most, got)
        values.size += got[0] * sizeof(float)
    elif dtype == DT_DOUBLE:
        at = json_get_doubles(at, end, <double*>into, most, got)
        values.size += got[0] * sizeof(double)
    elif dtype == DT_INT64:
        at = json_get_int64s(at, end, <int64_t*>into, most, got)
        values.size += got[0] * sizeof(int64_t)
    elif dtype == DT_INT32:
        at = json_get_int32s(at, end, <int32_t*>into, most, got)
        values.size += got[0] * sizeof(int32_t)
    else:
        at = get_narrow(at, end, dtype, values, most, got)
    return at


cdef inline bint is_narrow(int dtype) noexcept nogil:
    return dtype == DT_UINT8 or dtype == DT_INT8 or dtype == DT_INT16 or dtype == DT_UINT16


cdef const char* get_narrow(
    const char* at, const char* end, int dtype, Buffer* values, size_t most, size_t* got
) noexcept nogil:
    """The same of integers of one or two bytes, at most NARROW_VALUES; NULL beyond their range."""
    cdef int32_t[256] wide  # NARROW_VALUES
    cdef uint16_t* shorts = <uint16_t*>(values.data + values.size)
    cdef uint8_t* bytes_ = <uint8_t*>shorts
    cdef int32_t least = 0
    cdef int32_t largest
    cdef size_t i
    if dtype == DT_UINT8:
        largest = 255
    elif dtype == DT_INT8:
        least, largest = -128, 127
    elif dtype == DT_INT16:
        least, largest = -32768, 32767
    elif dtype == DT_UINT16:
        largest = 65535
    else:
        return NULL
    at = json_get_int32s(at, end, wide, most, got)
    for i in range(got[0]):
        if not least <= wide[i] <= largest:
            return NULL
        if dtype == DT_UINT8 or dtype == DT_INT8:
            bytes_[i] = <uint8_t>wide[i]
        else:
            shorts[i] = <uint16_t>wide[i]
    values.size += got[0] * (1 if dtype == DT_UINT8 or dtype == DT_INT8 else 2)
    return at


# ---- for Python -----------------------------------------------------------------------------------------

def read_quick(body: bytes, inputs: dict[str, int], model: str = "") -> tuple[bytes, bool] | None:
    """What _json_predict_request.read_predict makes of the body; None if it is not one for this reader."""
    cdef Bytes signature_name
    cdef const char* values
    cdef RequestSpec spec
    cdef Buffer wire
    cdef bint in_rows = False
    cdef list aliases = [alias.encode() for alias in inputs]
    cdef bytes model_name = model.encode()
    cdef Py_ssize_t i
    cdef int result
    cdef InputType* described
    if not json_quick_open(view_of(body), &signature_name, &values):
        return None
    spec = RequestSpec(view_of(model_name), False, 0, Bytes(NULL, 0), signature_name)
    described = <InputType*>calloc(len(aliases) + 1, sizeof(InputType))
    if described == NULL:
        raise MemoryError
    for i, (alias, dtype) in enumerate(zip(aliases, inputs.values())):
        described[i].alias = view_of(alias)
        described[i].dtype = dtype
    buffer_init(&wire)
    try:
        result = json_quick_read(
            values, <const char*>body + len(body), described, <int>len(aliases), &spec, &wire, &in_rows)
        if result == QUICK_NOT:
            return None
        if result != WIRE_OK:
            raise MemoryError
        return wire.data[:wire.size], in_rows
    finally:
        free(described)
        buffer_free(&wire)


cdef Bytes view_of(bytes data):
    return Bytes(<const char*>data, <size_t>len(data))
