"""One loaded version of a model, counted: alive until whoever holds it has let go."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes


cdef struct Servable:
    # One loaded version. Memory: lives while the map or a handle counts in `refs`.
    int64_t refs            # atomic; the map's one and one for each handle
    int64_t version
    Bytes name              # owned
    void* impl              # NativeServable.impl of `object`
    void* object            # the Python object; a strong reference, dropped after the last handle
    # The fields below are the map's own.
    Servable* next          # on the list of those left out, or the graveyard; under the lock
    int64_t generation      # of the last table it is in; the publisher's
    bint drained            # refs came to 0; under the lock
    bint orphaned           # the map died before the last handle; under the lock


cdef Servable* servable_new(bytes name, int64_t version, object servable) except NULL
cdef void servable_hold(Servable* servable) noexcept nogil
cdef void servable_release(Servable* servable) noexcept nogil
cdef int64_t servable_live_count() noexcept nogil

# Servables that a map has left out and that may have handles: a list, owned by the map.
cdef void servables_lock() noexcept nogil
cdef void servables_unlock() noexcept nogil
cdef void servable_leave_out(Servable* servable, Servable** left_out) noexcept nogil
cdef Servable* servables_take_drained(
    Servable** left_out, bint any_one, Bytes name, int64_t version) noexcept nogil
cdef int64_t servables_handles(Servable* left_out, Bytes name, int64_t version) noexcept nogil
cdef Servable* servables_wait_drained(
    Servable** left_out, Bytes name, int64_t version, int64_t nanoseconds, bint* in_time
) noexcept nogil
cdef void servables_drop(Servable* servable) noexcept
cdef void servables_bury() noexcept

cdef int bytes_copy(Bytes* target, bytes source) except -1
cdef Bytes bytes_view(bytes source) noexcept
cdef void wipe(void* memory, size_t size) noexcept nogil


cdef class NativeServable:
    """A servable that native handlers can run. `impl` is owned by the subclass."""
    cdef void* impl


cdef class ServableHandle:
    cdef Servable* _servable    # one counted reference; NULL once released
    cdef readonly str name
    cdef readonly int64_t version
