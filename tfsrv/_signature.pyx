"""Signatures of a loaded SavedModel: resolved once, asked by every request.

Aliases are sorted, as TensorFlow Serving feeds and fetches them, and each stands for a TF_Output
of the graph. A signature that is not made of plain tensors is kept as broken, with the reason;
the others of its model work.

TensorFlow compiles a graph for each list of feeds and fetches that it meets, and keeps them all
(tensorflow/core/common_runtime/direct_session.cc), even those that differ in order alone. So
lists are kept few: outputs are always fetched in the signature's order, and after
MAX_OTHER_SETS different sets of them all outputs are fetched and some dropped. But not of a joint
signature (see _inference_signature), where that would run what nobody asked for: see session_run.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from tfsrv._atomic cimport cas_weak_ptr, load_acquire_int, load_acquire_ptr, load_relaxed_int
from tfsrv._buffer cimport Bytes
from tfsrv._predict_request cimport (
    PredictView,
    predict_view_free,
    predict_view_init,
    wire_read_predict,
)
from tfsrv._tensor cimport tensor_from_view
from tfsrv._tf cimport TF_Graph, TF_Output, TF_Tensor, api
from tfsrv._wire_format cimport WIRE_OK

from tfsrv._proto import message_class

cdef extern from * nogil:
    int popcount "__builtin_popcountll"(uint64_t bits)

cdef enum:
    WORDS_ON_STACK = 4      # of 64 bits: sets of up to 256 outputs need no malloc
    FIRST_REF = 100         # DT_X_REF is DT_X + 100, tensorflow/core/framework/types.proto


class _NotServable(Exception):
    """Why a signature is broken."""


cdef Bytes own_bytes(bytes text) except *:
    """A copy that free() frees; it has a NUL behind it."""
    cdef Bytes made
    cdef char* data = <char*>malloc(len(text) + 1)
    if data == NULL:
        raise MemoryError
    memcpy(data, <const char*>text, len(text) + 1)
    made.data = data
    made.size = len(text)
    return made


cdef void* zeroed(size_t count, size_t size) except NULL:
    cdef void* made = calloc(count if count else 1, size)
    if made == NULL:
        raise MemoryError
    return made


cdef str text_of(Bytes view):
    return view.data[: view.size].decode("utf-8", "replace") if view.size else ""


# -------------------------------------------------------------------------------------- resolving

cdef int signature_resolve(
    Signature* signature, TF_Graph* graph, str name, object signature_def
) except -1:
    """Fill a zeroed signature from its SignatureDef; signature_free undoes it, after errors too.

    Sets `broken` and its reason where the SignatureDef can't be served.
    """
    signature.name = own_bytes(name.encode())
    signature.method_name = own_bytes(signature_def.method_name.encode())
    try:
        resolve_tensors(signature, graph, signature_def)
    except _NotServable as error:
        signature.broken = True
        reason = f'Signature "{name}" cannot be served: {error}'
        signature.broken_reason = own_bytes(reason.encode())
    return 0


cdef int resolve_tensors(Signature* signature, TF_Graph* graph, object signature_def) except -1:
    """Feeds, fetches and defaults of one signature; _NotServable says why there are none."""
    inputs = sorted(signature_def.inputs.items())
    outputs = sorted(signature_def.outputs.items())
    cdef int inputs_size = len(inputs)
    cdef int outputs_size = len(outputs)
    cdef int i
    signature_make_room(signature, inputs_size, outputs_size)
    for i in range(inputs_size):
        alias, info = inputs[i]
        signature.inputs[i].alias = own_bytes(alias.encode())
        signature.inputs[i].tensor_name = own_bytes(info.name.encode())
        signature.inputs[i].dtype = info.dtype
    for i in range(outputs_size):
        alias, info = outputs[i]
        signature.outputs[i].alias = own_bytes(alias.encode())
        signature.outputs[i].tensor_name = own_bytes(info.name.encode())
        signature.outputs[i].dtype = info.dtype
    for i in range(inputs_size):
        alias, info = inputs[i]
        signature.inputs[i].has_rows = has_rows(info)
        signature.inputs[i].rank = rank_of(info)
        signature.feeds[i] = find_output(graph, f'input "{alias}"', info)
        if info.dtype == 0:  # old exporters leave it out
            signature.inputs[i].dtype = dtype_of(signature.feeds[i])
        if alias in signature_def.defaults:
            signature.inputs[i].default_value = default_tensor(
                alias, signature_def.defaults[alias])
            signature.defaults_size += 1
    for i in range(outputs_size):
        alias, info = outputs[i]
        signature.outputs[i].has_rows = has_rows(info)
        signature.fetches[i] = find_output(graph, f'output "{alias}"', info)
        if info.dtype == 0:
            signature.outputs[i].dtype = dtype_of(signature.fetches[i])
    return 0


cdef int signature_make_room(Signature* signature, int inputs_size, int outputs_size) except -1:
    """Room for so many inputs and outputs, all zero."""
    signature.inputs = <SignatureInput*>zeroed(inputs_size, sizeof(SignatureInput))
    signature.outputs = <SignatureOutput*>zeroed(outputs_size, sizeof(SignatureOutput))
    signature.inputs_size = inputs_size
    signature.outputs_size = outputs_size
    signature.feeds = <TF_Output*>zeroed(inputs_size, sizeof(TF_Output))
    signature.fetches = <TF_Output*>zeroed(outputs_size, sizeof(TF_Output))
    signature.sets = <FetchSet*>zeroed(MAX_OTHER_SETS + 1, sizeof(FetchSet))
    return 0


cdef bint has_rows(object info) except -1:
    """Whether a TensorInfo's dim 0 is left open, as the number of rows is."""
    shape = info.tensor_shape
    return bool(shape.unknown_rank or (shape.dim and shape.dim[0].size == -1))


cdef int rank_of(object info) except -2:
    """A TensorInfo's rank, -1 if it may be any."""
    shape = info.tensor_shape
    return -1 if shape.unknown_rank else len(shape.dim)


cdef int dtype_of(TF_Output output) noexcept nogil:
    """The graph's own dtype; a reference to a float (DT_FLOAT_REF) counts as the float."""
    cdef int dtype = api.OperationOutputType(output)
    return dtype - FIRST_REF if dtype > FIRST_REF else dtype


cdef TF_Output find_output(TF_Graph* graph, str what, object info) except *:
    """The TF_Output that a TensorInfo names, as "operation:index" or "operation"."""
    cdef TF_Output found
    kind = info.WhichOneof("encoding") or "name"
    if kind != "name":
        raise _NotServable(f"{what} is a {kind}, not a tensor")
    operation, colon, index = info.name.rpartition(":")
    if not colon:
        operation, index = index, "0"
    encoded = operation.encode()
    if not (index.isascii() and index.isdigit() and len(index) < 10) or b"\0" in encoded:
        raise _NotServable(f'{what} has the name "{info.name}", which is no tensor\'s')
    found.oper = api.GraphOperationByName(graph, encoded)
    found.index = int(index)
    # TensorFlow's C API does not check the index itself
    if found.oper == NULL or found.index >= api.OperationNumOutputs(found.oper):
        raise _NotServable(f'{what} is "{info.name}", which is no tensor of the graph')
    return found


cdef TF_Tensor* default_tensor(str alias, object tensor_proto) except NULL:
    """A default value as a tensor, the caller's to delete."""
    request = message_class("tensorflow.serving.PredictRequest")()
    request.inputs[alias].CopyFrom(tensor_proto)
    data = request.SerializeToString()
    cdef PredictView view
    cdef TF_Tensor* made = NULL
    predict_view_init(&view)
    try:
        if (
            wire_read_predict(data, len(data), &view) != WIRE_OK
            or view.inputs_size != 1
            or tensor_from_view(&view, &view.inputs[0], &made) != 0
            or made == NULL
        ):
            raise _NotServable(f'the default value of input "{alias}" is no tensor')
    finally:
        predict_view_free(&view)
    return made


cdef bint signatures_are_twins(const Signature* one, const Signature* other) noexcept nogil:
    """Whether they feed and fetch the same tensors in the same order, so that one runs as the other."""
    cdef int i
    if (
        one.broken or other.broken or one.inputs_size != other.inputs_size
        or one.outputs_size != other.outputs_size
    ):
        return False
    for i in range(one.inputs_size):
        if not same_output(one.feeds[i], other.feeds[i]) or one.inputs[i].dtype != other.inputs[i].dtype:
            return False
    for i in range(one.outputs_size):
        if not same_output(one.fetches[i], other.fetches[i]):
            return False
    return True


cdef bint same_output(TF_Output one, TF_Output other) noexcept nogil:
    return one.oper == other.oper and one.index == other.index


cdef void signature_free_queue(Signature* signature) noexcept nogil:
    """Free the handler's queue, once; nothing may be waiting in it."""
    if signature.queue != NULL and signature.queue_free != NULL:
        signature.queue_free(signature.queue)
    signature.queue = NULL


cdef void signature_free(Signature* signature) noexcept nogil:
    """Free all that the signature owns. It may be half filled in, or closed."""
    cdef int i
    signature_free_queue(signature)
    free(<void*>signature.name.data)
    free(<void*>signature.method_name.data)
    free(<void*>signature.broken_reason.data)
    free(<void*>signature.classify.refusal.data)
    free(<void*>signature.regress.refusal.data)
    free(signature.joint_outputs)
    free(signature.groups)
    if signature.inputs != NULL:
        for i in range(signature.inputs_size):
            free(<void*>signature.inputs[i].alias.data)
            free(<void*>signature.inputs[i].tensor_name.data)
            if signature.inputs[i].default_value != NULL:
                api.DeleteTensor(signature.inputs[i].default_value)
    if signature.outputs != NULL:
        for i in range(signature.outputs_size):
            free(<void*>signature.outputs[i].alias.data)
            free(<void*>signature.outputs[i].tensor_name.data)
    if signature.sets != NULL:
        for i in range(MAX_OTHER_SETS + 1):
            free(signature.sets[i].bits)
    free(signature.inputs)
    free(signature.outputs)
    free(signature.feeds)
    free(signature.fetches)
    free(signature.sets)


cdef object signature_description(const Signature* signature):
    """What SavedModelSession.describe tells of a signature."""
    cdef int i
    return {
        "method_name": text_of(signature.method_name),
        "inputs": {
            text_of(signature.inputs[i].alias): (
                text_of(signature.inputs[i].tensor_name), signature.inputs[i].dtype)
            for i in range(signature.inputs_size)
        },
        "outputs": {
            text_of(signature.outputs[i].alias): (
                text_of(signature.outputs[i].tensor_name), signature.outputs[i].dtype)
            for i in range(signature.outputs_size)
        },
        "defaults": [
            text_of(signature.inputs[i].alias)
            for i in range(signature.inputs_size)
            if signature.inputs[i].default_value != NULL
        ],
        "may_run_in_place": bool(signature.may_run_in_place),
        "batched": all(signature.inputs[i].has_rows for i in range(signature.inputs_size)) and all(
            load_relaxed_int(&signature.outputs[i].has_rows)
            for i in range(signature.outputs_size)),
        "built": load_acquire_int(&signature.sets[FULL_SET].ready) == 1,
        "other_sets": sum(
            load_acquire_ptr(<void**>&signature.sets[i].bits) != NULL
            for i in range(1, MAX_OTHER_SETS + 1)
        ),
        "broken": text_of(signature.broken_reason),
    }


# --------------------------------------------------------------------------------- sets of outputs

cdef inline int words_of(const Signature* signature) noexcept nogil:
    return (signature.outputs_size + 63) >> 6


cdef int mark(
    const Signature* signature, const int* wanted, int wanted_size, uint64_t* bits
) noexcept nogil:
    """Set the bits of `wanted` in zeroed `bits`. 0, or -1 for an index out of range or twice."""
    cdef int i
    cdef int index
    cdef uint64_t bit
    for i in range(wanted_size):
        index = wanted[i]
        if index < 0 or index >= signature.outputs_size:
            return -1
        bit = <uint64_t>1 << (index & 63)
        if bits[index >> 6] & bit:
            return -1
        bits[index >> 6] |= bit
    return 0


cdef int find_set(Signature* signature, const uint64_t* bits, bint claim) noexcept nogil:
    """The index of the set of outputs; NEW_SET when it is new, FULL_SET when there are too many.

    With `claim` a new one takes a free slot. Slots are taken from the front and never given
    back, so two threads that bring the same new set meet at the same slot, and one takes it.
    """
    cdef size_t size = words_of(signature) * sizeof(uint64_t)
    cdef uint64_t* own = NULL
    cdef void* seen
    cdef void* expected
    cdef int i
    for i in range(1, MAX_OTHER_SETS + 1):
        # acquire pairs with the exchange below: sees the bits written before it
        seen = load_acquire_ptr(<void**>&signature.sets[i].bits)
        if seen == NULL:
            if not claim:
                return NEW_SET
            if own == NULL:
                own = <uint64_t*>malloc(size)
                if own == NULL:
                    return FULL_SET
                memcpy(own, bits, size)
            expected = NULL
            while expected == NULL:
                if cas_weak_ptr(<void**>&signature.sets[i].bits, &expected, own):
                    return i
            seen = expected
        if same_bits(<const uint64_t*>seen, bits, words_of(signature)):
            free(own)
            return i
    free(own)
    return FULL_SET


cdef inline bint same_bits(const uint64_t* a, const uint64_t* b, int words) noexcept nogil:
    cdef int i
    for i in range(words):
        if a[i] != b[i]:
            return False
    return True


cdef int signature_choose_set(
    Signature* signature, const int* wanted, int wanted_size, bint claim
) noexcept nogil:
    """The set for these outputs, as find_set; BAD_SET when `wanted` is no list of outputs."""
    cdef uint64_t few[WORDS_ON_STACK]
    cdef uint64_t* bits = few
    cdef int words = words_of(signature)
    cdef int chosen
    if wanted == NULL or wanted_size == 0:
        return FULL_SET
    if wanted_size > signature.outputs_size:
        return BAD_SET
    if words > WORDS_ON_STACK:
        bits = <uint64_t*>malloc(words * sizeof(uint64_t))
        if bits == NULL:
            return FULL_SET  # right as well, only slower
    memset(bits, 0, words * sizeof(uint64_t))
    if mark(signature, wanted, wanted_size, bits) != 0:
        chosen = BAD_SET
    elif wanted_size == signature.outputs_size:
        chosen = FULL_SET
    else:
        chosen = find_set(signature, bits, claim)
    if bits != few:
        free(bits)
    return chosen


cdef int signature_fetches(
    const Signature* signature, const uint64_t* bits, TF_Output* fetches
) noexcept nogil:
    """Fill `fetches` with the outputs in `bits` (NULL: all), in the signature's order."""
    cdef int count = 0
    cdef int i
    for i in range(signature.outputs_size):
        if bits == NULL or bits[i >> 6] >> (i & 63) & 1:
            fetches[count] = signature.fetches[i]
            count += 1
    return count


cdef void signature_hand_out(
    const Signature* signature, const uint64_t* bits, TF_Tensor** fetched, int fetched_size,
    const int* wanted, int wanted_size, TF_Tensor** outputs
) noexcept nogil:
    """Move the tensors of a set into the order of `wanted`, and delete those not wanted."""
    cdef int position
    cdef int i
    cdef int j
    for i in range(wanted_size):
        position = wanted[i]
        if bits != NULL:  # its rank among the fetched ones
            position = 0
            for j in range(wanted[i] >> 6):
                position += popcount(bits[j])
            position += popcount(bits[wanted[i] >> 6] & ((<uint64_t>1 << (wanted[i] & 63)) - 1))
        outputs[i] = fetched[position]
        fetched[position] = NULL
    for i in range(fetched_size):
        if fetched[i] != NULL:
            api.DeleteTensor(fetched[i])
