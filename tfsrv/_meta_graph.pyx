"""A scanner for MetaGraphDef on protobuf's wire format.

A graph of 10 MB takes Python protobuf 57 ms with the GIL held, for three things that are wanted of
it: the entries of `signature_def`, whether some op of the graph loops or can wait, and whether
variables are to be restored. All are found here by stepping over everything else. Messages and fields are those of
tensorflow/core/protobuf/meta_graph.proto and tensorflow/core/framework/{graph,function,node_def,
op_def}.proto; the encoding is https://protobuf.dev/programming-guides/encoding/.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, strlen

from tfsrv._buffer cimport Bytes, bytes_equal

cdef extern from "<string.h>" nogil:
    void* memmem(const void* text, size_t text_size, const void* word, size_t word_size)

cdef enum:
    MAX_GROUP_DEPTH = 100   # protobuf's own limit

# Ops that run for as long as their data, other steps, other machines or a disk want. A step
# with one of them never runs in the thread of the network loop. What a saver runs (SaveV2,
# RestoreV2, MergeV2Checkpoints ...) is not here: every SavedModel of TensorFlow 2 has it in its
# function library, and no signature calls it. Initialisers of lookup tables run at load only.
# Print is not here either: our own log waits for the same standard error.
#
# Whole names:
cdef const char* WAITING_OPS = (
    b"While StatelessWhile _While _XlaWhile For "  # functional loops
    b"Enter RefEnter NextIteration RefNextIteration LoopCond "  # loops of TensorFlow 1
    b"MapDefun "  # calls a function for every slice
    b"Batch Unbatch UnbatchGrad BatchFunction "  # wait for other steps to fill a batch
    b"Stage Unstage StagePeek StageSize StageClear "
    b"MapStage MapPeek MapUnstage MapUnstageNoKey MapIncompleteSize MapSize MapClear "
    b"OrderedMapStage OrderedMapPeek OrderedMapUnstage OrderedMapUnstageNoKey "
    b"MutexLock ConsumeMutexLock "
    b"ReadFile WriteFile MatchingFiles LoadAndRemapMatrix GenerateVocabRemapping "
    b"PyFunc PyFuncStateless EagerPyFunc "  # call into Python
    b"TryRpc "
)
# Beginnings (CollectiveReduceV2, DebugIdentityV2, which may send to another machine, ...):
cdef const char* WAITING_PREFIXES = (
    b"Collective Nccl Debug DataService Infeed Outfeed Write TPU Rpc"
)
# Parts (QueueDequeueV2, FIFOQueueV2, IteratorGetNext, MapDataset, TFRecordReaderV2, _HostRecv,
# RemoteCall, SparseAccumulatorTakeGradient, FlushSummaryWriter, ...):
cdef const char* WAITING_PARTS = (
    b"Queue Barrier Dataset Iterator Reader Recv Remote AccumulatorTakeGradient SummaryWriter"
)


# Ops that hold what a checkpoint restores.
cdef const char* VARIABLE_OPS = b"VarHandleOp VariableV2 Variable"


cdef struct Field:
    int number
    int wire_type
    Bytes body              # of wire type 2, else empty


cdef void meta_graph_view_init(MetaGraphView* view) noexcept nogil:
    view.signatures = NULL
    view.signatures_size = 0
    view.signatures_capacity = 0
    view.waiting_op.data = NULL
    view.waiting_op.size = 0


cdef void meta_graph_view_free(MetaGraphView* view) noexcept nogil:
    free(view.signatures)
    meta_graph_view_init(view)


cdef bint read_varint(Bytes* rest, uint64_t* value) noexcept nogil:
    """Take a varint off the front; False when there is none of at most 10 bytes."""
    cdef int shift = 0
    cdef unsigned char byte
    value[0] = 0
    while rest.size and shift < 70:
        byte = <unsigned char>rest.data[0]
        rest.data += 1
        rest.size -= 1
        value[0] |= (<uint64_t>(byte & 0x7F)) << shift if shift < 64 else 0
        if byte < 0x80:
            return True
        shift += 7
    return False


cdef bint take(Bytes* rest, uint64_t size, Bytes* taken) noexcept nogil:
    """Take `size` bytes off the front; False when there are fewer."""
    if size > rest.size:
        return False
    taken.data = rest.data
    taken.size = <size_t>size
    rest.data += size
    rest.size -= <size_t>size
    return True


cdef int next_field(Bytes* rest, Field* field) noexcept nogil:
    """Take the next field off the front, groups and all: 1; 0 at the end, -1 if there is none."""
    cdef uint64_t tag, value
    cdef Bytes ignored
    cdef int depth = 0
    field.body.data = NULL
    field.body.size = 0
    if rest.size == 0:
        return 0
    while True:
        if not read_varint(rest, &tag) or tag >> 32 or tag >> 3 == 0:
            return -1
        if depth == 0:
            field.number = <int>(tag >> 3)
            field.wire_type = <int>(tag & 7)
        if tag & 7 == 0:
            if not read_varint(rest, &value):
                return -1
        elif tag & 7 == 1:
            if not take(rest, 8, &ignored):
                return -1
        elif tag & 7 == 2:
            if not read_varint(rest, &value) or not take(rest, value, &ignored):
                return -1
            if depth == 0:
                field.body = ignored
        elif tag & 7 == 3:  # a group's start: go on to its end
            depth += 1
            if depth > MAX_GROUP_DEPTH:
                return -1
        elif tag & 7 == 4:
            depth -= 1
            if depth < 0:
                return -1
        elif tag & 7 == 5:
            if not take(rest, 4, &ignored):
                return -1
        else:
            return -1
        if depth == 0:
            return 1


cdef bint one_of(const char* words, Bytes op, bint whole, bint anywhere) noexcept nogil:
    """Does `op` equal (`whole`), contain (`anywhere`) or begin with one of `words`?"""
    cdef const char* word = words
    cdef const char* end = words + strlen(words)
    cdef const char* space
    cdef size_t size
    while word < end:
        space = <const char*>memchr(word, c" ", end - word)
        size = (space if space != NULL else end) - word
        if size and size <= op.size:
            if whole:
                if size == op.size and memcmp(word, op.data, size) == 0:
                    return True
            elif anywhere:
                if memmem(op.data, op.size, word, size) != NULL:
                    return True
            elif memcmp(word, op.data, size) == 0:
                return True
        word += size + 1
    return False


cdef bint can_wait(Bytes op, const Bytes* custom_ops, int custom_ops_size) noexcept nogil:
    """Does `op` loop, or may it wait? Nothing is known of custom ops, so they may."""
    cdef int i
    for i in range(custom_ops_size):
        if bytes_equal(op, custom_ops[i]):
            return True
    return (
        one_of(WAITING_OPS, op, True, False)
        or one_of(WAITING_PREFIXES, op, False, False)
        or one_of(WAITING_PARTS, op, False, True)
    )


cdef int scan_nodes(
    Bytes message, int nodes_field, const Bytes* custom_ops, int custom_ops_size,
    MetaGraphView* view
) noexcept nogil:
    """Look at the NodeDefs of a GraphDef or FunctionDef until one can wait."""
    cdef Field field, inner
    cdef Bytes node
    cdef Bytes op, last
    cdef int more, more_of_node
    last.data = NULL
    last.size = 0
    while view.waiting_op.size == 0:
        more = next_field(&message, &field)
        if more <= 0:
            return more
        if field.wire_type != 2 or field.number != nodes_field:
            continue
        node = field.body
        op.data = NULL
        op.size = 0
        while True:
            more_of_node = next_field(&node, &inner)
            if more_of_node < 0:
                return -1
            if more_of_node == 0:
                break
            if inner.number == 2 and inner.wire_type == 2:  # NodeDef.op
                op = inner.body
        if not bytes_equal(op, last):  # graphs have long rows of one op
            if can_wait(op, custom_ops, custom_ops_size):
                view.waiting_op = op
            last = op
    return 0


cdef int scan_graph(
    Bytes graph, const Bytes* custom_ops, int custom_ops_size, MetaGraphView* view
) noexcept nogil:
    """The nodes of a GraphDef and of all functions in its library."""
    cdef Field field, inner
    cdef Bytes library
    cdef int more
    if scan_nodes(graph, 1, custom_ops, custom_ops_size, view) != 0:  # GraphDef.node
        return -1
    while view.waiting_op.size == 0:
        more = next_field(&graph, &field)
        if more <= 0:
            return more
        if field.number != 2 or field.wire_type != 2:  # GraphDef.library
            continue
        library = field.body
        while True:
            more = next_field(&library, &inner)
            if more < 0:
                return -1
            if more == 0:
                break
            if inner.number == 1 and inner.wire_type == 2:  # FunctionDefLibrary.function
                if scan_nodes(inner.body, 3, custom_ops, custom_ops_size, view) != 0:
                    return -1
    return 0


cdef int add_signature(Bytes entry, MetaGraphView* view) noexcept nogil:
    """One entry of the map. 0, -1 when it is malformed, -2 without memory."""
    cdef Field field
    cdef SignatureEntry found
    cdef SignatureEntry* grown
    cdef int capacity
    cdef int more
    found.name.data = found.signature_def.data = NULL
    found.name.size = found.signature_def.size = 0
    while True:
        more = next_field(&entry, &field)
        if more < 0:
            return -1
        if more == 0:
            break
        if field.wire_type != 2:
            continue
        if field.number == 1:
            found.name = field.body
        elif field.number == 2:
            found.signature_def = field.body
    if view.signatures_size == view.signatures_capacity:
        capacity = 2 * view.signatures_capacity + 4
        grown = <SignatureEntry*>realloc(view.signatures, capacity * sizeof(SignatureEntry))
        if grown == NULL:
            return -2
        view.signatures = grown
        view.signatures_capacity = capacity
    view.signatures[view.signatures_size] = found
    view.signatures_size += 1
    return 0


cdef int meta_graph_scan(
    Bytes data, const Bytes* custom_ops, int custom_ops_size, MetaGraphView* view
) noexcept nogil:
    """Fill `view`, whose parts point into `data`. 0, -1 when malformed, -2 without memory.

    Bytes after the first op that can wait are only stepped over, so malformed nodes there go
    unnoticed.
    """
    cdef Field field
    cdef int more
    cdef int result
    while True:
        more = next_field(&data, &field)
        if more <= 0:
            return more
        if field.wire_type != 2:
            continue
        result = 0
        if field.number == 2:  # MetaGraphDef.graph_def
            result = scan_graph(field.body, custom_ops, custom_ops_size, view)
        elif field.number == 5:  # MetaGraphDef.signature_def
            result = add_signature(field.body, view)
        if result != 0:
            return result


cdef bint has_field(Bytes message, int number) noexcept nogil:
    """Is there a field of that number, of wire type 2 and not empty?"""
    cdef Field field
    while next_field(&message, &field) > 0:
        if field.number == number and field.wire_type == 2 and field.body.size:
            return True
    return False


cdef bint has_variable(Bytes graph) noexcept nogil:
    """Is there a variable among the nodes of a GraphDef? Functions only use those."""
    cdef Field field, inner
    cdef Bytes node
    while next_field(&graph, &field) > 0:
        if field.number != 1 or field.wire_type != 2:  # GraphDef.node
            continue
        node = field.body
        while next_field(&node, &inner) > 0:
            if inner.number == 2 and inner.wire_type == 2:  # NodeDef.op
                if one_of(VARIABLE_OPS, inner.body, True, False):
                    return True
    return False


cdef bint meta_graph_restores_variables(Bytes data) noexcept nogil:
    """Has the graph variables, and a saver that restores them?

    Then the SavedModel is not whole without a checkpoint. A graph whose variables were made
    constants may have kept its saver, and needs none.
    """
    cdef Field field
    cdef bint restores = False, variable = False
    while next_field(&data, &field) > 0:
        if field.wire_type != 2:
            continue
        if field.number == 2:  # MetaGraphDef.graph_def
            variable = variable or has_variable(field.body)
        elif field.number == 3:  # MetaGraphDef.saver_def, and in it restore_op_name
            restores = restores or has_field(field.body, 3)
    return restores and variable


def restores_variables(data: bytes) -> bool:
    """Whether a serialized MetaGraphDef has variables and a saver that restores them."""
    cdef Bytes whole
    cdef bint restores
    whole.data = data
    whole.size = len(data)
    with nogil:
        restores = meta_graph_restores_variables(whole)
    return restores


def scan(data: bytes) -> tuple[str, list[tuple[bytes, bytes]]]:
    """An op of a serialized MetaGraphDef that can wait ("" if none), and its signature_def map.

    The map comes as pairs of a name and a serialized SignatureDef, in the order of the bytes.
    ValueError if `data` is no protobuf message.
    """
    cdef MetaGraphView view
    cdef Bytes whole
    cdef int result
    cdef int i
    whole.data = data
    whole.size = len(data)
    meta_graph_view_init(&view)
    try:
        with nogil:
            result = meta_graph_scan(whole, NULL, 0, &view)
        if result == -2:
            raise MemoryError
        if result != 0:
            raise ValueError("not a MetaGraphDef")
        signatures = [
            (_copy(view.signatures[i].name), _copy(view.signatures[i].signature_def))
            for i in range(view.signatures_size)
        ]
        return _copy(view.waiting_op).decode("utf-8", "replace"), signatures
    finally:
        meta_graph_view_free(&view)


def op_names(op_list: bytes) -> list[bytes]:
    """The names in a serialized OpList; ValueError if it is none."""
    cdef Bytes rest
    cdef Bytes op
    cdef Field field, inner
    cdef int more
    rest.data = op_list
    rest.size = len(op_list)
    names = []
    while True:
        more = next_field(&rest, &field)
        if more == 0:
            return names
        if more < 0:
            raise ValueError("not an OpList")
        if field.number != 1 or field.wire_type != 2:  # OpList.op
            continue
        op = field.body
        while True:
            more = next_field(&op, &inner)
            if more < 0:
                raise ValueError("not an OpList")
            if more == 0:
                break
            if inner.number == 1 and inner.wire_type == 2:  # OpDef.name
                names.append(_copy(inner.body))


cdef bytes _copy(Bytes view):
    return view.data[: view.size] if view.size else b""
