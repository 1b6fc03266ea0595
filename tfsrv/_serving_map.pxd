"""Name, version or label to a servable; read without a lock and without Python."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes


cdef enum Lookup:
    FOUND = 0
    UNKNOWN_MODEL = 1       # nothing of that name is loaded or on its way
    UNKNOWN_VERSION = 2     # the model is known, that version (or the label's) is not loaded
    UNKNOWN_LABEL = 3
    PENDING = 4             # configured, first version still on its way, nothing of it loaded


cdef struct Servable:
    # One loaded version. Memory: lives while the map or a handle counts in `refs`.
    int64_t refs            # atomic; the map's one and one for each handle
    int64_t version
    Bytes name              # owned
    void* impl              # NativeServable.impl of `object`
    void* object            # the Python object; a strong reference, dropped after the last handle
    # The fields below are _serving_map's own.
    Servable* next          # on the list of those left out, or the graveyard; under its mutex
    int64_t generation      # of the last table it is in; the publisher's
    bint drained            # refs came to 0; under its mutex
    bint orphaned           # the map died before the last handle; under its mutex


# One handle in `found` if and only if the answer is FOUND; give it back with servable_release.
# `label_version` may be NULL; it takes the version that a known label stands for.
cdef int serving_map_find(
    void* map, Bytes name, bint has_version, int64_t version, bint has_label, Bytes label,
    Servable** found, int64_t* label_version) noexcept nogil
cdef void servable_release(Servable* servable) noexcept nogil


cdef class NativeServable:
    """A servable that native handlers can run. `impl` is owned by the subclass."""
    cdef void* impl


cdef class ServingMap:
    cdef void* map          # what serving_map_find takes; owned; valid as long as this object
    cdef object _publishing     # threading.Lock: one publish at a time
    cdef object _listening      # threading.Lock of _listeners
    cdef set _listeners         # eventfds; not owned


cdef class ServableHandle:
    cdef Servable* _servable    # one counted reference; NULL once released
    cdef readonly str name
    cdef readonly int64_t version
