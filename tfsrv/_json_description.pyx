"""JSON values in the texts of errors, as TensorFlow Serving shows them (util/json_tensor.cc, JsonValueToString).

That is RapidJSON 1.1.0's prettywriter.h, indented by 4 and each list on one line. The value itself, where it is a
double, is printed as numbers in answers are; one inside of it as RapidJSON prints it.

`describe_json` is its face for Python.
"""

from libc.stdint cimport uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from tfsrv._buffer cimport Bytes
from tfsrv._json_document cimport (
    JSON_ARRAY,
    JSON_DOUBLE,
    JSON_FALSE,
    JSON_INT,
    JSON_OBJECT,
    JSON_STRING,
    JSON_TRUE,
    JSON_UINT,
    JsonDocument,
    JsonNode,
    json_document_free,
    json_document_init,
    json_document_parse,
    json_next,
)
from tfsrv._json_numbers cimport JSON_NUMBER_BYTES, json_put_double, json_put_float, json_put_shortest
from tfsrv._status cimport (
    OK,
    Status,
    status_add_bytes,
    status_clear,
    status_error,
    status_free,
    status_init,
)
from tfsrv._wire_format cimport is_continuation

cdef extern from "<math.h>" nogil:
    bint isfinite(double value)

cdef enum:
    LONGEST_DUMP = 256      # bytes of a value
    DUMP_ROOM = 320         # and what is written before its end is found

cdef struct Dump:
    char[DUMP_ROOM] data
    size_t size
    bint done               # full, or at a value that cannot be written


cdef struct DumpLevel:
    uint32_t end            # the index of the node behind the array or object
    int kind
    uint32_t count          # values in it so far; names are values too


cdef void json_status_add_value(Status* status, const JsonDocument* document, uint32_t at) noexcept nogil:
    """Append a value as TensorFlow Serving shows it: JSON indented by 4 with each list on one line.

    No more than its first 256 bytes, and no part of a character. As there (prettywriter.h, writer.h), a list or an
    object is shown up to the first NaN or infinity inside it.
    """
    cdef Dump dump
    cdef size_t size
    dump.size = 0
    dump.done = False
    if document.nodes[at].kind == JSON_DOUBLE:
        dump_decimal(&dump, document.nodes[at].value.double_)
    else:
        dump_value(&dump, document, at)
    size = dump.size
    if size > LONGEST_DUMP:
        size = LONGEST_DUMP
        while size > LONGEST_DUMP - 3 and is_continuation(<unsigned char>dump.data[size]):
            size -= 1
        if is_continuation(<unsigned char>dump.data[size]):
            size = LONGEST_DUMP  # not UTF-8 anyway
    status_add_bytes(status, Bytes(<const char*>dump.data, size))


cdef void put(Dump* self, const char* text, size_t size) noexcept nogil:
    if self.done:
        return
    if size >= sizeof(self.data) - self.size:
        size = sizeof(self.data) - self.size
    memcpy(self.data + self.size, text, size)
    self.size += size
    self.done = self.size >= LONGEST_DUMP + 4


cdef void put_indent(Dump* self, int depth) noexcept nogil:
    put(self, "\n", 1)
    while depth > 0 and not self.done:
        put(self, "    ", 4)
        depth -= 1


cdef void dump_value(Dump* self, const JsonDocument* document, uint32_t at) noexcept nogil:
    """A whole value, or as much of it as there is room for."""
    cdef DumpLevel[DUMP_ROOM] levels  # each one opened has put a byte at least
    cdef DumpLevel* level
    cdef const JsonNode* node
    cdef uint32_t end = json_next(document, at)
    cdef int depth = 0
    while not self.done:
        while depth > 0 and at == levels[depth - 1].end:
            depth -= 1
            close_level(self, &levels[depth], depth)
        if at == end:
            return
        if depth > 0:
            level = &levels[depth - 1]
            put_separator(self, level, depth)
            level.count += 1
        node = &document.nodes[at]
        if node.kind == JSON_ARRAY or node.kind == JSON_OBJECT:
            put(self, "[" if node.kind == JSON_ARRAY else "{", 1)
            levels[depth].end = node.value.next
            levels[depth].kind = node.kind
            levels[depth].count = 0
            depth += 1
        else:
            dump_scalar(self, node)
        at += 1


cdef void put_separator(Dump* self, const DumpLevel* level, int depth) noexcept nogil:
    """What stands before the next value."""
    if level.kind == JSON_ARRAY:
        if level.count:
            put(self, ", ", 2)
    elif level.count & 1:
        put(self, ": ", 2)
    else:
        if level.count:
            put(self, ",", 1)
        put_indent(self, depth)


cdef void close_level(Dump* self, const DumpLevel* level, int depth) noexcept nogil:
    if level.kind == JSON_ARRAY:
        put(self, "]", 1)
        return
    if level.count:
        put_indent(self, depth)
    put(self, "}", 1)


cdef void dump_scalar(Dump* self, const JsonNode* node) noexcept nogil:
    cdef char[32] text
    if node.kind == JSON_STRING:
        dump_string(self, node)
    elif node.kind == JSON_DOUBLE:
        dump_double(self, node.value.double_)
    elif node.kind == JSON_UINT:
        put(self, text, snprintf(text, sizeof(text), "%llu", <unsigned long long>node.value.uint_))
    elif node.kind == JSON_INT:
        put(self, text, snprintf(text, sizeof(text), "%lld", <long long>node.value.int_))
    elif node.kind == JSON_TRUE:
        put(self, "true", 4)
    elif node.kind == JSON_FALSE:
        put(self, "false", 5)
    else:
        put(self, "null", 4)


cdef void dump_string(Dump* self, const JsonNode* node) noexcept nogil:
    cdef char[8] text
    cdef unsigned char byte
    cdef uint32_t i
    put(self, '"', 1)
    for i in range(node.size):
        if self.done:
            return
        byte = <unsigned char>node.value.text[i]
        text[0] = c'\\'
        text[1] = short_escape(byte)
        if text[1]:
            put(self, text, 2)
        elif byte < 0x20:
            put(self, text, snprintf(text, sizeof(text), "\\u%04X", <int>byte))
        else:
            put(self, <const char*>&byte, 1)
    put(self, '"', 1)


cdef char short_escape(unsigned char byte) noexcept nogil:
    """The letter that stands for `byte` behind a backslash; 0 if there is none."""
    if byte == c'"' or byte == c'\\':
        return <char>byte
    if byte == 8:
        return c'b'
    if byte == 12:
        return c'f'
    if byte == 10:
        return c'n'
    if byte == 13:
        return c'r'
    if byte == 9:
        return c't'
    return 0


cdef void dump_decimal(Dump* self, double value) noexcept nogil:
    """A double that is the whole value: as numbers in answers are printed, as a float if it is in its range."""
    cdef char[JSON_NUMBER_BYTES] text
    cdef char* end
    if -3.4028234e38 <= value <= 3.4028234e38:
        end = json_put_float(text, <float>value)
    else:
        end = json_put_double(text, value)
    put(self, text, <size_t>(end - <char*>text))


cdef void dump_double(Dump* self, double value) noexcept nogil:
    """A double inside of a list or an object: with the fewest digits that tell it from others."""
    cdef char[JSON_NUMBER_BYTES] text
    if isfinite(value):
        put(self, text, <size_t>(json_put_shortest(text, value) - <char*>text))
    else:
        self.done = True


def describe_json(body: bytes) -> bytes:
    """How the texts of errors show a body. ServingError if it is none."""
    cdef JsonDocument document
    cdef Status status
    json_document_init(&document)
    status_init(&status)
    try:
        if json_document_parse(&document, body, len(body), &status) != OK:
            raise status_error(&status)
        status_clear(&status)
        json_status_add_value(&status, &document, 0)
        return status.message.data[:status.message.size]
    finally:
        json_document_free(&document)
        status_free(&status)
