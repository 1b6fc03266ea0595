"""What the head of a request to run a model says: path, query, and forms of the bodies.

    POST /v1/models/NAME[/versions/V|/labels/L]:predict|classify|regress?pretty&model_spec

as TensorFlow Serving's model_servers/http_rest_api_util.cc (ParseModelInfo) has it: words of the path in any
case, but for the last one; name and label percent-decoded. Whatever is not like that is left to rest_paths,
which says what is wrong with it.

`read_target` is the reader's face for Python.
"""

from libc.stdint cimport INT64_MAX, int64_t
from libc.string cimport memset

from tfsrv._buffer cimport buffer_append, buffer_free, buffer_init
from tfsrv._rest_call cimport (
    FORM_JSON,
    FORM_NPY,
    FORM_NPZ,
    FORM_PROTOBUF,
    REST_CLASSIFY,
    REST_PREDICT,
    REST_REGRESS,
    rest_label,
    rest_name,
    rest_signature,
)
from tfsrv._wire_format cimport is_utf8
from tfsrv.frontends._http1_text cimport next_element, same_word, trimmed

cdef enum:
    NO_FORM = -1


cdef inline char lower(char byte) noexcept nogil:
    return byte + 32 if c"A" <= byte <= c"Z" else byte


cdef bint takes_word(Bytes* text, const char* word) noexcept nogil:
    """Cut a word off the front, in any case; False if `text` has another."""
    cdef size_t i = 0
    while word[i] != 0:
        if i >= text.size or lower(text.data[i]) != word[i]:
            return False
        i += 1
    text[0] = Bytes(text.data + i, text.size - i)
    return True


cdef Bytes take_until(Bytes* text, char one, char other) noexcept nogil:
    """Cut off what comes before the first of the two; all if neither is there."""
    cdef size_t i = 0
    cdef Bytes part
    while i < text.size and text.data[i] != one and text.data[i] != other:
        i += 1
    part = Bytes(text.data, i)
    text[0] = Bytes(text.data + i, text.size - i)
    return part


cdef inline int hex_digit(char byte) noexcept nogil:
    if c"0" <= byte <= c"9":
        return byte - c"0"
    byte = lower(byte)
    return byte - c"a" + 10 if c"a" <= byte <= c"f" else -1


cdef int decode(Bytes text, bint plus_is_space, Buffer* into) noexcept nogil:
    """Append what stands percent-encoded in `text`. -1: it is no encoded UTF-8, or there is no memory.

    A percent sign without two digits behind it stands for itself, as for TensorFlow Serving (curl).
    """
    cdef size_t start = into.size
    cdef size_t i = 0
    cdef int high, low
    cdef char byte
    while i < text.size:
        byte = text.data[i]
        if byte == c"%" and i + 2 < text.size:
            high = hex_digit(text.data[i + 1])
            low = hex_digit(text.data[i + 2])
            if high >= 0 and low >= 0:
                byte = <char>(high << 4 | low)
                i += 2
        elif byte == c"+" and plus_is_space:
            byte = c" "
        if buffer_append(into, &byte, 1) != 0:
            return -1
        i += 1
    return 0 if is_utf8(Bytes(into.data + start, into.size - start)) else -1


cdef bint read_version(Bytes digits, int64_t* version) noexcept nogil:
    cdef size_t i
    cdef int digit
    version[0] = 0
    for i in range(digits.size):
        if not c"0" <= digits.data[i] <= c"9":
            return False
        digit = digits.data[i] - c"0"
        if version[0] > (INT64_MAX - digit) // 10:
            return False
        version[0] = version[0] * 10 + digit
    return digits.size > 0


cdef bint rest_read_target(
    Bytes path, Bytes query, Bytes content_type, Bytes accept, RestCall* rest, Buffer* prefix
) noexcept nogil:
    """Read the head of a POST. False: it is none to run a model, or something is wrong with it.

    Fills in `rest`, and appends the names to `prefix` (see RestCall); what `prefix` has after False has no
    meaning. `query` is what is behind the "?"; a header that is not there has no size.
    """
    cdef Bytes label = Bytes(NULL, 0)
    cdef Bytes name
    memset(rest, 0, sizeof(RestCall))
    if not takes_word(&path, "/v1/models/"):
        return False
    name = take_until(&path, c"/", c":")
    if name.size == 0:
        return False
    if takes_word(&path, "/versions/"):
        rest.has_version = True
        if not read_version(take_until(&path, c"/", c":"), &rest.version):
            return False
    elif takes_word(&path, "/labels/"):
        label = take_until(&path, c"/", c":")
        if label.size == 0:
            return False
    rest.verb = verb_of(path)
    if rest.verb == 0 or decode(name, False, prefix) != 0:
        return False
    rest.name_size = prefix.size
    if decode(label, False, prefix) != 0:
        return False
    rest.label_size = prefix.size - rest.name_size
    return read_query(query, rest, prefix) and read_forms(content_type, accept, rest)


cdef int verb_of(Bytes text) noexcept nogil:
    """A RestVerb, which is spelt in small letters behind a colon."""
    cdef Bytes word = Bytes(text.data + 1, text.size - 1)
    if text.size == 0 or text.data[0] != c":":
        return 0
    if is_word(word, "predict"):
        return REST_PREDICT
    if is_word(word, "classify"):
        return REST_CLASSIFY
    return REST_REGRESS if is_word(word, "regress") else 0


cdef bint is_word(Bytes text, const char* word) noexcept nogil:
    cdef size_t i
    for i in range(text.size):
        if word[i] == 0 or text.data[i] != word[i]:
            return False
    return word[text.size] == 0


# ---- query ----------------------------------------------------------------------------------------------

cdef bint read_query(Bytes query, RestCall* rest, Buffer* prefix) noexcept nogil:
    """The parts of it that are known; others are nobody's business."""
    cdef Bytes part, key
    while query.size:
        part = take_until(&query, c"&", c"&")
        if query.size:
            query = Bytes(query.data + 1, query.size - 1)
        key = take_until(&part, c"=", c"=")
        if part.size:
            part = Bytes(part.data + 1, part.size - 1)
        if is_word(key, "pretty"):
            rest.pretty = is_on(part)
        elif is_word(key, "model_spec"):
            rest.tells_spec = is_on(part)
        elif is_word(key, "signature_name"):
            prefix.size = rest.name_size + rest.label_size  # the last one counts
            if decode(part, True, prefix) != 0:
                return False
            rest.signature_size = prefix.size - rest.name_size - rest.label_size
    return True


cdef bint is_on(Bytes value) noexcept nogil:
    """Of a switch that is named in the query, with a value or without."""
    return not is_word(value, "0") and not same_word(value, "false", 5)


# ---- forms ----------------------------------------------------------------------------------------------

cdef int form_of(Bytes media_type) noexcept nogil:
    """A RestForm; NO_FORM for a type that is not known. Parameters do not matter."""
    cdef Bytes name = trimmed(take_until(&media_type, c";", c";"))
    if same_word(name, "application/json", 16):
        return FORM_JSON
    if same_word(name, "application/x-protobuf", 22) or same_word(name, "application/protobuf", 20):
        return FORM_PROTOBUF
    if same_word(name, "application/x-npy", 17):
        return FORM_NPY
    return FORM_NPZ if same_word(name, "application/x-npz", 17) else NO_FORM


cdef bint read_forms(Bytes content_type, Bytes accept, RestCall* rest) noexcept nogil:
    """In which form the body is, and in which the answer shall be.

    TensorFlow Serving looks at neither, and curl sends JSON as a form's fields: what is not known is JSON.
    Who does not ask for a form gets the one that was sent.
    """
    cdef Bytes part
    cdef int form = form_of(content_type)
    rest.body_form = FORM_JSON if form == NO_FORM else form
    rest.answer_form = rest.body_form
    rest.any_form = True
    while next_element(&accept, &part):  # the first one that is known; weights are not looked at
        form = form_of(part)
        if form != NO_FORM:
            rest.answer_form = form
            rest.any_form = False
            break
    # Examples and their results are no arrays.
    return rest.verb == REST_PREDICT or (not is_array(rest.body_form) and not is_array(rest.answer_form))


cdef bint is_array(int form) noexcept nogil:
    return form == FORM_NPY or form == FORM_NPZ


# ---- what Python sees -----------------------------------------------------------------------------------

def read_target(
    path: bytes, query: bytes = b"", content_type: bytes = b"", accept: bytes = b""
) -> dict[str, object] | None:
    """What rest_read_target makes of a head: the RestCall's fields, with names as bytes; None if nothing."""
    cdef RestCall rest
    cdef Buffer prefix
    buffer_init(&prefix)
    try:
        if not rest_read_target(
            view(path), view(query), view(content_type), view(accept), &rest, &prefix
        ):
            return None
        return {
            "verb": ("", "predict", "classify", "regress")[rest.verb],
            "name": copied(rest_name(&rest, prefix.data)),
            "version": rest.version if rest.has_version else None,
            "label": copied(rest_label(&rest, prefix.data)),
            "signature_name": copied(rest_signature(&rest, prefix.data)),
            "pretty": bool(rest.pretty),
            "model_spec": bool(rest.tells_spec),
            "body_form": ("json", "protobuf", "npy", "npz")[rest.body_form],
            "answer_form": ("json", "protobuf", "npy", "npz")[rest.answer_form],
            "any_form": bool(rest.any_form),
        }
    finally:
        buffer_free(&prefix)


cdef Bytes view(bytes text):
    return Bytes(<const char*>text, <size_t>len(text))


cdef bytes copied(Bytes text):
    return text.data[:text.size] if text.size else b""
