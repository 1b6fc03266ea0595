"""JSON as TensorFlow Serving reads it, into an array of nodes. No GIL, and no recursion.

The dialect, the texts of errors and their offsets are those of RapidJSON 1.1.0's iterative reader (reader.h,
error/en.h) with the flags of TensorFlow Serving (util/json_tensor.cc): NaN, Inf, Infinity and their
negatives are numbers, what stands behind the root is not looked at, a name may come twice, UTF-8 is not
checked, a byte order mark is skipped, a NUL outside of a string ends the text, and lists nest as deep as they
like. Two things are stricter or better here: a lone low surrogate is refused as a lone high one is, and
numbers are rounded correctly.

Memory is bounded by the body: a node takes 16 bytes, and no node less than one byte of the body. That is at
most 16 times the body while it is read, 12 times when it is valid (its worst: lists of lists, or numbers of
one digit), twice for ordinary numbers; and as much again as the body where strings have escapes.

`parse_json` is its face for Python, and `json_memory` for tests of what it takes.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from tfsrv._buffer cimport Bytes, bytes_equal
from tfsrv._json_numbers cimport (
    JSON_NO_EXPONENT,
    JSON_NO_FRACTION,
    JSON_NUMBER_TOO_BIG,
    JsonNumber,
    json_get_float,
    json_get_number,
)
from tfsrv._status cimport (
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    Status,
    status_add,
    status_add_int,
    status_error,
    status_free,
    status_init,
    status_set,
)
from tfsrv._wire_format cimport HIGH_BITS, count_trailing_zeros, load_8_bytes

cdef extern from *:
    """
    #include <math.h>
    /* What may stand between tokens. */
    static inline int tfsrv_is_space(unsigned char byte)
    {
        return byte <= ' ' && (0x100002600ULL >> byte & 1);
    }
    """
    bint is_space "tfsrv_is_space"(unsigned char byte) nogil
    double INFINITY
    double NAN

cdef enum:
    NOTHING = 0xffffffff    # the index of no node
    LONGEST_BODY = 0xfffffff0   # bytes, so that every index and size fits into 32 bits

# What may come next: RapidJSON's states, of which each has its own error.
cdef enum State:
    ROOT
    FIRST_ELEMENT           # or the end of the array
    NEXT_ELEMENT
    FIRST_NAME              # or the end of the object
    NEXT_NAME
    COLON
    MEMBER_VALUE
    AFTER_ELEMENT
    AFTER_MEMBER

cdef struct Parser:
    JsonDocument* document
    const char* begin
    const char* at
    const char* end
    char* text              # where the next string without its escapes goes
    uint32_t open           # the innermost array or object that is not closed; its `next` is the one around it
    Status* status


cdef void json_document_init(JsonDocument* document) noexcept nogil:
    memset(document, 0, sizeof(JsonDocument))


cdef void json_document_free(JsonDocument* document) noexcept nogil:
    """Give all memory back; the document is empty and usable afterwards."""
    free(document.nodes)
    free(document.text)
    json_document_init(document)


cdef size_t json_document_bytes(const JsonDocument* document) noexcept nogil:
    """The memory that it takes beside the body."""
    return <size_t>document.capacity * sizeof(JsonNode) + document.text_capacity


cdef int json_document_parse(
    JsonDocument* document, const char* data, size_t size, Status* status
) noexcept nogil:
    """Read a whole body into `document`, which points into it from then on. The code of `status`.

    Any value may be the root. INVALID_ARGUMENT if the body is none, RESOURCE_EXHAUSTED without memory. The
    document may be freed or read into again whatever comes out.
    """
    cdef Parser parser
    status.code = OK
    document.size = 0
    free(document.text)
    document.text = NULL
    document.text_capacity = 0
    if size == 0:
        return status_set(status, INVALID_ARGUMENT, "JSON Parse error: The document is empty")
    if size > <size_t>LONGEST_BODY:
        return status_set(status, INVALID_ARGUMENT, "JSON Parse error: The document is too large")
    document.body = Bytes(data, size)
    parser.document = document
    parser.begin = data
    parser.at = data
    parser.end = data + size
    parser.text = NULL
    parser.open = NOTHING
    parser.status = status
    # As many as a body of numbers has; then there is more of them, up to one for each byte.
    if reserve_nodes(document, <uint32_t>min(size, size // 8 + 16)) != OK:
        return no_memory(status)
    skip_byte_order_mark(&parser)
    return parse(&parser)


cdef int no_memory(Status* status) noexcept nogil:
    return status_set(status, RESOURCE_EXHAUSTED, "There is no memory for the JSON document")


cdef int fail(Parser* self, const char* text, const char* at) noexcept nogil:
    status_set(self.status, INVALID_ARGUMENT, "JSON Parse error: ")
    status_add(self.status, text)
    status_add(self.status, " at offset: ")
    status_add_int(self.status, at - self.begin)
    return INVALID_ARGUMENT


cdef int reserve_nodes(JsonDocument* document, uint32_t wanted) noexcept nogil:
    """Have room for so many nodes in all. OK, or another code without memory."""
    cdef void* grown
    if wanted <= document.capacity:
        return OK
    grown = realloc(document.nodes, <size_t>wanted * sizeof(JsonNode))
    if grown == NULL:
        return RESOURCE_EXHAUSTED
    document.nodes = <JsonNode*>grown
    document.capacity = wanted
    return OK


cdef inline JsonNode* add_node(Parser* self) noexcept nogil:
    """One node more, to be filled; NULL, with the status set, without memory."""
    cdef JsonDocument* document = self.document
    if document.size == document.capacity and grow(self) != OK:
        return NULL
    document.size += 1
    return &document.nodes[document.size - 1]


cdef int grow(Parser* self) noexcept nogil:
    """By half, but never beyond one node for each byte of the body."""
    cdef size_t wanted = <size_t>self.document.capacity + (self.document.capacity >> 1) + 8
    cdef size_t most = <size_t>(self.end - self.begin) + 1
    if reserve_nodes(self.document, <uint32_t>min(wanted, most)) != OK:
        return no_memory(self.status)
    return OK


cdef void skip_byte_order_mark(Parser* self) noexcept nogil:
    """EF BB BF, and any of them left out: encodedstream.h looks at each on its own."""
    if self.at < self.end and <unsigned char>self.at[0] == 0xef:
        self.at += 1
    if self.at < self.end and <unsigned char>self.at[0] == 0xbb:
        self.at += 1
    if self.at < self.end and <unsigned char>self.at[0] == 0xbf:
        self.at += 1


cdef inline const char* skip_spaces(const char* at, const char* end) noexcept nogil:
    while at < end and is_space(<unsigned char>at[0]):
        at += 1
    return at


cdef int parse(Parser* self) noexcept nogil:
    """The whole text, a token a turn. The code of the status."""
    cdef int state = ROOT
    cdef char byte
    while True:
        self.at = skip_spaces(self.at, self.end)
        if self.at == self.end or self.at[0] == 0:
            return unexpected(self, state)
        byte = self.at[0]
        if state <= NEXT_ELEMENT or state == MEMBER_VALUE:
            if byte == c'[' or byte == c'{':
                state = open_one(self, byte)
            elif byte == c']' and state == FIRST_ELEMENT:
                state = close_one(self)
            elif byte == c']' or byte == c'}' or byte == c',' or byte == c':':
                return unexpected(self, state)
            elif read_scalar(self, byte) != OK:
                return self.status.code
            else:
                state = after_value(self)
        elif state == AFTER_ELEMENT:
            if byte == c',':
                self.at += 1
                state = NEXT_ELEMENT
            elif byte == c']':
                state = close_one(self)
            else:
                return unexpected(self, state)
        elif state == AFTER_MEMBER:
            if byte == c',':
                self.at += 1
                state = NEXT_NAME
            elif byte == c'}':
                state = close_one(self)
            else:
                return unexpected(self, state)
        elif state == COLON:
            if byte != c':':
                return unexpected(self, state)
            self.at += 1
            state = MEMBER_VALUE
        elif byte == c'"':  # a name
            if read_string(self) != OK:
                return self.status.code
            state = COLON
        elif byte == c'}' and state == FIRST_NAME:
            state = close_one(self)
        else:
            return unexpected(self, state)
        if state < 0:
            return no_memory(self.status) if state == -1 else OK


cdef int open_one(Parser* self, char byte) noexcept nogil:
    """Begin an array or an object. The next state, or -1 without memory."""
    cdef uint32_t index = self.document.size
    cdef JsonNode* node = add_node(self)
    if node == NULL:
        return -1
    self.at += 1
    node.kind = JSON_ARRAY if byte == c'[' else JSON_OBJECT
    node.size = 0
    node.value.next = self.open
    self.open = index
    return FIRST_ELEMENT if byte == c'[' else FIRST_NAME


cdef int close_one(Parser* self) noexcept nogil:
    """End the innermost array or object. The next state, or -2 behind the root."""
    cdef JsonNode* node = &self.document.nodes[self.open]
    self.at += 1
    self.open = node.value.next
    node.value.next = self.document.size
    return after_value(self)


cdef inline int after_value(Parser* self) noexcept nogil:
    """Count a value for what it is in. The next state, or -2 behind the root."""
    cdef JsonNode* around
    if self.open == <uint32_t>NOTHING:
        return -2
    around = &self.document.nodes[self.open]
    around.size += 1
    return AFTER_ELEMENT if around.kind == JSON_ARRAY else AFTER_MEMBER


cdef int unexpected(Parser* self, int state) noexcept nogil:
    """The error of a token, or of the text's end, where it may not be."""
    if state == ROOT:
        return fail(self, "The document is empty.", self.at)
    if state == FIRST_NAME or state == NEXT_NAME:
        return fail(self, "Missing a name for object member.", self.at)
    if state == COLON:
        return fail(self, "Missing a colon after a name of object member.", self.at)
    if state == AFTER_MEMBER:
        return fail(self, "Missing a comma or '}' after an object member.", self.at)
    if state == AFTER_ELEMENT:
        return fail(self, "Missing a comma or ']' after an array element.", self.at)
    return fail(self, "Invalid value.", self.at)


cdef int read_scalar(Parser* self, char byte) noexcept nogil:
    """A value that is no array and no object. The code of the status."""
    if byte == c'"':
        return read_string(self)
    if byte == c't':
        return read_literal(self, "true", JSON_TRUE)
    if byte == c'f':
        return read_literal(self, "false", JSON_FALSE)
    if byte == c'n':
        return read_literal(self, "null", JSON_NULL)
    return read_number(self)


cdef bint took(Parser* self, const char* word) noexcept nogil:
    """Step over `word`, or over as much of it as is there."""
    while word[0] != 0:
        if self.at == self.end or self.at[0] != word[0]:
            return False
        self.at += 1
        word += 1
    return True


cdef int read_literal(Parser* self, const char* word, int kind) noexcept nogil:
    cdef JsonNode* node = add_node(self)
    if node == NULL:
        return RESOURCE_EXHAUSTED
    if not took(self, word):
        return fail(self, "Invalid value.", self.at)
    node.kind = kind
    node.size = 0
    node.value.uint_ = 0
    return OK


# ---- strings -----------------------------------------------------------------------------------------

cdef inline const char* plain_end(const char* at, const char* end) noexcept nogil:
    """Where the bytes end that stand for themselves: at a quote, a backslash, a control or the end."""
    cdef uint64_t word, found
    while end - at >= 8:
        word = load_8_bytes(<const unsigned char*>at)
        # In each, the high bit of a byte that is the one looked for: exact up to the first such byte.
        found = (word - 0x2020202020202020u) & ~word
        found |= has_zero(word ^ 0x2222222222222222u) | has_zero(word ^ 0x5c5c5c5c5c5c5c5cu)
        found &= HIGH_BITS
        if found:
            return at + (count_trailing_zeros(found) >> 3)
        at += 8
    while at < end and at[0] != c'"' and at[0] != c'\\' and <unsigned char>at[0] >= 0x20:
        at += 1
    return at


cdef inline uint64_t has_zero(uint64_t word) noexcept nogil:
    return (word - 0x0101010101010101u) & ~word


cdef int read_string(Parser* self) noexcept nogil:
    """A string, from its first quote on. The code of the status."""
    cdef JsonNode* node = add_node(self)
    cdef const char* start
    if node == NULL:
        return RESOURCE_EXHAUSTED
    self.at += 1
    start = self.at
    self.at = plain_end(start, self.end)
    node.kind = JSON_STRING
    node.value.text = start
    node.size = <uint32_t>(self.at - start)
    if self.at < self.end and self.at[0] == c'"':
        self.at += 1
        return OK
    return read_escaped_string(self, node, start)


cdef int read_escaped_string(Parser* self, JsonNode* node, const char* start) noexcept nogil:
    """What is left of a string that began at `start`: it is copied, which may make it shorter only."""
    cdef JsonDocument* document = self.document
    cdef const char* plain = start
    cdef size_t size
    if document.text == NULL:
        # All strings from here on fit: it is never moved, so nodes may point into it.
        document.text_capacity = <size_t>(self.end - start) + 1
        document.text = <char*>malloc(document.text_capacity)
        if document.text == NULL:
            document.text_capacity = 0
            return no_memory(self.status)
        self.text = document.text
    node.value.text = self.text
    while True:
        size = <size_t>(self.at - plain)
        memcpy(self.text, plain, size)
        self.text += size
        if self.at == self.end or self.at[0] == 0:
            return fail(self, "Missing a closing quotation mark in string.", self.at)
        if self.at[0] == c'"':
            self.at += 1
            node.size = <uint32_t>(self.text - node.value.text)
            return OK
        if self.at[0] != c'\\':  # a control
            return fail(self, "Invalid escape character in string.", self.at)
        if read_escape(self) != OK:
            return self.status.code
        plain = self.at
        self.at = plain_end(plain, self.end)


cdef int read_escape(Parser* self) noexcept nogil:
    """An escape, from its backslash on. Each of its errors is told at the backslash."""
    cdef const char* start = self.at
    cdef char byte = start[1] if self.end - start >= 2 else 0
    cdef uint32_t code = 0
    cdef uint32_t low = 0
    if byte == c'u':
        self.at += 2
        if not hex_digits(self, &code):
            return fail(self, "Incorrect hex digit after \\u escape in string.", start)
        if 0xd800 <= code <= 0xdfff:
            if code > 0xdbff or not took(self, "\\u"):
                return fail(self, "The surrogate pair in string is invalid.", start)
            if not hex_digits(self, &low):
                return fail(self, "Incorrect hex digit after \\u escape in string.", start)
            if not 0xdc00 <= low <= 0xdfff:
                return fail(self, "The surrogate pair in string is invalid.", start)
            code = ((code - 0xd800) << 10 | (low - 0xdc00)) + 0x10000
        self.text = put_utf8(self.text, code)
        return OK
    byte = escaped(byte)
    if byte == 0:
        return fail(self, "Invalid escape character in string.", start)
    self.text[0] = byte
    self.text += 1
    self.at += 2
    return OK


cdef char escaped(char byte) noexcept nogil:
    """What a backslash and `byte` stand for; 0 if for nothing."""
    if byte == c'"' or byte == c'\\' or byte == c'/':
        return byte
    if byte == c'b':
        return 8
    if byte == c'f':
        return 12
    if byte == c'n':
        return 10
    if byte == c'r':
        return 13
    if byte == c't':
        return 9
    return 0


cdef bint hex_digits(Parser* self, uint32_t* value) noexcept nogil:
    """Four of them."""
    cdef int _i
    cdef char byte
    for _i in range(4):
        if self.at == self.end:
            return False
        byte = self.at[0]
        if c'0' <= byte <= c'9':
            value[0] = value[0] << 4 | <uint32_t>(byte - c'0')
        elif c'A' <= byte <= c'F':
            value[0] = value[0] << 4 | <uint32_t>(byte - c'A' + 10)
        elif c'a' <= byte <= c'f':
            value[0] = value[0] << 4 | <uint32_t>(byte - c'a' + 10)
        else:
            return False
        self.at += 1
    return True


cdef char* put_utf8(char* at, uint32_t code) noexcept nogil:
    if code < 0x80:
        at[0] = <char>code
        return at + 1
    if code < 0x800:
        at[0] = <char>(0xc0 | code >> 6)
        at[1] = <char>(0x80 | (code & 0x3f))
        return at + 2
    if code < 0x10000:
        at[0] = <char>(0xe0 | code >> 12)
        at[1] = <char>(0x80 | (code >> 6 & 0x3f))
        at[2] = <char>(0x80 | (code & 0x3f))
        return at + 3
    at[0] = <char>(0xf0 | code >> 18)
    at[1] = <char>(0x80 | (code >> 12 & 0x3f))
    at[2] = <char>(0x80 | (code >> 6 & 0x3f))
    at[3] = <char>(0x80 | (code & 0x3f))
    return at + 4


# ---- numbers -----------------------------------------------------------------------------------------

cdef int read_number(Parser* self) noexcept nogil:
    """A number, or what is no value at all. The code of the status."""
    cdef JsonNode* node = add_node(self)
    cdef const char* start = self.at
    cdef JsonNumber number
    if node == NULL:
        return RESOURCE_EXHAUSTED
    self.at = json_get_number(start, self.end, &number)
    if self.at == NULL:
        self.at = number.stopped
        return read_special(self, node, start, number.result)
    if not number.is_integer:
        node.kind = JSON_DOUBLE
        node.size = <uint32_t>(start - self.begin)
        node.value.double_ = number.real
        return OK
    node.kind = JSON_INT if number.negative and number.magnitude else JSON_UINT
    node.size = 0
    node.value.uint_ = 0 - number.magnitude if number.negative else number.magnitude
    return OK


cdef int read_special(Parser* self, JsonNode* node, const char* start, int result) noexcept nogil:
    """What json_get_number refused: NaN, Inf and Infinity, behind their sign, or an error."""
    cdef bint is_valid = False
    if result == JSON_NO_FRACTION:
        return fail(self, "Miss fraction part in number.", self.at)
    if result == JSON_NO_EXPONENT:
        return fail(self, "Miss exponent in number.", self.at)
    if result == JSON_NUMBER_TOO_BIG:
        return fail(self, "Number too big to be stored in double.", self.at)
    node.kind = JSON_DOUBLE
    node.size = <uint32_t>(start - self.begin)
    if self.at < self.end and self.at[0] == c'N':
        node.value.double_ = NAN
        is_valid = took(self, "NaN")
    else:
        node.value.double_ = -INFINITY if start[0] == c'-' else INFINITY
        is_valid = took(self, "Inf")
        if is_valid and self.at < self.end and self.at[0] == c'i':
            is_valid = took(self, "inity")
    return OK if is_valid else fail(self, "Invalid value.", self.at)


# ---- looking into a document -------------------------------------------------------------------------

cdef uint32_t json_find_member(const JsonDocument* document, uint32_t object_, Bytes name) noexcept nogil:
    """The index of the first value of that name in an object; 0 if there is none."""
    cdef uint32_t at = object_ + 1
    cdef uint32_t _member
    for _member in range(document.nodes[object_].size):
        if bytes_equal(json_text(&document.nodes[at]), name):
            return at + 1
        at = json_next(document, at + 1)
    return 0


cdef float json_float_again(const JsonDocument* document, const JsonNode* node) noexcept nogil:
    """json_float where the double does not tell it: between two floats, or below the normal ones."""
    cdef float value
    cdef const char* end = document.body.data + document.body.size
    if json_get_float(document.body.data + node.size, end, &value) == NULL:
        return <float>node.value.double_  # not a number, or infinity
    return value


# ---- for Python --------------------------------------------------------------------------------------

cdef object python_value(const JsonDocument* document, uint32_t index):
    """A value as Python's, objects as lists of pairs. For tests, which do not nest deep."""
    cdef const JsonNode* node = &document.nodes[index]
    cdef uint32_t at = index + 1
    cdef uint32_t _i
    cdef list items = []
    if node.kind == JSON_OBJECT:
        for _i in range(node.size):
            items.append((python_value(document, at), python_value(document, at + 1)))
            at = json_next(document, at + 1)
        return tuple(items)
    if node.kind == JSON_ARRAY:
        for _i in range(node.size):
            items.append(python_value(document, at))
            at = json_next(document, at)
        return items
    if node.kind == JSON_STRING:
        return node.value.text[:node.size] if node.size else b""
    if node.kind == JSON_DOUBLE:
        return node.value.double_
    if node.kind == JSON_UINT:
        return node.value.uint_
    if node.kind == JSON_INT:
        return node.value.int_
    return {JSON_NULL: None, JSON_TRUE: True, JSON_FALSE: False}[node.kind]


def parse_json(body: bytes) -> object:
    """The value of a body: strings as bytes, objects as tuples of pairs. ServingError if it is none."""
    cdef JsonDocument document
    cdef Status status
    json_document_init(&document)
    status_init(&status)
    try:
        if json_document_parse(&document, body, len(body), &status) != OK:
            raise status_error(&status)
        return python_value(&document, 0)
    finally:
        json_document_free(&document)
        status_free(&status)


def json_memory(body: bytes) -> tuple[int, int]:
    """How many nodes a body has, valid or not, and how many bytes of memory they take."""
    cdef JsonDocument document
    cdef Status status
    json_document_init(&document)
    status_init(&status)
    try:
        json_document_parse(&document, body, len(body), &status)
        return document.size, json_document_bytes(&document)
    finally:
        json_document_free(&document)
        status_free(&status)
