"""What a TensorProto of a request stands for.

TensorFlow's rule (Tensor::FromProto in tensorflow/core/framework/tensor.cc): tensor_content, if
there is any, must be exactly the tensor's memory. Else the values of the dtype's own field count:
none means zeros, too few means that the last one is repeated, those beyond the end are ignored.
A tensor without elements is good whatever values come with it, and `unknown_rank` is not looked
at. All bytes were found valid by wire_read_predict; nothing here reads beyond them even so.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport (
    INT64_MAX,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
)
from libc.string cimport memcpy, memset

from tfsrv._predict_request cimport predict_view_free, predict_view_init, wire_read_predict
from tfsrv._tensor_proto cimport (
    BOOL_VAL,
    DCOMPLEX_VAL,
    DOUBLE_VAL,
    FLOAT8_VAL,
    FLOAT_VAL,
    MAX_RANK,
    SCOMPLEX_VAL,
    STRING_VAL,
    dtype_bytes,
    dtype_field,
    next_values,
)
from tfsrv._wire_format cimport (
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_RARE,
    Cursor,
    read_varint,
    read_varint_of,
)

from tfsrv.errors import Code, ServingError

cdef enum:
    LONGEST_LENGTH = 5      # bytes of a varint32 in TensorFlow's string lists


cdef extern from *:
    bint multiply_overflows "__builtin_mul_overflow"(
        int64_t a, int64_t b, int64_t* product) nogil
    bint add_overflows "__builtin_add_overflow"(int64_t a, int64_t b, int64_t* sum) nogil


cdef int64_t count_elements(const PredictView* view, const TensorView* tensor) noexcept nogil:
    """The product of the dims, or -1 if TensorFlow would refuse (or abort at) such a shape.

    The product must fit at every step, from left to right, even if a later dim is 0.
    """
    cdef int64_t elements = 1
    cdef int64_t size
    cdef int i
    if tensor.rank > MAX_RANK:
        return -1
    for i in range(tensor.dims_start, tensor.dims_start + tensor.rank):
        size = view.dims[i]
        if size < 0 or multiply_overflows(elements, size, &elements):
            return -1
    return elements


cdef int64_t expanded_bytes(const PredictView* view, const TensorView* tensor) noexcept nogil:
    """Bytes of memory that the tensor will take, INT64_MAX for more than can be told.

    A string counts its element and its text, a repeated one each time. -1 if the tensor cannot
    be made: no such dtype, an impossible shape, content of the wrong size. Reads no values.
    """
    cdef int64_t elements = count_elements(view, tensor)
    cdef size_t unit = dtype_bytes(tensor.dtype)
    cdef int64_t size
    if elements < 0 or unit == 0:
        return -1
    if multiply_overflows(elements, <int64_t>unit, &size):
        return -1 if tensor.content.size else INT64_MAX
    if dtype_field(tensor.dtype) == STRING_VAL:
        return saturating_add(size, text_bytes(view, tensor, elements)) if elements else 0
    if elements and tensor.content.size and tensor.content.size != <size_t>size:
        return -1
    return size


cdef inline int64_t saturating_add(int64_t a, int64_t b) noexcept nogil:
    """Of two numbers that are not negative; -1 if `b` is."""
    cdef int64_t total
    if b < 0:
        return -1
    return INT64_MAX if add_overflows(a, b, &total) else total


ctypedef struct TextCount:
    int64_t total
    int64_t last


cdef int count_text(void* arg, int64_t index, Bytes value) noexcept nogil:
    cdef TextCount* count = <TextCount*>arg
    count.total += <int64_t>value.size
    count.last = <int64_t>value.size
    return 0


cdef int64_t text_bytes(
    const PredictView* view, const TensorView* tensor, int64_t elements
) noexcept nogil:
    """Bytes of all strings of a tensor with elements; -1 if its content is too short for them."""
    cdef TextCount count
    cdef int64_t repeats
    cdef int64_t more
    if tensor.content.size:
        if tensor.content.size < <size_t>elements:  # each has a byte of length at least
            return -1
        return <int64_t>tensor.content.size - elements
    count.total = 0
    count.last = 0
    repeats = elements - each_string(view, tensor, elements, count_text, &count)
    if multiply_overflows(repeats, count.last, &more):
        return INT64_MAX
    return saturating_add(count.total, more)


# Numbers


ctypedef fused word:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef inline int64_t decode_varints(
    Cursor at, Cursor end, word* target, int64_t room
) noexcept nogil:
    """The low bits of up to `room` varints. Returns how many there were."""
    cdef uint64_t value
    cdef int64_t done = 0
    while at < end and done < room:
        at = read_varint(at, end, &value)
        if at == NULL:
            break
        target[done] = <word>value
        done += 1
    return done


cdef inline int64_t decode_bools(
    Cursor at, Cursor end, uint8_t* target, int64_t room
) noexcept nogil:
    cdef uint64_t value
    cdef int64_t done = 0
    while at < end and done < room:
        at = read_varint(at, end, &value)
        if at == NULL:
            break
        target[done] = value != 0
        done += 1
    return done


cdef int64_t decode_run(
    int field, size_t width, Bytes run, char* target, int64_t room
) noexcept nogil:
    """Up to `room` packed numbers to `target`, `width` bytes each. Returns how many there were."""
    cdef Cursor at = <Cursor>run.data
    cdef Cursor end = at + run.size
    cdef int64_t count
    if field in (FLOAT_VAL, DOUBLE_VAL, SCOMPLEX_VAL, DCOMPLEX_VAL, FLOAT8_VAL):
        count = min(<int64_t>(run.size // width), room)
        if count:
            memcpy(target, run.data, <size_t>count * width)
        return count
    if field == BOOL_VAL:
        return decode_bools(at, end, <uint8_t*>target, room)
    if width == 1:
        return decode_varints(at, end, <uint8_t*>target, room)
    if width == 2:
        return decode_varints(at, end, <uint16_t*>target, room)
    if width == 4:
        return decode_varints(at, end, <uint32_t*>target, room)
    return decode_varints(at, end, <uint64_t*>target, room)


cdef int64_t decode_all(
    const PredictView* view, const TensorView* tensor, int field, size_t width, char* target,
    int64_t room
) noexcept nogil:
    """The numbers of a tensor wherever they stand in its TensorProto. Returns how many."""
    cdef Cursor at
    cdef Cursor end
    cdef Bytes part
    cdef size_t count
    cdef int64_t done = 0
    cdef int i
    if tensor.values_size == 0:
        return 0
    if tensor.run.data != NULL:
        return decode_run(field, width, tensor.run, target, room)
    for i in range(tensor.bodies_start, tensor.bodies_start + tensor.bodies_size):
        at = <Cursor>view.bodies[i].data
        end = at + view.bodies[i].size
        while done < room and next_values(field, &at, end, &part, &count):
            done += decode_run(field, width, part, target + <size_t>done * width, room - done)
    return done


cdef void repeat_last(char* target, size_t unit, int64_t given, int64_t elements) noexcept nogil:
    """Fill up with the last of `given` elements, or with zeros if there are none."""
    cdef size_t size = <size_t>elements * unit
    cdef size_t done = <size_t>given * unit
    cdef size_t part
    cdef char* start
    if given == elements:
        return
    if given == 0:
        memset(target, 0, size)
        return
    if unit == 1:
        memset(target + done, target[given - 1], size - done)
        return
    start = target + done - unit
    done = unit
    size -= start - target
    while done < size:  # what is there is copied behind itself, twice as much each time
        part = min(done, size - done, <size_t>65536 // unit * unit)
        memcpy(start + done, start, part)
        done += part


cdef int read_values(
    const PredictView* view, const TensorView* tensor, void* target,
    int64_t elements
) noexcept nogil:
    """Write the numbers of a tensor to memory for `elements` of its dtype.

    0, or -1 when its content has the wrong size, or the dtype is DT_STRING or none.
    """
    cdef int field = dtype_field(tensor.dtype)
    cdef size_t unit = dtype_bytes(tensor.dtype)
    cdef int parts = 2 if field == SCOMPLEX_VAL or field == DCOMPLEX_VAL else 1
    cdef int64_t given
    if field == 0 or field == STRING_VAL:
        return -1
    if elements == 0:
        return 0
    if tensor.content.size:
        if tensor.content.size != <size_t>elements * unit:
            return -1
        memcpy(target, tensor.content.data, tensor.content.size)
        return 0 if field != BOOL_VAL or are_bools(<uint8_t*>target, elements) else -1
    given = decode_all(view, tensor, field, unit // parts, <char*>target, elements * parts)
    repeat_last(<char*>target, unit, given // parts, elements)  # half a complex number is none
    return 0


cdef bint values_parse(const PredictView* view, const TensorView* tensor) noexcept nogil:
    """Whether read_values or read_strings would take the tensor; writes nothing."""
    cdef int64_t elements = count_elements(view, tensor)
    cdef int field = dtype_field(tensor.dtype)
    if expanded_bytes(view, tensor) < 0:
        return False
    if elements == 0 or tensor.content.size == 0:
        return True
    if field == STRING_VAL:
        return read_string_list(tensor.content, elements, pass_over, NULL) == 0
    return field != BOOL_VAL or are_bools(<const uint8_t*>tensor.content.data, elements)


cdef int pass_over(void* arg, int64_t index, Bytes value) noexcept nogil:
    return 0


cdef bint are_bools(const uint8_t* values, int64_t count) noexcept nogil:
    """TensorFlow refuses a content of booleans that are neither 0 nor 1."""
    cdef uint8_t seen = 0
    cdef int64_t i
    for i in range(count):
        seen |= values[i]
    return seen <= 1


# Strings


cdef int64_t each_string(
    const PredictView* view, const TensorView* tensor, int64_t elements, string_fn store,
    void* arg
) noexcept nogil:
    """Call `store` for up to `elements` values of string_val. How many, or -1 if one failed."""
    cdef Cursor at
    cdef Cursor end
    cdef Bytes text
    cdef size_t count
    cdef int64_t done = 0
    cdef int i
    for i in range(tensor.bodies_start, tensor.bodies_start + tensor.bodies_size):
        at = <Cursor>view.bodies[i].data
        end = at + view.bodies[i].size
        while done < elements and next_values(STRING_VAL, &at, end, &text, &count):
            if store(arg, done, text) != 0:
                return -1
            done += 1
    return done


ctypedef struct LastString:
    string_fn store
    void* arg
    Bytes last


cdef int store_and_keep(void* arg, int64_t index, Bytes value) noexcept nogil:
    cdef LastString* keeper = <LastString*>arg
    keeper.last = value
    return keeper.store(keeper.arg, index, value)


cdef int read_strings(
    const PredictView* view, const TensorView* tensor, int64_t elements, string_fn store,
    void* arg
) noexcept nogil:
    """Call `store` for each string of a DT_STRING tensor in order, also for repeated ones.

    0, or -1 when the content is no list of so many strings, or `store` gave something else
    than 0; nothing more is stored then.
    """
    cdef LastString keeper
    cdef int64_t i
    cdef int64_t given
    if elements == 0:
        return 0
    if tensor.content.size:
        return read_string_list(tensor.content, elements, store, arg)
    keeper.store = store
    keeper.arg = arg
    keeper.last.data = NULL
    keeper.last.size = 0
    given = each_string(view, tensor, elements, store_and_keep, &keeper)
    if given < 0:
        return -1
    for i in range(given, elements):
        if store(arg, i, keeper.last) != 0:
            return -1
    return 0


cdef int read_string_list(
    Bytes content, int64_t elements, string_fn store, void* arg
) noexcept nogil:
    """TensorFlow's DecodeStringList: all lengths as varint32, then all texts; nothing behind."""
    cdef Cursor start = <Cursor>content.data
    cdef Cursor end = start + content.size
    cdef Cursor at = start
    cdef uint64_t size
    cdef uint64_t total = 0
    cdef Bytes text
    cdef int64_t i
    cdef int64_t _i
    if content.size < <size_t>elements:
        return -1
    for _i in range(elements):
        at = read_varint_of(at, end, LONGEST_LENGTH, &size)
        if at == NULL:
            return -1
        total += <uint32_t>size
    if total != <uint64_t>(end - at):
        return -1
    text.data = <const char*>at
    at = start
    for i in range(elements):
        at = read_varint_of(at, end, LONGEST_LENGTH, &size)
        text.size = <uint32_t>size
        if store(arg, i, text) != 0:
            return -1
        text.data += text.size
    return 0


# The reader's face for Python


cdef int append_text(void* arg, int64_t index, Bytes value) noexcept nogil:
    with gil:
        try:
            (<list>arg).append(value.data[:value.size] if value.size else b"")
        except MemoryError:
            return -1
    return 0


cdef object values_of(const PredictView* view, const TensorView* tensor, int64_t limit):
    cdef int64_t size = expanded_bytes(view, tensor)
    cdef int64_t elements = count_elements(view, tensor)
    cdef bytes memory
    cdef list texts = []
    if size < 0:
        return None
    if size > limit:
        raise ServingError(Code.RESOURCE_EXHAUSTED, f"A tensor of {size} bytes is too large")
    if dtype_field(tensor.dtype) == STRING_VAL:
        if read_strings(view, tensor, elements, append_text, <void*>texts) != 0:
            return None
        return texts
    memory = PyBytes_FromStringAndSize(NULL, size)
    if read_values(view, tensor, PyBytes_AS_STRING(memory), elements) != 0:
        return None
    return memory


cdef str text_of(Bytes text):
    return text.data[:text.size].decode() if text.size else ""


cdef dict view_description(const PredictView* view, int64_t limit):
    cdef const TensorView* tensor
    cdef dict inputs = {}
    cdef int i
    cdef int j
    for i in range(view.inputs_size):
        tensor = &view.inputs[i]
        inputs[text_of(tensor.alias)] = {
            "dtype": tensor.dtype,
            "shape": tuple([view.dims[tensor.dims_start + j] for j in range(tensor.rank)]),
            "unknown_rank": bool(tensor.unknown_rank),
            "values": values_of(view, tensor, limit),
        }
    return {
        "has_model_spec": bool(view.spec.present),
        "name": text_of(view.spec.name),
        "signature_name": text_of(view.spec.signature_name),
        "version": view.spec.version if view.spec.has_version else None,
        "version_label": text_of(view.spec.version_label) if view.spec.has_version_label else None,
        "inputs": inputs,
        "output_filter": [
            text_of(view.output_filter[i]) for i in range(view.output_filter_size)
        ],
    }


def parse_predict_request(data: bytes, max_tensor_bytes: int = 1 << 30) -> dict[str, object]:
    """What a serialized PredictRequest asks for.

    `inputs` maps an alias to dtype, shape, unknown_rank and `values`: the tensor's memory, a
    list of bytes for DT_STRING, or None if TensorFlow would not take it.

    ServingError INTERNAL if it cannot be decoded, UNIMPLEMENTED if only Python protobuf can
    tell, RESOURCE_EXHAUSTED if a tensor is larger than `max_tensor_bytes`.
    """
    cdef PredictView view
    cdef int result
    predict_view_init(&view)
    try:
        result = wire_read_predict(data, len(data), &view)
        if result == WIRE_NO_MEMORY:
            raise MemoryError
        if result == WIRE_RARE:
            raise ServingError(
                Code.UNIMPLEMENTED, "The request uses fields that only Python protobuf reads")
        if result != WIRE_OK:
            raise ServingError(Code.INTERNAL, "The request cannot be decoded")
        return view_description(&view, max_tensor_bytes)
    finally:
        predict_view_free(&view)
