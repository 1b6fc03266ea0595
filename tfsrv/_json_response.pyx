"""Answers of REST as JSON: Predict by rows or by columns, Classify and Regress.

The forms are those of TensorFlow Serving's util/json_tensor.cc. Compact by default; pretty is byte for
byte its layout, which is that of rapidjson's PrettyWriter (prettywriter.h) while it is told now and then
to keep arrays on one line:

    {
        "predictions": [[1.0, 2.0], [3.0, 4.0]
        ]
    }

Unlike there half, bfloat16 and uint16 are written, and strings are valid UTF-8 always.

Nothing is measured first. Tensors may share memory with variables of the model, which TensorFlow writes
in place: room is made for the longest text that a few values can have, and they are read once.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tfsrv._buffer cimport (
    buffer_append,
    buffer_append_bytes,
    buffer_free,
    buffer_init,
    buffer_reserve,
    bytes_equal,
)
from tfsrv._json_numbers cimport (
    JSON_NUMBER_BYTES,
    json_put_bfloat16,
    json_put_double,
    json_put_float,
    json_put_half,
    json_put_int64,
    json_put_uint64,
)
from tfsrv._json_text cimport json_put_base64, json_put_string
from tfsrv._predict_response cimport OutputTensor
from tfsrv._status cimport (
    INTERNAL,
    INVALID_ARGUMENT,
    status_add,
    status_add_bytes,
    status_add_int,
    status_error,
    status_free,
    status_init,
    status_set,
)
from tfsrv._tensor_proto cimport dtype_bytes
from tfsrv._tf cimport (
    DT_BFLOAT16,
    DT_BOOL,
    DT_DOUBLE,
    DT_FLOAT,
    DT_HALF,
    DT_INT16,
    DT_INT32,
    DT_INT64,
    DT_INT8,
    DT_STRING,
    DT_UINT16,
    DT_UINT32,
    DT_UINT64,
    DT_UINT8,
)
from tfsrv._tstring cimport TString, tstring_get
from tfsrv._wire_format cimport LARGEST_LENGTH, WIRE_BAD, WIRE_NO_MEMORY, WIRE_OK, WIRE_TOO_BIG

from tfsrv.errors import Code, ServingError


cdef extern from *:
    """
    enum { TFSRV_JSON_RANK = 254, TFSRV_JSON_INDENT = 4 * (TFSRV_JSON_RANK + 4) };
    /* ",\\n" and the spaces of the deepest line: a root, rows, objects in them, a tensor, its strings. */
    static char tfsrv_json_line[2 + TFSRV_JSON_INDENT];
    static void tfsrv_json_line_init(void) {
        memset(tfsrv_json_line, ' ', sizeof tfsrv_json_line);
        memcpy(tfsrv_json_line, ",\\n", 2);
    }
    /* DataTypeString of TensorFlow's framework/types.cc */
    static const char* const tfsrv_dtype_names[] = {
        "INVALID", "float", "double", "int32", "uint8", "int16", "int8", "string", "complex64", "int64",
        "bool", "qint8", "quint8", "qint32", "bfloat16", "qint16", "quint16", "uint16", "complex128",
        "half", "resource", "variant", "uint32", "uint64", "float8_e5m2", "float8_e4m3fn",
        "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2fnuz", "int4", "uint4", "int2", "uint2",
    };
    enum { TFSRV_DTYPE_NAMES = sizeof tfsrv_dtype_names / sizeof *tfsrv_dtype_names };
    """
    enum:
        LARGEST_RANK "TFSRV_JSON_RANK"
        DTYPE_NAMES "TFSRV_DTYPE_NAMES"
    const char* LINE "tfsrv_json_line"
    const char* const* DTYPE_NAME "tfsrv_dtype_names"
    void tfsrv_json_line_init()
    bint multiply_overflows "__builtin_mul_overflow"(int64_t a, int64_t b, int64_t* product) nogil

tfsrv_json_line_init()


cdef enum:
    STEP = 512              # values for which room is made at once
    FIRST_ROOM = 1 << 26    # bytes of room made at the start, at most: more comes as it is needed

# Like-sized values that print differently.
ctypedef struct Half:
    uint16_t bits
ctypedef struct Bfloat16:
    uint16_t bits
ctypedef struct Boolean:
    uint8_t byte

ctypedef fused value_t:
    float
    double
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    Half
    Bfloat16
    Boolean


cdef struct Writer:
    Buffer* buffer
    size_t start            # of the answer in the buffer
    bint pretty
    bint on_one_line        # arrays, while pretty
    int level               # how many arrays and objects are open
    int result              # a WireResult; nothing more is written once it is not WIRE_OK


# ---- layout ------------------------------------------------------------------------------------------

cdef int put(Writer* self, const char* text, size_t size) noexcept nogil:
    """Append; what keeps an answer from being too big."""
    if self.result == WIRE_OK:
        if buffer_append(self.buffer, text, size) != 0:
            self.result = WIRE_NO_MEMORY
        elif self.buffer.size - self.start > LARGEST_LENGTH:
            self.result = WIRE_TOO_BIG
    return self.result


cdef inline size_t line_size(const Writer* self) noexcept nogil:
    """Of a comma, a line break and the indentation."""
    return 2 + 4 * <size_t>self.level


cdef inline void put_line(Writer* self, bint comma) noexcept nogil:
    put(self, LINE + (not comma), line_size(self) - (not comma))


cdef inline size_t separator(const Writer* self, const char** text) noexcept nogil:
    """What stands between two values of an array."""
    text[0] = LINE
    if not self.pretty:
        return 1
    if self.on_one_line:
        text[0] = ", "
        return 2
    return line_size(self)


cdef void begin_item(Writer* self, bint is_first) noexcept nogil:
    """Before each value of an array."""
    cdef const char* text
    cdef size_t size = separator(self, &text)
    if not is_first:
        put(self, text, size)
    elif self.pretty and not self.on_one_line:
        put_line(self, False)


cdef inline void begin_array(Writer* self) noexcept nogil:
    put(self, "[", 1)
    self.level += 1


cdef void end_array(Writer* self, bint is_empty) noexcept nogil:
    self.level -= 1
    if self.pretty and not self.on_one_line and not is_empty:
        put_line(self, False)
    put(self, "]", 1)


cdef inline void begin_object(Writer* self) noexcept nogil:
    put(self, "{", 1)
    self.level += 1


cdef void end_object(Writer* self) noexcept nogil:
    """Of an object that has members: all of ours have."""
    self.level -= 1
    if self.pretty:
        put_line(self, False)
    put(self, "}", 1)


cdef void put_string(Writer* self, Bytes text) noexcept nogil:
    if self.result == WIRE_OK and json_put_string(self.buffer, text) != 0:
        self.result = WIRE_NO_MEMORY


cdef void put_key(Writer* self, bint is_first, Bytes key) noexcept nogil:
    """The name of a member, and what stands before and behind it."""
    if self.pretty:
        put_line(self, not is_first)
    elif not is_first:
        put(self, ",", 1)
    put_string(self, key)
    put(self, ": ", 2 if self.pretty else 1)


# ---- numbers -----------------------------------------------------------------------------------------

cdef inline char* put_bool(char* at, bint value) noexcept nogil:
    memcpy(at, "true    " if value else "false   ", 8)
    return at + (4 if value else 5)


cdef inline char* put_value(char* at, const value_t* value) noexcept nogil:
    """One value in less than JSON_NUMBER_BYTES."""
    if value_t is float:
        return json_put_float(at, value[0])
    elif value_t is double:
        return json_put_double(at, value[0])
    elif value_t is Half:
        return json_put_half(at, value.bits)
    elif value_t is Bfloat16:
        return json_put_bfloat16(at, value.bits)
    elif value_t is Boolean:
        return put_bool(at, value.byte)
    elif value_t is uint8_t or value_t is uint16_t or value_t is uint32_t or value_t is uint64_t:
        return json_put_uint64(at, value[0])
    else:
        return json_put_int64(at, value[0])


cdef inline size_t longest_value(int dtype) noexcept nogil:
    """Bytes of any text of a value."""
    return 24 if dtype in (DT_DOUBLE, DT_INT64, DT_UINT64) else 16


cdef inline void put_values(
    Writer* self, const value_t* values, int64_t count, size_t longest
) noexcept nogil:
    """Values as items of an array, the first without what stands before it."""
    cdef const char* text
    cdef size_t size = separator(self, &text)
    cdef int64_t done = 0
    cdef int64_t stop
    cdef char* at
    while done < count and self.result == WIRE_OK:
        stop = min(count, done + STEP)
        if buffer_reserve(
                self.buffer, <size_t>(stop - done) * (longest + size) + JSON_NUMBER_BYTES) != 0:
            self.result = WIRE_NO_MEMORY
            return
        at = self.buffer.data + self.buffer.size
        while done < stop:
            if done:
                # Most separators are short, and what is stored beyond is written over.
                memcpy(at, text, 2)
                if size > 2:
                    memcpy(at + 2, text + 2, size - 2)
                at += size
            at = put_value(at, &values[done])
            done += 1
        self.buffer.size = <size_t>(at - self.buffer.data)
        if self.buffer.size - self.start > LARGEST_LENGTH:
            self.result = WIRE_TOO_BIG


cdef void put_numbers(
    Writer* self, const TensorData* tensor, int64_t first, int64_t count
) noexcept nogil:
    """Some elements of a tensor that is_writable and no DT_STRING."""
    cdef int dtype = tensor.dtype
    cdef size_t longest = longest_value(dtype)
    if dtype == DT_FLOAT:
        put_values(self, <const float*>tensor.data + first, count, longest)
    elif dtype == DT_DOUBLE:
        put_values(self, <const double*>tensor.data + first, count, longest)
    elif dtype == DT_INT32:
        put_values(self, <const int32_t*>tensor.data + first, count, longest)
    elif dtype == DT_INT64:
        put_values(self, <const int64_t*>tensor.data + first, count, longest)
    elif dtype == DT_BOOL:
        put_values(self, <const Boolean*>tensor.data + first, count, longest)
    elif dtype == DT_UINT8:
        put_values(self, <const uint8_t*>tensor.data + first, count, longest)
    elif dtype == DT_INT8:
        put_values(self, <const int8_t*>tensor.data + first, count, longest)
    elif dtype == DT_INT16:
        put_values(self, <const int16_t*>tensor.data + first, count, longest)
    elif dtype == DT_UINT16:
        put_values(self, <const uint16_t*>tensor.data + first, count, longest)
    elif dtype == DT_UINT32:
        put_values(self, <const uint32_t*>tensor.data + first, count, longest)
    elif dtype == DT_UINT64:
        put_values(self, <const uint64_t*>tensor.data + first, count, longest)
    elif dtype == DT_HALF:
        put_values(self, <const Half*>tensor.data + first, count, longest)
    elif dtype == DT_BFLOAT16:
        put_values(self, <const Bfloat16*>tensor.data + first, count, longest)


cdef inline bint is_writable(int dtype) noexcept nogil:
    return dtype in (
        DT_FLOAT, DT_DOUBLE, DT_INT32, DT_UINT8, DT_INT16, DT_INT8, DT_STRING, DT_INT64, DT_BOOL,
        DT_BFLOAT16, DT_UINT16, DT_HALF, DT_UINT32, DT_UINT64)


# ---- strings -----------------------------------------------------------------------------------------

cdef bint holds_bytes(const TensorData* tensor) noexcept nogil:
    """Whether the strings are no text, which the end of the output's name tells."""
    cdef Bytes alias = tensor.alias
    return alias.size >= 6 and bytes_equal(Bytes(alias.data + alias.size - 6, 6), Bytes("_bytes", 6))


cdef void put_bytes_object(Writer* self, Bytes data) noexcept nogil:
    begin_object(self)
    put_key(self, True, Bytes("b64", 3))
    if data.size > LARGEST_LENGTH:  # TensorFlow has such strings
        self.result = WIRE_TOO_BIG
    put(self, '"', 1)
    if self.result == WIRE_OK and json_put_base64(self.buffer, data) != 0:
        self.result = WIRE_NO_MEMORY
    put(self, '"', 1)
    end_object(self)


cdef void put_strings(
    Writer* self, const TensorData* tensor, int64_t first, int64_t count
) noexcept nogil:
    """Some elements of a DT_STRING tensor as items of an array, the first without what stands before it."""
    cdef const TString* strings = <const TString*>tensor.data
    cdef bint as_bytes = holds_bytes(tensor)
    cdef Bytes text
    cdef int64_t i
    for i in range(first, first + count):
        if i != first:
            begin_item(self, False)
        if self.result != WIRE_OK:
            return
        text = tstring_get(&strings[i])
        if as_bytes:
            put_bytes_object(self, text)
        elif text.size > LARGEST_LENGTH:
            self.result = WIRE_TOO_BIG
        else:
            put_string(self, text)


# ---- tensors -----------------------------------------------------------------------------------------

cdef inline void put_elements(
    Writer* self, const TensorData* tensor, int64_t first, int64_t count
) noexcept nogil:
    """Items of an array, the first without what stands before it."""
    if tensor.dtype == DT_STRING:
        put_strings(self, tensor, first, count)
    else:
        put_numbers(self, tensor, first, count)


cdef int64_t put_array(Writer* self, const TensorData* tensor, int dim, int64_t first) noexcept nogil:
    """A tensor's part from `dim` on that begins with the element `first`. Returns where the next begins."""
    cdef int64_t size
    cdef int64_t i
    if dim == tensor.rank:
        put_elements(self, tensor, first, 1)
        return first + 1
    size = tensor.dims[dim]
    begin_array(self)
    if dim < tensor.rank - 1:
        for i in range(size):
            if self.result != WIRE_OK:
                break
            begin_item(self, i == 0)
            first = put_array(self, tensor, dim + 1, first)
    elif size:
        begin_item(self, True)
        put_elements(self, tensor, first, size)
        first += size
    end_array(self, size == 0)
    return first


cdef bint is_sound(const TensorData* tensor) noexcept nogil:
    """Whether there are as many values as the shape says."""
    cdef int64_t elements = 1
    cdef int i
    if tensor.rank > LARGEST_RANK:
        return False
    for i in range(tensor.rank):
        if tensor.dims[i] < 0 or multiply_overflows(elements, tensor.dims[i], &elements):
            return False
    if elements != tensor.elements:
        return False
    return tensor.size == <size_t>elements * dtype_bytes(tensor.dtype) or not is_writable(tensor.dtype)


cdef bint is_too_big(const TensorData* tensor) noexcept nogil:
    """Whether its text is too long by its shape alone: a value, or an empty list, takes two bytes and more."""
    cdef int64_t items = 1
    cdef int i
    for i in range(tensor.rank):
        if tensor.dims[i] == 0:
            break
        items *= tensor.dims[i]
    return <uint64_t>items > LARGEST_LENGTH // 2


cdef int check_tensor(const TensorData* tensor, Status* status) noexcept nogil:
    """Whether a tensor can be written. A WireResult; WIRE_BAD with `status` set."""
    if not is_sound(tensor):
        status_set(status, INTERNAL, "The values of an output do not fit its shape: ")
        status_add_bytes(status, tensor.alias)
        return WIRE_BAD
    # Without elements nothing is written that could not be.
    if tensor.elements and not is_writable(tensor.dtype):
        status_set(status, INVALID_ARGUMENT, "Failed to write JSON value for tensor type: ")
        if 0 <= tensor.dtype < DTYPE_NAMES:
            status_add(status, DTYPE_NAME[tensor.dtype])
        else:
            status_add_int(status, tensor.dtype)
        return WIRE_BAD
    return WIRE_TOO_BIG if is_too_big(tensor) else WIRE_OK


cdef int check_rows(const TensorData* outputs, int size, Status* status) noexcept nogil:
    """Whether all outputs have the same number of rows. A WireResult; WIRE_BAD with `status` set."""
    cdef int i
    for i in range(size):
        if outputs[i].rank == 0:
            status_set(status, INVALID_ARGUMENT, "Tensor name: ")
            status_add_bytes(status, outputs[i].alias)
            status_add(status, " has no shape information ")
            return WIRE_BAD
        if outputs[i].dims[0] != outputs[0].dims[0]:
            status_set(status, INVALID_ARGUMENT, "Tensor name: ")
            status_add_bytes(status, outputs[i].alias)
            status_add(status, " has inconsistent batch size: ")
            status_add_int(status, outputs[i].dims[0])
            status_add(status, " expecting: ")
            status_add_int(status, outputs[0].dims[0])
            return WIRE_BAD
    return WIRE_OK


# ---- answers -----------------------------------------------------------------------------------------

cdef Writer begin_answer(Buffer* into, bint pretty, const JsonModelSpec* spec, Bytes key) noexcept nogil:
    """An object that tells the model, if asked to, up to the value of its member `key`."""
    cdef Writer self
    cdef char version[JSON_NUMBER_BYTES]
    cdef Bytes digits
    digits.data = version
    self.buffer = into
    self.start = into.size
    self.pretty = pretty
    self.on_one_line = False
    self.level = 0
    self.result = WIRE_OK
    begin_object(&self)
    if spec != NULL:
        put_key(&self, True, Bytes("model_spec", 10))
        begin_object(&self)
        put_key(&self, True, Bytes("name", 4))
        put_string(&self, spec.name)
        put_key(&self, False, Bytes("version", 7))
        digits.size = <size_t>(json_put_int64(version, spec.version) - version)
        put_string(&self, digits)
        put_key(&self, False, Bytes("signature_name", 14))
        put_string(&self, spec.signature_name)
        end_object(&self)
    put_key(&self, spec == NULL, key)
    return self


cdef int end_answer(Writer* self) noexcept nogil:
    """A WireResult. Nothing of the answer stays in the buffer if it is not WIRE_OK."""
    end_object(self)
    if self.result != WIRE_OK:
        self.buffer.size = self.start
    return self.result


cdef int make_room(Buffer* into, const TensorData* outputs, int size) noexcept nogil:
    """For what compact numbers may take, so that the buffer does not have to grow. A WireResult."""
    cdef size_t room = 256
    cdef size_t more
    cdef int i
    for i in range(size):
        if outputs[i].elements > FIRST_ROOM or room > FIRST_ROOM:
            break
        more = 16 if outputs[i].dtype == DT_STRING else longest_value(outputs[i].dtype) + 1
        room += <size_t>outputs[i].elements * more
    return WIRE_OK if buffer_reserve(into, min(room, <size_t>FIRST_ROOM)) == 0 else WIRE_NO_MEMORY


cdef void put_rows(Writer* self, const TensorData* outputs, int size) noexcept nogil:
    """The list `predictions`: a value for each row, or an object if there are several outputs."""
    cdef int64_t rows = outputs[0].dims[0]
    cdef int64_t row
    cdef int i
    begin_array(self)
    if rows and size == 1 and outputs[0].rank == 1:
        self.on_one_line = True
        put_elements(self, &outputs[0], 0, rows)
    else:
        for row in range(rows):
            if self.result != WIRE_OK:
                break
            self.on_one_line = size == 1
            begin_item(self, row == 0)
            if size > 1:
                begin_object(self)
                self.on_one_line = True
            for i in range(size):
                if size > 1:
                    put_key(self, i == 0, outputs[i].alias)
                put_array(self, &outputs[i], 1, row * (outputs[i].elements // rows))
            self.on_one_line = False
            if size > 1:
                end_object(self)
    self.on_one_line = False
    end_array(self, rows == 0)


cdef void put_columns(Writer* self, const TensorData* outputs, int size) noexcept nogil:
    """The value of `outputs`: a tensor, or an object of them if there are several."""
    cdef int i
    if size == 1:
        put_array(self, &outputs[0], 0, 0)
        return
    begin_object(self)
    for i in range(size):
        put_key(self, i == 0, outputs[i].alias)
        put_array(self, &outputs[i], 0, 0)
    end_object(self)


cdef int json_write_predict(
    Buffer* into, const TensorData* outputs, int size, bint in_rows, bint pretty,
    const JsonModelSpec* spec, Status* status
) noexcept nogil:
    """Append the answer of Predict: `predictions` if the request had rows, else `outputs`.

    `spec` is NULL unless the answer is to begin with `model_spec`. Numbers are as _json_numbers.pyx
    says; half and bfloat16 as the floats that they are. Strings of an output whose name ends with
    "_bytes" become {"b64": ...}.

    A WireResult: WIRE_BAD with `status` set where the outputs have no such form, WIRE_TOO_BIG above 2 GB,
    WIRE_NO_MEMORY. The buffer is as it was then.
    """
    cdef Writer writer
    cdef int i
    cdef int result = WIRE_OK
    if size == 0:
        status_set(status, INVALID_ARGUMENT, "Cannot convert empty tensor map to JSON")
        return WIRE_BAD
    if in_rows:
        result = check_rows(outputs, size, status)
    for i in range(size):
        if result == WIRE_OK:
            result = check_tensor(&outputs[i], status)
    if result == WIRE_OK:
        result = make_room(into, outputs, size)
    if result != WIRE_OK:
        return result
    writer = begin_answer(
        into, pretty, spec, Bytes("predictions", 11) if in_rows else Bytes("outputs", 7))
    if in_rows:
        put_rows(&writer, outputs, size)
    else:
        put_columns(&writer, outputs, size)
    return end_answer(&writer)


cdef void put_score(Writer* self, const TensorData* scores, int64_t index) noexcept nogil:
    """0.0 where there are none."""
    if scores == NULL:
        put(self, "0.0", 3)
    else:
        put_numbers(self, scores, index, 1)


cdef void put_classes(Writer* self, const InferenceAnswer* answer, int64_t row) noexcept nogil:
    """Pairs of a label, "" where there are none, and a score."""
    cdef const TString* labels = NULL
    cdef int64_t i
    if answer.classes != NULL:
        labels = <const TString*>answer.classes.data
    begin_array(self)
    for i in range(row * answer.width, (row + 1) * answer.width):
        begin_item(self, i == row * answer.width)
        begin_array(self)
        begin_item(self, True)
        put_string(self, Bytes(NULL, 0) if labels == NULL else tstring_get(&labels[i]))
        begin_item(self, False)
        put_score(self, answer.scores, i)
        end_array(self, False)
    end_array(self, answer.width == 0)


cdef int json_write_classify(
    Buffer* into, const InferenceAnswer* answer, bint pretty, const JsonModelSpec* spec, Status* status
) noexcept nogil:
    """Append the answer of Classify, {"results": [[["label", score], ...], ...]}; else as json_write_predict."""
    cdef Writer writer
    cdef int64_t row
    if answer.rows == 0:
        status_set(status, INVALID_ARGUMENT, "Cannot convert empty ClassificationResults to JSON")
        return WIRE_BAD
    writer = begin_answer(into, pretty, spec, Bytes("results", 7))
    begin_array(&writer)
    writer.on_one_line = True
    for row in range(answer.rows):
        if writer.result != WIRE_OK:
            break
        begin_item(&writer, row == 0)
        put_classes(&writer, answer, row)
    writer.on_one_line = False
    end_array(&writer, False)
    return end_answer(&writer)


cdef int json_write_regress(
    Buffer* into, const InferenceAnswer* answer, bint pretty, const JsonModelSpec* spec, Status* status
) noexcept nogil:
    """Append the answer of Regress, {"results": [value, ...]}; else as json_write_predict."""
    cdef Writer writer
    cdef int64_t row
    if answer.rows == 0:
        status_set(status, INVALID_ARGUMENT, "Cannot convert empty RegressionResults to JSON")
        return WIRE_BAD
    writer = begin_answer(into, pretty, spec, Bytes("results", 7))
    writer.on_one_line = True
    begin_array(&writer)
    if answer.scores != NULL:
        put_numbers(&writer, answer.scores, 0, answer.rows)
    else:
        for row in range(answer.rows):
            begin_item(&writer, row == 0)
            put_score(&writer, NULL, row)
    end_array(&writer, False)
    return end_answer(&writer)


# ---- a face for Python -------------------------------------------------------------------------------

cdef Bytes view_of(bytes text):
    return Bytes(PyBytes_AS_STRING(text), <size_t>len(text))


cdef class _Answer:
    """What a writer needs, and what it made."""
    cdef Buffer buffer
    cdef Status status
    cdef JsonModelSpec spec
    cdef const JsonModelSpec* asked_spec    # NULL, or `spec`
    cdef bytes name
    cdef bytes signature_name

    def __cinit__(self, spec):
        buffer_init(&self.buffer)
        status_init(&self.status)
        if spec is not None:
            self.name = spec[0].encode()
            self.signature_name = spec[2].encode()
            self.spec = JsonModelSpec(view_of(self.name), spec[1], view_of(self.signature_name))
            self.asked_spec = &self.spec

    def __dealloc__(self):
        buffer_free(&self.buffer)
        status_free(&self.status)

    cdef bytes taken(self, int result):
        """The answer, or the error."""
        if result == WIRE_NO_MEMORY:
            raise MemoryError
        if result == WIRE_TOO_BIG:
            raise ServingError(Code.RESOURCE_EXHAUSTED, "The answer would be too long")
        if result != WIRE_OK:
            raise status_error(&self.status)
        return self.buffer.data[:self.buffer.size]


def write_json_predict(
    outputs: list[tuple[str, int, tuple[int, ...], bytes | list[bytes]]],
    in_rows: bool,
    pretty: bool = False,
    spec: tuple[str, int, str] | None = None,
) -> bytes:
    """The answer of Predict.

    An output is its alias, its dtype (a number of TensorFlow's DataType), its shape, and its
    values as they lie in memory, or a list of bytes for DT_STRING. `spec` is name, version and
    signature. ServingError where json_write_predict sets a status.
    """
    cdef _Answer answer = _Answer(spec)
    cdef list owners = [OutputTensor(*output) for output in outputs]
    cdef Buffer tensors
    cdef OutputTensor owner
    cdef int result
    buffer_init(&tensors)
    try:
        for owner in owners:
            if buffer_append_bytes(&tensors, Bytes(<const char*>&owner.data, sizeof(TensorData))) != 0:
                raise MemoryError
        with nogil:
            result = json_write_predict(
                &answer.buffer, <const TensorData*>tensors.data, <int>(tensors.size // sizeof(TensorData)),
                in_rows, pretty, answer.asked_spec, &answer.status)
        return answer.taken(result)
    finally:
        buffer_free(&tensors)


cdef OutputTensor output_of(int dtype, int64_t size, object values):
    return None if values is None else OutputTensor("", dtype, (size,), values)


cdef const TensorData* data_of(OutputTensor tensor):
    return NULL if tensor is None else &tensor.data


def write_json_classify(
    rows: int,
    width: int,
    labels: list[bytes] | None,
    scores: bytes | None,
    pretty: bool = False,
    spec: tuple[str, int, str] | None = None,
) -> bytes:
    """The answer of Classify: `rows` times `width` labels and floats. ServingError if there are no rows."""
    cdef _Answer answer = _Answer(spec)
    cdef OutputTensor classes = output_of(DT_STRING, rows * width, labels)
    cdef OutputTensor floats = output_of(DT_FLOAT, rows * width, scores)
    cdef InferenceAnswer filled = InferenceAnswer(
        Bytes(NULL, 0), False, rows, width,
        data_of(classes), data_of(floats))
    return answer.taken(
        json_write_classify(&answer.buffer, &filled, pretty, answer.asked_spec, &answer.status))


def write_json_regress(
    rows: int, values: bytes | None, pretty: bool = False, spec: tuple[str, int, str] | None = None
) -> bytes:
    """The answer of Regress: `rows` floats. ServingError if there are none."""
    cdef _Answer answer = _Answer(spec)
    cdef OutputTensor floats = output_of(DT_FLOAT, rows, values)
    cdef InferenceAnswer filled = InferenceAnswer(
        Bytes(NULL, 0), True, rows, 1, NULL, data_of(floats))
    return answer.taken(
        json_write_regress(&answer.buffer, &filled, pretty, answer.asked_spec, &answer.status))
