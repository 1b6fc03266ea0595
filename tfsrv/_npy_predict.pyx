"""Predict with numpy's files as bodies: .npy and .npz in and out. No GIL.

A request's body becomes a PredictRequest on the wire, which goes the way of all others. A .npy is
the one input of a signature; the arrays of a .npz are inputs by their names. Inputs may be
missing: who runs the request knows which of them have to be there.

An answer of one output may be a .npy; a .npz holds any number. `read_predict` and `write_predict`
are the faces for Python.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.ref cimport Py_INCREF
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from tfsrv._buffer cimport (
    buffer_free,
    buffer_init,
    buffer_reserve,
    bytes_equal,
)
from tfsrv._message cimport message_free, message_init, message_splice
from tfsrv._model_spec cimport request_put_spec
from tfsrv._npy cimport (
    NpyArray,
    NpyType,
    npy_put_header,
    npy_read,
    npy_type_of,
)
from tfsrv._npy_tensor cimport npy_put_input
from tfsrv._npz cimport (
    NpzMember,
    NpzReader,
    npz_begin,
    npz_begin_member,
    npz_end,
    npz_end_member,
    npz_next,
    npz_unpack,
)
from tfsrv._predict_response cimport OutputTensor, release_object, take_message
from tfsrv._status cimport (
    INTERNAL,
    INVALID_ARGUMENT,
    INVALID_INPUT,
    OK,
    RESOURCE_EXHAUSTED,
    status_add,
    status_add_bytes,
    status_add_int,
    status_error,
    status_free,
    status_init,
    status_set,
)
from tfsrv._tensor_proto cimport dtype_bytes
from tfsrv._tstring cimport TString, tstring_get
from tfsrv._wire_format cimport (
    LARGEST_LENGTH,
    WIRE_BAD,
    WIRE_CHANGED,
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_TOO_BIG,
)

cdef enum:
    LONGEST_NAME = 0xFFFF - 4       # bytes of a name in a zip, without ".npy"
    MOST_MEMBERS = 0xFFFE           # of a zip that is no zip64
    MOST_PADDING = 64 << 20         # bytes of zeros that strings are filled up with


# ---- requests ---------------------------------------------------------------------------------------

# Where in the file the array of an input was found.
cdef struct Extent:
    size_t start
    size_t end              # 0: it was not


cdef int npy_read_predict(
    Bytes body, bint is_npz, const InputType* inputs, int inputs_size, const RequestSpec* spec,
    size_t most_bytes, Buffer* wire, Status* status
) noexcept nogil:
    """Append the PredictRequest that `body` stands for to `wire`. Any thread.

    `inputs` are those of the signature. Neither the request nor what is unpacked for it becomes
    longer than `most_bytes`.

    OK, or a code with its text in `status`; `wire` is as before then.
    """
    cdef size_t before = wire.size
    cdef size_t most = before + min(most_bytes, LARGEST_LENGTH)
    cdef int code = request_put_spec(wire, spec)
    if code != WIRE_OK:
        status_set(status, RESOURCE_EXHAUSTED, "There is no memory for the request")
        return RESOURCE_EXHAUSTED
    if is_npz:
        code = read_npz(body, inputs, inputs_size, most_bytes, most, wire, status)
    else:
        code = read_npy(body, inputs, inputs_size, most, wire, status)
    if code != OK:
        wire.size = before
    return code


cdef int read_npy(
    Bytes body, const InputType* inputs, int inputs_size, size_t most, Buffer* wire, Status* status
) noexcept nogil:
    cdef NpyArray array
    cdef int code
    if inputs_size != 1:
        status_set(
            status, INVALID_ARGUMENT, "An npy is one array, and the signature has ")
        status_add_int(status, inputs_size)
        status_add(status, " inputs")
        add_inputs(status, ": ", inputs, inputs_size)
        status_add(status, "; send an npz with the array of each under its name")
        status.reason = INVALID_INPUT
        return INVALID_ARGUMENT
    code = npy_read(body, inputs[0].alias, &array, status)
    if code != OK:
        return code
    return npy_put_input(wire, most, &array, inputs[0].alias, inputs[0].dtype, status)


cdef int read_npz(
    Bytes body, const InputType* inputs, int inputs_size, size_t most_unpacked, size_t most,
    Buffer* wire, Status* status
) noexcept nogil:
    cdef Extent* found = <Extent*>calloc(<size_t>inputs_size + 1, sizeof(Extent))
    cdef Buffer scratch
    cdef NpzReader reader
    cdef int code = OK
    if found == NULL:
        return status_set(status, RESOURCE_EXHAUSTED, "There is no memory for the request")
    buffer_init(&scratch)
    code = npz_begin(&reader, body, status)
    while code == OK and reader.members > 0:
        code = read_member(
            &reader, inputs, inputs_size, found, &most_unpacked, most, &scratch, wire, status)
    buffer_free(&scratch)
    free(found)
    return code


cdef int read_member(
    NpzReader* reader, const InputType* inputs, int inputs_size, Extent* found,
    size_t* most_unpacked, size_t most, Buffer* scratch, Buffer* wire, Status* status
) noexcept nogil:
    """The next array of an npz, which has to be an input that was not found before."""
    cdef NpzMember member
    cdef NpyArray array
    cdef Bytes content
    cdef int code = npz_next(reader, &member, status)
    cdef int i
    if code != OK:
        return code
    i = input_of(member.name, inputs, inputs_size)
    if i < 0:
        return refuse_name(member.name, inputs, inputs_size, status)
    if found[i].end != 0:
        return refuse_array(member.name, " twice", status)
    if overlaps(&member, found, inputs_size):
        return refuse_array(member.name, " in bytes that are another array's too", status)
    found[i] = Extent(member.start, member.end)
    code = npz_unpack(&member, most_unpacked[0], scratch, &content, status)
    if code != OK:
        return code
    most_unpacked[0] -= content.size
    code = npy_read(content, inputs[i].alias, &array, status)
    if code != OK:
        return code
    return npy_put_input(wire, most, &array, inputs[i].alias, inputs[i].dtype, status)


cdef int input_of(Bytes name, const InputType* inputs, int inputs_size) noexcept nogil:
    """The index of an input; -1 if there is none of that name."""
    cdef int i
    for i in range(inputs_size):
        if bytes_equal(inputs[i].alias, name):
            return i
    return -1


cdef bint overlaps(const NpzMember* member, const Extent* found, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        if found[i].end > member.start and found[i].start < member.end:
            return True
    return False


cdef int refuse_array(Bytes name, const char* text, Status* status) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "The npz has the array \"")
    status_add_bytes(status, name)
    status_add(status, "\"")
    status_add(status, text)
    return INVALID_ARGUMENT


cdef int refuse_name(
    Bytes name, const InputType* inputs, int inputs_size, Status* status
) noexcept nogil:
    refuse_array(name, ", but the signature has no input of that name", status)
    if inputs_size:
        add_inputs(status, "; its inputs are ", inputs, inputs_size)
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


cdef void add_inputs(
    Status* status, const char* before, const InputType* inputs, int inputs_size
) noexcept nogil:
    cdef int i
    for i in range(inputs_size):
        if i == 0:
            status_add(status, before)
        else:
            status_add(status, ", ")
        status_add(status, "\"")
        status_add_bytes(status, inputs[i].alias)
        status_add(status, "\"")


# ---- answers ----------------------------------------------------------------------------------------

cdef int npy_write_predict(
    Message* message, TensorData* outputs, int outputs_size, bint as_npz, size_t splice_from,
    void (*release)(void* holder) noexcept nogil, Status* status
) noexcept nogil:
    """Append the outputs to `message`, as a .npy that holds the one there is or as a .npz.

    numpy.load reads it with allow_pickle=False. Strings become S, as long as the longest; types
    of ml_dtypes become V; quantized integers become integers.

    The elements of a .npy that are `splice_from` bytes or more are not copied, see
    wire_write_predict. Those of a .npz are: its checksums have to be of what is sent, and tensors
    may share memory with variables of the model, which TensorFlow writes in place.

    A WireResult, which `status` says too. If it is not WIRE_OK the message is of no use: clear it,
    which releases a holder that was taken. WIRE_BAD for what such a file cannot hold.
    """
    cdef int result
    if as_npz:
        result = write_npz(&message.head, outputs, outputs_size, status)
    elif outputs_size != 1:
        result = refuse_outputs(outputs, outputs_size, status)
    else:
        result = write_npy(message, outputs, splice_from, release, status)
    if result == WIRE_NO_MEMORY:
        status_set(status, RESOURCE_EXHAUSTED, "There is no memory for the response")
    elif result == WIRE_TOO_BIG:
        status_set(status, RESOURCE_EXHAUSTED, "The response is longer than 2147483647 bytes")
    elif result == WIRE_CHANGED:
        status_set(status, INTERNAL, "An output changed while it was written")
    return result


cdef int refuse_outputs(const TensorData* outputs, int outputs_size, Status* status) noexcept nogil:
    cdef int i
    status_set(status, INVALID_ARGUMENT, "The response has ")
    status_add_int(status, outputs_size)
    status_add(status, " outputs")
    for i in range(outputs_size):
        status_add(status, ", \"" if i else ": \"")
        status_add_bytes(status, outputs[i].alias)
        status_add(status, "\"")
    status_add(status, "; an npy holds one array: ask for an npz")
    return WIRE_BAD


cdef int refuse_output(const TensorData* tensor, const char* text, Status* status) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "The output \"")
    status_add_bytes(status, tensor.alias)
    status_add(status, "\" ")
    status_add(status, text)
    return WIRE_BAD


cdef int write_npy(
    Message* message, TensorData* tensor, size_t splice_from,
    void (*release)(void* holder) noexcept nogil, Status* status
) noexcept nogil:
    cdef bint is_string
    cdef NpyType type
    cdef int result = find_type(tensor, &type, status)
    if result != WIRE_OK:
        return result
    is_string = type.kind == c"S"
    if release != NULL and tensor.holder != NULL and tensor.size >= splice_from and not is_string:
        if npy_put_header(&message.head, type, tensor.dims, tensor.rank) != 0:
            return WIRE_NO_MEMORY
        if message_splice(
                message, <const char*>tensor.data, tensor.size, tensor.holder, release) != 0:
            return WIRE_NO_MEMORY
        tensor.taken = True
        return WIRE_OK
    return copy_npy(&message.head, tensor, type)


cdef int copy_npy(Buffer* into, const TensorData* tensor, NpyType type) noexcept nogil:
    """Append a whole file."""
    cdef size_t size = <size_t>(tensor.elements * type.unit)
    # Room for a header of most arrays too, so that memory is taken once.
    if buffer_reserve(into, size + 128) != 0:
        return WIRE_NO_MEMORY
    if npy_put_header(into, type, tensor.dims, tensor.rank) != 0:
        return WIRE_NO_MEMORY
    if buffer_reserve(into, size) != 0:
        return WIRE_NO_MEMORY
    if type.kind == c"S":
        if not put_strings(into.data + into.size, tensor, <size_t>type.unit):
            return WIRE_CHANGED
    elif size:
        memcpy(into.data + into.size, tensor.data, size)
    into.size += size
    return WIRE_OK


cdef int write_npz(
    Buffer* into, const TensorData* outputs, int outputs_size, Status* status
) noexcept nogil:
    cdef size_t start = into.size
    cdef size_t member
    cdef NpyType type
    cdef int result
    cdef int i
    if outputs_size > MOST_MEMBERS:
        return WIRE_TOO_BIG
    for i in range(outputs_size):
        result = find_type(&outputs[i], &type, status)
        if result != WIRE_OK:
            return result
        if outputs[i].alias.size > LONGEST_NAME:
            return refuse_output(&outputs[i], "has a name that is too long for an npz", status)
        if into.size - start + <size_t>(outputs[i].elements * type.unit) > LARGEST_LENGTH:
            return WIRE_TOO_BIG
        member = into.size
        if npz_begin_member(into, outputs[i].alias) != 0:
            return WIRE_NO_MEMORY
        result = copy_npy(into, &outputs[i], type)
        if result != WIRE_OK:
            return result
        npz_end_member(into, member)
    return WIRE_OK if npz_end(into, start, outputs_size) == 0 else WIRE_NO_MEMORY


cdef int find_type(const TensorData* tensor, NpyType* type, Status* status) noexcept nogil:
    """The type of the array that holds `tensor`, whose size is checked."""
    cdef int64_t longest = 1
    cdef int result
    if npy_type_of(tensor.dtype, 0, type) and type.kind == c"S":
        result = measure_strings(tensor, &longest, status)
        if result != WIRE_OK:
            return result
        npy_type_of(tensor.dtype, longest, type)
    if type.kind == 0:
        return refuse_output(tensor, "is of a type that numpy does not have", status)
    if tensor.size != <size_t>tensor.elements * dtype_bytes(tensor.dtype):
        status_set(status, INTERNAL, "An output is not as long as its shape says")
        return WIRE_BAD
    if <size_t>tensor.elements > LARGEST_LENGTH // <size_t>type.unit:
        return WIRE_TOO_BIG
    return WIRE_OK


cdef int measure_strings(
    const TensorData* tensor, int64_t* longest, Status* status
) noexcept nogil:
    """Bytes of the longest string, one at least: numpy's strings have no less."""
    cdef const TString* strings = <const TString*>tensor.data
    cdef size_t most = 1
    cdef size_t total = 0
    cdef int64_t i
    cdef Bytes text
    for i in range(tensor.elements):
        text = tstring_get(&strings[i])
        if text.size and text.data[text.size - 1] == 0:
            return refuse_output(
                tensor, "has a string with a zero at its end, which numpy would drop: ask for JSON"
                " or protobuf", status)
        most = max(most, text.size)
        total += text.size
    if most > LARGEST_LENGTH:
        return WIRE_TOO_BIG
    if <size_t>tensor.elements > (total + MOST_PADDING) // most:
        return refuse_output(
            tensor, "has strings of lengths too different for numpy, which gives each the room of"
            " the longest: ask for JSON or protobuf", status)
    longest[0] = <int64_t>most
    return WIRE_OK


cdef bint put_strings(char* at, const TensorData* tensor, size_t longest) noexcept nogil:
    """Each filled up with zeros. False if one is longer than measured: it has changed since."""
    cdef const TString* strings = <const TString*>tensor.data
    cdef int64_t i
    cdef Bytes text
    for i in range(tensor.elements):
        text = tstring_get(&strings[i])
        if text.size > longest:
            return False
        if text.size:
            memcpy(at, text.data, text.size)
        memset(at + text.size, 0, longest - text.size)
        at += longest
    return True


# ---- for tests and tools ------------------------------------------------------------------------------

cdef Bytes bytes_of(bytes text):
    return Bytes(PyBytes_AS_STRING(text), <size_t>len(text))


def read_predict(
    body: bytes,
    inputs: list[tuple[str, int]],
    model_name: str = "",
    version: int | None = None,
    label: str = "",
    signature_name: str = "",
    npz: bool = False,
    most_bytes: int = 1 << 30,
) -> bytes:
    """The serialized PredictRequest that `body` stands for.

    An input is its alias and its dtype, a number of TensorFlow's DataType. ServingError
    INVALID_ARGUMENT says what is wrong with the body.
    """
    cdef list aliases = [alias.encode() for alias, _ in inputs]
    cdef list texts = [model_name.encode(), label.encode(), signature_name.encode()]
    cdef Bytes view = bytes_of(body)
    cdef RequestSpec spec
    cdef bint is_npz = npz
    cdef size_t most = most_bytes
    cdef int inputs_size = <int>len(inputs)
    cdef InputType* types
    cdef Status status
    cdef Buffer wire
    cdef int code
    cdef int i
    types = <InputType*>calloc(<size_t>inputs_size + 1, sizeof(InputType))
    if types == NULL:
        raise MemoryError
    spec = RequestSpec(
        bytes_of(texts[0]), version is not None, version or 0, bytes_of(texts[1]), bytes_of(texts[2]))
    status_init(&status)
    buffer_init(&wire)
    try:
        for i in range(inputs_size):
            types[i].alias = bytes_of(aliases[i])
            types[i].dtype = inputs[i][1]
        with nogil:
            code = npy_read_predict(
                view, is_npz, types, inputs_size, &spec, most, &wire, &status)
        if code != OK:
            raise status_error(&status)
        return wire.data[:wire.size]
    finally:
        buffer_free(&wire)
        status_free(&status)
        free(types)


def write_predict(
    outputs: list[tuple[str, int, tuple[int, ...], bytes | list[bytes]]],
    npz: bool = False,
    splice_from: int = 65536,
) -> bytes:
    """The outputs as .npy or .npz; they are given as to write_predict_response.

    ServingError INVALID_ARGUMENT if such a file cannot hold them.
    """
    cdef list owners = [OutputTensor(*output) for output in outputs]
    cdef TensorData* tensors = <TensorData*>calloc(len(outputs) + 1, sizeof(TensorData))
    cdef Message message
    cdef Status status
    cdef int result
    cdef Py_ssize_t i
    cdef OutputTensor owner
    if tensors == NULL:
        raise MemoryError
    message_init(&message)
    status_init(&status)
    try:
        for i, owner in enumerate(owners):
            tensors[i] = owner.data
        result = npy_write_predict(
            &message, tensors, <int>len(owners), npz, splice_from, release_object, &status)
        for i in range(len(owners)):
            if tensors[i].taken:
                Py_INCREF(<object>tensors[i].holder)  # the message's reference
        if result != WIRE_OK:
            raise status_error(&status)
        return take_message(&message)
    finally:
        message_free(&message)
        status_free(&status)
        free(tensors)
