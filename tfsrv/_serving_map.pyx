"""Which servable answers a request: a name, with a version or a label, to a counted handle.

Readers (`serving_map_find`, any thread, no lock, no Python) look into an immutable table.
`ServingMap.publish` builds another table, swaps the two, waits until no reader can still see the
old one, and frees it. Servables that the new table leaves out live on until their last handle is
released; `ServingMap.drain` waits for that.

What a lookup answers is _serving_table's; here is who may see and hold what, and how long.
"""

import threading
import time
from collections.abc import Collection, Mapping
from types import MappingProxyType

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from tfsrv._atomic cimport (
    add_acq_rel_i64,
    add_relaxed_i64,
    add_seq_cst_i64,
    load_relaxed_i64,
    load_relaxed_int,
    load_seq_cst_i64,
    load_seq_cst_ptr,
    pause,
    store_relaxed_int,
    store_seq_cst_ptr,
)
from tfsrv._buffer cimport Bytes, bytes_equal
from tfsrv._clock cimport CLOCK_MONOTONIC, NS_PER_S, now_ns, timespec
from tfsrv._serving_table cimport (
    Model,
    Table,
    bytes_copy,
    bytes_view,
    table_find,
    table_free,
    table_live_count,
    table_new,
    table_servable,
    wipe,
)
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
    write,
)

from tfsrv.errors import Code, ServingError


cdef extern from "Python.h" nogil:
    int Py_AddPendingCall(int (*function)(void*) noexcept, void* arg)

cdef extern from "<pthread.h>" nogil:
    uint64_t thread_number "pthread_self"()     # the address of the thread's control block

cdef extern from "<time.h>" nogil:
    int nanosleep(const timespec* duration, timespec* left)

cdef enum:
    CACHE_LINE = 64         # bytes
    STRIPES = 16            # reader counters; more than loops and decoders on most machines
    SPINS = 100             # looks at a reader before the publisher sleeps; sections take 20-50 ns
    NAP_NANOSECONDS = 50_000    # for a reader that was preempted inside its section

NO_LABELS: Mapping[str, Mapping[str, int]] = MappingProxyType({})

cdef double SIGNAL_CHECK_SECONDS = 1.0  # how long a drain without limit may ignore Ctrl-C


cdef struct Stripe:
    int64_t inside[2]       # atomic: readers inside their section, by the phase they came in
    char pad[48]            # one cache line for each stripe


cdef struct Map:
    # Owned by one ServingMap.
    Stripe stripes[16]      # first, because the map is aligned to cache lines
    Table* table            # atomic; owned
    int phase               # atomic; 0 or 1: which counter of a stripe newcomers use
    int64_t generation      # of the newest table tried; the publisher's
    Servable* left_out      # list of those with handles or not dropped yet; under `mutex`


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


# ------------------------------------------------------------------------------------- reading

cdef int serving_map_find(
    void* map, Bytes name, bint has_version, int64_t version, bint has_label, Bytes label,
    Servable** found, int64_t* label_version
) noexcept nogil:
    """Look a servable up and count a handle on it. Any thread; waits for nobody.

    `map` must stay alive for the call: whoever may call holds its ServingMap.
    """
    cdef Map* self = <Map*>map
    # Relaxed: which of the two counters is used matters only for how soon a publisher gets by.
    cdef int phase = load_relaxed_int(&self.phase)
    cdef int64_t* inside = &self.stripes[stripe_index()].inside[phase]
    cdef Table* table
    cdef int result
    # Both seq_cst, as the publisher's store of the table and its look at the counters: either
    # this reader sees the new table, or the publisher sees this reader and waits for it.
    add_seq_cst_i64(inside, 1)
    table = <Table*>load_seq_cst_ptr(<void* const*>&self.table)
    result = table_find(
        table, name, has_version, version, has_label, label, found, label_version)
    if result == FOUND:
        # Relaxed: the map's own reference is there as long as the table can be seen.
        add_relaxed_i64(&found[0].refs, 1)
    # Release: all looks at the table come before the publisher, that sees 0, frees it.
    add_acq_rel_i64(inside, -1)
    return result


cdef inline unsigned int stripe_index() noexcept nogil:
    """A number below STRIPES that differs between most threads: their counters are not shared."""
    return <unsigned int>((thread_number() >> 6) * 0x9E3779B97F4A7C15u >> 60)


# ----------------------------------------------------------------------------------- releasing

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
    bury()
    return 0


cdef void bury() noexcept:
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


# ------------------------------------------------------------------------------------ building

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


cdef list make_plan(servables, labels, pending):
    """What is to be published, as [(name, pending, [(version, object)], [(label, version)])].

    All that Python can find wrong is found here, before anything is built.
    """
    if isinstance(pending, str):
        raise TypeError("pending is a collection of names, not one name")
    waited_for = set(pending)
    cdef list plan = []
    cdef int64_t checked
    for name in {*servables, *labels, *waited_for}:
        versions = sorted(dict(servables.get(name, {})).items(), key=lambda item: item[0])
        model_labels = sorted(
            (label.encode(), version) for label, version in dict(labels.get(name, {})).items())
        for version, _ in versions:
            checked = version  # fits 64 bits, or OverflowError
        for _, version in model_labels:
            checked = version
        plan.append((name.encode(), name in waited_for, versions, model_labels))
    return plan


cdef Table* build_table(Map* self, list plan) except NULL:
    """The table of `plan`. Servables that are published already are taken over."""
    cdef Servable* made = NULL
    cdef Servable* servable
    cdef list models = []
    cdef list servables
    self.generation += 1
    try:
        for name, pending, versions, labels in plan:
            servables = []
            for version, servable_object in versions:
                servable = table_servable(self.table, bytes_view(name), version)
                if servable == NULL or servable.object != <void*>servable_object:
                    servable = servable_new(name, version, servable_object)
                    servable.next = made
                    made = servable
                servable.generation = self.generation
                servables.append(<uintptr_t>servable)
            models.append((name, pending, servables, labels))
        return table_new(models)
    except BaseException:
        servables_drop(made)
        raise


# ----------------------------------------------------------------------------------- replacing

cdef void map_replace(Map* self, Table* table) noexcept nogil:
    """Publish `table`, and take the servables that it leaves out, and the old table, away."""
    cdef Table* old = self.table
    # seq_cst: see serving_map_find.
    store_seq_cst_ptr(<void**>&self.table, table)
    wait_for_readers(self)
    leave_out(self, old)
    table_free(old)


cdef void wait_for_readers(Map* self) noexcept nogil:
    """Until every reader that may have seen the table before the current one is gone.

    Each counter has to be seen at 0 once. Newcomers are sent to the other one of the pair
    meanwhile, so that a steady stream of them cannot keep a counter from coming to 0.
    """
    cdef timespec nap
    cdef int _turn, phase, stripe, looks
    nap.tv_sec = 0
    nap.tv_nsec = NAP_NANOSECONDS
    for _turn in range(2):
        phase = load_relaxed_int(&self.phase)
        store_relaxed_int(&self.phase, 1 - phase)  # a hint, see serving_map_find
        for stripe in range(STRIPES):
            looks = 0
            # seq_cst: see serving_map_find. As an acquire it pairs with the readers' releases.
            while load_seq_cst_i64(&self.stripes[stripe].inside[phase]) != 0:
                looks += 1
                if looks <= SPINS:
                    pause()
                else:
                    nanosleep(&nap, NULL)


cdef void leave_out(Map* self, Table* old) noexcept nogil:
    """Give up the map's reference to what is in `old`, but not of the newest generation."""
    cdef Servable* servable
    cdef Model* model
    cdef int i, k
    pthread_mutex_lock(&mutex)
    for i in range(old.models_size):
        model = &old.models[i]
        for k in range(model.versions_size):
            servable = model.versions[k]
            if servable.generation == self.generation:
                continue
            servable.next = self.left_out
            self.left_out = servable
            # As in servable_release.
            if add_acq_rel_i64(&servable.refs, -1) == 1:
                servable.drained = True
                pthread_cond_broadcast(&some_drained)
    pthread_mutex_unlock(&mutex)


cdef bint matches(const Servable* servable, Bytes name, int64_t version) noexcept nogil:
    return servable.version == version and bytes_equal(servable.name, name)


cdef Servable* take_drained(Map* self, bint any_one, Bytes name, int64_t version) noexcept nogil:
    """Unlink what may be freed, all or of one version, from `left_out`. Under the mutex."""
    cdef Servable** link = &self.left_out
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


cdef int64_t handles_left(Map* self, Bytes name, int64_t version) noexcept nogil:
    """Handles on versions left out. Under the mutex. Also counts one being released just now."""
    cdef Servable* servable = self.left_out
    cdef int64_t handles = 0
    cdef int64_t refs
    while servable != NULL:
        if not servable.drained and matches(servable, name, version):
            refs = load_relaxed_i64(&servable.refs)
            handles += refs if refs > 0 else 1
        servable = servable.next
    return handles


cdef Servable* wait_drained(
    Map* self, Bytes name, int64_t version, int64_t nanoseconds, bint* in_time
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
    while handles_left(self, name, version) != 0:
        if rc != 0:
            in_time[0] = False
            break
        rc = pthread_cond_timedwait(&some_drained, &mutex, &deadline)
    if in_time[0]:
        taken = take_drained(self, False, name, version)
    pthread_mutex_unlock(&mutex)
    return taken


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


cdef class ServingMap:
    """What is loaded, for every thread that looks it up.

    Thread-safety: all methods may be called from any thread, and serving_map_find without the
    GIL meanwhile. Ownership: the map keeps each published object alive until it is left out by
    a later publish() and its last handle is released.

        serving_map.publish({"a": {1: a1}})             # requests for a find a1
        serving_map.publish({"a": {1: a1, 2: a2}})      # a2 from now on; a1 on request
        serving_map.publish({"a": {2: a2}})             # a1 is not found any more ...
        serving_map.drain("a", 1, None)                 # ... and now nobody uses it
    """

    def __cinit__(self) -> None:
        cdef Map* map
        self._publishing = threading.Lock()
        self._listening = threading.Lock()
        self._listeners = set()
        if posix_memalign(&self.map, CACHE_LINE, sizeof(Map)) != 0:
            self.map = NULL
            raise MemoryError
        map = <Map*>self.map
        memset(map, 0, sizeof(Map))
        map.table = table_new([])

    def __dealloc__(self):
        cdef Map* map = <Map*>self.map
        cdef Servable* servable
        cdef Servable* dead
        cdef Bytes nobody
        if map == NULL:
            return
        nobody.data = NULL
        nobody.size = 0
        map.generation += 1
        if map.table != NULL:
            leave_out(map, map.table)
            table_free(map.table)
        pthread_mutex_lock(&mutex)
        dead = take_drained(map, True, nobody, 0)
        servable = map.left_out
        while servable != NULL:
            servable.orphaned = True  # the last handle buries it
            servable = servable.next
        pthread_mutex_unlock(&mutex)
        wipe(map, sizeof(Map))
        servables_drop(dead)
        bury()

    def publish(
        self,
        servables: Mapping[str, Mapping[int, object]],
        labels: Mapping[str, Mapping[str, int]] = NO_LABELS,
        pending: Collection[str] = (),
    ) -> None:
        """Replace the whole state: `servables` by name and version are what requests find.

        An object that stands under the same name and version already keeps its handles. Names
        in `pending` are answered with "still loading" while they have no version. Once it
        returns, no new handle on what was left out is given out. Raises without any change.
        """
        cdef Map* map = <Map*>self.map
        cdef Servable* dead
        cdef Table* table
        cdef Bytes nobody
        cdef list plan = make_plan(servables, labels, pending)
        nobody.data = NULL
        nobody.size = 0
        pthread_mutex_lock(&mutex)
        dead = take_drained(map, True, nobody, 0)  # of earlier publishes, never drained
        pthread_mutex_unlock(&mutex)
        servables_drop(dead)
        bury()
        with self._publishing:
            table = build_table(map, plan)
            with nogil:
                map_replace(map, table)
        with self._listening:
            for listener in self._listeners:
                wake(listener)

    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> ServableHandle:
        """A handle on a version, on the one a label stands for, or on the highest one loaded."""
        if version is not None and label is not None:
            raise ValueError("give a version or a label, not both")
        cdef ServableHandle handle = ServableHandle.__new__(ServableHandle)
        cdef bytes name_utf8 = name.encode()
        cdef bytes label_utf8 = b"" if label is None else label.encode()
        cdef int64_t wanted = 0 if version is None else version
        cdef int64_t label_version = 0
        cdef int result = serving_map_find(
            self.map, bytes_view(name_utf8), version is not None, wanted, label is not None,
            bytes_view(label_utf8), &handle._servable, &label_version)
        if result == FOUND:
            handle.name = name
            handle.version = handle._servable.version
            return handle
        handle._servable = NULL
        if result == UNKNOWN_LABEL:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        if result == PENDING:
            raise ServingError(Code.UNAVAILABLE, f"Model {name} is still loading")
        request = f"Latest({name})"
        if version is not None or label is not None:
            request = f"Specific({name}, {wanted if label is None else label_version})"
        raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {request}")

    def drain(self, name: str, version: int, timeout_seconds: float | None) -> bool:
        """Wait until a version that was left out has no handle, and let go of its object.

        False when handles are left after `timeout_seconds`; None waits as long as it takes.
        Waits for nothing that is published, nor for what was never there.
        """
        cdef bytes name_utf8 = name.encode()
        cdef Bytes name_view = bytes_view(name_utf8)
        cdef int64_t wanted = version
        cdef double deadline = float("inf")
        cdef double left
        cdef int64_t nanoseconds
        cdef Servable* dead
        cdef bint in_time = False
        if timeout_seconds is not None:
            deadline = time.monotonic() + timeout_seconds
        while True:
            left = deadline - <double>time.monotonic()
            nanoseconds = <int64_t>(max(0.0, min(left, SIGNAL_CHECK_SECONDS)) * 1e9)
            with nogil:
                dead = wait_drained(<Map*>self.map, name_view, wanted, nanoseconds, &in_time)
            if in_time:
                servables_drop(dead)
                return True
            PyErr_CheckSignals()
            if not left > SIGNAL_CHECK_SECONDS:
                return False

    def in_use(self, name: str, version: int) -> int:
        """How many handles there are on a version, published or left out."""
        cdef bytes name_utf8 = name.encode()
        cdef Bytes name_view = bytes_view(name_utf8)
        cdef Bytes no_label
        cdef int64_t wanted = version
        cdef int64_t handles
        cdef Servable* servable = NULL
        no_label.data = NULL
        no_label.size = 0
        pthread_mutex_lock(&mutex)
        handles = handles_left(<Map*>self.map, name_view, wanted)
        pthread_mutex_unlock(&mutex)
        if serving_map_find(
                self.map, name_view, True, wanted, False, no_label, &servable, NULL) == FOUND:
            handles += load_relaxed_i64(&servable.refs) - 2  # the map's, and this one
            servable_release(servable)
        return handles

    def add_listener(self, fd: int) -> None:
        """Write to this eventfd after each publish. It stays the caller's."""
        cdef int checked = fd
        with self._listening:
            self._listeners.add(checked)

    def remove_listener(self, fd: int) -> None:
        """Write to it no more: once this returns, it may be closed."""
        with self._listening:
            self._listeners.discard(fd)


cdef void wake(int fd) noexcept:
    cdef uint64_t one = 1
    # The only failure of a live eventfd is EAGAIN: a counter that is full wakes its reader too.
    write(fd, &one, sizeof(one))


def live_counts() -> dict[str, int]:
    """Native tables and servables in memory, of all maps: what a leak would make grow."""
    return {
        "servables": load_relaxed_i64(&live_servables),
        "tables": table_live_count(),
    }
