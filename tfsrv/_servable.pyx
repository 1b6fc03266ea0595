"""One loaded version of a model: who holds it, and what becomes of it when the last one lets go.

A servable is made by a serving map, which holds one reference to it; each handle is one more.
When the map leaves it out, it waits on the map's list until its handles are gone, is *drained*
then, and whoever waits for that drops it. If the map itself goes before the last handle, the
servable is an orphan, and the main thread buries it.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from tfsrv._atomic cimport add_acq_rel_i64, add_relaxed_i64, load_relaxed_i64
from tfsrv._buffer cimport Bytes, bytes_equal
from tfsrv._clock cimport CLOCK_MONOTONIC, NS_PER_S, now_ns, timespec
from tfsrv._thread cimport (
    pthread_cond_broadcast,
    pthread_cond_init,
    pthread_cond_t,
    pthread_cond_timedwait,
    pthread_condattr_destroy,
    pthread_condattr_init,
    pthread_condattr_setclock,
    pthread_condattr_t,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_t,
    pthread_mutex_unlock,
)

cdef extern from "Python.h" nogil:
    int Py_AddPendingCall(int (*function)(void*) noexcept, void* arg)

cdef extern from "<string.h>" nogil:
    void explicit_bzero(void* memory, size_t size)  # not left out before a free, as memset may be


# One mutex and one condition for all maps: only last releases, drains and publishes take them,
# and a servable may outlive its map. No GIL is ever taken while the mutex is held.
cdef pthread_mutex_t mutex
cdef pthread_cond_t some_drained
cdef Servable* graveyard = NULL     # servables that were released after their map died
cdef int64_t live_servables = 0     # atomic


cdef void init_locks() noexcept:
    cdef pthread_condattr_t attributes
    pthread_mutex_init(&mutex, NULL)
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(&some_drained, &attributes)
    pthread_condattr_destroy(&attributes)

init_locks()


# ------------------------------------------------------------------------------------- making

cdef Servable* servable_new(bytes name, int64_t version, object servable) except NULL:
    cdef Servable* self = <Servable*>calloc(1, sizeof(Servable))
    if self == NULL:
        raise MemoryError
    add_relaxed_i64(&live_servables, 1)
    self.refs = 1  # the map's
    self.version = version
    if isinstance(servable, NativeServable):
        self.impl = (<NativeServable>servable).impl
    self.object = <void*>servable
    Py_INCREF(servable)  # the servable's reference, see servables_drop
    try:
        bytes_copy(&self.name, name)
    except MemoryError:
        servables_drop(self)
        raise
    return self


cdef void servable_free(Servable* servable) noexcept nogil:
    """The memory alone. Wiped, so that a reader that comes too late cannot take it for alive."""
    wipe(<void*>servable.name.data, servable.name.size)
    wipe(servable, sizeof(Servable))
    add_relaxed_i64(&live_servables, -1)


cdef int64_t servable_live_count() noexcept nogil:
    """Servables in memory, of all maps."""
    return load_relaxed_i64(&live_servables)


# ----------------------------------------------------------------------------------- releasing

cdef void servable_hold(Servable* servable) noexcept nogil:
    """One reference more, for somebody who has one, or whose call does."""
    add_relaxed_i64(&servable.refs, 1)  # as with every such count: an order comes with its end


cdef void servable_release(Servable* servable) noexcept nogil:
    """Give back one reference. Any thread; only the last one of a servable left out locks."""
    # Release: what this holder did with the servable comes before its end. Acquire: the last
    # one has seen what all others did, and hands that on under the mutex.
    if add_acq_rel_i64(&servable.refs, -1) == 1:
        last_reference_released(servable)


cdef void last_reference_released(Servable* servable) noexcept nogil:
    global graveyard
    cdef bint orphaned
    pthread_mutex_lock(&mutex)
    servable.drained = True
    orphaned = servable.orphaned
    if orphaned:
        servable.next = graveyard
        graveyard = servable
    pthread_cond_broadcast(&some_drained)
    pthread_mutex_unlock(&mutex)
    # `servable` is not looked at from here on: who sees `drained` may have freed it.
    if orphaned:
        # The Python object has to go, and nobody is left who would do it with the GIL: ask the
        # main thread. If its short list is full, the next map that publishes or dies does it.
        Py_AddPendingCall(bury_pending, NULL)


cdef int bury_pending(void* unused) noexcept with gil:
    servables_bury()
    return 0


cdef void servables_bury() noexcept:
    """Free what was released after its map died."""
    global graveyard
    cdef Servable* dead
    pthread_mutex_lock(&mutex)
    dead = graveyard
    graveyard = NULL
    pthread_mutex_unlock(&mutex)
    servables_drop(dead)


cdef void servables_drop(Servable* servable) noexcept:
    """Free a list of servables, each without references, and their hold on Python objects."""
    cdef Servable* next_one
    while servable != NULL:
        next_one = servable.next
        object_ = <object>servable.object
        Py_DECREF(object_)  # the servable's reference, see servable_new
        servable_free(servable)
        object_ = None      # may run the object's destructor, which may call back into the map
        servable = next_one


# ------------------------------------------------------------------------------------ left out

cdef void servables_lock() noexcept nogil:
    """Whoever looks at a list of servables left out, or changes it, holds this lock."""
    pthread_mutex_lock(&mutex)


cdef void servables_unlock() noexcept nogil:
    pthread_mutex_unlock(&mutex)


cdef void servable_leave_out(Servable* servable, Servable** left_out) noexcept nogil:
    """Put it on the list and give up the map's reference to it. Under the mutex."""
    servable.next = left_out[0]
    left_out[0] = servable
    # As in servable_release.
    if add_acq_rel_i64(&servable.refs, -1) == 1:
        servable.drained = True
        pthread_cond_broadcast(&some_drained)


cdef bint matches(const Servable* servable, Bytes name, int64_t version) noexcept nogil:
    return servable.version == version and bytes_equal(servable.name, name)


cdef Servable* servables_take_drained(
    Servable** left_out, bint any_one, Bytes name, int64_t version
) noexcept nogil:
    """Unlink what may be freed, all or of one version, from `left_out`. Under the mutex."""
    cdef Servable** link = left_out
    cdef Servable* servable
    cdef Servable* taken = NULL
    while link[0] != NULL:
        servable = link[0]
        if servable.drained and (any_one or matches(servable, name, version)):
            link[0] = servable.next
            servable.next = taken
            taken = servable
        else:
            link = &servable.next
    return taken


cdef int64_t servables_handles(
    Servable* left_out, Bytes name, int64_t version
) noexcept nogil:
    """Handles on versions left out. Under the mutex. Also counts one being released just now."""
    cdef Servable* servable = left_out
    cdef int64_t handles = 0
    cdef int64_t refs
    while servable != NULL:
        if not servable.drained and matches(servable, name, version):
            refs = load_relaxed_i64(&servable.refs)
            handles += refs if refs > 0 else 1
        servable = servable.next
    return handles


cdef Servable* servables_wait_drained(
    Servable** left_out, Bytes name, int64_t version, int64_t nanoseconds, bint* in_time
) noexcept nogil:
    """Sleep until no handle is left on versions left out; returns what may be freed."""
    cdef timespec deadline
    cdef Servable* taken = NULL
    cdef int rc = 0
    nanoseconds += now_ns()
    deadline.tv_sec = nanoseconds // NS_PER_S
    deadline.tv_nsec = nanoseconds % NS_PER_S
    in_time[0] = True
    pthread_mutex_lock(&mutex)
    while servables_handles(left_out[0], name, version) != 0:
        if rc != 0:
            in_time[0] = False
            break
        rc = pthread_cond_timedwait(&some_drained, &mutex, &deadline)
    if in_time[0]:
        taken = servables_take_drained(left_out, False, name, version)
    pthread_mutex_unlock(&mutex)
    return taken


# ------------------------------------------------------------------------------ owned memory

cdef int bytes_copy(Bytes* target, bytes source) except -1:
    """Into memory that `target` owns from now on."""
    cdef size_t size = <size_t>len(source)
    cdef char* data = <char*>malloc(size + 1)
    if data == NULL:
        raise MemoryError
    memcpy(data, <const char*>source, size)
    target.data = data
    target.size = size
    return 0


cdef Bytes bytes_view(bytes source) noexcept:
    """A view that lives as long as `source`."""
    cdef Bytes view
    view.data = source
    view.size = <size_t>len(source)
    return view


cdef void wipe(void* memory, size_t size) noexcept nogil:
    """Free it, cleared first: a reader that came too late could not take it for alive."""
    if memory != NULL:
        explicit_bzero(memory, size)
        free(memory)


# ---------------------------------------------------------------------------- what Python sees

cdef class NativeServable:
    """Base of servables that native handlers can run; see the .pxd."""


cdef class ServableHandle:
    """One counted reference to a loaded servable: it stays loaded until release().

        with serving_map.acquire("half_plus_two") as handle:
            run(handle.servable)
    """

    def __init__(self) -> None:
        raise TypeError("handles are made by ServingMap.acquire")

    def __dealloc__(self):
        if self._servable != NULL:
            servable_release(self._servable)

    @property
    def servable(self) -> object:
        """The object that was published."""
        if self._servable == NULL:
            raise ValueError(f"the handle of {self.name} version {self.version} was released")
        return <object>self._servable.object

    def release(self) -> None:
        """Give the reference back. Again: nothing happens."""
        cdef Servable* servable = self._servable
        self._servable = NULL
        if servable != NULL:
            servable_release(servable)

    def __enter__(self) -> ServableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
