"""What is needed of a serialized MetaGraphDef, found without the GIL."""

from tfsrv._buffer cimport Bytes


cdef struct SignatureEntry:
    # One entry of MetaGraphDef.signature_def; views into the scanned bytes.
    Bytes name
    Bytes signature_def     # a serialized SignatureDef


cdef struct MetaGraphView:
    SignatureEntry* signatures  # owned array, in the order of the bytes
    int signatures_size
    int signatures_capacity
    Bytes waiting_op        # an op that loops or can wait; a view; empty when there is none

cdef void meta_graph_view_init(MetaGraphView* view) noexcept nogil
cdef void meta_graph_view_free(MetaGraphView* view) noexcept nogil
cdef int meta_graph_scan(
    Bytes data, const Bytes* custom_ops, int custom_ops_size, MetaGraphView* view) noexcept nogil
cdef bint meta_graph_restores_variables(Bytes data) noexcept nogil
