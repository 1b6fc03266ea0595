"""The immutable table that readers of a serving map look into: names, versions, labels.

Built whole with the GIL, looked into by any thread without it, freed by its one owner. Who
answers whom follows TensorFlow Serving's model_servers/server_core.cc and core/basic_manager.cc;
"not loaded yet" is told apart from "unknown", so that a request can wait.
"""

from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from tfsrv._atomic cimport add_relaxed_i64, load_relaxed_i64
from tfsrv._buffer cimport Bytes, bytes_compare, bytes_equal
from tfsrv._servable cimport Servable, bytes_copy, wipe


cdef int64_t live_tables = 0    # atomic


# ------------------------------------------------------------------------------------- reading

cdef int table_find(
    const Table* table, Bytes name, bint has_version, int64_t version, bint has_label, Bytes label,
    Servable** found, int64_t* label_version
) noexcept nogil:
    """A Lookup. `found` is set when it is FOUND, and is not counted: that is the caller's."""
    cdef const Model* model = table_model(table, name)
    cdef const Label* entry
    if model == NULL:
        return UNKNOWN_LABEL if has_label and not has_version else UNKNOWN_MODEL
    if model.pending and model.versions_size == 0:
        return PENDING
    if has_label and not has_version:
        entry = model_label(model, label)
        if entry == NULL:
            return UNKNOWN_LABEL
        version = entry.version
        if label_version != NULL:
            label_version[0] = version
    elif model.versions_size == 0:
        return UNKNOWN_MODEL
    elif not has_version:
        found[0] = model.versions[model.versions_size - 1]
        return FOUND
    found[0] = model_version(model, version)
    return FOUND if found[0] != NULL else UNKNOWN_VERSION


cdef Servable* table_servable(const Table* table, Bytes name, int64_t version) noexcept nogil:
    """What stands under that name and version; not counted; NULL if nothing does."""
    cdef const Model* model = table_model(table, name)
    return model_version(model, version) if model != NULL else NULL


cdef const Model* table_model(const Table* table, Bytes name) noexcept nogil:
    cdef uint64_t hash = hash_bytes(name)
    cdef size_t mask = table.slots_size - 1
    cdef size_t index = hash & mask
    cdef const Model* model
    while True:  # ends: half of the slots are empty
        model = table.slots[index]
        if model == NULL or (model.hash == hash and bytes_equal(model.name, name)):
            return model
        index = (index + 1) & mask


cdef Servable* model_version(const Model* model, int64_t version) noexcept nogil:
    cdef int low = 0
    cdef int high = model.versions_size
    cdef int middle
    while low < high:
        middle = low + (high - low) // 2
        if model.versions[middle].version < version:
            low = middle + 1
        else:
            high = middle
    if low < model.versions_size and model.versions[low].version == version:
        return model.versions[low]
    return NULL


cdef const Label* model_label(const Model* model, Bytes text) noexcept nogil:
    cdef int low = 0
    cdef int high = model.labels_size
    cdef int middle, order
    while low < high:
        middle = low + (high - low) // 2
        order = bytes_compare(model.labels[middle].text, text)
        if order == 0:
            return &model.labels[middle]
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return NULL


cdef uint64_t hash_bytes(Bytes text) noexcept nogil:
    """Multiply and fold, eight bytes at a time.

    It need not resist chosen names: the table holds configured ones only, so what a client
    sends cannot make a chain of slots longer.
    """
    cdef uint64_t multiplier = 0x9E3779B97F4A7C15u
    cdef uint64_t hash = text.size * multiplier
    cdef uint64_t word = 0
    cdef const char* data = text.data
    cdef size_t left = text.size
    while left >= 8:
        memcpy(&word, data, 8)
        hash = (hash ^ word) * multiplier
        hash ^= hash >> 32
        data += 8
        left -= 8
    if left:
        word = 0
        memcpy(&word, data, left)
        hash = (hash ^ word) * multiplier
        hash ^= hash >> 32
    return hash


# ------------------------------------------------------------------------------------ building

cdef Table* table_new(list models) except NULL:
    """Arrange [(name, pending, [Servable* as int], [(label, version)])] for looking up.

    Names are unique, servables come by rising version, labels in the order of their bytes.
    """
    cdef Table* table = <Table*>calloc(1, sizeof(Table))
    cdef Model* model
    cdef uint64_t index
    if table == NULL:
        raise MemoryError
    add_relaxed_i64(&live_tables, 1)
    try:
        table.slots_size = 2
        while table.slots_size < 2 * <size_t>len(models):
            table.slots_size *= 2
        table.slots = <Model**>calloc(table.slots_size, sizeof(Model*))
        # calloc of nothing may answer NULL: one more than needed, here and below.
        table.models = <Model*>calloc(<size_t>len(models) + 1, sizeof(Model))
        if table.slots == NULL or table.models == NULL:
            raise MemoryError
        for name, pending, servables, labels in models:
            model = &table.models[table.models_size]
            table.models_size += 1  # from here on table_free looks at it
            model_fill(model, name, pending, servables, labels)
            index = model.hash & (table.slots_size - 1)
            while table.slots[index] != NULL:
                index = (index + 1) & (table.slots_size - 1)
            table.slots[index] = model
    except BaseException:
        table_free(table)
        raise
    return table


cdef int model_fill(
    Model* model, bytes name, bint pending, list servables, list labels
) except -1:
    cdef Label* label
    cdef uintptr_t address
    bytes_copy(&model.name, name)
    model.hash = hash_bytes(model.name)
    model.pending = pending
    model.versions = <Servable**>calloc(<size_t>len(servables) + 1, sizeof(Servable*))
    model.labels = <Label*>calloc(<size_t>len(labels) + 1, sizeof(Label))
    if model.versions == NULL or model.labels == NULL:
        raise MemoryError
    for address in servables:
        model.versions[model.versions_size] = <Servable*>address
        model.versions_size += 1
    for text, version in labels:
        label = &model.labels[model.labels_size]
        model.labels_size += 1
        bytes_copy(&label.text, text)
        label.version = version
    return 0


cdef void table_free(Table* table) noexcept nogil:
    """The table alone, built or half built; the servables are the map's."""
    cdef Model* model
    cdef int i, k
    for i in range(table.models_size):
        model = &table.models[i]
        for k in range(model.labels_size):
            wipe(<void*>model.labels[k].text.data, model.labels[k].text.size)
        wipe(<void*>model.name.data, model.name.size)
        wipe(model.versions, <size_t>model.versions_size * sizeof(Servable*))
        wipe(model.labels, <size_t>model.labels_size * sizeof(Label))
    wipe(table.models, <size_t>table.models_size * sizeof(Model))
    wipe(table.slots, table.slots_size * sizeof(Model*))
    wipe(table, sizeof(Table))
    add_relaxed_i64(&live_tables, -1)


cdef int64_t table_live_count() noexcept nogil:
    """Tables in memory, of all maps."""
    return load_relaxed_i64(&live_tables)
