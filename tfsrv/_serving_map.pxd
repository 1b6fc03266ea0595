"""Name, version or label to a servable; read without a lock and without Python."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes


cdef enum Lookup:
    FOUND = 0
    UNKNOWN_MODEL = 1       # nothing of that name is loaded or on its way
    UNKNOWN_VERSION = 2     # the model is known, that version is not loaded
    UNKNOWN_LABEL = 3
    PENDING = 4             # configured, first version still on its way, nothing of it loaded


cdef struct Servable:
    """One loaded version. Memory: lives while the map or a handle counts in `refs`."""
    int64_t refs            # atomic; the map's one and one for each handle
    int64_t version
    Bytes name              # owned
    void* impl              # NativeServable.impl of `object`
    void* object            # the Python object, kept alive by ServingMap until drained


cdef int serving_map_find(
    void* map, Bytes name, bint has_version, int64_t version, bint has_label, Bytes label,
    Servable** found) noexcept nogil
cdef void servable_release(Servable* servable) noexcept nogil


cdef class NativeServable:
    """A servable that native handlers can run. `impl` is owned by the subclass."""
    cdef void* impl


cdef class ServingMap:
    cdef void* map          # what serving_map_find takes; owned; valid as long as this object
