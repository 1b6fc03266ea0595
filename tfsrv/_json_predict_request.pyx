"""JSON bodies for :predict, made into PredictRequests on protobuf's wire format.

This is TensorFlow Serving's util/json_tensor.cc, FillPredictRequestFromJson: its two formats, the order of its checks
and its texts. Of a name that comes twice in one object the first counts. Each value must be there under
the exact names of the signature's inputs; defaults are no help.

`read_predict` is the reader's face for Python.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, qsort

from tfsrv._buffer cimport (
    buffer_free,
    buffer_init,
    bytes_compare,
    bytes_equal,
)
from tfsrv._json_description cimport json_status_add_value
from tfsrv._json_document cimport (
    JSON_ARRAY,
    JSON_OBJECT,
    json_document_free,
    json_document_init,
    json_document_parse,
    json_find_member,
    json_next,
    json_text,
)
from tfsrv._json_request cimport (
    json_document_signature_name,
    json_is_base64,
    request_without_memory,
)
from tfsrv._json_tensor cimport JsonTensor, json_tensor_add, json_tensor_append
from tfsrv._model_spec cimport request_put_spec
from tfsrv._status cimport (
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    status_add,
    status_add_bytes,
    status_add_int,
    status_error,
    status_free,
    status_init,
    status_set,
)
from tfsrv._tensor_proto cimport MAX_RANK
from tfsrv._wire_format cimport WIRE_OK

cdef Bytes INSTANCES = Bytes(b"instances", 9)
cdef Bytes INPUTS = Bytes(b"inputs", 6)


cdef struct Reader:
    const JsonDocument* document
    JsonTensor* tensors     # owned, with their values: one for each input, in the order of their names
    int* guesses            # owned: which input the last object had at each of its first places
    int size                # of both
    Status* status


cdef int json_read_predict(
    const JsonDocument* document, const InputType* inputs, int inputs_size, const RequestSpec* spec,
    Buffer* wire, bint* in_rows, Status* status
) noexcept nogil:
    """Append the PredictRequest that a body asks for to `wire`. The code of `status`.

    The document is one whose root is an object: json_document_signature_name has looked at it. `in_rows`
    says whether the body has "instances", so that the answer is in rows as well. Where this fails, `wire` may
    have a part of the request.
    """
    cdef Reader reader
    if inputs_size == 0:
        status_set(status, INVALID_ARGUMENT, "Failed to get input map for signature: ")
        status_add_bytes(status, spec.signature_name if spec.signature_name.size else Bytes(b"DEFAULT", 7))
        return INVALID_ARGUMENT
    reader.document = document
    reader.status = status
    status.code = OK
    if (make_tensors(&reader, inputs, inputs_size) == OK
            and read_body(&reader, in_rows) == OK):
        if request_put_spec(wire, spec) != WIRE_OK:
            request_without_memory(status)
        else:
            append_tensors(&reader, in_rows[0], wire)
    free_tensors(&reader)
    return status.code


cdef int make_tensors(Reader* self, const InputType* inputs, int size) noexcept nogil:
    cdef int i
    self.size = size
    self.guesses = <int*>calloc(<size_t>size, sizeof(int))
    self.tensors = <JsonTensor*>calloc(<size_t>size, sizeof(JsonTensor))
    if self.guesses == NULL or self.tensors == NULL:
        return request_without_memory(self.status)
    for i in range(size):
        self.tensors[i].alias = inputs[i].alias
        self.tensors[i].dtype = inputs[i].dtype
    qsort(self.tensors, <size_t>size, sizeof(JsonTensor), compare_aliases)
    return OK


cdef int compare_aliases(const void* a, const void* b) noexcept nogil:
    return bytes_compare((<const JsonTensor*>a).alias, (<const JsonTensor*>b).alias)


cdef void free_tensors(Reader* self) noexcept nogil:
    cdef int i
    if self.tensors != NULL:
        for i in range(self.size):
            buffer_free(&self.tensors[i].values)
    free(self.tensors)
    free(self.guesses)


cdef int append_tensors(Reader* self, bint in_rows, Buffer* wire) noexcept nogil:
    cdef int i
    for i in range(self.size):
        if json_tensor_append(&self.tensors[i], in_rows, wire, self.status) != OK:
            return self.status.code
    return OK


cdef JsonTensor* find_tensor(Reader* self, Bytes name, uint32_t place) noexcept nogil:
    """The input of that name, which a member at `place` of its object has; NULL if there is none.

    Objects mostly have their members in the same order, so a look at the last one's saves the search.
    """
    cdef int low = 0, high = self.size, middle, order
    cdef bint is_guessed = place < <uint32_t>self.size
    if is_guessed and bytes_equal(self.tensors[self.guesses[place]].alias, name):
        return &self.tensors[self.guesses[place]]
    while low < high:
        middle = (low + high) // 2
        order = bytes_compare(self.tensors[middle].alias, name)
        if order == 0:
            if is_guessed:
                self.guesses[place] = middle
            return &self.tensors[middle]
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return NULL


cdef int wrong_body(Reader* self, const char* text) noexcept nogil:
    status_set(self.status, INVALID_ARGUMENT, "JSON Value: ")
    json_status_add_value(self.status, self.document, 0)
    status_add(self.status, text)
    return INVALID_ARGUMENT


cdef int read_body(Reader* self, bint* in_rows) noexcept nogil:
    """Find the values, in either format. The code of the status, as that of all that follow."""
    cdef uint32_t instances = json_find_member(self.document, 0, INSTANCES)
    cdef uint32_t inputs = json_find_member(self.document, 0, INPUTS)
    in_rows[0] = instances != 0
    if instances and inputs:
        return wrong_body(
            self, " Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
    if inputs:
        return read_columns(self, inputs)
    if instances == 0:
        return status_set(self.status, INVALID_ARGUMENT, "Missing 'inputs' or 'instances' key")
    if self.document.nodes[instances].kind != JSON_ARRAY:
        return wrong_body(self, " Expecting 'instances' to be an list/array")
    if self.document.nodes[instances].size == 0:
        return wrong_body(self, " No values in 'instances' array")
    return read_rows(self, instances)


# ---- "inputs" ----------------------------------------------------------------------------------------

cdef bint is_map(const JsonDocument* document, uint32_t at) noexcept nogil:
    """Whether a value is an object of named ones, and not one that stands for bytes."""
    return document.nodes[at].kind == JSON_OBJECT and not json_is_base64(document, at)


cdef int read_columns(Reader* self, uint32_t inputs) noexcept nogil:
    """A value for each input as it is; names that are none of an input's are not looked at."""
    cdef int i
    if is_map(self.document, inputs):
        find_columns(self, inputs)
    elif self.size == 1:
        self.tensors[0].at = inputs
    else:
        return status_set(
            self.status, INVALID_ARGUMENT,
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per"
            " tensorinfo_map")
    for i in range(self.size):
        if self.tensors[i].at == 0:
            status_set(self.status, INVALID_ARGUMENT, "Missing named input: ")
            status_add_bytes(self.status, self.tensors[i].alias)
            status_add(self.status, " in 'inputs' object.")
            return INVALID_ARGUMENT
        if json_tensor_add(
                &self.tensors[i], self.document, self.tensors[i].at, 1, MAX_RANK, self.status) != OK:
            return self.status.code
    return OK


cdef void find_columns(Reader* self, uint32_t inputs) noexcept nogil:
    """Note where each input's value is, in one pass over the members."""
    cdef uint32_t at = inputs + 1
    cdef uint32_t place
    cdef JsonTensor* tensor
    for place in range(self.document.nodes[inputs].size):
        tensor = find_tensor(self, json_text(&self.document.nodes[at]), place)
        if tensor != NULL and tensor.at == 0:
            tensor.at = at + 1
        at = json_next(self.document, at + 1)


# ---- "instances" -------------------------------------------------------------------------------------

cdef int read_rows(Reader* self, uint32_t instances) noexcept nogil:
    """Rows: objects with a value for each input, or values of the only one."""
    cdef uint32_t rows = self.document.nodes[instances].size
    cdef uint32_t at = instances + 1
    cdef uint32_t row
    cdef bint are_maps = is_map(self.document, at)
    if not are_maps and self.size > 1:
        return status_set(
            self.status, INVALID_ARGUMENT,
            "instances is a plain list, but expecting list of objects as multiple input tensors required as"
            " per tensorinfo_map")
    for row in range(rows):
        if is_map(self.document, at) != are_maps:
            return wrong_row(self, are_maps, row)
        if are_maps:
            if read_map(self, at, row, rows) != OK:
                return self.status.code
        elif json_tensor_add(
                &self.tensors[0], self.document, at, rows, MAX_RANK - 1, self.status) != OK:
            return failed_row(self, row, NULL)
        at = json_next(self.document, at)
    return OK


cdef int wrong_row(Reader* self, bint are_maps, uint32_t row) noexcept nogil:
    status_set(
        self.status, INVALID_ARGUMENT,
        "Expecting object but got list at item " if are_maps
        else "Expecting value/list but got object at item ")
    status_add_int(self.status, row)
    status_add(self.status, " of input list")
    return INVALID_ARGUMENT


cdef int read_map(Reader* self, uint32_t map_at, uint32_t row, uint32_t rows) noexcept nogil:
    """A row that is an object: it has the inputs' names, all of them and no others."""
    cdef uint32_t at = map_at + 1
    cdef uint32_t place
    cdef JsonTensor* tensor
    cdef Bytes name
    cdef int found = 0
    for place in range(self.document.nodes[map_at].size):
        name = json_text(&self.document.nodes[at])
        tensor = find_tensor(self, name, place)
        if tensor == NULL:
            status_set(self.status, INVALID_ARGUMENT, "JSON object: does not have named input: ")
            status_add_bytes(self.status, name)
            return failed_row(self, row, &name)
        if tensor.rows == row:  # or it has this row's value already
            if json_tensor_add(
                    tensor, self.document, at + 1, rows, MAX_RANK - 1, self.status) != OK:
                return failed_row(self, row, &name)
            found += 1
        at = json_next(self.document, at + 1)
    return OK if found == self.size else wrong_names(self, map_at, row)


cdef int wrong_names(Reader* self, uint32_t at, uint32_t row) noexcept nogil:
    cdef int i
    status_set(self.status, INVALID_ARGUMENT, "Failed to process element: ")
    status_add_int(self.status, row)
    status_add(self.status, " of 'instances' list. JSON object: ")
    json_status_add_value(self.status, self.document, at)
    status_add(self.status, " keys must be equal to: ")
    for i in range(self.size):
        if i:
            status_add(self.status, ",")
        status_add_bytes(self.status, self.tensors[i].alias)
    return INVALID_ARGUMENT


cdef int failed_row(Reader* self, uint32_t row, const Bytes* name) noexcept nogil:
    """Say of an error in which row it is, and under which name: INVALID_ARGUMENT, whatever it was."""
    cdef Buffer inner = self.status.message
    cdef int code = self.status.code
    if code == RESOURCE_EXHAUSTED:
        return code
    buffer_init(&self.status.message)
    status_set(self.status, INVALID_ARGUMENT, "Failed to process element: ")
    status_add_int(self.status, row)
    if name != NULL:
        status_add(self.status, " key: ")
        status_add_bytes(self.status, name[0])
    status_add(self.status, " of 'instances' list. Error: ")
    status_add(self.status, "UNIMPLEMENTED: " if code == UNIMPLEMENTED else "INVALID_ARGUMENT: ")
    status_add_bytes(self.status, Bytes(inner.data, inner.size))
    buffer_free(&inner)
    return INVALID_ARGUMENT


# ---- for Python --------------------------------------------------------------------------------------

def read_predict(
    body: bytes, inputs: dict[str, int], model: str = "", version: int | None = None, label: str = ""
) -> tuple[bytes, bool]:
    """The PredictRequest of a body on the wire, and whether it has rows.

    `inputs` are the signature's, with TensorFlow's numbers of their dtypes. ServingError if the body is wrong.
    """
    cdef JsonDocument document
    cdef Status status
    cdef Buffer wire
    cdef RequestSpec spec
    cdef InputType* described
    cdef bint in_rows = False
    cdef list aliases = [alias.encode() for alias in inputs]
    cdef bytes model_name = model.encode()
    cdef bytes label_name = label.encode()
    cdef Py_ssize_t i
    described = <InputType*>calloc(len(aliases) + 1, sizeof(InputType))
    if described == NULL:
        raise MemoryError
    for i, (alias, dtype) in enumerate(zip(aliases, inputs.values())):
        described[i].alias = view_of(alias)
        described[i].dtype = dtype
    spec = RequestSpec(
        view_of(model_name), version is not None, version or 0, view_of(label_name), Bytes(NULL, 0))
    json_document_init(&document)
    status_init(&status)
    buffer_init(&wire)
    try:
        if (json_document_parse(&document, body, len(body), &status) != OK
                or json_document_signature_name(&document, &spec.signature_name, &status) != OK
                or json_read_predict(
                    &document, described, <int>len(aliases), &spec, &wire, &in_rows, &status) != OK):
            raise status_error(&status)
        return wire.data[:wire.size], in_rows
    finally:
        free(described)
        json_document_free(&document)
        status_free(&status)
        buffer_free(&wire)


cdef Bytes view_of(bytes data):
    return Bytes(PyBytes_AS_STRING(data), <size_t>len(data))
