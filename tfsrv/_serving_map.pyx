"""Which servable answers a request: a name, with a version or a label, to a counted handle.

Readers (`serving_map_find`, any thread, no lock, no Python) look into an immutable table.
`ServingMap.publish` builds another table, swaps the two, waits until no reader can still see the
old one, and frees it. Servables that the new table leaves out live on until their last handle is
released; `ServingMap.drain` waits for that.

What a lookup answers is _serving_table's, who still reads is counted by _readers, and who holds
what, and how long, is _servable's; here they are put together.
"""

import threading
import time
from collections.abc import Collection, Mapping
from types import MappingProxyType

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from tfsrv._atomic cimport (
    add_relaxed_i64,
    load_relaxed_i64,
    load_seq_cst_ptr,
    store_seq_cst_ptr,
)
from tfsrv._buffer cimport Bytes
from tfsrv._readers cimport Readers, readers_enter, readers_leave, readers_wait
from tfsrv._servable cimport (
    Servable,
    ServableHandle,
    bytes_view,
    servable_leave_out,
    servable_live_count,
    servable_new,
    servable_release,
    servables_bury,
    servables_drop,
    servables_handles,
    servables_lock,
    servables_take_drained,
    servables_unlock,
    servables_wait_drained,
    wipe,
)
from tfsrv._serving_table cimport (
    FOUND,
    PENDING,
    UNKNOWN_LABEL,
    UNKNOWN_MODEL,
    Model,
    Table,
    table_find,
    table_free,
    table_live_count,
    table_new,
    table_servable,
)
from tfsrv._thread cimport write

from tfsrv.errors import Code, ErrorDetails, Reason, ServingError

cdef enum:
    CACHE_LINE = 64         # bytes

NO_LABELS: Mapping[str, Mapping[str, int]] = MappingProxyType({})

cdef double SIGNAL_CHECK_SECONDS = 1.0  # how long a drain without limit may ignore Ctrl-C


cdef struct Map:
    # Owned by one ServingMap.
    Readers readers         # first, because the map is aligned to cache lines
    Table* table            # atomic; owned
    int64_t generation      # of the newest table tried; the publisher's
    Servable* left_out      # list of those with handles or not dropped yet; under the lock


# ------------------------------------------------------------------------------------- reading

cdef int serving_map_find(
    void* map, Bytes name, bint has_version, int64_t version, bint has_label, Bytes label,
    Servable** found, int64_t* label_version
) noexcept nogil:
    """Look a servable up and count a handle on it. Any thread; waits for nobody.

    `map` must stay alive for the call: whoever may call holds its ServingMap.
    """
    cdef Map* self = <Map*>map
    cdef int64_t* inside = readers_enter(&self.readers)
    cdef Table* table
    cdef int result
    # seq_cst: see readers_enter.
    table = <Table*>load_seq_cst_ptr(<void* const*>&self.table)
    result = table_find(
        table, name, has_version, version, has_label, label, found, label_version)
    if result == FOUND:
        # Relaxed: the map's own reference is there as long as the table can be seen.
        add_relaxed_i64(&found[0].refs, 1)
    readers_leave(inside)
    return result


# ------------------------------------------------------------------------------------ building

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
    # seq_cst: see readers_enter.
    store_seq_cst_ptr(<void**>&self.table, table)
    readers_wait(&self.readers)
    leave_out(self, old)
    table_free(old)


cdef void leave_out(Map* self, Table* old) noexcept nogil:
    """Give up the map's reference to what is in `old`, but not of the newest generation."""
    cdef Servable* servable
    cdef Model* model
    cdef int i, k
    servables_lock()
    for i in range(old.models_size):
        model = &old.models[i]
        for k in range(model.versions_size):
            servable = model.versions[k]
            if servable.generation == self.generation:
                continue
            servable_leave_out(servable, &self.left_out)
    servables_unlock()


# ---------------------------------------------------------------------------- what Python sees

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
        servables_lock()
        dead = servables_take_drained(&map.left_out, True, nobody, 0)
        servable = map.left_out
        while servable != NULL:
            servable.orphaned = True  # the last handle buries it
            servable = servable.next
        servables_unlock()
        wipe(map, sizeof(Map))
        servables_drop(dead)
        servables_bury()

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
        servables_lock()
        # Of earlier publishes, never drained.
        dead = servables_take_drained(&map.left_out, True, nobody, 0)
        servables_unlock()
        servables_drop(dead)
        servables_bury()
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
        """A handle on a version, on the one a label stands for, or on the highest one loaded.

        Raises ServingError: UNAVAILABLE while the model's first version is on its way.
        """
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
                Code.INVALID_ARGUMENT,
                f"Unrecognized servable version label: {label}",
                ErrorDetails(Reason.LABEL_NOT_FOUND, name, label=label))
        if result == PENDING:
            raise ServingError(
                Code.UNAVAILABLE,
                f"Model {name} is still loading",
                ErrorDetails(Reason.MODEL_LOADING, name, version, label or ""))
        request = f"Latest({name})"
        if version is not None or label is not None:
            request = f"Specific({name}, {wanted if label is None else label_version})"
        reason = Reason.MODEL_NOT_FOUND if result == UNKNOWN_MODEL else Reason.VERSION_NOT_FOUND
        raise ServingError(
            Code.NOT_FOUND,
            f"Servable not found for request: {request}",
            ErrorDetails(
                reason, name, version if label is None else label_version, label or ""))

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
        cdef Map* map = <Map*>self.map
        cdef Servable* dead
        cdef bint in_time = False
        if timeout_seconds is not None:
            deadline = time.monotonic() + timeout_seconds
        while True:
            left = deadline - <double>time.monotonic()
            nanoseconds = <int64_t>(max(0.0, min(left, SIGNAL_CHECK_SECONDS)) * 1e9)
            with nogil:
                dead = servables_wait_drained(
                    &map.left_out, name_view, wanted, nanoseconds, &in_time)
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
        servables_lock()
        handles = servables_handles((<Map*>self.map).left_out, name_view, wanted)
        servables_unlock()
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
        "servables": servable_live_count(),
        "tables": table_live_count(),
    }
