"""The immutable table that readers of a serving map look into."""

from libc.stdint cimport int64_t, uint64_t

from tfsrv._buffer cimport Bytes
from tfsrv._servable cimport Servable


cdef enum Lookup:
    FOUND = 0
    UNKNOWN_MODEL = 1       # nothing of that name is loaded or on its way
    UNKNOWN_VERSION = 2     # the model is known, that version (or the label's) is not loaded
    UNKNOWN_LABEL = 3
    PENDING = 4             # configured, first version still on its way, nothing of it loaded


cdef struct Label:
    Bytes text              # owned
    int64_t version


cdef struct Model:
    Bytes name              # owned
    uint64_t hash
    bint pending
    Servable** versions     # owned array, by rising version; the servables are the map's
    int versions_size
    Label* labels           # owned array, in the order of bytes_compare
    int labels_size


cdef struct Table:
    Model* models           # owned
    int models_size
    Model** slots           # owned; open addressing by hash, at most half full
    size_t slots_size       # a power of two


cdef int table_find(
    const Table* table, Bytes name, bint has_version, int64_t version, bint has_label, Bytes label,
    Servable** found, int64_t* label_version) noexcept nogil
cdef Servable* table_servable(const Table* table, Bytes name, int64_t version) noexcept nogil
cdef Table* table_new(list models) except NULL
cdef void table_free(Table* table) noexcept nogil
cdef int64_t table_live_count() noexcept nogil
