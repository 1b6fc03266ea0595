"""Name, version or label to a servable; read without a lock and without Python."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._servable cimport Servable


# A Lookup of _serving_table. One handle in `found` if and only if it is FOUND; give it back with
# servable_release. `label_version` may be NULL; it takes the version that a known label stands for.
cdef int serving_map_find(
    void* map, Bytes name, bint has_version, int64_t version, bint has_label, Bytes label,
    Servable** found, int64_t* label_version) noexcept nogil


cdef class ServingMap:
    cdef void* map          # what serving_map_find takes; owned; valid as long as this object
    cdef object _publishing     # threading.Lock: one publish at a time
    cdef object _listening      # threading.Lock of _listeners
    cdef set _listeners         # eventfds; not owned
