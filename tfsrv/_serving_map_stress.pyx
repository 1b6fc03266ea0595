"""The serving map looked into by native threads while others publish.

For tests: nothing that serves uses it. Python's threads are too slow to meet a publisher inside
a lookup; these do, and see when a servable is handed out that is dead or not what was asked for.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, malloc

from tfsrv._atomic cimport load_relaxed_i64
from tfsrv._buffer cimport Bytes, bytes_equal
from tfsrv._clock cimport now_ns
from tfsrv._servable cimport NativeServable, Servable, bytes_view, servable_release, wipe
from tfsrv._serving_map cimport ServingMap, serving_map_find
from tfsrv._serving_table cimport FOUND
from tfsrv._stress cimport gate_wait, run_together


cdef class CanaryServable(NativeServable):
    """Its native part is its version, wiped when it dies: `stress` sees a death too early."""

    def __cinit__(self, version: int) -> None:
        self.impl = malloc(sizeof(int64_t))
        if self.impl == NULL:
            raise MemoryError
        (<int64_t*>self.impl)[0] = version

    def __dealloc__(self):
        wipe(self.impl, sizeof(int64_t))


cdef enum:
    HELD = 8                # handles that a stress reader holds at a time
    STRESS_VERSIONS = 4     # versions 1 to 4 are asked for


cdef struct StressReader:
    int* gate
    void* map
    Bytes name
    Bytes label
    int64_t lookups
    int64_t found
    int64_t missed
    int64_t wrong           # answers that are not what was asked for, or already dead
    Servable* held[8]


cdef void* stress_read(void* arg) noexcept nogil:
    cdef StressReader* self = <StressReader*>arg
    cdef Servable* servable
    cdef int64_t turn, version, label_version
    cdef int kind, result, slot
    if not gate_wait(self.gate):
        return NULL
    for turn in range(self.lookups):
        kind = <int>(turn % 3)  # a version, a label, the latest
        version = 1 + turn // 3 % STRESS_VERSIONS
        label_version = 0
        servable = NULL
        result = serving_map_find(
            self.map, self.name, kind == 0, version, kind == 1, self.label, &servable,
            &label_version)
        slot = <int>(turn % HELD)
        if self.held[slot] != NULL:
            stress_check(self, self.held[slot])
            servable_release(self.held[slot])
            self.held[slot] = NULL
        if result == FOUND:
            self.found += 1
            self.held[slot] = servable
            stress_check(self, servable)
            if kind == 0:
                self.wrong += servable.version != version
            elif kind == 1:
                self.wrong += servable.version != label_version
        else:
            self.missed += 1
    for slot in range(HELD):
        if self.held[slot] != NULL:
            stress_check(self, self.held[slot])
            servable_release(self.held[slot])
    return NULL


cdef void stress_check(StressReader* self, Servable* servable) noexcept nogil:
    if (
        load_relaxed_i64(&servable.refs) < 1
        or not bytes_equal(servable.name, self.name)
        or (<int64_t*>servable.impl)[0] != servable.version
    ):
        self.wrong += 1


def stress(
    serving_map: ServingMap, name: str, label: str, readers: int, lookups: int
) -> dict[str, int]:
    """Look `name` up from native threads, by version, label and latest, while others publish.

    Each thread holds some handles at a time. All of `name` must be CanaryServables. Tells how
    many lookups found something or missed, and how many of the servables were `wrong`.
    """
    cdef bytes name_utf8 = name.encode()
    cdef bytes label_utf8 = label.encode()
    cdef unsigned int count = readers
    cdef int64_t lookups_each = lookups
    cdef int gate = 0
    cdef int rc
    cdef unsigned int i
    cdef StressReader* threads = <StressReader*>calloc(<size_t>count + 1, sizeof(StressReader))
    if threads == NULL:
        raise MemoryError
    for i in range(count):
        threads[i].gate = &gate
        threads[i].map = serving_map.map
        threads[i].name = bytes_view(name_utf8)
        threads[i].label = bytes_view(label_utf8)
        threads[i].lookups = lookups_each
    start = now_ns()
    with nogil:
        rc = run_together(stress_read, threads, sizeof(StressReader), count, &gate)
    nanoseconds = now_ns() - start
    for i in range(1, count):
        threads[0].found += threads[i].found
        threads[0].missed += threads[i].missed
        threads[0].wrong += threads[i].wrong
    result = {
        "found": threads[0].found,
        "missed": threads[0].missed,
        "wrong": threads[0].wrong,
        "nanoseconds": nanoseconds,
    }
    free(threads)
    if rc != 0:
        raise RuntimeError("the threads could not be started")
    return result
